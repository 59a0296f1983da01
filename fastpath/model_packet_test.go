package fastpath_test

import (
	"encoding/binary"
	"net/netip"
)

const (
	etherIPv4 = 0x0800
	etherARP  = 0x0806
	etherIPv6 = 0x86dd
	etherSize = 14

	protocolICMP   = 1
	protocolIPIP   = 4
	protocolTCP    = 6
	protocolUDP    = 17
	protocolGRE    = 47
	protocolICMPv6 = 58
	protocolSCTP   = 132
)

// modelPacket is what can be told of a packet.
type modelPacket struct {
	shape            modelShape
	from, to         netip.Addr
	fromPort, toPort uint16
	protocol, ttl    uint8
	ecn              uint8
	largest          int // bytes of the largest packet that it will be cut into
}

type modelShape string

const (
	shapePlain modelShape = "plain" // its flow is in its header
	shapePair  modelShape = "pair"  // fragments and errors: only addresses tell what it belongs to
	shapeOdd   modelShape = "odd"   // options, extension headers, cut off
	shapeLink  modelShape = "link"  // talk of the link
)

// carrierOf is the protocol that the kernel reads out of an Ethernet header: eth_type_trans.
func carrierOf(frame []byte) uint16 {
	kind := binary.BigEndian.Uint16(frame[12:])
	if kind >= 0x0600 {
		return kind
	}
	if len(frame) >= 16 && frame[14] == 0xff && frame[15] == 0xff {
		return 1 // ETH_P_802_3
	}
	return 4 // ETH_P_802_2
}

// readPacket reads b, which begins with the network header and ends with the frame.
func readPacket(b []byte, carrier uint16, segment int) modelPacket {
	if carrier == etherIPv6 {
		return readIPv6(b, segment)
	}
	return readIPv4(b, segment)
}

func readIPv4(b []byte, segment int) modelPacket {
	if len(b) < 20 || b[0]>>4 != 4 {
		return modelPacket{shape: shapeOdd}
	}
	p := modelPacket{
		shape: shapeOdd, ttl: b[8], protocol: b[9], ecn: b[1] & 3,
		from: netip.AddrFrom4([4]byte(b[12:16])), to: netip.AddrFrom4([4]byte(b[16:20])),
	}
	fragment := binary.BigEndian.Uint16(b[6:])
	switch {
	case b[0]&15 != 5:
	case fragment&0x2000 != 0 || fragment&0x1fff != 0:
		p.shape, p.largest = shapePair, len(b)
	default:
		p.readTransport(b, 20, segment)
	}
	return p
}

func readIPv6(b []byte, segment int) modelPacket {
	if len(b) < 40 || b[0]>>4 != 6 {
		return modelPacket{shape: shapeOdd}
	}
	p := modelPacket{
		shape: shapeOdd, protocol: b[6], ttl: b[7], ecn: b[1] >> 4 & 3,
		from: netip.AddrFrom16([16]byte(b[8:24])), to: netip.AddrFrom16([16]byte(b[24:40])),
	}
	switch p.protocol {
	case 0, 43, 59, 60: // hop by hop, routing, nothing, destination
	case 44:
		p.shape, p.largest = shapePair, len(b)
	default:
		p.readTransport(b, 40, segment)
	}
	return p
}

// readTransport reads the header at a place. A card repeats what is before the data in each segment that it makes.
func (p *modelPacket) readTransport(b []byte, at, segment int) {
	t := b[at:]
	whole := map[uint8]int{protocolTCP: 20, protocolUDP: 8, protocolICMP: 8, protocolICMPv6: 8}[p.protocol]
	if len(t) < whole {
		return
	}
	if p.protocol == protocolTCP {
		whole = int(t[12]>>4) * 4
	}
	p.shape, p.largest = shapePlain, len(b)
	if segment > 0 {
		p.largest = segment + at + whole
	}
	echo := func(is bool, otherwise modelShape) {
		if !is {
			p.shape = otherwise
			return
		}
		p.fromPort = binary.BigEndian.Uint16(t[4:])
		p.toPort = p.fromPort
	}
	switch p.protocol {
	case protocolTCP, protocolUDP:
		p.fromPort, p.toPort = binary.BigEndian.Uint16(t), binary.BigEndian.Uint16(t[2:])
	case protocolICMP:
		echo(t[0] == 0 || t[0] == 8, shapePair)
	case protocolICMPv6:
		otherwise := shapeLink
		if t[0] < 128 {
			otherwise = shapePair
		}
		echo(t[0] == 128 || t[0] == 129, otherwise)
	}
}

// flow is the packet's, as seen from the end that is near.
func (p modelPacket) flow(near, far netip.Addr, out bool) modelFlow {
	f := modelFlow{near: near, far: far}
	if p.shape == shapePair {
		return f
	}
	f.protocol = p.protocol
	f.nearPort, f.farPort = p.fromPort, p.toPort
	if !out {
		f.nearPort, f.farPort = p.toPort, p.fromPort
	}
	return f
}
