package tunnel

import (
	"cmp"
	"net/netip"
	"slices"
)

// Leg is how packets for a prefix get out on the wire: what a forwarder beside the kernel needs, which has no tunnel
// devices and writes the outer headers itself.
type Leg struct {
	Dev   string     // the link that they leave by, never a tunnel device
	Next  netip.Addr // the neighbour on it: the other node, or a router
	Encap Encap
	Local netip.Addr // source of the outer header; zero when direct
	End   netip.Addr // destination of the outer header; zero when direct
	MAC   MAC        // destination inside of VXLAN
	MTU   int        // bytes, of the largest packet from a container
}

// The words for why a path that there is has no legs, stable for scripts.
const (
	SlowForeign = ReasonForeign            // somebody else's route wins over ours for some addresses of the prefix
	SlowEncap   = "encap-of-kernel"        // only the kernel has the encapsulation
	SlowUnknown = "neighbour-unknown"      // nothing is known of who takes the packets on the link
	SlowFamily  = "neighbour-other-family" // who takes them on the link has no address of the outer header's family
	SlowLink    = "link-not-ethernet-uplink"
	SlowWithin  = "narrower-route" // for some addresses of it the kernel has a route of ours that has no legs
)

// Foreign is a route of somebody else.
type Foreign struct {
	Prefix netip.Prefix // masked
	Metric int          // 0, the best, of the table of this host's own addresses: it is asked before all others
}

// Wire tells whether a link leads out of this host and its packets have an Ethernet header. A forwarder beside the kernel
// uses no other: the kernel's connection tracking must see both ways of a flow or neither, and both ways are by the uplinks.
func (u Underlay) Wire(dev string) bool {
	return slices.Contains(u.Uplinks, dev) && !slices.Contains(u.Bare, dev)
}

// Cut tells whether the kernel has a foreign route that wins over a route of ours to p for some addresses of it: a narrower
// one, or one to the same addresses with a metric that is not worse. Of the same metric the first one put is taken.
func (u Underlay) Cut(p netip.Prefix) bool { return cut(u.Foreign, p) }

// SortForeign brings routes into the order that an Underlay has them in, the best of each prefix alone.
func SortForeign(all []Foreign) []Foreign {
	slices.SortFunc(all, func(a, b Foreign) int { return cmp.Or(a.Prefix.Compare(b.Prefix), cmp.Compare(a.Metric, b.Metric)) })
	return slices.CompactFunc(all, func(a, b Foreign) bool { return a.Prefix == b.Prefix })
}

func cut(sorted []Foreign, p netip.Prefix) bool {
	p = p.Masked()
	// What lies in p comes behind it in one piece, p itself first.
	at, _ := slices.BinarySearchFunc(sorted, p, func(f Foreign, p netip.Prefix) int { return f.Prefix.Compare(p) })
	for _, f := range sorted[at:] {
		switch {
		case !p.Contains(f.Prefix.Addr()):
			return false
		case f.Prefix != p || f.Metric <= Metric:
			return true
		}
	}
	return false
}

// legs are how a forwarder beside the kernel gets packets to the next hops. It takes all of them or none, so that no next
// hop gets more than its part; why none, a word says.
func (in Input) legs(p netip.Prefix, ways []way) (legs []Leg, slow string) {
	if len(ways) > 0 && in.Underlay.Cut(p) {
		return nil, SlowForeign
	}
	for _, w := range ways {
		if slow := in.slow(w); slow != "" {
			return nil, slow
		}
		legs = append(legs, in.leg(p, w))
	}
	return legs, ""
}

func (in Input) slow(w way) string {
	switch {
	case w.encap == GRE:
		return SlowEncap
	case w.hop.Dev == "" || !w.hop.Via.IsValid():
		return SlowUnknown
	case w.hop.Via.Is4() != w.next.Is4():
		return SlowFamily
	case !in.Underlay.Wire(w.hop.Dev):
		return SlowLink
	default:
		return ""
	}
}

func (in Input) leg(p netip.Prefix, w way) Leg {
	l := Leg{Dev: w.hop.Dev, Next: w.hop.Via, Encap: w.encap, MTU: in.room(p, w)}
	if w.encap != Direct {
		l.Local, l.End = in.Underlay.of(w.next.Is4()), w.next
	}
	if w.encap == VXLAN {
		l.MAC = VTEPMAC(w.next)
	}
	return l
}

// narrow takes the legs from the paths inside of which a narrower route is the kernel's alone: who looks only for legs would
// find the wider path for its addresses.
func (r *Rows) narrow() {
	legged := make(map[netip.Prefix]bool, len(r.Paths))
	for _, p := range r.Paths {
		legged[p.Prefix] = legged[p.Prefix] || len(p.Legs) > 0
	}
	var alone []Foreign
	for k := range r.Routes {
		if k.Table == Main && !legged[k.Prefix] {
			alone = append(alone, Foreign{Prefix: k.Prefix, Metric: Metric})
		}
	}
	alone = SortForeign(alone)
	for i := range r.Paths {
		if p := &r.Paths[i]; len(p.Legs) > 0 && cut(alone, p.Prefix) {
			p.Legs, p.Slow = nil, SlowWithin
		}
	}
}
