package tunnel

import (
	"net/netip"
	"slices"
	"strings"
)

// Encap is how packets for a prefix travel to the next hop.
type Encap string

const (
	Direct Encap = "direct" // as they are: the next hop is on-link
	IPIP   Encap = "ipip"   // RFC 2003: IPv4 in IPv4
	VXLAN  Encap = "vxlan"  // RFC 7348
	GRE    Encap = "gre"    // RFC 2784, over IPv4
)

// Encaps is a set of tunnels.
type Encaps uint8

// tunnels are all of them, the cheapest first.
func tunnels() []Encap { return []Encap{IPIP, GRE, VXLAN} }

// SetOf is the set of the given tunnels. Direct is none, since everybody takes packets as they are.
func SetOf(all ...Encap) (s Encaps) {
	for i, e := range tunnels() {
		if slices.Contains(all, e) {
			s |= 1 << i
		}
	}
	return s
}

// Has tells whether e is in the set.
func (s Encaps) Has(e Encap) bool { return s&SetOf(e) != 0 }

// List is what is in the set, the cheapest first.
func (s Encaps) List() []Encap {
	return slices.DeleteFunc(tunnels(), func(e Encap) bool { return !s.Has(e) })
}

func (s Encaps) String() string {
	words := make([]string, 0, len(tunnels()))
	for _, e := range s.List() {
		words = append(words, string(e))
	}
	return strings.Join(words, ",")
}

// Mode is the administrator's word on the choice. All nodes of a site must have the same: with strict reverse path
// filters a packet that comes another way than its answer would go is dropped.
type Mode string

const (
	ModeAuto   Mode = "auto"    // direct where on-link, else the cheapest tunnel that both ends have
	ModeHostGW Mode = "host-gw" // direct or not at all
	ModeIPIP   Mode = "ipip"    // IPIP to everyone, on-link or not
	ModeVXLAN  Mode = "vxlan"   // VXLAN to everyone
	ModeGRE    Mode = "gre"     // GRE to everyone, for networks that forward nothing else
)

// Tunnels is what the mode may choose.
func (m Mode) Tunnels() Encaps {
	switch m {
	case ModeAuto:
		return SetOf(IPIP, VXLAN)
	case ModeIPIP, ModeVXLAN, ModeGRE:
		return SetOf(Encap(m))
	default:
		return 0
	}
}

// The reason words of a prefix that can not be reached, stable for scripts.
const (
	ReasonUnreachable = "next-hop-unreachable"
	ReasonNoCommon    = "no-common-encap"
	ReasonUnsupported = "encap-unsupported-by-kernel"
	ReasonOwn         = "own-block"
	// ReasonForeign is that of a prefix whose route of ours is in the kernel, but not in use, because somebody else's to the
	// same addresses wins over it.
	ReasonForeign = "foreign-route"
)

// Hop is what the kernel's own route lookup says of a next hop. The zero value is a next hop that can not be reached.
type Hop struct {
	Reachable bool
	OnLink    bool   // no router in between
	Dev       string // the link that leads there
	MTU       int    // bytes, of the link or, where it is smaller, of the route
	PathMTU   int    // bytes, of what this host sends itself, as routers told it; 0: they told nothing
	// Via is the neighbour on Dev that packets go to: the router, or the next hop itself; zero when it is not known. It may
	// be of the other family.
	Via netip.Addr
}

// Case is what the choice depends on.
type Case struct {
	Mode    Mode
	Prefix  netip.Prefix
	NextHop netip.Addr
	Hop     Hop
	Kernel  Encaps // what this host's kernel can
	Peer    Encaps // what the next hop says that it takes
}

// Choose picks the way to a prefix behind a next hop, or says by a reason word why there is none.
func Choose(c Case) (Encap, string) {
	c.NextHop = c.NextHop.Unmap()
	// A link-local next hop names no node beyond its link.
	if !c.Hop.Reachable || c.NextHop.IsLinkLocalUnicast() {
		return "", ReasonUnreachable
	}
	// RFC 8950's inverse, IPv6 behind an IPv4 router, does not exist in Linux: it does not go without a tunnel.
	open := c.Hop.OnLink && (c.Prefix.Addr().Is4() || c.NextHop.Is6())
	if open && (c.Mode == ModeAuto || c.Mode == ModeHostGW) {
		return Direct, ""
	}
	var fit Encaps
	for _, e := range c.Mode.Tunnels().List() {
		if e.carries(c.Prefix, c.NextHop) {
			fit |= SetOf(e)
		}
	}
	common, lacking := fit&c.Kernel&c.Peer, fit&^c.Kernel
	switch {
	case common != 0:
		return common.List()[0], ""
	case lacking != 0 && (lacking == fit || lacking&c.Peer != 0):
		return "", ReasonUnsupported
	default:
		return "", ReasonNoCommon
	}
}

// carries tells whether packets for p can be inside of e when the outer header is of the family of the tunnel's ends.
func (e Encap) carries(p netip.Prefix, vtep netip.Addr) bool {
	switch e {
	case IPIP:
		return p.Addr().Is4() && vtep.Is4()
	case GRE:
		return vtep.Is4()
	default:
		return true
	}
}

// rank orders the ways by their price.
func (e Encap) rank() int { return slices.Index(tunnels(), e) }

// overhead is what the encapsulation adds to a packet whose outer header is of the family of vtep, in bytes.
func overhead(e Encap, vtep netip.Addr) int {
	outer := 20
	if vtep.Is6() {
		outer = 40
	}
	switch e {
	case VXLAN:
		return outer + 8 + 8 + 14
	case GRE:
		return outer + 4
	case IPIP:
		return outer
	default:
		return 0
	}
}
