package bgp

import (
	"fmt"

	api "github.com/osrg/gobgp/v3/api"
	"github.com/osrg/gobgp/v3/pkg/packet/bgp"
	"google.golang.org/protobuf/types/known/anypb"
)

// Encaps is the set of tunnel types that a node accepts.
//
// It travels with the node's routes as Encapsulation extended communities, one for each type: RFC 9012 section 4.1.
type Encaps uint8

// The tunnel types. What else there is in the registry that RFC 9012 keeps is ignored.
const (
	GRE Encaps = 1 << iota
	IPIP
	VXLAN
)

// number is that of one tunnel type in the registry.
func (e Encaps) number() uint32 {
	switch e {
	case GRE:
		return uint32(bgp.TUNNEL_TYPE_GRE)
	case IPIP:
		return uint32(bgp.TUNNEL_TYPE_IP_IN_IP)
	case VXLAN:
		return uint32(bgp.TUNNEL_TYPE_VXLAN)
	}
	return 0
}

// communities is the attribute that tells of the set.
func (e Encaps) communities() (*anypb.Any, error) {
	var all api.ExtendedCommunitiesAttribute
	for one := GRE; one <= VXLAN; one <<= 1 {
		if e&one == 0 {
			continue
		}
		c, err := anypb.New(&api.EncapExtended{TunnelType: one.number()})
		if err != nil {
			return nil, fmt.Errorf("encode tunnel type %d: %w", one.number(), err)
		}
		all.Communities = append(all.Communities, c)
	}
	return anypb.New(&all)
}

// encaps reads the set from the attributes of a path. What is not understood is passed over: a peer may say more than
// we know.
func encaps(attributes []*anypb.Any) (set Encaps) {
	for _, a := range attributes {
		var all api.ExtendedCommunitiesAttribute
		if !a.MessageIs(&all) || a.UnmarshalTo(&all) != nil {
			continue
		}
		for _, c := range all.GetCommunities() {
			var told api.EncapExtended
			if !c.MessageIs(&told) || c.UnmarshalTo(&told) != nil {
				continue
			}
			for one := GRE; one <= VXLAN; one <<= 1 {
				if told.GetTunnelType() == one.number() {
					set |= one
				}
			}
		}
	}
	return set
}
