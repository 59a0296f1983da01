package fastpath_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
)

// maker makes frames for a site, most of them such as a host sees, and each kind of fault now and then.
type maker struct {
	*site
	*rand.Rand
}

// seldom is true once in n times.
func (m maker) seldom(n int) bool { return m.IntN(n) == 0 }

func oneOf[T any](m maker, all ...T) T { return all[m.IntN(len(all))] }

// local is an endpoint's address.
func (m maker) local(form string) netip.Addr { return address(form, 1+m.IntN(3)) }

// remote is an address that a route leads to.
func (m maker) remote(form string) netip.Addr {
	p := netip.MustParsePrefix(oneOf(m, routesOf(form)...))
	b := p.Addr().AsSlice()
	b[len(b)-1] = byte(1 + m.IntN(4))
	a, _ := netip.AddrFromSlice(b)
	return a
}

// strange is an address that nobody has told of, or that is none of a host's.
func (m maker) strange(form string) netip.Addr {
	text := oneOf(m, "203.0.113.9", "8.0.88.9", "0.0.0.0", "224.0.0.1", "255.255.255.255", "192.0.2.1", "169.254.1.1", "127.0.0.1")
	if form == siteIPv6 {
		text = oneOf(m, "2001:db8:f::9", "fd00:88:86dd::9", "::", "ff02::1", "fe80::1", "fe80:0:1::1", "fea0::1", "2001:db8::1", "::1", "ff0e::7")
	}
	return netip.MustParseAddr(text)
}

func (m maker) anyone(form string) netip.Addr {
	switch n := m.IntN(8); {
	case n < 3:
		return m.local(form)
	case n < 7:
		return m.remote(form)
	}
	return m.strange(form)
}

func (m maker) form() string { return oneOf(m, siteIPv4, siteIPv6) }

// data is a content: short, or of a size about which something is decided, or long.
func (m maker) data(headers int) []byte {
	size := m.IntN(64)
	switch m.IntN(12) {
	case 0, 1:
		size = oneOf(m, 1500, 1469, 1439, 1419, 1280, 576) - headers + m.IntN(3) - 1
	case 2:
		size = m.IntN(rigFrames - 200)
	}
	b := make([]byte, size)
	for i := range b {
		b[i] = byte(m.Uint32())
	}
	return b
}

// transport is a protocol and what it carries.
func (m maker) transport(form string, network int) (protocol uint8, content []byte) {
	from, to := uint16(1000+m.IntN(4)), uint16(80+m.IntN(4))
	switch m.IntN(10) {
	case 0, 1, 2:
		options := oneOf(m, 0, 0, 3, 10)
		b := tcp(from, to, options, m.data(network+20+4*options))
		b[13] = oneOf[byte](m, 0x10, 0x10, 0x02, 0x02, 0x11, 0x14, 0x04, 0x12)
		return protocolTCP, b
	case 3, 4:
		return protocolUDP, udp(from, to, m.data(network+8))
	case 5:
		if form == siteIPv6 {
			return protocolICMPv6, icmp(oneOf[uint8](m, 128, 129), 0, from, m.data(network+8))
		}
		return protocolICMP, icmp(oneOf[uint8](m, 0, 8), 0, from, m.data(network+8))
	case 6: // errors, neighbour discovery, listeners
		if form == siteIPv6 {
			return protocolICMPv6, icmp(oneOf[uint8](m, 1, 2, 3, 4, 127, 130, 133, 134, 135, 136, 143, 255), 0, 0, m.data(network+8))
		}
		return protocolICMP, icmp(oneOf[uint8](m, 3, 4, 5, 11, 12, 13, 255), 4, 0, m.data(network+8))
	case 7:
		return protocolSCTP, append(append(bigEndian(from), bigEndian(to)...), m.data(network+4)...)
	case 8:
		return oneOf[uint8](m, protocolGRE, 50, 51, 41, 103, 255), m.data(network)
	}
	return oneOf[uint8](m, protocolICMP, protocolICMPv6, protocolIPIP, protocolTCP), m.data(network)
}

// packet is one of IP, from one address to another.
func (m maker) packet(from, to netip.Addr) []byte {
	h := header{from: from, to: to, ttl: 64, tos: uint8(m.Uint32())}
	if m.seldom(8) {
		h.ttl = oneOf[uint8](m, 0, 1, 2, 255)
	}
	form, network := siteIPv4, 20
	if from.Is6() {
		form, network = siteIPv6, 40
	}
	protocol, content := m.transport(form, network)
	h.protocol = protocol
	switch {
	case !m.seldom(5):
	case form == siteIPv4 && m.seldom(2):
		h.options = make([]byte, 4*oneOf(m, 1, 2, 10))
	case form == siteIPv4:
		h.fragment = oneOf[uint16](m, 0x2000, 0x2005, 0x0005, 0x1fff, 0x4000, 0x8000, 0xc000)
	case m.seldom(2):
		h.protocol = oneOf[uint8](m, 0, 43, 60, 59, 135)
		content = extension(protocol, m.IntN(3), content)
	default:
		h.protocol = 44
		content = fragment6(protocol, uint16(m.IntN(3)), m.seldom(2), content)
	}
	b := h.around(content)
	if from.Is4() && m.seldom(12) {
		b[10], b[11] = oneOf[byte](m, 0, 0xfe, 0xff), oneOf[byte](m, 0, 0xfe, 0xff) // not the checksum
	}
	return b
}

// spoil cuts a frame, changes it, or says of it what seldom is said.
func (m maker) spoil(f modelFrame) modelFrame {
	f.bytes = slices.Clone(f.bytes)
	switch m.IntN(24) {
	case 0:
		f.bytes = f.bytes[:etherSize+m.IntN(len(f.bytes)-etherSize+1)]
	case 1:
		f.bytes[m.IntN(len(f.bytes))] = byte(m.Uint32())
	case 2: // within the headers
		f.bytes[m.IntN(min(len(f.bytes), 100))] ^= 1 << m.IntN(8)
	case 3:
		f.bytes = append(f.bytes, make([]byte, m.IntN(64))...)
	case 4, 5:
		f.segment = oneOf(m, 1, 500, 1379, 1387, 1399, 1411, 1429, 1440, 1448, 1460, 1461, 8948)
	case 6:
		f.tag = uint16(1 + m.IntN(4094))
	}
	f.bytes = f.bytes[:min(len(f.bytes), rigFrames)]
	if len(f.bytes) < rigWhole {
		f.segment = 0 // nothing is to be cut of it
	}
	f.mark = oneOf[uint32](m, modelAsked, modelAsked, modelAsked, modelFast, modelSeen, 0, 1)
	return f
}

// outgoing is a frame of a container's.
func (m maker) outgoing() modelFrame {
	n := m.IntN(3)
	d := m.devices[fmt.Sprintf("c%d", n)]
	if m.seldom(24) {
		d = m.devices["x0"]
	}
	f := modelFrame{link: d.link, mac: d.mac}
	form := m.form()
	from := address(form, n+1)
	if m.seldom(5) {
		from = m.anyone(form)
	}
	kind, sender := kindOf(from), mac(byte(n))
	if m.seldom(16) {
		sender = mac(byte(m.IntN(5)))
	}
	var content []byte
	switch {
	case m.seldom(16):
		kind, content = etherARP, m.question(n)
	case m.seldom(24):
		kind, content = oneOf[uint16](m, 0x0100, 0x86dc, 0x8100, 0x88cc, 0x0801, 0), m.data(0)
	case m.seldom(12):
		if sender, _, b, ok := m.mistaken(true); ok {
			content, kind = b, kindOf(sender)
			break
		}
		fallthrough
	default:
		to := m.anyone(form)
		if m.ports.on && m.seldom(2) {
			to = oneOf(m, m.host(form), m.client(form))
		}
		content = m.packet(from, to)
	}
	f.bytes = ether(oneOf(m, d.mac, mac(0xff)), sender, kind, content)
	return m.spoil(f)
}

// question is ARP of a container's.
func (m maker) question(n int) []byte {
	sender := oneOf(m, address(siteIPv4, n+1), address(siteIPv4, 1), netip.IPv4Unspecified(), m.anyone(siteIPv4))
	b := arp(uint16(1+m.IntN(2)), mac(byte(n)), sender, m.anyone(siteIPv4))
	if m.seldom(4) {
		b[m.IntN(14)] ^= 1
	}
	return b
}

// known is a flow that frames made here may be of.
func (m maker) known() modelFlow {
	form := m.form()
	f := modelFlow{near: m.local(form), far: oneOf(m, m.local(form), m.remote(form), m.remote(form))}
	if m.seldom(2) {
		f.protocol = oneOf[uint8](m, protocolTCP, protocolUDP)
		f.nearPort, f.farPort = uint16(1000+m.IntN(4)), uint16(80+m.IntN(4))
	}
	return f
}
