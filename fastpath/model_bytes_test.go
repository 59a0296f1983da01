package fastpath_test

import "encoding/binary"

// sumOf is the checksum of an IPv4 header whose own field is zero: RFC 1071.
func sumOf(header []byte) uint16 {
	sum := uint32(0)
	for i := 0; i+1 < len(header); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(header[i:]))
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// adjust keeps the checksum as right or wrong as it was when a word of the header has become less by an amount: such sums
// are numbers modulo 65535, and it is the complement that the header has.
func adjust(header []byte, less int) {
	sum := (int(binary.BigEndian.Uint16(header[10:])) + less) % 0xffff
	binary.BigEndian.PutUint16(header[10:], uint16((sum+0xffff)%0xffff))
}

// oneHopLess does to a packet what a router does.
func oneHopLess(b []byte, kind uint16) {
	if kind == etherIPv6 {
		b[7]--
		return
	}
	b[8]--
	adjust(b, 0x0100)
}

// congest puts the mark of congestion on a packet.
func congest(b []byte, kind uint16) {
	if kind == etherIPv6 {
		b[1] |= 0x30
		return
	}
	if before := int(b[1]); before&3 != 3 {
		b[1] |= 3
		adjust(b, before-int(b[1]))
	}
}

// outerHeader puts a header around a packet that bears its mark of congestion, and never lets it be cut.
func outerHeader(h modelHop, protocol, ecn uint8, hash uint32, content []byte) []byte {
	if h.next.Is6() {
		b := []byte{0x60, ecn << 4, 0, 0, 0, 0, protocol, 64}
		binary.BigEndian.PutUint32(b, binary.BigEndian.Uint32(b)|hash&0xfffff) // RFC 6438
		binary.BigEndian.PutUint16(b[4:], uint16(len(content)))
		return append(append(append(b, h.local.AsSlice()...), h.end.AsSlice()...), content...)
	}
	b := []byte{0x45, ecn, 0, 0, 0, 0, 0x40, 0, 64, protocol, 0, 0}
	binary.BigEndian.PutUint16(b[2:], uint16(20+len(content)))
	b = append(append(b, h.local.AsSlice()...), h.end.AsSlice()...)
	binary.BigEndian.PutUint16(b[10:], sumOf(b))
	return append(b, content...)
}
