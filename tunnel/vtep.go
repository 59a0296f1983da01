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

// LinkLocal is the gateway that IPv6 prefixes use behind an IPv4 VTEP: the kernel takes no IPv4 gateway for them. It has
// the shape of an ISATAP identifier (RFC 5214), so that the VTEP can be read from it.
func LinkLocal(vtep netip.Addr) netip.Addr {
	a := vtep.Unmap().As4()
	return netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 10: 0x5e, 11: 0xfe, 12: a[0], 13: a[1], 14: a[2], 15: a[3]})
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
	if p.Addr().Is6() && vtep.Is4() {
		return LinkLocal(vtep)
	}
	return vtep
}
