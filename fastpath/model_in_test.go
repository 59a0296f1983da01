package fastpath_test

import (
	"bytes"
	"encoding/binary"
)

// modelArrival is a packet from the wire, without its wrapper where it had one that is taken here.
type modelArrival struct {
	packet  modelPacket
	kind    uint16 // of the packet
	at      int    // of its header in the frame
	reason  string // when an endpoint gets it
	bears   bool   // the wrapper's mark of congestion
	refusal string // why it is the kernel's before anybody asks what it is
}

// fromWire is what becomes of a frame that came over an uplink.
func (w *modelWorld) fromWire(f modelFrame) *modelEnd {
	e := w.begin(f)
	if f.tag != 0 || modelMAC(f.bytes[:6]) != f.mac {
		return e
	}
	e.mark = modelAsked
	kind := carrierOf(f.bytes)
	if kind != etherIPv4 && kind != etherIPv6 {
		return e
	}
	a := w.arrived(f, kind)
	refusal := a.refusal
	if refusal == "" && w.forPort(f, a, e) {
		return e
	}
	if refusal == "" {
		refusal = w.refuses(f, a, e)
	}
	if refusal == "" {
		return w.deliver(f, a, e)
	}
	if refusal != "nothing of ours" {
		e.because(refusal)
	}
	if a.at > etherSize && a.reason == "fast from ipip" && w.here.lacksIPIP && a.refusal == "" {
		w.uncover(f, a, e)
	}
	return e
}

// forPort gives a packet for a port of the host to the endpoint that has it. False: it is for none.
func (w *modelWorld) forPort(f modelFrame, a modelArrival, e *modelEnd) bool {
	s, ok := look(f.bytes[a.at:], a.kind, a.packet)
	if !w.ports.on || !ok || s.piece == modelError && a.at != etherSize {
		return false
	}
	in, found := w.otherSide(e, f, s, modelWire, 0)
	switch {
	case !found:
		return false
	case a.at > etherSize && f.segment > 0: // as in refuses
		e.because("kernel failed")
		return true
	}
	if a.at > etherSize {
		w.strip(f, a, e)
	}
	w.handIn(e, s, e.bytes, a.kind, in)
	return true
}

// arrived looks into wrappers.
func (w *modelWorld) arrived(f modelFrame, kind uint16) modelArrival {
	outer := readPacket(f.bytes[etherSize:], kind, f.segment)
	open := modelArrival{packet: outer, kind: kind, at: etherSize, reason: "fast from direct"}
	here, header := w.here.local4, 20
	if kind == etherIPv6 {
		here, header = w.here.local6, 40
	}
	ipip := w.here.takesIPIP && kind == etherIPv4 && outer.protocol == protocolIPIP
	vxlan := w.here.takesVXLAN && outer.protocol == protocolUDP && outer.shape == shapePlain && outer.toPort == w.here.port
	if !ipip && !vxlan || outer.to != here {
		return open
	}
	in := open
	in.at += header
	in.refusal = "kernel tunnel"
	if outer.shape != shapePlain || !w.here.takesAll && !w.nodes[outer.from] {
		return in
	}
	if ipip {
		in.kind, in.reason, in.refusal = etherIPv4, "fast from ipip", ""
	} else {
		w.insideVXLAN(f.bytes[in.at:], &in)
	}
	if in.refusal != "" {
		return in
	}
	in.packet = readPacket(f.bytes[in.at:], in.kind, f.segment)
	in.bears = outer.ecn == 3
	if in.bears && in.packet.ecn == 0 {
		in.refusal = "kernel tunnel" // RFC 6040 section 4.2: to be dropped
	}
	return in
}

// insideVXLAN reads RFC 7348's headers, which begin with UDP's.
func (w *modelWorld) insideVXLAN(b []byte, in *modelArrival) {
	mac := w.here.mac4
	if in.kind == etherIPv6 {
		mac = w.here.mac6
	}
	if len(b) < 8+8+etherSize {
		return
	}
	vxlan, ether := b[8:16], b[16:]
	kind := binary.BigEndian.Uint16(ether[12:])
	switch {
	case binary.BigEndian.Uint32(vxlan) != 0x08000000, binary.BigEndian.Uint32(vxlan[4:]) != w.here.vni<<8:
	case modelMAC(ether[:6]) != mac:
	case kind != etherIPv4 && kind != etherIPv6:
	case kind != in.kind && !w.here.crosses:
	default:
		in.kind, in.at, in.reason, in.refusal = kind, in.at+8+8+etherSize, "fast from vxlan", ""
	}
}

// refuses says why the packet is the kernel's, or nothing when it is not.
func (w *modelWorld) refuses(f modelFrame, a modelArrival, e *modelEnd) string {
	p := a.packet
	to, known := w.endpoints[p.to]
	if p.shape == shapeOdd || p.shape == shapeLink || !known {
		if a.at > etherSize {
			return "kernel tunnel"
		}
		return "nothing of ours"
	}
	_, known = w.route(p.from)
	switch {
	case !known:
		return "kernel route"
	case to.realm != 0:
		return "kernel realm"
	}
	e.mark = modelSeen
	switch {
	case p.ttl <= 1:
		return "kernel ttl"
	case p.largest > to.mtu:
		return "kernel size"
	case w.isKernels(p, p.to, p.from, false):
		return "kernel flow"
	case a.at > etherSize && f.segment > 0: // no test run says how it is to be cut, so the kernel does not change it
		return "kernel failed"
	}
	return ""
}

// deliver gives the packet to its endpoint.
func (w *modelWorld) deliver(f modelFrame, a modelArrival, e *modelEnd) *modelEnd {
	to := w.endpoints[a.packet.to]
	back, _ := w.route(a.packet.from)
	e.because(a.reason)
	e.verdict = modelSend
	w.strip(f, a, e)
	oneHopLess(e.bytes[etherSize:], a.kind)
	e.sent = modelSent{peer: to.link}
	e.count(to.slot, len(e.bytes), countedIn)
	e.count(back.slot, len(e.bytes), countedIn)
	return e
}

// strip takes the wrapper off, whose mark of congestion stays.
func (w *modelWorld) strip(f modelFrame, a modelArrival, e *modelEnd) {
	e.carrier = a.kind
	e.bytes = append(bytes.Clone(f.bytes[:12]), byte(a.kind>>8), byte(a.kind))
	e.bytes = append(e.bytes, f.bytes[a.at:]...)
	if a.bears {
		congest(e.bytes[etherSize:], a.kind)
	}
}

// uncover takes a wrapper off that no device of the kernel's would. The kernel wants to be left with a header.
func (w *modelWorld) uncover(f modelFrame, a modelArrival, e *modelEnd) {
	if f.segment > 0 || len(f.bytes)-a.at < 20 {
		return
	}
	w.strip(f, a, e)
	if w.here.device != 0 {
		copy(e.bytes, w.here.mac4[:])
		e.verdict, e.sent = modelSend, modelSent{into: w.here.device}
	}
}

// leaving is what becomes of a packet that goes out of the kernel to a container, or from one.
func (w *modelWorld) leaving(f modelFrame, at int, out bool) *modelEnd {
	e := w.begin(f)
	if f.mark != modelAsked || e.carrier != etherIPv4 && e.carrier != etherIPv6 {
		return e
	}
	p := readPacket(f.bytes[at:], e.carrier, f.segment)
	if p.shape == shapeOdd || p.shape == shapeLink {
		return e
	}
	near, far := p.from, p.to
	if !out {
		near, far = p.to, p.from
	}
	_, ours := w.endpoints[near]
	_, local := w.endpoints[far]
	_, remote := w.route(far)
	if ours && (local || remote) {
		e.flows[p.flow(near, far, out)] = true
		e.flows[modelFlow{near: near, far: far}] = true
	}
	return e
}
