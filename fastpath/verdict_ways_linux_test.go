package fastpath_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

// talk is a packet between two addresses, and its answer.
type talk struct {
	from, to         netip.Addr
	fromPort, toPort uint16
	protocol         uint8
}

func (k talk) answer() talk {
	return talk{from: k.to, to: k.from, fromPort: k.toPort, toPort: k.fromPort, protocol: k.protocol}
}

// packet is a small one, of a flow that its header tells or, for the others, a fragment.
func (k talk) packet() []byte {
	h := header{from: k.from, to: k.to, ttl: 64, protocol: k.protocol}
	switch k.protocol {
	case protocolTCP:
		return h.around(tcp(k.fromPort, k.toPort, 0, nil))
	case protocolUDP:
		return h.around(udp(k.fromPort, k.toPort, nil))
	case protocolSCTP:
		return h.around(make([]byte, 12))
	}
	h.protocol, h.fragment = protocolUDP, 0x0001
	content := make([]byte, 16)
	if k.from.Is6() {
		h.protocol, content = 44, fragment6(protocolUDP, 1, false, content)
	}
	return h.around(content)
}

// out is the packet as its container sends it.
func (s *site) out(k talk) modelFrame {
	e := s.endpoints[k.from]
	return modelFrame{link: e.link, bytes: ether(mac(0xfe), e.mac, kindOf(k.from), k.packet())}
}

// in is the packet as it comes from the wire: 0 in the open, 1 by IPIP, 2 and 3 by VXLAN over IPv4 and IPv6.
func (s *site) in(k talk, way int) modelFrame {
	b, kind, d := k.packet(), kindOf(k.from), s.devices["w0"]
	switch way {
	case 1:
		h := header{from: address("192.0.2.%d", 10), to: s.here.local4, protocol: protocolIPIP, ttl: 64}
		b = h.around(b)
	case 2, 3:
		h := header{from: address("192.0.2.%d", 10), to: s.here.local4, protocol: protocolUDP, ttl: 64}
		to := s.here.mac4
		if way == 3 {
			h.from, h.to, to = address("2001:db8::%d", 10), s.here.local6, s.here.mac6
		}
		b = h.around(udp(0xc000, s.here.port, vxlan(s.here.vni, ether(to, mac(0xbb), kind, b))))
		kind = kindOf(h.from)
	}
	return modelFrame{link: d.link, mac: d.mac, bytes: ether(d.mac, mac(0xaa), kind, b)}
}

// TestBothWaysTheSame holds what the kernel's connection tracking needs: it sees both halves of a conversation or none.
func TestBothWaysTheSame(t *testing.T) {
	r := newRig(t)
	taken := 0
	rapid.Check(t, func(rt *rapid.T) {
		s := r.site()
		m := maker{s, rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "site"), 0))}
		s.vary(m.Rand)
		s.here.takesIPIP, s.here.takesVXLAN, s.here.crosses = true, true, r.crosses
		form := rapid.SampledFrom([]string{siteIPv4, siteIPv6}).Draw(rt, "family")
		k := talk{
			from: m.local(form), to: m.remote(form),
			fromPort: rapid.Uint16().Draw(rt, "port"), toPort: rapid.Uint16().Draw(rt, "remote port"),
			protocol: rapid.SampledFrom([]uint8{protocolTCP, protocolUDP, protocolSCTP, 0}).Draw(rt, "protocol"),
		}
		if rapid.Bool().Draw(rt, "known") {
			s.flows[readPacket(k.packet(), kindOf(k.from), 0).flow(k.from, k.to, true)] = true
		}
		r.set(t, s.modelWorld)
		ways := map[string][]int{siteIPv4: {0, 1, 2}, siteIPv6: {0, 3}}[form]
		if r.crosses {
			ways = append(ways, map[string]int{siteIPv4: 3, siteIPv6: 2}[form])
		}
		out := r.check(t, s.modelWorld, "fl_from_container", s.out(k))
		for _, way := range ways {
			in := r.check(t, s.modelWorld, "fl_from_wire", s.in(k.answer(), way))
			if out.verdict == modelSend {
				taken++
			}
			if out.verdict == modelSend && in.sent.peer == 0 {
				rt.Fatalf("%+v is taken (%v), its answer by way %d is not (%v)", k, out.reasons, way, in.reasons)
			}
			if in.sent.peer != 0 && out.verdict != modelSend && !s.broken(k.to) {
				rt.Fatalf("%+v is not taken (%v), its answer by way %d is (%v)", k, out.reasons, way, in.reasons)
			}
		}
		if t.Failed() {
			rt.FailNow()
		}
	})
	if taken == 0 {
		t.Error("no packet at all was taken")
	}
}

// broken tells whether a hop of the route to an address is of a kind that the programs do not know, or no place for its
// packets: those are noted at the egress, from when on the answers are the kernel's too.
func (s *site) broken(to netip.Addr) bool {
	r, _ := s.route(to)
	for i := range r.used {
		if i >= 8 || r.hops[i].encap < modelDirect || r.hops[i].encap > modelVXLAN || r.hops[i].encap == modelIPIP && to.Is6() {
			return true
		}
	}
	return false
}

// TestWhatTheKernelTranslatesStaysWithIt lets a packet leave the kernel, and then answers it.
func TestWhatTheKernelTranslatesStaysWithIt(t *testing.T) {
	r := newRig(t)
	for _, form := range []string{siteIPv4, siteIPv6} {
		for _, far := range []netip.Addr{address(form, 2), address(map[string]string{siteIPv4: "8.1.0.%d", siteIPv6: "fd00:1::%d"}[form], 9)} {
			for _, protocol := range []uint8{protocolTCP, protocolUDP, protocolSCTP, 0} {
				t.Run(fmt.Sprintf("%s %d", far, protocol), func(t *testing.T) {
					r.translate(t, form, talk{from: far, to: address(form, 1), fromPort: 80, toPort: 1000, protocol: protocol})
				})
			}
		}
	}
}

func (r *rig) translate(t *testing.T, form string, k talk) {
	s := r.site()
	r.set(t, s.modelWorld)
	if e := r.check(t, s.modelWorld, "fl_from_container", s.out(k.answer())); e.verdict != modelSend {
		t.Fatalf("nothing is noted, and the packet is not taken: %v", e.reasons)
	}
	f := modelFrame{link: s.devices["c0"].link, mark: modelAsked, bytes: ether(mac(0), mac(0xfe), kindOf(k.from), k.packet())}
	before := ticks(t)
	s.flows = r.run(t, "fl_to_container", &f).flows
	after := ticks(t)
	if want := map[bool]int{true: 1, false: 2}[k.protocol == 0]; len(s.flows) != want {
		t.Fatalf("noted %v, want %d", s.flows, want)
	}
	for flow := range s.flows {
		var at uint64
		if err := r.ofFamily("fl_flows", flow.near).Lookup(flow.encode(), &at); err != nil || at < before || at > after {
			t.Errorf("%v is of %d (%v), want a time between %d and %d", flow, at, err, before, after)
		}
	}
	r.set(t, s.modelWorld)
	other := k.answer()
	other.toPort++
	pair := k.answer()
	pair.protocol = 0
	answers := map[string]talk{"kernel flow": k.answer(), "fast": other}
	if k.protocol == 0 || k.protocol == protocolSCTP {
		delete(answers, "fast") // there is no other flow between the two
	}
	for want, answer := range answers {
		e := r.check(t, s.modelWorld, "fl_from_container", s.out(answer))
		if taken := e.verdict == modelSend; taken != (want == "fast") {
			t.Errorf("%+v became %v, want %s", answer, e.reasons, want)
		}
	}
	if e := r.check(t, s.modelWorld, "fl_from_container", s.out(pair)); e.reasons["kernel flow"] != 1 {
		t.Errorf("a fragment between the two became %v", e.reasons)
	}
	if _, remote := s.route(k.from); !remote {
		return
	}
	if e := r.check(t, s.modelWorld, "fl_from_wire", s.in(k, 0)); e.reasons["kernel flow"] != 1 {
		t.Errorf("another packet from there became %v", e.reasons)
	}
}

// ticks is the clock of the programs.
func ticks(t testing.TB) uint64 {
	t.Helper()
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		t.Fatal(err)
	}
	return uint64(now.Nano())
}
