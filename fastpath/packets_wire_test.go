package fastpath_test

import "net/netip"

// incoming is a frame from the wire.
func (m maker) incoming() modelFrame {
	d := m.devices[oneOf(m, "w0", "w1")]
	form := m.form()
	from, to := m.remote(form), m.local(form)
	if m.seldom(6) {
		from, to = m.anyone(form), m.anyone(form)
	}
	if m.ports.on && m.seldom(2) {
		from, to = m.client(form), m.host(form)
	}
	content := m.packet(from, to)
	if m.seldom(12) {
		if sender, _, b, ok := m.mistaken(false); ok {
			from, content = sender, b
		}
	}
	kind := kindOf(from)
	switch m.IntN(3) {
	case 1:
		kind, content = m.inIPIP(content)
	case 2:
		kind, content = m.inVXLAN(kind, content)
	}
	f := modelFrame{link: d.link, mac: d.mac}
	receiver := d.mac
	if m.seldom(16) {
		receiver = oneOf(m, mac(0), modelMAC{1, 0, 0x5e, 0, 0, 1}, modelMAC{255, 255, 255, 255, 255, 255}, modelMAC{})
	}
	f.bytes = ether(receiver, mac(0xaa), kind, content)
	return m.spoil(f)
}

// wrapper is an outer header, most often of a node to this one.
func (m maker) wrapper(form string, protocol uint8) header {
	h := header{from: address(form, 10+m.IntN(4)), to: m.here.local4, protocol: protocol, ttl: 64, tos: uint8(m.Uint32())}
	if h.from.Is6() {
		h.to = m.here.local6
	}
	switch m.IntN(24) {
	case 0:
		h.from = address(form, 77)
	case 1:
		h.to = address(form, 77)
	case 2:
		h.ttl = uint8(m.IntN(2))
	case 3:
		if h.from.Is4() {
			h.options = make([]byte, 4)
		}
	case 4:
		h.fragment = oneOf[uint16](m, 0x2000, 0x0010, 0x4000)
	}
	return h
}

func (m maker) inIPIP(content []byte) (kind uint16, packet []byte) {
	h := m.wrapper("192.0.2.%d", protocolIPIP)
	if m.seldom(24) {
		h = m.wrapper("2001:db8::%d", protocolIPIP)
	}
	if m.seldom(4) { // something for the host itself
		content = m.packet(m.remote(siteIPv4), netip.MustParseAddr("192.0.2.1"))
	}
	return kindOf(h.from), h.around(m.cut(content))
}

func (m maker) inVXLAN(kind uint16, content []byte) (outer uint16, packet []byte) {
	h := m.wrapper(oneOf(m, "192.0.2.%d", "2001:db8::%d"), protocolUDP)
	vni, port, receiver := m.here.vni, m.here.port, m.here.mac4
	if h.from.Is6() {
		receiver = m.here.mac6
	}
	switch m.IntN(20) {
	case 0:
		vni = oneOf[uint32](m, 0, 89, 0xffffff)
	case 1:
		port = 8472
	case 2:
		receiver = oneOf(m, mac(0x41), mac(0x61), modelMAC{255, 255, 255, 255, 255, 255})
	case 3:
		kind = oneOf[uint16](m, etherARP, 0x8100, etherIPv4, etherIPv6)
	}
	b := vxlan(vni, ether(receiver, mac(0xbb), kind, m.cut(content)))
	if m.seldom(20) {
		b[m.IntN(8)] ^= 1 << m.IntN(8)
	}
	return kindOf(h.from), h.around(udp(uint16(0xc000+m.IntN(64)), port, b))
}

// cut makes some packets shorter than they say.
func (m maker) cut(b []byte) []byte {
	if m.seldom(12) {
		return b[:m.IntN(len(b)+1)]
	}
	return b
}

// passing is a frame on its way out of the kernel, to a container or from one.
func (m maker) passing() modelFrame {
	d := m.devices[oneOf(m, "c0", "c1", "w0", "w1")]
	form := m.form()
	from, to := m.anyone(form), m.anyone(form)
	return m.spoil(modelFrame{link: d.link, mac: d.mac, bytes: ether(mac(1), mac(2), kindOf(from), m.packet(from, to))})
}

// passingBare is such a frame that has no Ethernet header.
func (m maker) passingBare() modelFrame {
	f := m.passing()
	form := m.form()
	f.bytes = m.packet(oneOf(m, m.local(form), m.anyone(form)), m.anyone(form))
	if m.seldom(16) {
		f.bytes = f.bytes[:max(etherSize, m.IntN(len(f.bytes)))]
	}
	f.bytes = f.bytes[:min(len(f.bytes), rigFrames)]
	f.tag = 0
	if len(f.bytes) < rigWhole {
		f.segment = 0
	}
	return f
}
