package fastpath_test

import (
	"bytes"
	"encoding/binary"
	"maps"
	"net/netip"
)

// modelPorts is what a world knows of ports of the host:
//
//   - A port leads to a port of an endpoint, by one address of the host or, where that has none of its own, by all.
//   - A packet of TCP or UDP to such a port, from the wire or from an endpoint, is of a connection, which it begins when it is
//     of UDP and not the kernel's, which has translated it before, or asks for one of TCP: not from an address that nobody
//     elsewhere has, and not to an endpoint of another realm. The endpoint sees who asks, and itself as the host when it asks itself.
//   - What asks anew by a connection that is over begins another. There is room for so many, from either side.
//   - Each packet from an endpoint that answers goes back as from the port: to an endpoint, over a route, or by the kernel's
//     own routes. What is too large for that, or for the endpoint that is asked, stays with the kernel as it came.
//   - Later fragments go where the first went. An error goes with the connection of the packet that it quotes, and quotes it
//     as the other side knows it.
type modelPorts struct {
	on, hairpins bool
	leads        map[modelPort]netip.AddrPort
	own          map[netip.Addr]bool
	conns        map[modelTuple]modelConn
	pieces       map[modelDatagram]modelTuple // of which the first fragment has come
	out          map[netip.Prefix]modelSent   // the kernel's own routes
}

type modelPort struct {
	at    netip.AddrPort // an unspecified address: all of the host's
	proto uint8
}

// modelTuple is one side of a connection: outside, as whoever asks sees it, or inside, as the endpoint does.
type modelTuple struct {
	near, far netip.AddrPort
	proto     uint8
	inside    bool
}

type modelConn struct {
	other modelTuple
	link  uint32
	state uint32
}

type modelDatagram struct {
	from, to netip.Addr
	id       uint32
}

// What of a connection a packet has.
const (
	modelWhole = iota
	modelFirst // fragment
	modelLater
	modelError
)

// modelRoom is how many sides of connections the table has room for.
const modelRoom = 64

// From where a packet comes.
const (
	modelWire = iota
	modelAsks
	modelAnswers
)

// sight is a packet as those ports see it.
type sight struct {
	modelPacket
	piece  int
	flags  uint8 // of TCP
	id     uint32
	quote  modelPacket
	quotes int // where the quoted header is, after the packet's own
}

// see reads of a packet what matters to ports. False: nothing does.
func look(b []byte, kind uint16, p modelPacket) (s sight, ok bool) {
	s.modelPacket = p
	network := 20
	if kind == etherIPv6 {
		network = 40
	}
	mapped := func(proto uint8) bool { return proto == protocolTCP || proto == protocolUDP }
	switch {
	case p.shape == shapePlain:
		if p.protocol == protocolTCP {
			s.flags = b[network+13]
		}
		return s, mapped(p.protocol)
	case p.shape != shapePair:
		return s, false
	case kind == etherIPv4 && binary.BigEndian.Uint16(b[6:])&0x3fff != 0:
		s.id, s.piece = uint32(binary.NativeEndian.Uint16(b[4:])), modelFirst
		if binary.BigEndian.Uint16(b[6:])&0x1fff != 0 {
			s.piece = modelLater
		}
	case kind == etherIPv6 && p.protocol == 44:
		if len(b) < 48 {
			return s, false
		}
		s.id, s.piece, s.protocol = binary.NativeEndian.Uint32(b[44:]), modelFirst, b[40]
		if binary.BigEndian.Uint16(b[42:])&0xfff8 != 0 {
			s.piece = modelLater
		}
		network = 48
	default:
		return s.lookAtQuote(b, network)
	}
	if s.piece == modelLater {
		return s, true
	}
	if len(b) < network+8 || !mapped(s.protocol) {
		return s, false
	}
	s.fromPort, s.toPort = binary.BigEndian.Uint16(b[network:]), binary.BigEndian.Uint16(b[network+2:])
	return s, true
}

// lookAtQuote reads the packet that an error is about: RFC 792, RFC 4443.
func (s sight) lookAtQuote(b []byte, network int) (sight, bool) {
	kinds := map[byte]bool{3: true, 11: true, 12: true}
	if network == 40 {
		kinds = map[byte]bool{1: true, 2: true, 3: true, 4: true}
	}
	s.quotes = network + 8
	if len(b) < s.quotes+network+4 || !kinds[b[network]] {
		return s, false
	}
	q := b[s.quotes:]
	s.piece = modelError
	if network == 20 {
		if q[0] != 0x45 || binary.BigEndian.Uint16(q[6:])&0x1fff != 0 {
			return s, false
		}
		s.quote.from, s.quote.to, s.quote.protocol = netip.AddrFrom4([4]byte(q[12:16])), netip.AddrFrom4([4]byte(q[16:20])), q[9]
	} else {
		if q[0]>>4 != 6 {
			return s, false
		}
		s.quote.from, s.quote.to, s.quote.protocol = netip.AddrFrom16([16]byte(q[8:24])), netip.AddrFrom16([16]byte(q[24:40])), q[6]
	}
	s.quote.fromPort, s.quote.toPort = binary.BigEndian.Uint16(q[network:]), binary.BigEndian.Uint16(q[network+2:])
	return s, s.quote.protocol == protocolTCP || s.quote.protocol == protocolUDP
}

// tuple is the packet's connection on the side that it comes from.
func (s sight) tuple(inside bool) modelTuple {
	p, proto := s.modelPacket, s.protocol
	if s.piece == modelError { // the quote went the other way
		p, proto = modelPacket{from: s.quote.to, to: s.quote.from, fromPort: s.quote.toPort, toPort: s.quote.fromPort}, s.quote.protocol
	}
	near, far := netip.AddrPortFrom(p.to, p.toPort), netip.AddrPortFrom(p.from, p.fromPort)
	if inside {
		near, far = far, near
	}
	return modelTuple{near, far, proto, inside}
}

// otherSide is the other side of the connection of a packet. What it changes of connections is in e.
func (w *modelWorld) otherSide(e *modelEnd, f modelFrame, s sight, whence int, realm uint32) (other modelTuple, found bool) {
	_, direct := w.endpoints[s.to]
	if s.ttl <= 1 || whence != modelAnswers && direct {
		return other, false
	}
	d := modelDatagram{s.from, s.to, s.id}
	switch s.piece {
	case modelLater:
		other, found = e.pieces[d]
		return other, found && other.inside != (whence == modelAnswers)
	case modelError:
		t := s.tuple(whence == modelAnswers)
		own := s.to
		if whence == modelAnswers {
			own = s.from
		}
		c, known := e.conns[t]
		return c.other, known && t.near.Addr() == own
	}
	t := s.tuple(whence == modelAnswers)
	if whence != modelAnswers {
		e.renew(s, t)
		w.enter(e, f, s, t, whence, realm)
	}
	c, known := e.conns[t]
	if !known {
		return other, false
	}
	if to, here := w.endpoints[c.other.near.Addr()]; whence != modelAnswers && (!here || s.largest > to.mtu) {
		return other, false
	}
	c.state |= 1
	if s.protocol == protocolTCP {
		c.state |= uint32(s.flags&1)<<1 | uint32(s.flags&4)
	}
	e.conns[t] = c
	if s.piece == modelFirst {
		e.pieces[d] = c.other
	}
	return c.other, true
}

func (s sight) asks() bool { return s.protocol == protocolTCP && s.flags&0x17 == 2 }

// renew forgets a connection that is over when somebody asks by it again.
func (e *modelEnd) renew(s sight, t modelTuple) {
	c, known := e.conns[t]
	if !known || !s.asks() {
		return
	}
	back, whole := e.conns[c.other]
	if !whole || (c.state|back.state)&4 != 0 || c.state&back.state&2 != 0 {
		delete(e.conns, t)
		delete(e.conns, c.other)
	}
}

// enter begins a connection where there is none and where there may be one.
func (w *modelWorld) enter(e *modelEnd, f modelFrame, s sight, t modelTuple, whence int, realm uint32) {
	if _, known := e.conns[t]; known || !w.ports.own[t.near.Addr()] || whence == modelWire && !w.isElsewhere(t.far.Addr()) {
		return
	}
	to, leads := w.ports.leads[modelPort{t.near, t.proto}]
	if !leads {
		all := netip.IPv4Unspecified()
		if t.near.Addr().Is6() {
			all = netip.IPv6Unspecified()
		}
		to, leads = w.ports.leads[modelPort{netip.AddrPortFrom(all, t.near.Port()), t.proto}]
	}
	endpoint, here := w.endpoints[to.Addr()]
	if !leads || t.proto == protocolTCP && !s.asks() || !here || endpoint.realm != realm {
		return
	}
	inside := modelTuple{near: to, far: t.far, proto: t.proto, inside: true}
	if to.Addr() == t.far.Addr() {
		if !w.ports.hairpins {
			return
		}
		inside.far = netip.AddrPortFrom(w.here.local4, t.far.Port())
		if to.Addr().Is6() {
			inside.far = netip.AddrPortFrom(w.here.local6, t.far.Port())
		}
	}
	if t.proto == protocolUDP && w.flows[modelFlow{near: inside.near.Addr(), far: inside.far.Addr(), nearPort: inside.near.Port(), farPort: inside.far.Port(), protocol: t.proto}] {
		return
	}
	if len(e.conns)+2 > modelRoom {
		e.because("kernel full")
		return
	}
	e.conns[inside] = modelConn{other: t, link: f.link}
	e.conns[t] = modelConn{other: inside, link: f.link}
}

// isElsewhere tells whether an address can be somebody's on another host.
func (w *modelWorld) isElsewhere(a netip.Addr) bool {
	_, ours := w.endpoints[a]
	low := netip.MustParsePrefix("::/96")
	return !ours && !w.ports.own[a] && !a.IsMulticast() && !a.IsLoopback() && !a.IsUnspecified() && !low.Contains(a) &&
		!(a.Is6() && a.IsLinkLocalUnicast()) && !(a.Is4() && (a.As4()[0] == 0 || a.As4()[0] >= 224))
}

// handIn gives a packet for a port to its endpoint. The bytes are those of a frame without a wrapper.
func (w *modelWorld) handIn(e *modelEnd, s sight, frame []byte, kind uint16, in modelTuple) *modelEnd {
	to := w.endpoints[in.near.Addr()]
	e.because("fast mapped")
	e.verdict, e.sent = modelSend, modelSent{peer: to.link}
	e.bytes = bytes.Clone(frame)
	s.translate(e.bytes[etherSize:], kind, in)
	oneHopLess(e.bytes[etherSize:], kind)
	e.count(to.slot, len(frame), countedIn)
	return e
}

// byPort is what may become of an endpoint's packet because of a port, none when nothing does.
func (w *modelWorld) byPort(f modelFrame, from modelEndpoint, p modelPacket, kind uint16) (ends []*modelEnd, e *modelEnd) {
	e = w.begin(f)
	s, ok := look(f.bytes[etherSize:], kind, p)
	if !w.ports.on || !ok {
		return nil, e
	}
	if out, found := w.otherSide(e, f, s, modelAnswers, 0); found {
		return w.handOut(e, f, from, s, kind, out), e
	}
	in, found := w.otherSide(e, f, s, modelAsks, from.realm)
	if !found {
		return nil, e
	}
	e.count(from.slot, len(f.bytes), countedOut)
	return []*modelEnd{w.handIn(e, s, f.bytes, kind, in)}, e
}

// fork is the same end again, for another way.
func (e *modelEnd) fork() *modelEnd {
	other := *e
	other.reasons, other.counts, other.bytes = maps.Clone(e.reasons), maps.Clone(e.counts), bytes.Clone(e.bytes)
	return &other
}

// handOut sends an answer as the port's. One end for each way that there may be; nil for one that is left to the kernel.
func (w *modelWorld) handOut(e *modelEnd, f modelFrame, from modelEndpoint, s sight, kind uint16, out modelTuple) (ends []*modelEnd) {
	translated := bytes.Clone(f.bytes)
	s.translate(translated[etherSize:], kind, out)
	done := func() *modelEnd {
		one := e.fork().because("fast answered")
		one.verdict, one.bytes = modelSend, bytes.Clone(translated)
		one.count(from.slot, len(f.bytes), countedOut)
		return one
	}
	if to, local := w.endpoints[out.far.Addr()]; local {
		if s.largest > to.mtu {
			return nil
		}
		one := done()
		oneHopLess(one.bytes[etherSize:], kind)
		one.sent = modelSent{peer: to.link}
		one.count(to.slot, len(f.bytes), countedIn)
		return []*modelEnd{one}
	}
	if r, remote := w.route(out.far.Addr()); remote {
		for i := range r.used {
			switch {
			case i >= 8 || r.hops[i].encap < modelDirect || r.hops[i].encap > modelVXLAN || s.largest > r.hops[i].mtu:
				ends = append(ends, nil)
			case !w.canWrap(f, r.hops[i], kind):
				one := e.fork().because("kernel failed")
				one.verdict, one.bytes = modelDrop, translated
				ends = append(ends, one)
			default:
				g := f
				g.bytes = translated
				one := w.handOn(g, from, r, r.hops[i], s.modelPacket, kind)
				one.reasons, one.conns, one.pieces = map[string]int{"fast answered": 1}, e.conns, e.pieces
				ends = append(ends, one)
			}
		}
		return ends
	}
	for prefix, sent := range w.ports.out {
		if prefix.Contains(out.far.Addr()) && s.largest <= 1500 {
			one := done()
			oneHopLess(one.bytes[etherSize:], kind)
			one.sent, one.mark = sent, modelFast
			return []*modelEnd{one}
		}
	}
	return nil
}
