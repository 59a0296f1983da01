package bgp

import (
	"net/netip"
	"slices"
	"strings"
)

// Route is a prefix that peers told us of, and every equally good way to it.
//
// A prefix that we announce ourselves is there too when somebody else announces it: its next hops are the others'.
type Route struct {
	Prefix   netip.Prefix
	NextHops []netip.Addr // sorted
	Peers    []netip.Addr // who told us of the next hop at the same index
	Encaps   []Encaps     // what the next hop at the same index accepts; 0 = said nothing, as a router that knows no tunnels
	Node     string       // the nodes that it leads to, by the names they gave themselves; "" = unknown
}

// hop is one next hop and the peer that told us of it.
type hop struct {
	nextHop netip.Addr
	peer    netip.Addr
	encaps  Encaps
	kept    bool // by us: GoBGP forgot it while its peer restarts
}

// rib holds the best paths to each prefix.
type rib map[netip.Prefix][]hop

// fold takes one report of GoBGP, in which each prefix comes with the whole set of its best paths, and says whether
// anybody who asks for the routes will see a difference. What keep says stays although the report lacks it.
func (r rib) fold(paths []path, keep func(netip.Prefix, hop) bool) bool {
	sets := make(map[netip.Prefix][]hop, 1)
	for _, p := range paths {
		set := sets[p.prefix]
		if !p.withdrawn && p.peer.IsValid() {
			set = append(set, hop{nextHop: p.nextHop, peer: p.peer, encaps: p.encaps})
		}
		sets[p.prefix] = set
	}
	changed := false
	for prefix, set := range sets {
		for _, old := range r[prefix] {
			told := slices.ContainsFunc(set, func(h hop) bool { return h.peer == old.peer })
			if !told && keep(prefix, old) {
				old.kept = true
				set = append(set, old)
			}
		}
		changed = r.put(prefix, set) || changed
	}
	return changed
}

// release forgets what was kept, where the condition holds, and says whether that made a difference and whether
// anything is left that is kept.
func (r rib) release(holds func(netip.Prefix, hop) bool) (changed, left bool) {
	for prefix, set := range r {
		rest := make([]hop, 0, len(set))
		for _, h := range set {
			if h.kept && holds(prefix, h) {
				continue
			}
			left = left || h.kept
			rest = append(rest, h)
		}
		if len(rest) < len(set) {
			changed = r.put(prefix, rest) || changed
		}
	}
	return changed, left
}

func (r rib) put(prefix netip.Prefix, set []hop) bool {
	slices.SortFunc(set, func(a, b hop) int {
		if c := a.nextHop.Compare(b.nextHop); c != 0 {
			return c
		}
		return a.peer.Compare(b.peer)
	})
	old := r[prefix]
	if len(set) == 0 {
		delete(r, prefix)
	} else {
		r[prefix] = set
	}
	return !slices.EqualFunc(ways(old), ways(set), func(a, b hop) bool {
		return a.nextHop == b.nextHop && a.peer == b.peer && a.encaps == b.encaps
	})
}

// ways is a sorted set as it is shown: two reflectors tell of the same next hop, and it is one way. The rib itself holds
// what each of them told, so that the word of one is still there when the other is gone.
func ways(set []hop) []hop {
	if len(set) < 2 {
		return set
	}
	var all []hop
	for len(set) > 0 {
		n := 1
		for n < len(set) && set[n].nextHop == set[0].nextHop {
			n++
		}
		way := set[0]
		way.encaps = agreed(set[:n])
		all = append(all, way)
		set = set[n:]
	}
	return all
}

// agreed is what a next hop accepts by those who tell of it. They speak of one node, and differ for the moment between
// its update and the passing on of it by the last of them, or when one takes communities off. Since a tunnel too many
// loses packets and a tunnel too few costs some bytes, it is what all say who say anything; when that is nothing, as
// after a change from one tunnel to another, it is what any of them says, lest the route be lost meanwhile.
func agreed(set []hop) Encaps {
	all, some := ^Encaps(0), Encaps(0)
	for _, h := range set {
		if h.encaps != 0 {
			all &= h.encaps
			some |= h.encaps
		}
	}
	if all&some != 0 {
		return all & some
	}
	return some
}

// routes lists the rib in the order of its prefixes; name gives the node behind a peer.
func (r rib) routes(name func(peer netip.Addr) string) []Route {
	all := make([]Route, 0, len(r))
	for prefix, set := range r {
		route := Route{Prefix: prefix}
		var nodes []string
		for _, h := range ways(set) {
			route.NextHops = append(route.NextHops, h.nextHop)
			route.Peers = append(route.Peers, h.peer)
			route.Encaps = append(route.Encaps, h.encaps)
			if n := name(h.peer); n != "" && !slices.Contains(nodes, n) {
				nodes = append(nodes, n)
			}
		}
		route.Node = strings.Join(nodes, ",")
		all = append(all, route)
	}
	slices.SortFunc(all, func(a, b Route) int {
		if c := a.Prefix.Addr().Compare(b.Prefix.Addr()); c != 0 {
			return c
		}
		return a.Prefix.Bits() - b.Prefix.Bits()
	})
	return all
}
