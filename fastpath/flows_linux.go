package fastpath

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"
)

// Flow is what an endpoint speaks with another address. Ports are zero where the protocol has none.
type Flow struct {
	Near, Far netip.AddrPort // of the endpoint, and of whom it sees there
	Proto     uint8          // as in the IP header
}

// struct flow4 and struct flow6 of layout.h.
type flow4 struct {
	Near, Far         [4]byte
	NearPort, FarPort [2]byte
	Proto             uint8
	_                 [3]byte
}

type flow6 struct {
	Near, Far         addressBytes
	NearPort, FarPort [2]byte
	Proto             uint8
	_                 [3]byte
}

// Keep leaves flows to the kernel that it translates already. Those of which the programs would not take the packets anyway
// are not noted. From when the programs at the egress stand there, they note what begins.
func (k *Kernel) Keep(ctx context.Context, flows []Flow) error {
	w, done := k.loaded()
	defer done()
	if w == nil {
		return errIdle
	}
	return w.tables.keep(ctx, flows)
}

func (t *tables) keep(ctx context.Context, flows []Flow) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	endpoints, err := t.endpoints().read(ctx)
	if err != nil {
		return err
	}
	since, err := sinceBoot()
	if err != nil {
		return err
	}
	now := uint64(since)
	ports, err := t.ports().read(ctx)
	if err != nil {
		return err
	}
	mapped := make(map[targetValue]bool, len(ports))
	for _, v := range ports {
		mapped[v] = true
	}
	for _, f := range flows {
		if _, ours := endpoints[f.Near.Addr()]; !ours {
			continue
		}
		if _, ours := endpoints[f.Far.Addr()]; !ours && !mapped[Mapping{To: f.Near}.encode()] && !t.leadsTo(f.Far.Addr()) {
			continue
		}
		if err := errors.Join(t.note(f, now), t.note(f.pair(), now)); err != nil {
			return fmt.Errorf("note a flow of the kernel: %w", err)
		}
	}
	return nil
}

// pair stands for all between the two: fragments and ICMP errors have no ports.
func (f Flow) pair() Flow {
	return Flow{Near: netip.AddrPortFrom(f.Near.Addr(), 0), Far: netip.AddrPortFrom(f.Far.Addr(), 0)}
}

func (t *tables) note(f Flow, now uint64) error {
	near, far := portBytes(f.Near.Port()), portBytes(f.Far.Port())
	if f.Near.Addr().Is4() {
		return t.all["fl_flows4"].Put(flow4{
			Near: f.Near.Addr().As4(), Far: f.Far.Addr().As4(), NearPort: near, FarPort: far, Proto: f.Proto,
		}, now)
	}
	return t.all["fl_flows6"].Put(flow6{
		Near: f.Near.Addr().As16(), Far: f.Far.Addr().As16(), NearPort: near, FarPort: far, Proto: f.Proto,
	}, now)
}

// leadsTo tells whether there is a route to the address.
func (t *tables) leadsTo(a netip.Addr) bool {
	var v routeValue
	var err error
	if a.Is4() {
		err = t.all["fl_routes4"].Lookup(prefix4{32, a.As4()}, &v)
	} else {
		err = t.all["fl_routes6"].Lookup(prefix6{128, a.As16()}, &v)
	}
	return !errors.Is(err, ebpf.ErrKeyNotExist)
}
