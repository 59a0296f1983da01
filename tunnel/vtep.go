package tunnel

import (
	"crypto/sha256"
	"fmt"
	"net/netip"
)

// The tunnel devices, one for each family of the outer header.
const (
	Device4 = "flvxlan"
	Device6 = "flvxlan6"
)

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

// deviceOf names the tunnel device that leads to a VTEP.
func deviceOf(vtep netip.Addr) string {
	if vtep.Is4() {
		return Device4
	}
	return Device6
}

// gateway is the address that a prefix is routed to on the tunnel device.
func gateway(p netip.Prefix, vtep netip.Addr) netip.Addr {
	if p.Addr().Is4() && vtep.Is4() {
		return vtep
	}
	return LinkLocal(vtep)
}
