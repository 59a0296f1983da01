package fastpath_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
)

// site is a world with its devices, and the addresses that its frames have.
//
// Endpoints have addresses of which the thirteenth and fourteenth byte of a packet's header say IPv4 or IPv6, by which a test
// run believes that a frame that begins with that header is such a packet: so fl_to_tunnel can be tried.
type site struct {
	*modelWorld
	devices   map[string]modelDevice
	connected []modelTuple // by ports of the host, from outside
}

const (
	siteIPv4 = "8.0.88.%d"
	siteIPv6 = "fd00:88:86dd::%d"
)

// address is the n-th of the endpoints, of either family.
func address(form string, n int) netip.Addr { return netip.MustParseAddr(fmt.Sprintf(form, n)) }

func mac(last byte) modelMAC { return modelMAC{0x02, 0x88, 0, 0, 0, last} }

// newSite is a host with three links of two containers, of which the first has two, and routes of all kinds.
func newSite(devices map[string]modelDevice) *site {
	s := &site{devices: devices, modelWorld: &modelWorld{
		endpoints: map[netip.Addr]modelEndpoint{},
		sides:     map[uint32]modelSide{},
		routes:    map[netip.Prefix]modelRoute{},
		nodes:     map[netip.Addr]bool{},
		flows:     map[modelFlow]bool{},
		here: modelSettings{
			takesIPIP: true, takesVXLAN: true, crosses: true, vni: 88, port: 4789,
			local4: netip.MustParseAddr("192.0.2.1"), local6: netip.MustParseAddr("2001:db8::1"), mac4: mac(0x41), mac6: mac(0x61),
		},
	}}
	for i, home := range []uint32{4026531001, 4026531002, 4026531001} {
		link := devices[fmt.Sprintf("c%d", i)].link
		s.sides[link] = modelSide{home: home, slot: uint32(i), mac: mac(byte(i))}
		for _, form := range []string{siteIPv4, siteIPv6} {
			s.endpoints[address(form, i+1)] = modelEndpoint{link: link, home: home, slot: uint32(i), mtu: 1500, mac: mac(byte(i))}
		}
	}
	for i := range 4 {
		s.nodes[address("192.0.2.%d", 10+i)] = true
		s.nodes[address("2001:db8::%d", 10+i)] = true
	}
	s.addRoutes()
	s.addPorts()
	return s
}

// hop is a way to the n-th node, over a header of a family.
func (s *site) hop(encap uint8, form string, n int) modelHop {
	h := modelHop{link: s.devices[[]string{"w0", "w1"}[n%2]].link, mtu: 1500, encap: encap, mac: mac(byte(0x80 + n))}
	h.next, h.end = address(form, 10+n), address(form, 10+n)
	h.local = s.here.local4
	if h.next.Is6() {
		h.local = s.here.local6
	}
	switch {
	case encap == modelIPIP:
		h.mtu = 1469
	case encap == modelVXLAN && h.next.Is4():
		h.mtu = 1439
	case encap == modelVXLAN:
		h.mtu = 1419
	}
	return h
}

// routesOf are the prefixes of a family: 0 direct, 1 IPIP, 2 VXLAN over IPv4, 3 VXLAN over IPv6, 4 several of these, 5 a
// prefix within the fourth, 6 direct over the other family, 7 of which the fast path knows no way.
func routesOf(form string) []string {
	if form == siteIPv4 {
		return []string{"8.1.0.0/16", "8.2.0.0/16", "8.3.0.0/16", "8.4.0.0/16", "8.5.0.0/16", "8.5.1.0/24", "8.6.0.0/16", "8.7.0.0/16"}
	}
	var all []string
	for i := range 8 {
		all = append(all, fmt.Sprintf("fd00:%d::/32", i+1))
	}
	all[5] = "fd00:5:0:1::/64"
	return all
}

func (s *site) addRoutes() {
	over4, over6 := "192.0.2.%d", "2001:db8::%d"
	for family, form := range []string{siteIPv4, siteIPv6} {
		same, other := over4, over6
		if form == siteIPv6 {
			same, other = over6, over4
		}
		for i, text := range routesOf(form) {
			r := modelRoute{slot: uint32(8 + 8*family + i), used: 1}
			switch i {
			case 0:
				r.hops[0] = s.hop(modelDirect, same, 0)
			case 1:
				r.hops[0] = s.hop(modelIPIP, over4, 1)
			case 2, 5:
				r.hops[0] = s.hop(modelVXLAN, over4, 2)
			case 3:
				r.hops[0] = s.hop(modelVXLAN, over6, 3)
			case 4:
				r.used = 8
				for n := range r.hops {
					r.hops[n] = s.hop([]uint8{modelDirect, modelVXLAN, modelDirect, modelIPIP}[n%4], same, n)
				}
			case 6:
				r.hops[0] = s.hop(modelDirect, other, 0)
			case 7:
				r.used = 2
				r.hops[1] = s.hop(9, same, 1)
			}
			s.routes[netip.MustParsePrefix(text)] = r
		}
	}
}

// vary makes another site of it: other settings, realms, sizes, counts and flows, some of them odd.
func (s *site) vary(rnd *rand.Rand) {
	often := func() bool { return rnd.IntN(8) != 0 }
	here := &s.here
	here.takesIPIP, here.takesVXLAN, here.crosses = often(), often(), here.crosses && often()
	here.takesAll, here.lacksIPIP = !often(), rnd.IntN(2) == 0
	if rnd.IntN(2) == 0 {
		here.device = s.devices["x1"].link
	}
	for _, a := range slices.SortedFunc(maps.Keys(s.endpoints), netip.Addr.Compare) {
		e := s.endpoints[a]
		if !often() {
			e.realm = uint32(rnd.IntN(3))
		}
		if !often() {
			e.home = 0
		}
		if !often() {
			e.mtu = []int{68, 576, 1280, 9000, 65535}[rnd.IntN(5)]
		}
		if !often() {
			e.slot = modelSlots + uint32(rnd.IntN(3)) // that the table does not have
		}
		s.endpoints[a] = e
	}
	for _, link := range slices.Sorted(maps.Keys(s.sides)) {
		side := s.sides[link]
		if !often() {
			side.home = 0
		}
		if s.sides[link] = side; rnd.IntN(32) == 0 {
			delete(s.sides, link)
		}
	}
	for _, p := range slices.SortedFunc(maps.Keys(s.routes), netip.Prefix.Compare) {
		r := s.routes[p]
		if r.used > 2 {
			r.used = uint32(rnd.IntN(11))
			clear(r.hops[min(r.used, 8):])
		}
		for i := range r.hops {
			if rnd.IntN(16) == 0 {
				r.hops[i].mtu = []int{100, 576, 1280, 9000, 65535}[rnd.IntN(5)]
			}
		}
		s.routes[p] = r
	}
}
