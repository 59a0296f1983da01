package tunnel

import (
	"crypto/sha256"
	"fmt"
	"net/netip"
	"slices"
)

// The tunnel devices. Linux ties a VXLAN device to one family of the outer header; IPIP and GRE are over IPv4.
const (
	DeviceVXLAN  = "flvxlan"
	DeviceVXLAN6 = "flvxlan6"
	DeviceIPIP   = "flipip"
	DeviceGRE    = "flgre"
)

// devices are the names of all tunnel devices.
func devices() []string { return []string{DeviceVXLAN, DeviceVXLAN6, DeviceIPIP, DeviceGRE} }

// IsDevice tells whether a link of that name is a tunnel device of ours.
func IsDevice(name string) bool { return slices.Contains(devices(), name) }

// MAC is an Ethernet address. Unlike net.HardwareAddr it can be compared.
type MAC [6]byte

// String is the usual notation with colons.
func (m MAC) String() string {
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4], m[5])
}

// VTEPMAC is the Ethernet address of the tunnel device at an underlay address.
//
// Every node derives every other node's from the address alone. Nothing has to be told, and a host that comes back
// after a reboot has the same one, so no entry on its peers goes stale.
func VTEPMAC(vtep netip.Addr) MAC {
	vtep = vtep.Unmap()
	if vtep.Is4() {
		a := vtep.As4()
		return MAC{0x02, 0x46, a[0], a[1], a[2], a[3]}
	}
	a := vtep.As16()
	h := sha256.Sum256(a[:])
	return MAC{0x06, h[0], h[1], h[2], h[3], h[4]}
}

// LinkLocal is the IPv6 gateway that stands for a VTEP on its tunnel device.
//
// Behind an IPv4 VTEP it is for IPv6 prefixes, which take no IPv4 gateway; it has the shape of an ISATAP identifier (RFC
// 5214), so that the VTEP can be read from it. Behind an IPv6 VTEP it is for every prefix: Linux refuses a gateway on one
// link that a route already finds on another, as it does a VTEP on the link of the underlay, unless it is link-local.
func LinkLocal(vtep netip.Addr) netip.Addr {
	vtep = vtep.Unmap()
	g := [16]byte{0: 0xfe, 1: 0x80, 10: 0x5e, 11: 0xfe}
	if vtep.Is4() {
		a := vtep.As4()
		copy(g[12:], a[:])
		return netip.AddrFrom16(g)
	}
	a := vtep.As16()
	h := sha256.Sum256(a[:])
	copy(g[8:], h[:8])
	return netip.AddrFrom16(g)
}

// deviceOf names the tunnel device that leads to a tunnel end.
func deviceOf(e Encap, end netip.Addr) string {
	switch {
	case e == IPIP:
		return DeviceIPIP
	case e == GRE:
		return DeviceGRE
	case end.Is4():
		return DeviceVXLAN
	default:
		return DeviceVXLAN6
	}
}

// EncapOf is how packets travel that leave by a link: Direct, unless it is a tunnel device of ours.
func EncapOf(dev string) Encap {
	for _, e := range tunnels() {
		if dev == deviceOf(e, netip.IPv4Unspecified()) || dev == deviceOf(e, netip.IPv6Unspecified()) {
			return e
		}
	}
	return Direct
}

// linkAddress is what the neighbour of a tunnel device must have so that packets to it get to the tunnel end: for VXLAN
// the MAC of the device there, for GRE the four bytes of the end's own address, with two zero bytes behind. An IPIP device
// has no neighbours, since it sends to the gateway of the route (net/ipv4/ip_tunnel.c, ip_tunnel_xmit).
func linkAddress(e Encap, end netip.Addr) (m MAC, needed bool) {
	switch e {
	case VXLAN:
		return VTEPMAC(end), true
	case GRE:
		copy(m[:], end.AsSlice())
		return m, true
	default:
		return m, false
	}
}

// gateway is the address that a prefix is routed to on the tunnel device.
func gateway(p netip.Prefix, vtep netip.Addr) netip.Addr {
	if p.Addr().Is4() && vtep.Is4() {
		return vtep
	}
	return LinkLocal(vtep)
}
