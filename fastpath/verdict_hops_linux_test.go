package fastpath_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
)

// balanced is a site whose every route of a family is one of some hops, which differ by what is next.
func balanced(r *rig, hops int) *site {
	s := r.site()
	for family, over := range []string{"192.0.2.%d", "2001:db8::%d"} {
		route := modelRoute{slot: 9, used: uint32(hops)}
		for i := range hops {
			route.hops[i] = s.hop(modelDirect, over, i)
		}
		s.routes[netip.MustParsePrefix([]string{"8.5.0.0/16", "fd00:5::/32"}[family])] = route
	}
	return s
}

// chosen is the hop that a packet takes.
func (r *rig) chosen(t *testing.T, s *site, k talk, frame modelFrame) netip.Addr {
	t.Helper()
	e := r.run(t, "fl_from_container", &frame)
	if e.verdict != modelSend || e.reasons["fast direct"] != 1 {
		t.Fatalf("%+v: verdict %d, %v", k, e.verdict, e.reasons)
	}
	return e.sent.next
}

// TestHopsAreTakenEvenly counts flows of several kinds over 2 to 8 hops: no hop has a third more or less than its share.
func TestHopsAreTakenEvenly(t *testing.T) {
	const flows = 800
	remote := map[string]string{siteIPv4: "8.5.2.%d", siteIPv6: "fd00:5:0:9::%d"}
	kinds := map[string]func(form string, n int) talk{
		"ports in turn": func(form string, n int) talk {
			return talk{from: address(form, 1), to: address(remote[form], 1), fromPort: uint16(32768 + n), toPort: 80, protocol: protocolTCP}
		},
		"ports in turn, of the far end": func(form string, n int) talk {
			return talk{from: address(form, 1), to: address(remote[form], 1), fromPort: 500, toPort: uint16(n), protocol: protocolUDP}
		},
		"addresses in turn": func(form string, n int) talk {
			to := address(remote[form], 0).AsSlice()
			to[len(to)-1], to[len(to)-2] = byte(n), byte(16+(n>>8))
			a, _ := netip.AddrFromSlice(to)
			return talk{from: address(form, 1), to: a, protocol: protocolSCTP}
		},
	}
	r := newRig(t)
	for _, hops := range []int{2, 3, 5, 8} {
		s := balanced(r, hops)
		r.set(t, s.modelWorld)
		for _, form := range []string{siteIPv4, siteIPv6} {
			for kind, flow := range kinds {
				took := map[netip.Addr]int{}
				for n := range flows {
					k := flow(form, n)
					took[r.chosen(t, s, k, s.out(k))]++
				}
				share := flows / hops
				for next, n := range took {
					if n < share*2/3 || n > share*4/3 {
						t.Errorf("%d of %d flows (%s, %s) take %s, one of %d hops", n, flows, kind, form, next, hops)
					}
				}
				if len(took) != hops {
					t.Errorf("%s, %s: %d hops of %d are taken", kind, form, len(took), hops)
				}
			}
		}
	}
}

// TestFlowKeepsItsHop holds that packets of one flow go one way whatever else is in them, and so do all fragments and
// errors between a pair of addresses.
func TestFlowKeepsItsHop(t *testing.T) {
	const seed, flows, packets = 9, 80, 5
	r := newRig(t)
	s := balanced(r, 8)
	r.set(t, s.modelWorld)
	m := maker{s, rand.New(rand.NewPCG(seed, 0))}
	remote := map[string]string{siteIPv4: "8.5.2.%d", siteIPv6: "fd00:5:0:9::%d"}
	all := map[netip.Addr]bool{}
	for n := range flows {
		form := []string{siteIPv4, siteIPv6}[n%2]
		k := talk{from: address(form, 1), to: address(remote[form], n), fromPort: uint16(m.Uint32()), toPort: uint16(m.Uint32())}
		for what, frames := range []func(maker, talk) []byte{maker.ofFlow, maker.ofPair} {
			took := map[netip.Addr]bool{}
			for range packets {
				f := s.out(k)
				f.bytes = append(f.bytes[:etherSize:etherSize], frames(m, k)...)
				took[r.chosen(t, s, k, f)] = true
			}
			if len(took) != 1 {
				t.Errorf("seed %d: packets of one %s, %+v, take %d hops", seed, []string{"flow", "pair"}[what], k, len(took))
			}
			for a := range took {
				all[a] = true
			}
		}
	}
	if len(all) != 16 { // of two families
		t.Errorf("%d hops of 16 are taken", len(all))
	}
}

// ofFlow is a packet of a flow of UDP.
func (m maker) ofFlow(k talk) []byte {
	h := header{from: k.from, to: k.to, protocol: protocolUDP, ttl: uint8(2 + m.IntN(254)), tos: uint8(m.Uint32())}
	return h.around(udp(k.fromPort, k.toPort, make([]byte, m.IntN(900))))
}

// ofPair is a fragment, the first or a later one, or an error.
func (m maker) ofPair(k talk) []byte {
	h := header{from: k.from, to: k.to, protocol: protocolUDP, ttl: uint8(2 + m.IntN(254))}
	content := udp(uint16(m.Uint32()), uint16(m.Uint32()), make([]byte, 8*m.IntN(20)))
	is6 := k.from.Is6()
	switch {
	case m.seldom(3) && is6:
		h.protocol, content = protocolICMPv6, icmp(oneOf[uint8](m, 1, 2, 3, 4), 0, 0, content)
	case is6:
		h.protocol, content = 44, fragment6(protocolUDP, uint16(m.IntN(3)), m.seldom(2), content)
	case m.seldom(3):
		h.protocol, content = protocolICMP, icmp(oneOf[uint8](m, 3, 11, 12), 4, 0, content)
	default:
		h.fragment = oneOf[uint16](m, 0x2000, 0x2001, 0x0003)
	}
	return h.around(content)
}

// TestEachHopOfEachKind sends over every number of hops, of every kind, and wants what the model wants of each.
func TestEachHopOfEachKind(t *testing.T) {
	r := newRig(t)
	for hops := range 9 {
		s := balanced(r, hops)
		for p, route := range s.routes {
			for i := range route.hops {
				route.hops[i].encap = []uint8{modelDirect, modelVXLAN, modelIPIP}[i%3]
			}
			s.routes[p] = route
		}
		r.set(t, s.modelWorld)
		for _, form := range []string{siteIPv4, siteIPv6} {
			for n := range 60 {
				k := talk{from: address(form, 1), to: address(map[string]string{siteIPv4: "8.5.2.%d", siteIPv6: "fd00:5:0:9::%d"}[form], n+1), protocol: protocolUDP}
				if e := r.check(t, s.modelWorld, "fl_from_container", s.out(k)); hops == 0 && e.reasons["kernel route"] != 1 {
					t.Error(fmt.Sprint("without a hop: ", e.reasons))
				}
			}
		}
	}
}
