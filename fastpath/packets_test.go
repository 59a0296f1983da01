package fastpath_test

import (
	"encoding/binary"
	"net/netip"
	"slices"
)

// ether is a frame.
func ether(to, from modelMAC, kind uint16, content []byte) []byte {
	return slices.Concat(to[:], from[:], bigEndian(kind), content)
}

// header is what an IP packet is to say.
type header struct {
	from, to netip.Addr
	protocol uint8
	ttl      uint8
	tos      uint8
	options  []byte // of IPv4, in words of four
	fragment uint16 // RFC 791's flags and offset
}

func bigEndian(n uint16) []byte { return binary.BigEndian.AppendUint16(nil, n) }

// around puts the header of the address's family around a content.
func (h header) around(content []byte) []byte {
	if h.from.Is6() {
		b := []byte{0x60 | h.tos>>4, h.tos << 4, 0x12, 0x34}
		b = slices.Concat(b, bigEndian(uint16(len(content))), []byte{h.protocol, h.ttl})
		return slices.Concat(b, h.from.AsSlice(), h.to.AsSlice(), content)
	}
	b := []byte{0x45 + uint8(len(h.options)/4), h.tos}
	b = slices.Concat(b, bigEndian(uint16(20+len(h.options)+len(content))), []byte{0x5a, 0xa5}, bigEndian(h.fragment))
	b = append(b, h.ttl, h.protocol, 0, 0)
	b = slices.Concat(b, h.from.AsSlice(), h.to.AsSlice(), h.options)
	binary.BigEndian.PutUint16(b[10:], sumOf(b))
	return append(b, content...)
}

// kindOf is the protocol of an address's packets in Ethernet.
func kindOf(a netip.Addr) uint16 {
	if a.Is6() {
		return etherIPv6
	}
	return etherIPv4
}

func udp(from, to uint16, content []byte) []byte {
	return slices.Concat(bigEndian(from), bigEndian(to), bigEndian(uint16(8+len(content))), []byte{0, 0}, content)
}

// tcp has words of options.
func tcp(from, to uint16, options int, content []byte) []byte {
	b := slices.Concat(bigEndian(from), bigEndian(to), make([]byte, 8), []byte{uint8(5+options) << 4, 0x10, 0xff, 0xff, 0, 0, 0, 0})
	return slices.Concat(b, make([]byte, 4*options), content)
}

// icmp is a message of either family: RFC 792, RFC 4443.
func icmp(kind, code uint8, id uint16, content []byte) []byte {
	return slices.Concat([]byte{kind, code, 0, 0}, bigEndian(id), []byte{0, 1}, content)
}

// extension is a header of IPv6 that names the next, with some units of eight bytes: RFC 8200 section 4.
func extension(next uint8, units int, content []byte) []byte {
	b := make([]byte, 8*(units+1))
	b[0], b[1] = next, uint8(units)
	return append(b, content...)
}

// fragment6 is RFC 8200 section 4.5's header.
func fragment6(next uint8, offset uint16, more bool, content []byte) []byte {
	at := offset << 3
	if more {
		at |= 1
	}
	return slices.Concat([]byte{next, 0}, bigEndian(at), []byte{0, 0, 0x77, 0x77}, content)
}

// vxlan is what UDP carries: RFC 7348.
func vxlan(vni uint32, frame []byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{8, 0, 0, 0}, vni<<8), frame...)
}

// arp is RFC 826's packet.
func arp(operation uint16, mac modelMAC, sender, target netip.Addr) []byte {
	b := slices.Concat([]byte{0, 1, 8, 0, 6, 4}, bigEndian(operation), mac[:], sender.AsSlice())
	return slices.Concat(b, make([]byte, 6), target.AsSlice())
}
