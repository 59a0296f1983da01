package bgp

import (
	"fmt"
	"net/netip"
	"strings"

	api "github.com/osrg/gobgp/v3/api"
	"google.golang.org/protobuf/types/known/anypb"
)

// Announcement is a prefix of ours and where packets to it are to be sent.
//
// The next hop of an IPv6 prefix may be an IPv4-mapped address (RFC 4798 section 2): packets then go to the IPv4
// address inside it. That of an IPv4 prefix may be an IPv6 address (RFC 8950).
type Announcement struct {
	Prefix  netip.Prefix
	NextHop netip.Addr
	Encaps  Encaps // what the next hop accepts; 0 = say nothing of tunnels
}

func (a Announcement) check() error {
	switch {
	case !a.Prefix.IsValid() || a.Prefix != a.Prefix.Masked():
		return fmt.Errorf("%v is not a prefix", a.Prefix)
	case !a.NextHop.IsValid() || a.NextHop.IsUnspecified() || a.NextHop.IsMulticast():
		return fmt.Errorf("%v can not be a next hop", a.NextHop)
	case a.Encaps&^(GRE|IPIP|VXLAN) != 0:
		return fmt.Errorf("%#x is no set of tunnel types", a.Encaps)
	}
	return nil
}

type family int // index into the arrays that have one field for each address family

const (
	ipv4 family = iota
	ipv6
	families
)

func (f family) api() *api.Family {
	afi := api.Family_AFI_IP
	if f == ipv6 {
		afi = api.Family_AFI_IP6
	}
	return &api.Family{Afi: afi, Safi: api.Family_SAFI_UNICAST}
}

func familyOf(p netip.Prefix) family {
	if p.Addr().Is4() {
		return ipv4
	}
	return ipv6
}

// familyFrom is false for the address families that we do not speak.
func familyFrom(f *api.Family) (family, bool) {
	if f.GetSafi() != api.Family_SAFI_UNICAST {
		return 0, false
	}
	switch f.GetAfi() {
	case api.Family_AFI_IP:
		return ipv4, true
	case api.Family_AFI_IP6:
		return ipv6, true
	}
	return 0, false
}

// encode puts the announcement into GoBGP's terms.
//
// GoBGP takes an IPv6 prefix or next hop only in MP_REACH_NLRI (RFC 4760 section 3), which holds the prefix again.
func (a Announcement) encode() (*api.Path, error) {
	nlri, err := anypb.New(&api.IPAddressPrefix{Prefix: a.Prefix.Addr().String(), PrefixLen: uint32(a.Prefix.Bits())})
	if err != nil {
		return nil, fmt.Errorf("encode %v: %w", a.Prefix, err)
	}
	origin, err := anypb.New(&api.OriginAttribute{Origin: 0})
	if err != nil {
		return nil, fmt.Errorf("encode %v: %w", a.Prefix, err)
	}
	f := familyOf(a.Prefix)
	var hop *anypb.Any
	if f == ipv4 && a.NextHop.Unmap().Is4() {
		hop, err = anypb.New(&api.NextHopAttribute{NextHop: a.NextHop.Unmap().String()})
	} else {
		hop, err = anypb.New(&api.MpReachNLRIAttribute{
			Family: f.api(), NextHops: []string{a.NextHop.String()}, Nlris: []*anypb.Any{nlri},
		})
	}
	if err != nil {
		return nil, fmt.Errorf("encode next hop %v: %w", a.NextHop, err)
	}
	attributes := []*anypb.Any{origin, hop}
	if a.Encaps != 0 {
		communities, err := a.Encaps.communities()
		if err != nil {
			return nil, fmt.Errorf("encode tunnels to %v: %w", a.NextHop, err)
		}
		attributes = append(attributes, communities)
	}
	return &api.Path{Family: f.api(), Nlri: nlri, Pattrs: attributes}, nil
}

// path is one way to a prefix, as GoBGP reports it.
type path struct {
	prefix    netip.Prefix
	nextHop   netip.Addr // an IPv4-mapped address is given as IPv4
	encaps    Encaps     // what the next hop accepts; 0 = not said
	peer      netip.Addr // who told us; zero = we ourselves
	withdrawn bool
}

// decode reads what GoBGP reports of a prefix. When only the prefix can be read, the path counts as withdrawn: what the
// peer said of it before is void. GoBGP reports no attribute at all when there is one of them that its API can not say.
func decode(p *api.Path) (path, error) {
	var nlri api.IPAddressPrefix
	if err := p.GetNlri().UnmarshalTo(&nlri); err != nil {
		return path{}, fmt.Errorf("decode prefix: %w", err)
	}
	addr, err := netip.ParseAddr(nlri.GetPrefix())
	if err != nil {
		return path{}, fmt.Errorf("decode prefix: %w", err)
	}
	prefix, err := addr.Prefix(int(nlri.GetPrefixLen()))
	if err != nil {
		return path{}, fmt.Errorf("decode prefix: %w", err)
	}
	out := path{prefix: prefix, peer: neighbour(p), withdrawn: p.GetIsWithdraw()}
	if !out.withdrawn {
		if out.nextHop, err = nextHop(p.GetPattrs()); err != nil {
			out.withdrawn = true
			return out, fmt.Errorf("decode path to %v: %w", prefix, err)
		}
		out.encaps = encaps(p.GetPattrs())
	}
	return out, nil
}

// neighbour is zero for a path of our own, whose address GoBGP spells "<nil>".
func neighbour(p *api.Path) netip.Addr {
	a, err := netip.ParseAddr(p.GetNeighborIp())
	if err != nil {
		return netip.Addr{}
	}
	return a
}

func nextHop(attributes []*anypb.Any) (netip.Addr, error) {
	text := ""
	for _, a := range attributes {
		switch {
		case strings.HasSuffix(a.GetTypeUrl(), ".NextHopAttribute"):
			var hop api.NextHopAttribute
			if err := a.UnmarshalTo(&hop); err != nil {
				return netip.Addr{}, fmt.Errorf("decode next hop: %w", err)
			}
			text = hop.GetNextHop()
		case strings.HasSuffix(a.GetTypeUrl(), ".MpReachNLRIAttribute"):
			var reach api.MpReachNLRIAttribute
			if err := a.UnmarshalTo(&reach); err != nil {
				return netip.Addr{}, fmt.Errorf("decode next hop: %w", err)
			}
			if len(reach.GetNextHops()) > 0 {
				text = reach.GetNextHops()[0]
			}
		}
	}
	hop, err := netip.ParseAddr(text)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("decode next hop: %w", err)
	}
	return hop.Unmap(), nil
}
