package tunnel

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
)

// way is one usable next hop of a remote prefix.
type way struct {
	next  netip.Addr
	encap Encap
	hop   Hop
}

// apart is the next hops without those inside a block or a remote prefix, which then can not be reached.
//
// Such a next hop is found by the default route only until our own route covers it: the route would be put and taken away
// for ever. The pools are not asked, because the underlay may lie in one.
func (in Input) apart() map[netip.Addr]Hop {
	covers := make(map[int]map[netip.Prefix]bool) // by length, so that a look takes one step for each length in use
	add := func(p netip.Prefix) {
		if covers[p.Bits()] == nil {
			covers[p.Bits()] = make(map[netip.Prefix]bool)
		}
		covers[p.Bits()][p.Masked()] = true
	}
	for _, b := range in.Blocks {
		add(b)
	}
	for _, m := range in.Remotes {
		add(m.Prefix)
	}
	hops := maps.Clone(in.Hops)
	maps.DeleteFunc(hops, func(nh netip.Addr, _ Hop) bool {
		for bits, set := range covers {
			if p, err := nh.Prefix(bits); err == nil && set[p] {
				return true
			}
		}
		return false
	})
	return hops
}

// remote plans the route to one prefix and everything that it stands on.
func (r *Rows) remote(in Input, m Remote) {
	p := m.Prefix.Masked()
	ways, reason := in.ways(p, m.NextHops)
	if _, taken := r.Routes[RouteKey{Main, p}]; taken {
		ways, reason = nil, ReasonOwn
	}
	if len(ways) == 0 {
		r.Paths = append(r.Paths, Path{Prefix: p, Via: unmapped(m.NextHops), Reason: reason})
		return
	}
	path := Path{Prefix: p, Encap: ways[0].encap}
	route := Route{Kind: Unicast, Source: in.Underlay.of(p.Addr().Is4())}
	var hops []NextHop
	for _, w := range ways {
		hop := r.hop(in, p, w)
		hops = append(hops, hop)
		path.Via = append(path.Via, w.next)
		path.Dev = cmp.Or(path.Dev, hop.Dev)
		path.MTU = lesser(path.MTU, in.room(w))
		route.MTU = lesser(route.MTU, in.limit(w))
	}
	route.Hops = SortHops(hops)
	r.Routes[RouteKey{Main, p}] = route
	r.Paths = append(r.Paths, path)
}

// ways sorts out the next hops that can be used: the direct ones if there are any, else those through a tunnel. When
// there is none, it says why the first one can not.
func (in Input) ways(p netip.Prefix, nextHops []netip.Addr) (best []way, reason string) {
	for _, nh := range unmapped(nextHops) {
		w := way{next: nh, hop: in.Hops[nh]}
		var why string
		w.encap, why = Choose(in.Config.Mode, p, nh, w.hop)
		if w.encap == VXLAN && !in.Underlay.of(nh.Is4()).IsValid() {
			w.encap, why = "", ReasonNoCommon
		}
		switch {
		case w.encap == "":
			reason = cmp.Or(reason, why)
		case len(best) > 0 && w.encap != Direct && best[0].encap == Direct:
		case len(best) > 0 && w.encap == Direct && best[0].encap != Direct:
			best = []way{w}
		default:
			best = append(best, w)
		}
	}
	return best[:min(len(best), MaxHops)], cmp.Or(reason, ReasonUnreachable)
}

// hop plans one next hop. Through a tunnel it stands on the peer's neighbour and forwarding entry, and it brings the
// route to the peer itself for packets from a pool. That one is of the prefix's family only: how the peer answers in the
// other family is told by the peer's prefixes of that family.
func (r *Rows) hop(in Input, p netip.Prefix, w way) NextHop {
	if w.encap == Direct {
		return NextHop{Via: w.next, Dev: w.hop.Dev}
	}
	dev, mac := deviceOf(w.next), VTEPMAC(w.next)
	hop := NextHop{Via: gateway(p, w.next), Dev: dev, OnLink: true}
	r.FDB[FDBKey{dev, mac}] = w.next
	r.Neighbours[NeighKey{dev, hop.Via}] = mac
	if p.Addr().Is4() == w.next.Is4() {
		r.Routes[RouteKey{Table, host(w.next)}] = Route{Kind: Unicast, Hops: SortHops([]NextHop{hop}), MTU: in.limit(w)}
	}
	return hop
}

// room is the largest packet that gets to the next hop.
func (in Input) room(w way) int {
	if w.encap == Direct {
		return cmp.Or(w.hop.MTU, in.Underlay.mtu())
	}
	return lesser(in.Underlay.mtu(), w.hop.MTU) - overhead(w.encap, w.next)
}

// limit is the MTU that the route itself must say: none, unless the way there carries less than the link it starts on.
func (in Input) limit(w way) int {
	if w.hop.MTU == 0 || w.hop.MTU >= in.Underlay.mtu() {
		return 0
	}
	return in.room(w)
}

// lesser is the smaller of two sizes, where 0 says nothing.
func lesser(a, b int) int {
	if a == 0 || b == 0 {
		return max(a, b)
	}
	return min(a, b)
}

func unmapped(addrs []netip.Addr) []netip.Addr {
	out := make([]netip.Addr, len(addrs))
	for i, a := range addrs {
		out[i] = a.Unmap()
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out)
}
