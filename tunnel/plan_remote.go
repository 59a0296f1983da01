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
	if _, taken := r.Routes[RouteKey{Main, p}]; taken {
		r.Paths = append(r.Paths, Path{Prefix: p, Via: unmapped(m.nextHops()), Reason: ReasonOwn})
		return
	}
	ways, reason := in.ways(p, m.Ends, in.Underlay.Tunnels)
	beside := ways
	if all := in.Underlay.Tunnels | in.Beside; all != in.Underlay.Tunnels {
		beside, _ = in.ways(p, m.Ends, all)
	}
	path := Path{Prefix: p}
	path.Legs, path.Slow = in.legs(p, beside)
	if len(ways) == 0 {
		path.Via, path.Reason = unmapped(m.nextHops()), reason
		r.Paths = append(r.Paths, path)
		return
	}
	path.Encap = ways[0].encap
	route := Route{Kind: Unicast, Source: in.Underlay.of(p.Addr().Is4())}
	var hops []NextHop
	for _, w := range ways {
		hop := r.hop(in, p, w)
		hops = append(hops, hop)
		path.Via = append(path.Via, w.next)
		path.Dev = cmp.Or(path.Dev, hop.Dev)
		path.MTU = lesser(path.MTU, in.room(p, w))
		route.MTU = lesser(route.MTU, in.limit(p, w))
	}
	route.Hops = SortHops(hops)
	r.Routes[RouteKey{Main, p}] = route
	r.Paths = append(r.Paths, path)
}

// ways sorts out the next hops that can be used with the tunnels that are there: all those of the cheapest way. When there
// is none, it says why the first one can not.
func (in Input) ways(p netip.Prefix, ends []End, there Encaps) (best []way, reason string) {
	for _, end := range sorted(ends) {
		w := way{next: end.Addr, hop: in.Hops[end.Addr]}
		var why string
		w.encap, why = Choose(Case{
			Mode: in.Config.Mode, Prefix: p, NextHop: w.next, Hop: w.hop, Kernel: there, Peer: end.Accepts,
		})
		if w.encap != Direct && !in.Underlay.of(w.next.Is4()).IsValid() {
			w.encap, why = "", cmp.Or(why, ReasonNoCommon)
		}
		switch {
		case w.encap == "":
			reason = cmp.Or(reason, why)
		case len(best) > 0 && w.encap.rank() > best[0].encap.rank():
		case len(best) > 0 && w.encap.rank() < best[0].encap.rank():
			best = []way{w}
		default:
			best = append(best, w)
		}
	}
	return best[:min(len(best), MaxHops)], cmp.Or(reason, ReasonUnreachable)
}

// sorted is the ends by their unmapped addresses. Of one that is there twice only what both say is believed.
func sorted(ends []End) []End {
	out := slices.Clone(ends)
	for i := range out {
		out[i].Addr = out[i].Addr.Unmap()
	}
	slices.SortFunc(out, func(a, b End) int { return a.Addr.Compare(b.Addr) })
	for i := len(out) - 1; i > 0; i-- {
		if out[i].Addr == out[i-1].Addr {
			out[i-1].Accepts &= out[i].Accepts
		}
	}
	return slices.CompactFunc(out, func(a, b End) bool { return a.Addr == b.Addr })
}

func (m Remote) nextHops() []netip.Addr {
	addrs := make([]netip.Addr, len(m.Ends))
	for i, end := range m.Ends {
		addrs[i] = end.Addr
	}
	return addrs
}

// hop plans one next hop. Through a tunnel it stands on the peer's neighbour and forwarding entry, where the tunnel has
// such, and it brings the route to the peer itself for packets from a block. That one is of the prefix's family only: how
// the peer answers in the other family is told by the peer's prefixes of that family.
func (r *Rows) hop(in Input, p netip.Prefix, w way) NextHop {
	if w.encap == Direct {
		return NextHop{Via: w.next, Dev: w.hop.Dev}
	}
	dev := deviceOf(w.encap, w.next)
	hop := NextHop{Via: gateway(p, w.next), Dev: dev, OnLink: true}
	if address, needed := linkAddress(w.encap, w.next); needed {
		r.Neighbours[NeighKey{dev, hop.Via}] = address
	}
	if w.encap == VXLAN {
		r.FDB[FDBKey{dev, VTEPMAC(w.next)}] = w.next
	}
	if p.Addr().Is4() == w.next.Is4() {
		r.toHost(w.next, Route{Kind: Unicast, Hops: SortHops([]NextHop{hop}), MTU: in.limit(p, w)})
	}
	return hop
}

// toHost adds the route to a tunnelled host itself. When prefixes behind one host go by different tunnels, because they
// say different things of it, the dearest is taken: it is the one that most hosts have.
func (r *Rows) toHost(host netip.Addr, route Route) {
	key := RouteKey{Table, netip.PrefixFrom(host, host.BitLen())}
	if old, ok := r.Routes[key]; !ok || old.Hops[0].Dev != DeviceVXLAN {
		r.Routes[key] = route
	}
}

// room is the largest packet for a prefix that gets to the next hop. For IPv6 it is at least what every link must carry
// (RFC 8200 section 5): the kernel knows no smaller packets of it.
func (in Input) room(p netip.Prefix, w way) int {
	room := cmp.Or(w.hop.MTU, in.Underlay.mtu())
	if w.encap != Direct {
		room = lesser(in.Underlay.mtu(), w.hop.outer()) - overhead(w.encap, w.next)
	}
	if p.Addr().Is6() {
		return max(room, leastMTU6)
	}
	return room
}

const leastMTU6 = 1280

// outer is the largest packet that this host itself may send to the next hop, as it does with what is in a tunnel. Packets
// that it forwards in the open may be larger than what it learned: their senders learn for themselves.
func (h Hop) outer() int { return lesser(h.MTU, h.PathMTU) }

// limit is the MTU that the route itself must say: none, unless the way there carries less than the link it starts on.
func (in Input) limit(p netip.Prefix, w way) int {
	carried := w.hop.MTU
	if w.encap != Direct {
		carried = w.hop.outer()
	}
	if carried == 0 || carried >= in.Underlay.mtu() {
		return 0
	}
	return in.room(p, w)
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
