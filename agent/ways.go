package agent

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/fairlead-net/fairlead/store"
)

// elsewhere is to where the link of a guest that goes to a container must be no way, beside a default route.
//
// Docker gives a container no address that lies within one of its routes. So that it can join another network of the same
// range, where there is one, nothing leads to what this host hands out; the host routes there whichever link it comes by. An
// internal network, which has no default route, needs a way of its own all the same.
func (a *Agent) elsewhere(tx *store.Tx, r record, n Network) (all []netip.Prefix, err error) {
	shared := false
	for _, o := range networks().All(tx) {
		shared = shared || o.ID != n.ID && o.overlaps(n)
	}
	if shared && !n.Internal {
		for _, u := range a.room.Ledger.Usage() {
			if u.Block.IsValid() {
				all = append(all, u.Block)
			}
		}
	}
	if r.NetNS == "" { // engines before 26 do not tell it when a container starts
		return all, nil
	}
	for _, other := range endpoints().All(tx) {
		if other.Guest.Stage == "" || other.Name == r.Name || other.NetNS != r.NetNS {
			continue
		}
		o, _, err := networks().Get(tx, other.Network)
		switch {
		case err != nil:
			return nil, err
		case !o.overlaps(n):
		case n.Internal || o.Internal || n.Isolated && o.Isolated:
			return nil, fmt.Errorf("%w: its container is on network %s too, of the same range: one that is internal, and two that are "+
				"isolated, share no container unless their subnets are of different [[pool]]s", ErrConflict, o.title())
		default:
			for _, s := range o.Subnets {
				all = append(all, s.CIDR)
			}
		}
	}
	return all, nil
}

// overlaps tells whether some addresses may be of either network.
func (n Network) overlaps(o Network) bool {
	return slices.ContainsFunc(n.Subnets, func(s Subnet) bool {
		return slices.ContainsFunc(o.Subnets, func(other Subnet) bool { return s.CIDR.Overlaps(other.CIDR) })
	})
}
