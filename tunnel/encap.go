package tunnel

import "net/netip"

// Encap is how packets for a prefix travel to the next hop.
type Encap string

const (
	Direct Encap = "direct" // as they are: the next hop is on-link
	IPIP   Encap = "ipip"   // RFC 2003
	VXLAN  Encap = "vxlan"  // RFC 7348
)

// Mode is the administrator's word on the choice. All nodes of a site must have the same: with strict reverse path
// filters a packet that comes another way than its answer would go is dropped.
type Mode string

const (
	ModeAuto   Mode = "auto"    // direct where on-link, else the cheapest tunnel
	ModeHostGW Mode = "host-gw" // direct or not at all
	ModeIPIP   Mode = "ipip"    // IPIP to everyone
	ModeVXLAN  Mode = "vxlan"   // VXLAN to everyone, on-link or not
)

// The reason words of a prefix that can not be reached, stable for scripts.
const (
	ReasonUnreachable = "next-hop-unreachable"
	ReasonNoCommon    = "no-common-encap"
	ReasonUnsupported = "encap-unsupported-by-kernel"
	ReasonOwn         = "own-block"
)

// Hop is what the kernel's own route lookup says of a next hop. The zero value is a next hop that can not be reached.
type Hop struct {
	Reachable bool
	OnLink    bool   // no router in between
	Dev       string // the link that leads there
	MTU       int    // bytes, of the link or, where it is smaller, of the route
}

// Choose picks the way to prefix p behind a next hop, or says by a reason word why there is none.
func Choose(m Mode, p netip.Prefix, nextHop netip.Addr, h Hop) (Encap, string) {
	nextHop = nextHop.Unmap()
	// A link-local next hop names no node beyond its link, and RFC 5549's inverse, IPv6 behind an IPv4 router, does not
	// exist in Linux: neither goes without a tunnel.
	direct := h.OnLink && (p.Addr().Is4() || nextHop.Is6())
	switch {
	case !h.Reachable || nextHop.IsLinkLocalUnicast():
		return "", ReasonUnreachable
	case m == ModeHostGW && direct:
		return Direct, ""
	case m == ModeHostGW:
		return "", ReasonNoCommon
	case m == ModeIPIP:
		return "", ReasonUnsupported
	case m == ModeVXLAN || !direct:
		return VXLAN, ""
	default:
		return Direct, ""
	}
}

// overhead is what the encapsulation adds to a packet whose outer header is of the family of vtep, in bytes.
func overhead(e Encap, vtep netip.Addr) int {
	switch {
	case e == VXLAN && vtep.Is4():
		return 20 + 8 + 8 + 14
	case e == VXLAN:
		return 40 + 8 + 8 + 14
	case e == IPIP:
		return 20
	default:
		return 0
	}
}
