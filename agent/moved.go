package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/fairlead-net/fairlead/tunnel"
)

// ErrMoved ends Run when the link of the node's address has another one in its place, and the config leaves the choice to
// the host. What others know a node by is read once, so the daemon has to start anew; the kernel's state stays meanwhile.
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
func (a *Agent) follow(in *inputs) error {
	to := in.instead.Address
	if in.uninstall || in.drained || !to.IsValid() || in.strayed() {
		a.move = move{}
		return nil
	}
	now := a.room.Now()
	if to != a.move.to {
		a.move = move{to: to, since: now}
	}
	if a.move.left(now) > 0 {
		return nil
	}
	a.room.Log.Warn("the node's address has changed: starting anew", "old", in.cfg.Node.Address, "new", to)
	return ErrMoved
}

// strayed tells that the default route leads by another link than the one that had the node's address. That is an
// uplink which stands in for the first while that is out of order, and the others know this node by the first: a daemon
// that took its address would be found by nobody, and stay there, since an address of that link is not lost when the
// first one returns. Links are told apart by name: one that is made again is the same. As long as none was seen with the
// address, nobody knows this node yet, and any will do.
func (in *inputs) strayed() bool {
	lost := in.underlay.Dev
	return lost != "" && in.instead.Dev != lost
}

// seek finds what the host would use in place of the node's address, which err says is gone, and makes of err what an
// administrator has to know when it is nothing to follow.
func (a *Agent) seek(ctx context.Context, in *inputs, err error) error {
	node := in.cfg.Node
	if !node.Follow || !errors.Is(err, tunnel.ErrAddressGone) {
		return err
	}
	u, unseen := a.room.Underlay.Underlay(ctx, unspecified(node.Address))
	if unseen != nil {
		return err // that the old address is gone is fault enough
	}
	in.instead = u
	const mend = "bring it back, or set [node] address and restart"
	switch {
	case !u.Address.IsValid():
		return fmt.Errorf("%w, and no default route gives another: %s", err, mend)
	case in.strayed():
		return fmt.Errorf("%w; it was on %s, and the default route would give %v on %s, which is not followed: %s",
			err, in.underlay.Dev, u.Address, u.Dev, mend)
	}
	return err
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
