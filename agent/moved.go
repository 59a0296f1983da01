package agent

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"github.com/fairlead-net/fairlead/tunnel"
)

// ErrMoved ends Run when the host has another address in place of the node's, and the config leaves the choice to the
// host. What others know a node by is read once, so the daemon has to start anew; the kernel's state stays meanwhile.
var ErrMoved = errors.New("the node's address has changed")

// moveTime is how long the host must have had its new address: one that is being set up may pass through others.
const moveTime = time.Second

// move is another address that the host has while the node's is gone.
type move struct {
	to    netip.Addr // zero: none was seen
	since time.Time
}

// left is the time until the move counts.
func (m move) left(now time.Time) time.Duration { return moveTime - now.Sub(m.since) }

// follow tells by ErrMoved that the host has had another address for some time. A drained daemon stays as it is: a new
// one would announce again.
func (a *Agent) follow(ctx context.Context, in *inputs) error {
	node := in.cfg.Node
	if !node.Follow || in.uninstall || in.drained || !errors.Is(in.fault, tunnel.ErrAddressGone) {
		a.move = move{}
		return nil
	}
	u, err := a.room.Underlay.Underlay(ctx, unspecified(node.Address))
	if err != nil || !u.Address.IsValid() {
		a.move = move{} // that the old address is gone is a fault already, and the pass says so
		return nil
	}
	now := a.room.Now()
	if u.Address != a.move.to {
		a.move = move{to: u.Address, since: now}
	}
	if a.move.left(now) > 0 {
		return nil
	}
	a.room.Log.Warn("the node's address has changed: starting anew", "old", node.Address, "new", u.Address)
	return ErrMoved
}

// unspecified asks for the source of the default route of the same family.
func unspecified(a netip.Addr) netip.Addr {
	if a.Is4() {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

// withoutSources lets the kernel choose the source of what this host sends. When an address goes, the kernel drops the
// routes that have it as source and takes none with it; but to carry packets from container to container, a route needs
// no source.
func withoutSources(routes map[tunnel.RouteKey]tunnel.Route) {
	for k, r := range routes {
		r.Source = netip.Addr{}
		routes[k] = r
	}
}
