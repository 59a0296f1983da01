package fastpath_test

import (
	"net/netip"
	"testing"
)

// byHand is a frame and what becomes of it, written down without the model, so that the model is held to something too.
type byHand struct {
	name    string
	link    string
	frame   []byte
	verdict int
	reason  string // "" when it is not counted
	segment int
}

// plain is a UDP packet that is small.
func plain(from, to string) []byte { return sized(from, to, 60) }

// sized is a UDP packet of some bytes.
func sized(from, to string, size int) []byte {
	h := header{from: netip.MustParseAddr(from), to: netip.MustParseAddr(to), protocol: protocolUDP, ttl: 64}
	network := 20
	if h.from.Is6() {
		network = 40
	}
	return h.around(udp(1000, 80, make([]byte, size-network-8)))
}

// with changes one byte of a copy.
func with(b []byte, at int, value byte) []byte {
	b = append([]byte(nil), b...)
	b[at] = value
	return b
}

func fromContainerByHand(s *site) []byHand {
	gateway := s.devices["c0"].mac
	own := func(kind uint16, content []byte) []byte { return ether(gateway, mac(0), kind, content) }
	ip4 := func(content []byte) []byte { return own(etherIPv4, content) }
	ip6 := func(content []byte) []byte { return own(etherIPv6, content) }
	question := arp(1, mac(0), address(siteIPv4, 1), netip.MustParseAddr("169.254.1.1"))
	return []byHand{
		{name: "to a neighbour", frame: ip4(plain("8.0.88.1", "8.0.88.2")), verdict: modelSend, reason: "fast local"},
		{name: "to a neighbour, IPv6", frame: ip6(plain("fd00:88:86dd::1", "fd00:88:86dd::2")), verdict: modelSend, reason: "fast local"},
		{name: "to a host beside", frame: ip4(plain("8.0.88.1", "8.1.0.1")), verdict: modelSend, reason: "fast direct"},
		{name: "by IPIP", frame: ip4(plain("8.0.88.1", "8.2.0.1")), verdict: modelSend, reason: "fast ipip"},
		{name: "by IPIP, IPv6", frame: ip6(plain("fd00:88:86dd::1", "fd00:2::1")), verdict: modelPass, reason: "kernel failed"},
		{name: "by VXLAN", frame: ip4(plain("8.0.88.1", "8.3.0.1")), verdict: modelSend, reason: "fast vxlan"},
		{name: "by VXLAN over IPv6", frame: ip4(plain("8.0.88.1", "8.4.0.1")), verdict: modelSend, reason: "fast vxlan"},
		{name: "IPv6 by VXLAN over IPv4", frame: ip6(plain("fd00:88:86dd::1", "fd00:3::1")), verdict: modelSend, reason: "fast vxlan"},
		{name: "of the other network's address", frame: ip4(plain("8.0.88.3", "8.1.0.1")), verdict: modelSend, reason: "fast direct"},
		{name: "of another container's address", frame: ip4(plain("8.0.88.2", "8.1.0.1")), verdict: modelDrop, reason: "drop source"},
		{name: "of nobody's address", frame: ip4(plain("203.0.113.1", "8.1.0.1")), verdict: modelDrop, reason: "drop source"},
		{name: "of another hardware address", frame: with(ip4(plain("8.0.88.1", "8.1.0.1")), 11, 1), verdict: modelDrop, reason: "drop mac"},
		{name: "of a link that is not known", link: "x0", frame: ip4(plain("8.0.88.1", "8.1.0.1")), verdict: modelPass},
		{name: "to nowhere", frame: ip4(plain("8.0.88.1", "203.0.113.1")), verdict: modelPass, reason: "kernel route"},
		{name: "on its last hop", frame: ip4(with(plain("8.0.88.1", "8.1.0.1"), 8, 1)), verdict: modelPass, reason: "kernel ttl"},
		{name: "with two hops", frame: ip4(with(plain("8.0.88.1", "8.1.0.1"), 8, 2)), verdict: modelSend, reason: "fast direct"},
		{name: "with options", frame: ip4(with(plain("8.0.88.1", "8.1.0.1"), 0, 0x46)), verdict: modelPass, reason: "kernel form"},
		{name: "a fragment", frame: ip4(with(plain("8.0.88.1", "8.1.0.1"), 6, 0x20)), verdict: modelSend, reason: "fast direct"},
		{name: "with a header hop by hop", frame: ip6(with(plain("fd00:88:86dd::1", "fd00:1::1"), 6, 0)), verdict: modelPass, reason: "kernel form"},
		{name: "as large as fits", frame: ip4(sized("8.0.88.1", "8.2.0.1", 1469)), verdict: modelSend, reason: "fast ipip"},
		{name: "too large by one", frame: ip4(sized("8.0.88.1", "8.2.0.1", 1470)), verdict: modelPass, reason: "kernel size"},
		{name: "segments that fit", frame: ip4(sized("8.0.88.1", "8.1.0.1", 3000)), segment: 1472, verdict: modelSend, reason: "fast direct"},
		{name: "segments that do not", frame: ip4(sized("8.0.88.1", "8.1.0.1", 3000)), segment: 1473, verdict: modelPass, reason: "kernel size"},
		{name: "DHCP", frame: ip4(plain("0.0.0.0", "255.255.255.255")), verdict: modelDrop, reason: "drop source"},
		{name: "talk of the link", frame: ip6(plain("fe80::2", "fe80::1")), verdict: modelPass, reason: "kernel protocol"},
		{name: "talk of the link to a neighbour", frame: ip6(plain("fe80::2", "fd00:88:86dd::2")), verdict: modelDrop, reason: "drop source"},
		{name: "ARP", frame: own(etherARP, question), verdict: modelPass, reason: "kernel protocol"},
		{name: "ARP of another address", frame: own(etherARP, with(question, 17, 2)), verdict: modelDrop, reason: "drop arp"},
		{name: "ARP of another hardware address", frame: own(etherARP, with(question, 13, 9)), verdict: modelDrop, reason: "drop arp"},
		{name: "ARP without an address yet", frame: own(etherARP, arp(1, mac(0), netip.IPv4Unspecified(), address(siteIPv4, 1))), verdict: modelPass, reason: "kernel protocol"},
		{name: "LLDP", frame: own(0x88cc, make([]byte, 46)), verdict: modelPass, reason: "kernel protocol"},
	}
}

func fromWireByHand(s *site) []byHand {
	here, router := s.devices["w0"].mac, mac(0xaa)
	node4 := netip.MustParseAddr("192.0.2.10")
	ipip := func(from netip.Addr, content []byte) []byte {
		return ether(here, router, etherIPv4, header{from: from, to: s.here.local4, protocol: protocolIPIP, ttl: 9}.around(content))
	}
	vx := func(vni uint32, port uint16, to modelMAC, content []byte) []byte {
		h := header{from: node4, to: s.here.local4, protocol: protocolUDP, ttl: 9}
		return ether(here, router, etherIPv4, h.around(udp(0xc000, port, vxlan(vni, ether(to, router, etherIPv4, content)))))
	}
	in := plain("8.2.0.1", "8.0.88.1")
	return []byHand{
		{name: "direct", frame: ether(here, router, etherIPv4, in), verdict: modelSend, reason: "fast from direct"},
		{name: "to another host", frame: ether(mac(9), router, etherIPv4, in), verdict: modelPass},
		{name: "from nowhere", frame: ether(here, router, etherIPv4, plain("203.0.113.1", "8.0.88.1")), verdict: modelPass, reason: "kernel route"},
		{name: "to the host", frame: ether(here, router, etherIPv4, plain("8.2.0.1", "192.0.2.1")), verdict: modelPass},
		{name: "by IPIP", frame: ipip(node4, in), verdict: modelSend, reason: "fast from ipip"},
		{name: "by IPIP from a stranger", frame: ipip(netip.MustParseAddr("192.0.2.99"), in), verdict: modelPass, reason: "kernel tunnel"},
		{name: "by IPIP to the host", frame: ipip(node4, plain("8.2.0.1", "192.0.2.1")), verdict: modelPass, reason: "kernel tunnel"},
		{name: "by IPIP, cut", frame: ipip(node4, in[:27]), verdict: modelPass, reason: "kernel tunnel"},
		{name: "by VXLAN", frame: vx(88, 4789, s.here.mac4, in), verdict: modelSend, reason: "fast from vxlan"},
		{name: "by VXLAN of another number", frame: vx(89, 4789, s.here.mac4, in), verdict: modelPass, reason: "kernel tunnel"},
		{name: "by VXLAN of the other family's hardware address", frame: vx(88, 4789, s.here.mac6, in), verdict: modelPass, reason: "kernel tunnel"},
		{name: "by VXLAN to another port", frame: vx(88, 8472, s.here.mac4, in), verdict: modelPass},
		{name: "last hop", frame: ipip(node4, with(in, 8, 1)), verdict: modelPass, reason: "kernel ttl"},
		{name: "neighbour discovery", frame: ether(here, router, etherIPv6, with(plain("fd00:1::1", "fd00:88:86dd::1"), 6, 59)), verdict: modelPass},
	}
}

func TestVerdictsByHand(t *testing.T) {
	r := newRig(t)
	s := r.site()
	r.set(t, s.modelWorld)
	cases := map[string][]byHand{"fl_from_container": fromContainerByHand(s), "fl_from_wire": fromWireByHand(s)}
	for program, usual := range map[string]string{"fl_from_container": "c0", "fl_from_wire": "w0"} {
		for _, c := range cases[program] {
			link := usual
			if c.link != "" {
				link = c.link
			}
			f := modelFrame{bytes: c.frame, link: r.devices[link].link, mac: r.devices[link].mac, segment: c.segment}
			e := r.check(t, s.modelWorld, program, f)
			want := map[string]int{}
			if c.reason != "" {
				want[c.reason] = 1
			}
			if e.verdict != c.verdict || len(e.reasons) != len(want) || e.reasons[c.reason] != want[c.reason] {
				t.Errorf("%s, %s: verdict %d, %v; want %d, %q", program, c.name, e.verdict, e.reasons, c.verdict, c.reason)
			}
		}
	}
}
