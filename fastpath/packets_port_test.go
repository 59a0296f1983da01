package fastpath_test

import (
	"net/netip"
)

// The clients of ports: to the first of each family the kernel has a route of its own.
const (
	client4 = "203.0.113.9"
	client6 = "2001:db8:f::9"
)

// outside is a route of the kernel's own.
type outside struct {
	to       netip.Prefix
	own, via netip.Addr
}

// outward are those over the first wire.
func outward() []outside {
	return []outside{
		{netip.MustParsePrefix("203.0.113.0/24"), netip.MustParseAddr("172.31.7.3"), netip.MustParseAddr("172.31.7.254")},
		{netip.MustParsePrefix("2001:db8:f::/48"), netip.MustParseAddr("2001:db8:77::3"), netip.MustParseAddr("2001:db8:77::f")},
	}
}

// addPorts gives the host ports that lead to endpoints, and one that leads to nobody.
func (s *site) addPorts() {
	p := &s.ports
	p.leads, p.own = map[modelPort]netip.AddrPort{}, map[netip.Addr]bool{}
	p.conns, p.pieces = map[modelTuple]modelConn{}, map[modelDatagram]modelTuple{}
	p.out = map[netip.Prefix]modelSent{}
	for _, out := range outward() {
		p.out[out.to] = modelSent{over: s.devices["w0"].link, next: out.via}
	}
	for _, f := range []struct{ form, own, other, all string }{
		{siteIPv4, "192.0.2.1", "192.0.2.2", "0.0.0.0"}, {siteIPv6, "2001:db8::1", "2001:db8::2", "::"},
	} {
		p.own[netip.MustParseAddr(f.own)], p.own[netip.MustParseAddr(f.other)] = true, true
		for _, proto := range []uint8{protocolTCP, protocolUDP} {
			lead := func(at string, number uint16, n int, port uint16) {
				p.leads[modelPort{netip.AddrPortFrom(netip.MustParseAddr(at), number), proto}] = netip.AddrPortFrom(address(f.form, n), port)
			}
			lead(f.own, 80, 1, 1000)
			lead(f.all, 80, 2, 1001)
			lead(f.all, 81, 2, 1002)
			lead(f.all, 82, 9, 1003)
		}
	}
}

// host is an address of the host.
func (m maker) host(form string) netip.Addr {
	if form == siteIPv6 {
		return netip.MustParseAddr(oneOf(m, "2001:db8::1", "2001:db8::2"))
	}
	return netip.MustParseAddr(oneOf(m, "192.0.2.1", "192.0.2.2"))
}

// client is somebody who may ask for a port.
func (m maker) client(form string) netip.Addr {
	switch m.IntN(4) {
	case 0:
		return m.anyone(form)
	case 1:
		return m.remote(form)
	}
	if form == siteIPv6 {
		return netip.MustParseAddr(client6)
	}
	return netip.MustParseAddr(client4)
}

// varyPorts has the host map ports, most often, and puts connections in, now and then so many that there is no room.
func (m maker) varyPorts() {
	p := &m.ports
	p.on, p.hairpins = !m.seldom(4), !m.seldom(3)
	for range m.IntN(16) {
		form := m.form()
		number := func() uint16 { return oneOf(m, uint16(80+m.IntN(4)), uint16(1000+m.IntN(4))) }
		far := netip.AddrPortFrom(m.client(form), number())
		out := modelTuple{near: netip.AddrPortFrom(m.host(form), uint16(80+m.IntN(3))), far: far, proto: oneOf[uint8](m, protocolTCP, protocolUDP)}
		in := modelTuple{near: netip.AddrPortFrom(m.local(form), uint16(1000+m.IntN(4))), far: far, proto: out.proto, inside: true}
		if m.seldom(4) {
			in.far = netip.AddrPortFrom(far.Addr(), number())
		}
		if _, there := p.conns[in]; there || p.conns[out] != (modelConn{}) {
			continue
		}
		p.conns[in], p.conns[out] = modelConn{out, 0, m.Uint32() & 7}, modelConn{in, 0, m.Uint32() & 7}
		m.connected = append(m.connected, out)
	}
	room := modelRoom
	if m.seldom(4) {
		room = m.IntN(3) // that is left
	}
	for room < modelRoom && len(p.conns) < modelRoom-room {
		filler := modelTuple{near: netip.AddrPortFrom(netip.MustParseAddr("192.0.2.3"), uint16(len(p.conns))), proto: protocolUDP}
		filler.far = filler.near
		p.conns[filler] = modelConn{other: filler}
	}
	for range m.IntN(3) {
		if len(m.connected) > 0 {
			t := oneOf(m, m.connected...)
			other := p.conns[t].other
			p.pieces[m.datagram(t.far.Addr(), t.near.Addr())] = other
			p.pieces[m.datagram(other.near.Addr(), other.far.Addr())] = t
		}
	}
}

// datagram is one that frames made here may be fragments of.
func (m maker) datagram(from, to netip.Addr) modelDatagram {
	if from.Is4() {
		return modelDatagram{from, to, 0xa55a}
	}
	return modelDatagram{from, to, 0x77770000}
}

// mistaken is a message of ICMP about a packet of a connection, from one side or the other: who sends it, and it.
func (m maker) mistaken(inside bool) (from, to netip.Addr, packet []byte, ok bool) {
	if len(m.connected) == 0 {
		return from, to, nil, false
	}
	t := oneOf(m, m.connected...)
	about := header{from: t.near.Addr(), to: t.far.Addr(), protocol: t.proto, ttl: 60}
	ports := [2]uint16{t.near.Port(), t.far.Port()}
	from, to = oneOf(m, t.far.Addr(), m.client(m.form())), t.near.Addr()
	if inside {
		t = m.ports.conns[t].other
		about.from, about.to, ports = t.far.Addr(), t.near.Addr(), [2]uint16{t.far.Port(), t.near.Port()}
		from, to = t.near.Addr(), t.far.Addr()
	}
	if from.Is4() != to.Is4() {
		from = about.to
	}
	quote := about.around(udp(ports[0], ports[1], m.data(80)))
	if m.seldom(6) {
		quote = quote[:m.IntN(len(quote))]
	}
	h := header{from: from, to: to, protocol: protocolICMP, ttl: 60}
	kind := oneOf[uint8](m, 3, 3, 11, 12, 5)
	if to.Is6() {
		h.protocol, kind = protocolICMPv6, oneOf[uint8](m, 1, 2, 3, 4, 100)
	}
	return from, to, h.around(icmp(kind, 0, 0, quote)), true
}
