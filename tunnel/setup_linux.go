package tunnel

import (
	"encoding/binary"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

const (
	fragmentNever = 1  // VXLAN_DF_SET, include/uapi/linux/if_link.h
	timeToLive    = 64 // of IPIP's and GRE's outer header; VXLAN takes the host's own
)

// attributes of the set-up of the device. The outer header of all of them forbids to fragment: a router that can not
// pass a packet on then says so, and the route learns what the path carries (hop_linux.go).
func (d Device) attributes(data *nl.RtAttr) {
	switch d.Kind {
	case VXLAN:
		d.vxlanAttributes(data)
	case IPIP:
		d.ipAttributes(data, ipipAttributes())
	case GRE:
		d.ipAttributes(data, greAttributes())
	}
}

func (d Device) vxlanAttributes(data *nl.RtAttr) {
	data.AddRtAttr(unix.IFLA_VXLAN_ID, nl.Uint32Attr(uint32(d.VNI)))
	data.AddRtAttr(unix.IFLA_VXLAN_PORT, nl.BEUint16Attr(uint16(d.Port)))
	data.AddRtAttr(unix.IFLA_VXLAN_LEARNING, nl.Uint8Attr(0))
	if !d.Local.Is4() {
		data.AddRtAttr(unix.IFLA_VXLAN_LOCAL6, d.Local.AsSlice())
		return
	}
	data.AddRtAttr(unix.IFLA_VXLAN_LOCAL, d.Local.AsSlice())
	data.AddRtAttr(unix.IFLA_VXLAN_DF, nl.Uint8Attr(fragmentNever))
	// RFC 7348 section 5: the outer checksum should be zero. Over IPv6 it must be there (RFC 6935).
	data.AddRtAttr(unix.IFLA_VXLAN_UDP_CSUM, nl.Uint8Attr(0))
}

func parseVXLAN(b []byte) (s setup) {
	odd := map[uint16]string{
		unix.IFLA_VXLAN_LEARNING:         "learning",
		unix.IFLA_VXLAN_COLLECT_METADATA: "external",
		unix.IFLA_VXLAN_LINK:             "bound",
		unix.IFLA_VXLAN_PROXY:            "proxy",
		unix.IFLA_VXLAN_RSC:              "short-circuit",
		unix.IFLA_VXLAN_L2MISS:           "l2miss",
		unix.IFLA_VXLAN_L3MISS:           "l3miss",
	}
	fragments := 0
	for kind, value := range attributes(b) {
		switch kind {
		case unix.IFLA_VXLAN_ID:
			s.vni = number(value)
		case unix.IFLA_VXLAN_PORT:
			s.port = int(binary.BigEndian.Uint16(value))
		case unix.IFLA_VXLAN_LOCAL, unix.IFLA_VXLAN_LOCAL6:
			s.local = address(value)
		case unix.IFLA_VXLAN_GROUP, unix.IFLA_VXLAN_GROUP6:
			s.remote, s.odd = address(value), "remote"
		case unix.IFLA_VXLAN_GBP, unix.IFLA_VXLAN_GPE:
			s.odd = "extended"
		case unix.IFLA_VXLAN_DF:
			fragments = number(value)
		default:
			if word, ok := odd[kind]; ok && number(value) != 0 {
				s.odd = word
			}
		}
	}
	if s.local.Is4() && fragments != fragmentNever {
		s.odd = "fragmenting"
	}
	return s
}

// ipAttribute numbers the settings of a kind of tunnel that has no header of its own, or hardly one.
type ipAttribute struct {
	local, remote, ttl, pathMTU uint16
	odd                         map[uint16]string // settings that ours do not have
}

// ipipAttributes are the IFLA_IPTUN_* of include/uapi/linux/if_tunnel.h.
func ipipAttributes() ipAttribute {
	return ipAttribute{
		local: 2, remote: 3, ttl: 4, pathMTU: 10,
		odd: map[uint16]string{1: "bound", 15: "encapsulated", 19: "external", 20: "marked"},
	}
}

// greAttributes are the IFLA_GRE_* of the same file.
func greAttributes() ipAttribute {
	return ipAttribute{
		local: 6, remote: 7, ttl: 8, pathMTU: 10,
		odd: map[uint16]string{1: "bound", 2: "flags", 3: "flags", 14: "encapsulated", 18: "external", 20: "marked"},
	}
}

func (d Device) ipAttributes(data *nl.RtAttr, n ipAttribute) {
	data.AddRtAttr(int(n.local), d.Local.AsSlice())
	data.AddRtAttr(int(n.ttl), nl.Uint8Attr(timeToLive))
	data.AddRtAttr(int(n.pathMTU), nl.Uint8Attr(1))
}

func parseIPTunnel(b []byte, n ipAttribute) (s setup) {
	ttl, discovers := 0, 0
	for kind, value := range attributes(b) {
		switch kind {
		case n.local:
			s.local = address(value)
		case n.remote:
			if a := address(value); !a.IsUnspecified() {
				s.remote, s.odd = a, "remote"
			}
		case n.ttl:
			ttl = number(value)
		case n.pathMTU:
			discovers = number(value)
		default:
			if word, ok := n.odd[kind]; ok && number(value) != 0 {
				s.odd = word
			}
		}
	}
	switch {
	case ttl != timeToLive:
		s.odd = "ttl"
	case discovers != 1:
		s.odd = "fragmenting"
	}
	if s.local == netip.IPv4Unspecified() {
		s.local = netip.Addr{}
	}
	return s
}
