package fastpath_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
)

// TestEveryCut ends frames after each of their bytes.
func TestEveryCut(t *testing.T) {
	const seed, each = 7, 12
	r := newRig(t)
	s := r.site()
	s.here.lacksIPIP = true
	r.set(t, s.modelWorld)
	m := maker{s, rand.New(rand.NewPCG(seed, 0))}
	frames := map[string][]modelFrame{}
	for range each {
		frames["fl_from_container"] = append(frames["fl_from_container"], m.outgoing())
		frames["fl_from_wire"] = append(frames["fl_from_wire"], m.incoming())
	}
	for _, c := range fromContainerByHand(s)[:10] {
		frames["fl_from_container"] = append(frames["fl_from_container"], modelFrame{bytes: c.frame, link: s.devices["c0"].link})
	}
	for _, c := range fromWireByHand(s) {
		frames["fl_from_wire"] = append(frames["fl_from_wire"], modelFrame{bytes: c.frame, link: s.devices["w0"].link, mac: s.devices["w0"].mac})
	}
	for program, all := range frames {
		for _, f := range all {
			whole := f.bytes[:min(len(f.bytes), 150)]
			f.segment = 0
			for n := etherSize; n <= len(whole) && !t.Failed(); n++ {
				f.bytes = whole[:n]
				r.check(t, s.modelWorld, program, f)
			}
		}
	}
	if t.Failed() {
		t.Logf("seed %d", seed)
	}
}

// TestCongestion is the table of RFC 6040 section 4.2 for what is unwrapped, and its section 4.1 for what is wrapped.
// The table has ECT(1) for such a wrapper around ECT(0); the kernel's devices leave ECT(0), and so does the fast path.
func TestCongestion(t *testing.T) {
	const notECT, ect1, ect0, ce, left = 0, 1, 2, 3, 99
	want := [4][4]uint8{ // by the inner mark, then the outer
		notECT: {notECT: notECT, ect1: notECT, ect0: notECT, ce: left},
		ect1:   {notECT: ect1, ect1: ect1, ect0: ect1, ce: ce},
		ect0:   {notECT: ect0, ect1: ect0, ect0: ect0, ce: ce},
		ce:     {notECT: ce, ect1: ce, ect0: ce, ce: ce},
	}
	r := newRig(t)
	s := r.site()
	r.set(t, s.modelWorld)
	d := s.devices["w0"]
	for _, form := range []string{siteIPv4, siteIPv6} {
		for _, outer := range []string{"192.0.2.%d", "2001:db8::%d"} {
			for inside := range uint8(4) {
				for around := range uint8(4) {
					b := unwrappedBy(s, form, outer, 0x48|inside, 0xb0|around)
					e := r.check(t, s.modelWorld, "fl_from_wire", modelFrame{bytes: b, link: d.link, mac: d.mac})
					have := uint8(left)
					if e.verdict == modelSend {
						have = readPacket(e.bytes[etherSize:], e.carrier, 0).ecn
					}
					want := want[inside][around]
					if crossing := (form == siteIPv6) != (outer == "2001:db8::%d"); crossing && !r.crosses {
						want = left
					}
					if have != want {
						t.Errorf("%s in %s: %d in %d became %d, want %d", form, outer, inside, around, have, want)
					}
				}
				r.wantWrapped(t, s, form, inside)
			}
		}
	}
}

// unwrappedBy is a frame with a packet in VXLAN, each with a byte of service.
func unwrappedBy(s *site, form, outer string, inside, around uint8) []byte {
	in := header{from: address(map[string]string{siteIPv4: "8.3.0.%d", siteIPv6: "fd00:3::%d"}[form], 1), to: address(form, 1), protocol: protocolUDP, ttl: 64, tos: inside}
	h := header{from: address(outer, 10), to: s.here.local4, protocol: protocolUDP, ttl: 64, tos: around}
	to := s.here.mac4
	if h.from.Is6() {
		h.to, to = s.here.local6, s.here.mac6
	}
	frame := ether(to, mac(0xbb), kindOf(in.from), in.around(udp(1, 2, nil)))
	return ether(s.devices["w0"].mac, mac(0xaa), kindOf(h.from), h.around(udp(0xc000, s.here.port, vxlan(s.here.vni, frame))))
}

// wantWrapped wants the wrapper of each route to have the mark of its packet.
func (r *rig) wantWrapped(t *testing.T, s *site, form string, mark uint8) {
	t.Helper()
	d := s.devices["c0"]
	for n := range 4 {
		to := address(map[string]string{siteIPv4: fmt.Sprintf("8.%d.0.%%d", n+1), siteIPv6: fmt.Sprintf("fd00:%d::%%d", n+1)}[form], 1)
		h := header{from: address(form, 1), to: to, protocol: protocolUDP, ttl: 64, tos: 0x48 | mark}
		b := ether(d.mac, mac(0), kindOf(to), h.around(udp(1, 2, nil)))
		e := r.check(t, s.modelWorld, "fl_from_container", modelFrame{bytes: b, link: d.link, mac: d.mac})
		if have := readPacket(e.bytes[etherSize:], e.carrier, 0).ecn; e.verdict == modelSend && have != mark {
			t.Errorf("to %s: the wrapper has %d, the packet %d", to, have, mark)
		}
	}
}

// TestRefusedWrapperIsNothingElse has a node whose IPv6 address begins with the bytes of an endpoint's IPv4 address: what is
// refused as VXLAN must not be taken for a packet of the other family.
func TestRefusedWrapperIsNothingElse(t *testing.T) {
	r := newRig(t)
	s := r.site()
	node := netip.MustParseAddr("801:1::9") // 8.1.0.1
	s.here.local6 = netip.MustParseAddr("800:5801::1")
	s.nodes[node] = true
	r.set(t, s.modelWorld)
	d := s.devices["w0"]
	for _, vni := range []uint32{s.here.vni, 89} {
		h := header{from: node, to: s.here.local6, protocol: protocolUDP, ttl: 64}
		inner := ether(s.here.mac6, mac(0xbb), etherIPv6, plain("fd00:2::1", "fd00:88:86dd::2"))
		b := ether(d.mac, mac(0xaa), etherIPv6, h.around(udp(0xc000, s.here.port, vxlan(vni, inner))))
		e := r.check(t, s.modelWorld, "fl_from_wire", modelFrame{bytes: b, link: d.link, mac: d.mac})
		if taken := e.verdict == modelSend; taken != (vni == s.here.vni) {
			t.Errorf("network %d: %v", vni, e.reasons)
		}
	}
}
