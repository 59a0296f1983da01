package fastpath_test

import (
	"bytes"
	"encoding/binary"
	"net/netip"
)

// fromContainer is what may become of a frame of a container's: one end for each hop that its flow might take.
func (w *modelWorld) fromContainer(f modelFrame) []*modelEnd {
	kind := carrierOf(f.bytes)
	switch {
	case f.tag != 0:
		return []*modelEnd{w.fromOther(f)}
	case kind == etherIPv4 || kind == etherIPv6:
		return w.fromEndpoint(f, readPacket(f.bytes[etherSize:], kind, f.segment), kind)
	case kind == etherARP:
		return []*modelEnd{w.fromARP(f)}
	}
	return []*modelEnd{w.fromOther(f)}
}

func (w *modelWorld) drop(f modelFrame, reason string) *modelEnd {
	e := w.begin(f).because(reason)
	e.verdict = modelDrop
	if s, known := w.sides[f.link]; known {
		e.count(s.slot, len(f.bytes), countedDrops)
	}
	return e
}

func senderOf(frame []byte) modelMAC { return modelMAC(frame[6:12]) }

func (w *modelWorld) fromOther(f modelFrame) *modelEnd {
	s, known := w.sides[f.link]
	switch {
	case !known:
		return w.begin(f)
	case senderOf(f.bytes) != s.mac:
		return w.drop(f, "drop mac")
	}
	return w.begin(f).because("kernel protocol")
}

func (w *modelWorld) fromARP(f modelFrame) *modelEnd {
	s, known := w.sides[f.link]
	if !known {
		return w.begin(f)
	}
	arp := f.bytes[etherSize:]
	if len(arp) < 28 {
		return w.drop(f, "drop arp")
	}
	if senderOf(f.bytes) != s.mac {
		return w.drop(f, "drop mac")
	}
	sender := netip.AddrFrom4([4]byte(arp[14:18]))
	overEthernet := bytes.Equal(arp[:6], []byte{0, 1, 8, 0, 6, 4})
	if !overEthernet || modelMAC(arp[8:14]) != s.mac || !sender.IsUnspecified() && !w.isOwn(f.link, sender) {
		return w.drop(f, "drop arp")
	}
	return w.begin(f).because("kernel protocol")
}

// isOwn tells whether the container behind a link has the address.
func (w *modelWorld) isOwn(link uint32, a netip.Addr) bool {
	e, known := w.endpoints[a]
	if !known {
		return false
	}
	return e.link == link || e.home != 0 && e.home == w.sides[link].home
}

// isLinkTalk tells whether an address that is no endpoint's may speak so: to find out about the link.
func isLinkTalk(p modelPacket) bool {
	local := netip.MustParsePrefix("fe80::/32")
	return p.from.Is6() && (p.to.IsMulticast() || local.Contains(p.to)) &&
		(p.from.IsUnspecified() || netip.MustParsePrefix("fe80::/10").Contains(p.from))
}

func (w *modelWorld) fromEndpoint(f modelFrame, p modelPacket, kind uint16) []*modelEnd {
	only := func(e *modelEnd) []*modelEnd { return []*modelEnd{e} }
	s, told := w.sides[f.link]
	from, known := w.endpoints[p.from]
	mac := s.mac
	if known && from.link == f.link {
		mac = from.mac
	} else if !told {
		return only(w.begin(f))
	}
	switch {
	case senderOf(f.bytes) != mac:
		return only(w.drop(f, "drop mac"))
	case w.isOwn(f.link, p.from):
		if p.shape != shapeOdd && p.shape != shapeLink {
			return w.chooseByPort(f, from, p, kind)
		}
		return w.choose(f, from, p, kind)
	case isLinkTalk(p):
		return only(w.begin(f).because("kernel protocol"))
	}
	return only(w.drop(f, "drop source"))
}

// chooseByPort asks first whether a port of the host has to do with the packet.
func (w *modelWorld) chooseByPort(f modelFrame, from modelEndpoint, p modelPacket, kind uint16) (all []*modelEnd) {
	ends, changed := w.byPort(f, from, p, kind)
	for _, e := range ends {
		if e != nil {
			all = append(all, e)
		}
	}
	if len(all) < len(ends) || len(ends) == 0 {
		for _, e := range w.choose(f, from, p, kind) {
			e.conns, e.pieces = changed.conns, changed.pieces
			for reason, n := range changed.reasons {
				e.reasons[reason] += n
			}
			all = append(all, e)
		}
	}
	return all
}

// choose finds the way of a packet whose sender is who it says.
func (w *modelWorld) choose(f modelFrame, from modelEndpoint, p modelPacket, kind uint16) []*modelEnd {
	kernel := func(reason string, mark uint32) *modelEnd {
		e := w.begin(f).because(reason)
		e.mark = mark
		e.count(from.slot, len(f.bytes), countedKernel)
		return e
	}
	to, local := w.endpoints[p.to]
	r, remote := w.route(p.to)
	refusal := ""
	mark := uint32(modelAsked) // both ends are not known
	switch {
	case p.shape == shapeOdd:
		refusal = "kernel form"
	case p.shape == shapeLink:
		refusal = "kernel protocol"
	case !local && !remote:
		refusal = "kernel route"
	case p.ttl <= 1:
		refusal, mark = "kernel ttl", modelSeen
	case w.isKernels(p, p.from, p.to, true):
		refusal = "kernel flow"
	case local && from.realm != to.realm, !local && from.realm != 0:
		refusal, mark = "kernel realm", modelSeen
	case local && p.largest > to.mtu:
		refusal, mark = "kernel size", modelSeen
	}
	if refusal != "" {
		return []*modelEnd{kernel(refusal, mark)}
	}
	if local {
		return []*modelEnd{w.handOver(f, from, to, kind)}
	}
	var ends []*modelEnd
	for i := range r.used {
		switch {
		case i >= 8 || r.hops[i].encap < modelDirect || r.hops[i].encap > modelVXLAN:
			ends = append(ends, kernel("kernel route", modelAsked))
		case p.largest > r.hops[i].mtu:
			ends = append(ends, kernel("kernel size", modelSeen))
		case !w.canWrap(f, r.hops[i], kind):
			ends = append(ends, kernel("kernel failed", modelSeen))
		default:
			ends = append(ends, w.handOn(f, from, r, r.hops[i], p, kind))
		}
	}
	return ends
}

// canWrap tells whether there is such a wrapper: IPIP is IPv4 in IPv4, and of what is to be cut into segments the kernel
// has to know how, which no test run tells it.
func (w *modelWorld) canWrap(f modelFrame, h modelHop, kind uint16) bool {
	switch h.encap {
	case modelIPIP:
		return kind == etherIPv4 && h.next.Is4() && f.segment == 0
	case modelVXLAN:
		return f.segment == 0
	}
	return true
}

// handOver gives the packet to an endpoint of this host.
func (w *modelWorld) handOver(f modelFrame, from, to modelEndpoint, kind uint16) *modelEnd {
	e := w.begin(f).because("fast local")
	e.verdict = modelSend
	e.bytes = bytes.Clone(f.bytes)
	oneHopLess(e.bytes[etherSize:], kind)
	e.sent = modelSent{peer: to.link}
	e.count(from.slot, len(f.bytes), countedOut)
	e.count(to.slot, len(f.bytes), countedIn)
	return e
}

// handOn gives the packet to a neighbour.
func (w *modelWorld) handOn(f modelFrame, from modelEndpoint, r modelRoute, h modelHop, p modelPacket, kind uint16) *modelEnd {
	e := w.begin(f).because([]string{modelDirect: "fast direct", modelIPIP: "fast ipip", modelVXLAN: "fast vxlan"}[h.encap])
	e.verdict, e.mark = modelSend, modelFast
	inner := bytes.Clone(f.bytes[etherSize:])
	oneHopLess(inner, kind)
	if h.encap != modelDirect {
		e.carrier = etherIPv4
		if h.next.Is6() {
			e.carrier = etherIPv6
		}
	}
	e.bytes = append(bytes.Clone(f.bytes[:12]), byte(e.carrier>>8), byte(e.carrier))
	e.bytes = append(e.bytes, w.wrapped(f, h, p.ecn, inner, kind)...)
	e.sent = modelSent{over: h.link, next: h.next}
	e.count(from.slot, len(f.bytes), countedOut)
	e.count(r.slot, len(f.bytes), countedOut)
	return e
}

// wrapped is the packet as it goes out over a hop.
func (w *modelWorld) wrapped(f modelFrame, h modelHop, ecn uint8, inner []byte, kind uint16) []byte {
	switch h.encap {
	case modelIPIP:
		return outerHeader(h, protocolIPIP, ecn, f.hash, inner)
	case modelVXLAN:
		mac := w.here.mac4
		if h.next.Is6() {
			mac = w.here.mac6
		}
		b := binary.BigEndian.AppendUint16(nil, uint16(0xc000+f.hash%0x4000)) // a port of RFC 6335's dynamic ones
		b = binary.BigEndian.AppendUint16(b, w.here.port)
		b = binary.BigEndian.AppendUint16(b, uint16(8+8+etherSize+len(inner)))
		b = append(b, 0, 0, 8, 0, 0, 0)
		b = binary.BigEndian.AppendUint32(b, w.here.vni<<8)
		b = append(append(b, h.mac[:]...), mac[:]...)
		b = binary.BigEndian.AppendUint16(b, kind)
		return outerHeader(h, protocolUDP, ecn, f.hash, append(b, inner...))
	}
	return inner
}
