package tunnel_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/nettest"
	"github.com/fairlead-net/fairlead/tunnel"
)

func TestHops(t *testing.T) {
	h := routeHost(t)
	h.IP("link add second type veth peer name second-peer")
	h.IP("link set second mtu 9000 up")
	h.IP("link set second-peer mtu 9000 up")
	h.IP("addr add 203.0.113.1/28 dev second")
	for _, r := range []string{
		"default via 192.0.2.254",
		"198.51.100.0/26 via 192.0.2.253 mtu 1400",
		"198.51.100.64/26 nexthop via 192.0.2.253 nexthop via 203.0.113.2",
		"198.51.100.128/26 dev second mtu 8000",
		"unreachable 203.0.113.64/28", "blackhole 203.0.113.80/28", "prohibit 203.0.113.96/28",
		"203.0.113.112/28 via 192.0.2.2 proto 88 metric 88",
		"192.0.2.77/32 dev fl0123456789",
	} {
		h.IP("route add " + r)
	}
	h.IP("-6 route add default via 2001:db8:1::fe")
	h.IP("-6 route add unreachable 2001:db8:bad::/48")
	h.IP("-6 route add 2001:db8:5::/48 via fe80::fe dev uplink")
	h.IP("-6 route add 2001:db8:6::/48 nexthop via fe80::fd dev second nexthop via 2001:db8:1::fd")
	h.IP("route add 198.51.101.0/24 via inet6 2001:db8:1::fe dev uplink")
	h.IP("-6 route add 2001:db8:4::/48 via 2001:db8:1::fd mtu 1300")
	must(t, h.k.Routes().Put(t.Context(), main4("10.88.3.0/24"), routeCases()["10.88.3.0/24"]))
	must(t, h.k.Routes().Put(t.Context(), main4("10.88.1.0/24"), routeCases()["10.88.1.0/24"]))
	nowhere := tunnel.Hop{}
	want := map[netip.Addr]tunnel.Hop{
		addr("192.0.2.2"):      {Reachable: true, OnLink: true, Dev: "uplink", MTU: 1500, Via: addr("192.0.2.2")},
		addr("198.51.100.3"):   {Reachable: true, Dev: "uplink", MTU: 1400, Via: addr("192.0.2.253")},
		addr("198.51.100.70"):  {Reachable: true, Dev: "uplink", MTU: 1500, Via: addr("192.0.2.253")},
		addr("198.51.100.130"): {Reachable: true, OnLink: true, Dev: "second", MTU: 8000, Via: addr("198.51.100.130")},
		addr("198.51.100.200"): {Reachable: true, Dev: "uplink", MTU: 1500, Via: addr("192.0.2.254")},
		addr("203.0.113.2"):    {Reachable: true, OnLink: true, Dev: "second", MTU: 9000, Via: addr("203.0.113.2")},
		addr("203.0.113.65"):   nowhere, // unreachable
		addr("203.0.113.81"):   nowhere, // black hole
		addr("203.0.113.97"):   nowhere, // prohibited
		addr("203.0.113.113"):  nowhere, // by a route of ours
		addr("10.88.3.1"):      nowhere, // in a remote block
		addr("10.88.1.1"):      nowhere, // in our own block
		addr("192.0.2.77"):     nowhere, // behind an endpoint
		addr("192.0.2.1"):      nowhere, // this host
		addr("127.0.0.1"):      nowhere,
		addr("192.0.2.255"):    nowhere, // broadcast

		addr("2001:db8:1::2"):   {Reachable: true, OnLink: true, Dev: "uplink", MTU: 1500, Via: addr("2001:db8:1::2")},
		addr("2001:db8:2::2"):   {Reachable: true, Dev: "uplink", MTU: 1500, Via: addr("2001:db8:1::fe")},
		addr("2001:db8:4::2"):   {Reachable: true, Dev: "uplink", MTU: 1300, Via: addr("2001:db8:1::fd")},
		addr("2001:db8:5::2"):   {Reachable: true, Dev: "uplink", MTU: 1500, Via: addr("fe80::fe")},
		addr("198.51.101.2"):    {Reachable: true, Dev: "uplink", MTU: 1500, Via: addr("2001:db8:1::fe")},
		addr("2001:db8:bad::2"): nowhere,
		addr("2001:db8:1::1"):   nowhere,
	}
	var ask []netip.Addr
	for a := range want {
		ask = append(ask, a)
	}
	ask = append(ask, addr("::ffff:192.0.2.2"))
	have, err := h.k.Hops(t.Context(), ask)
	must(t, err)
	if diff := cmp.Diff(want, have, compareValues); diff != "" {
		t.Errorf("hops (-want +have):\n%s", diff)
	}
	// Of several ways the first one is told, all of it.
	six := addr("2001:db8:6::2")
	have, err = h.k.Hops(t.Context(), []netip.Addr{six})
	must(t, err)
	ways := map[string]netip.Addr{"uplink": addr("2001:db8:1::fd"), "second": addr("fe80::fd")}
	if hop := have[six]; !hop.Reachable || hop.OnLink || hop.Via != ways[hop.Dev] {
		t.Errorf("one of two ways: %+v", hop)
	}
	h.IP("route del default")
	have, err = h.k.Hops(t.Context(), []netip.Addr{addr("198.51.100.200"), addr("198.51.100.3")})
	must(t, err)
	if have[addr("198.51.100.200")].Reachable || !have[addr("198.51.100.3")].Reachable {
		t.Errorf("hops without a default route: %v", have)
	}
}

func TestHopsBehindNexthopObjects(t *testing.T) {
	h := newHost(t)
	h.IP("nexthop add id 7 via 192.0.2.254 dev uplink")
	h.IP("nexthop add id 8 dev uplink")
	h.IP("route add 198.51.100.0/25 nhid 7")
	h.IP("route add 198.51.100.128/25 nhid 8")
	ask := []netip.Addr{addr("198.51.100.3"), addr("198.51.100.129")}
	want := map[netip.Addr]tunnel.Hop{
		ask[0]: {Reachable: true, Dev: "uplink", MTU: 1500, Via: addr("192.0.2.254")},
		ask[1]: {Reachable: true, OnLink: true, Dev: "uplink", MTU: 1500, Via: ask[1]},
	}
	for _, compat := range []string{"1", "0"} {
		h.Sysctl("net/ipv4/nexthop_compat_mode", compat)
		have, err := h.k.Hops(t.Context(), ask)
		must(t, err)
		if diff := cmp.Diff(want, have, compareValues); diff != "" {
			t.Errorf("hops with nexthop_compat_mode %s (-want +have):\n%s", compat, diff)
		}
	}
}

func TestThousandHops(t *testing.T) {
	h := newHost(t)
	h.IP("route add default via 192.0.2.254")
	var ask []netip.Addr
	for _, s := range lines("10.88.%d.%d", 1000) {
		ask = append(ask, addr(s))
	}
	began := time.Now()
	have, err := h.k.Hops(t.Context(), ask)
	t.Logf("1,000 next hops in %v", time.Since(began))
	must(t, err)
	for _, a := range ask {
		if !have[a].Reachable || have[a].OnLink {
			t.Fatalf("%v: %+v", a, have[a])
		}
	}
}

func TestUnderlay(t *testing.T) {
	h := newHost(t)
	if u, err := h.k.Underlay(t.Context(), netip.Addr{}); err != nil || u.Address.IsValid() || u.Dev != "" || len(u.Subnets) == 0 {
		t.Errorf("without a default route: %+v, %v", u, err)
	}
	if _, err := h.k.Underlay(t.Context(), addr("198.51.100.99")); err == nil {
		t.Error("found an address that no link has")
	} else {
		t.Log(err)
	}
	h.IP("link add second type veth peer name second-peer")
	h.IP("link set second up")
	h.IP("link set second-peer up")
	h.IP("link add lan link second type macvlan")
	h.IP("link add docker0 type bridge")
	h.Sysctl("net/ipv4/conf/all/rp_filter", "1")
	h.Sysctl("net/ipv4/conf/uplink/rp_filter", "0")
	h.Sysctl("net/ipv4/conf/lan/rp_filter", "2")
	for _, a := range []string{
		"198.51.100.1/24 dev lan", "172.17.0.1/16 dev docker0",
		"203.0.113.1/28 dev second", "203.0.113.17 peer 203.0.113.18/32 dev second", "2001:db8:9::1/64 dev second nodad",
		"2001:db8:1::d/64 dev uplink nodad preferred_lft 0", "fe80::1/64 dev uplink nodad",
	} {
		h.IP("addr add " + a)
	}
	h.IP("link add fl0123456789 type veth peer name peer")
	h.IP("addr add 10.88.9.1/24 dev fl0123456789")
	want := tunnel.Underlay{
		Dev: "uplink", MTU: 1500, Address: addr("192.0.2.1"), Address6: addr("2001:db8:1::1"),
		Uplinks: []string{"lan", "uplink"}, Strict: []string{"uplink"},
		Subnets: []netip.Prefix{
			prefix("172.17.0.0/16"), prefix("192.0.2.0/24"), prefix("198.51.100.0/24"), prefix("203.0.113.0/28"), prefix("203.0.113.18/32"),
			prefix("2001:db8:1::/64"), prefix("2001:db8:9::/64"),
		},
		Own: []netip.Addr{
			addr("172.17.0.1"), addr("192.0.2.1"), addr("198.51.100.1"), addr("203.0.113.1"), addr("203.0.113.17"),
			addr("2001:db8:1::1"), addr("2001:db8:1::d"), addr("2001:db8:9::1"),
		},
	}
	is := func(address netip.Addr, want tunnel.Underlay) {
		t.Helper()
		have, err := h.k.Underlay(t.Context(), address)
		must(t, err)
		if diff := cmp.Diff(want, have, compareValues); diff != "" {
			t.Errorf("underlay of %v (-want +have):\n%s", address, diff)
		}
	}
	is(addr("192.0.2.1"), want)
	six := want
	six.Address, six.Address6 = want.Address6, want.Address
	is(addr("2001:db8:1::1"), six)

	h.IP("-6 route add default via 2001:db8:1::fe")
	is(netip.Addr{}, six)
	h.IP("route add default via 192.0.2.254 metric 100")
	is(netip.Addr{}, want)
	// A private network that takes everything by two halves is not the way between hosts.
	h.IP("route add 0.0.0.0/1 via 203.0.113.2")
	h.IP("route add 128.0.0.0/1 via 203.0.113.2")
	is(netip.Addr{}, want)
}

// A host that lives by router advertisements keeps its default route when it begins to forward.
func TestForwardingKeepsTheAdvertisedDefaultRoute(t *testing.T) {
	h := newHost(t)
	h.far.IP("-6 addr add fe80::fe/64 dev cable nodad")
	eventually(t, "the default route is learned", func() bool {
		advertise(t, h.far, "cable")
		return strings.Contains(h.IP("-6 route show default"), "proto ra")
	})
	u, err := h.k.Underlay(t.Context(), netip.Addr{})
	must(t, err)
	if u.Address != addr("2001:db8:1::1") || !slices.Equal(u.RA, []string{"uplink"}) {
		t.Fatalf("underlay %+v", u)
	}
	want := tunnel.Plan(tunnel.Input{Underlay: u, Pools: []netip.Prefix{prefix("2001:db8:88::/64")}}).Sysctls
	settle(t, h.k.Sysctls(want), want)
	if routes := h.IP("-6 route show default"); !strings.Contains(routes, "proto ra") {
		t.Errorf("default routes after forwarding is on: %q", routes)
	}
}

// advertise sends a router advertisement (RFC 4861 section 4.2) with a lifetime of half an hour.
func advertise(t *testing.T, h *nettest.Host, dev string) {
	t.Helper()
	must(t, h.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMPV6)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, 255); err != nil {
			return err
		}
		if err := unix.BindToDevice(fd, dev); err != nil {
			return err
		}
		message := []byte{134, 0, 0, 0, 64, 0, 1800 >> 8, 1800 & 255, 0, 0, 0, 0, 0, 0, 0, 0}
		all := &unix.SockaddrInet6{Addr: addr("ff02::1").As16()}
		return unix.Sendto(fd, message, 0, all)
	}))
}

func TestUnderlayTellsLinksWithRouterAdvertisements(t *testing.T) {
	h := newHost(t)
	h.IP("-6 route add default via 2001:db8:1::fe dev uplink proto ra")
	for value, want := range map[string][]string{"0": nil, "1": {"uplink"}, "2": {"uplink"}} {
		h.Sysctl("net/ipv6/conf/uplink/accept_ra", value)
		u, err := h.k.Underlay(t.Context(), addr("192.0.2.1"))
		must(t, err)
		if diff := cmp.Diff(want, u.RA); diff != "" {
			t.Errorf("accept_ra %s (-want +have):\n%s", value, diff)
		}
	}
}
