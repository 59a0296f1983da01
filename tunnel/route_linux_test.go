package tunnel_test

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/reconcile"
	"github.com/fairlead-net/fairlead/tunnel"
)

func main4(s string) tunnel.RouteKey { return tunnel.RouteKey{Table: tunnel.Main, Prefix: prefix(s)} }

// routeCases are all the shapes of route that the plan makes.
func routeCases() map[string]tunnel.Route {
	src4, src6 := addr("192.0.2.1"), addr("2001:db8:1::1")
	over4 := tunnel.NextHop{Via: addr("198.51.100.3"), Dev: tunnel.DeviceVXLAN, OnLink: true}
	return map[string]tunnel.Route{
		"10.88.1.0/24": {Kind: tunnel.Blackhole},
		"10.88.2.0/24": {Kind: tunnel.Unicast, Source: src4, Hops: hops(
			tunnel.NextHop{Via: addr("192.0.2.2"), Dev: "uplink"})},
		"10.88.3.0/24": {Kind: tunnel.Unicast, Source: src4, Hops: hops(over4), MTU: 1350},
		"10.88.4.0/24": {Kind: tunnel.Unicast, Source: src4, Hops: hops(
			tunnel.NextHop{Via: addr("192.0.2.9"), Dev: "uplink"}, tunnel.NextHop{Via: addr("192.0.2.3"), Dev: "uplink"},
			tunnel.NextHop{Via: addr("192.0.2.4"), Dev: "uplink"})},
		"10.88.5.0/24": {Kind: tunnel.Unicast, Source: src4, Hops: hops(
			over4, tunnel.NextHop{Via: addr("198.51.100.4"), Dev: tunnel.DeviceVXLAN, OnLink: true})},
		"10.88.6.0/24": {Kind: tunnel.Unicast, Source: src4, Hops: hops(
			tunnel.NextHop{Via: addr("2001:db8:1::2"), Dev: "uplink"})},
		"10.88.7.0/24": {Kind: tunnel.Unicast, Source: src4, Hops: hops(
			tunnel.NextHop{Via: tunnel.LinkLocal(addr("2001:db8:2::3")), Dev: tunnel.DeviceVXLAN6, OnLink: true},
			tunnel.NextHop{Via: tunnel.LinkLocal(addr("2001:db8:2::4")), Dev: tunnel.DeviceVXLAN6, OnLink: true})},
		"10.88.1.7/32": {Kind: tunnel.Unicast, Source: src4, Hops: hops(tunnel.NextHop{Dev: "fl0123456789"})},

		"2001:db8:88:1::/64": {Kind: tunnel.Blackhole},
		"2001:db8:88:2::/64": {Kind: tunnel.Unicast, Source: src6, Hops: hops(
			tunnel.NextHop{Via: addr("2001:db8:1::2"), Dev: "uplink"})},
		"2001:db8:88:3::/64": {Kind: tunnel.Unicast, Source: src6, MTU: 1400, Hops: hops(
			tunnel.NextHop{Via: tunnel.LinkLocal(addr("198.51.100.3")), Dev: tunnel.DeviceVXLAN, OnLink: true})},
		"2001:db8:88:4::/64": {Kind: tunnel.Unicast, Hops: hops(
			tunnel.NextHop{Via: addr("2001:db8:1::9"), Dev: "uplink"}, tunnel.NextHop{Via: addr("2001:db8:1::3"), Dev: "uplink"},
			tunnel.NextHop{Via: addr("2001:db8:1::4"), Dev: "uplink"})},
		"2001:db8:88:5::/64": {Kind: tunnel.Unicast, Source: src6, Hops: hops(
			tunnel.NextHop{Via: tunnel.LinkLocal(addr("2001:db8:2::3")), Dev: tunnel.DeviceVXLAN6, OnLink: true},
			tunnel.NextHop{Via: tunnel.LinkLocal(addr("198.51.100.3")), Dev: tunnel.DeviceVXLAN, OnLink: true})},
		"2001:db8:88:1::7/128": {Kind: tunnel.Unicast, Source: src6, Hops: hops(tunnel.NextHop{Dev: "fl0123456789"})},
	}
}

func routeHost(t *testing.T) host {
	t.Helper()
	h := newHost(t)
	h.IP("link add fl0123456789 type veth peer name peer")
	h.IP("link set fl0123456789 up")
	h.IP("link set peer up")
	eventually(t, "the links have settled", func() bool { return settled(h.Host, "fl0123456789") && settled(h.Host, "peer") })
	withDevices(t, h)
	return h
}

func TestRoutesComeBackAsTheyWerePut(t *testing.T) {
	h := routeHost(t)
	want := make(map[tunnel.RouteKey]tunnel.Route)
	for p, r := range routeCases() {
		want[main4(p)] = r
	}
	for _, vtep := range []string{"198.51.100.3/32", "2001:db8:2::3/128"} {
		p := prefix(vtep)
		dev := tunnel.DeviceVXLAN
		if p.Addr().Is6() {
			dev = tunnel.DeviceVXLAN6
		}
		want[tunnel.RouteKey{Table: tunnel.Table, Prefix: p}] = tunnel.Route{
			Kind: tunnel.Unicast, Hops: hops(tunnel.NextHop{Via: p.Addr(), Dev: dev, OnLink: true}),
		}
	}
	before := world(h.Host)
	settle(t, h.k.Routes(), want)
	// Once more over what is there: idempotent.
	for k, err := range h.k.Routes().Apply(t.Context(), want, nil) {
		t.Errorf("put %v again: %v", k, err)
	}
	settle(t, h.k.Routes(), want)
	settle(t, h.k.Routes(), map[tunnel.RouteKey]tunnel.Route{})
	if diff := cmp.Diff(before, world(h.Host)); diff != "" {
		t.Errorf("kernel after all is deleted:\n%s", diff)
	}
	// Deleting what is not there is success.
	for k := range want {
		must(t, h.k.Routes().Delete(t.Context(), k))
	}
}

func TestEveryShapeOfRouteReplacesEveryOther(t *testing.T) {
	h := routeHost(t)
	for _, key := range []string{"10.88.200.0/24", "2001:db8:88:200::/64"} {
		k := main4(key)
		for a, first := range routeCases() {
			for b, second := range routeCases() {
				if prefix(a).Addr().Is4() != k.Prefix.Addr().Is4() || prefix(b).Addr().Is4() != k.Prefix.Addr().Is4() {
					continue
				}
				must(t, h.k.Routes().Put(t.Context(), k, first))
				must(t, h.k.Routes().Put(t.Context(), k, second))
				have := list(t, h.k.Routes())
				if diff := cmp.Diff(map[tunnel.RouteKey]tunnel.Route{k: second}, have, compareValues); diff != "" {
					t.Fatalf("%v after %v (-want +have):\n%s", second, first, diff)
				}
			}
		}
		must(t, h.k.Routes().Delete(t.Context(), k))
	}
}

func TestForeignRoutesAreNeitherListedNorTouched(t *testing.T) {
	h := routeHost(t)
	for _, r := range []string{
		"10.88.2.0/24 via 192.0.2.7", "10.88.2.0/24 via 192.0.2.7 metric 50 proto bird",
		"blackhole 10.88.3.0/24 metric 88", "10.88.4.0/24 dev uplink proto static",
		"10.88.5.0/24 via 192.0.2.7 metric 88 proto bgp table 88",
		"2001:db8:88:2::/64 via 2001:db8:1::7", "2001:db8:88:4::/64 via 2001:db8:1::7 metric 88 proto bgp",
	} {
		h.IP("route add " + r)
	}
	foreign := world(h.Host)
	routes := h.k.Routes()
	if have := list(t, routes); len(have) != 0 {
		t.Fatalf("foreign routes listed as ours: %v", have)
	}
	cases := routeCases()
	for _, p := range []string{"10.88.3.0/24", "2001:db8:88:4::/64"} {
		err := routes.Put(t.Context(), main4(p), cases[p])
		if !errors.Is(err, unix.EEXIST) || !strings.Contains(fmt.Sprint(err), "belongs to another program") {
			t.Errorf("put %s over a foreign route of the same metric: %v", p, err)
		}
	}
	want := map[tunnel.RouteKey]tunnel.Route{
		main4("10.88.2.0/24"): cases["10.88.2.0/24"], main4("10.88.4.0/24"): cases["10.88.4.0/24"],
		main4("2001:db8:88:2::/64"): cases["2001:db8:88:2::/64"],
	}
	settle(t, routes, want)
	for p := range cases {
		must(t, routes.Delete(t.Context(), main4(p)))
		must(t, routes.Delete(t.Context(), tunnel.RouteKey{Table: tunnel.Table, Prefix: prefix(p)}))
	}
	if diff := cmp.Diff(foreign, world(h.Host)); diff != "" {
		t.Errorf("foreign state changed:\n%s", diff)
	}
}

func TestDriftOfRoutesIsMendedInOnePass(t *testing.T) {
	h := routeHost(t)
	want := make(map[tunnel.RouteKey]tunnel.Route)
	for p, r := range routeCases() {
		want[main4(p)] = r
	}
	for name, hands := range map[string][]string{
		"deleted":      {"route del 10.88.2.0/24 metric 88", "-6 route del 2001:db8:88:4::/64", "route del blackhole 10.88.1.0/24 metric 88"},
		"other hop":    {"route replace 10.88.2.0/24 via 192.0.2.77 proto 88 metric 88", "-6 route replace 2001:db8:88:2::/64 via 2001:db8:1::77 proto 88 metric 88"},
		"one hop less": {"route replace 10.88.4.0/24 proto 88 metric 88 nexthop via 192.0.2.3 nexthop via 192.0.2.4", "-6 route del 2001:db8:88:4::/64 via 2001:db8:1::3"},
		"weights":      {"route replace 10.88.4.0/24 proto 88 metric 88 nexthop via 192.0.2.3 weight 3 nexthop via 192.0.2.4 nexthop via 192.0.2.9"},
		"other mtu":    {"route replace 10.88.2.0/24 via 192.0.2.2 src 192.0.2.1 proto 88 metric 88 mtu 1000"},
		"no source":    {"route replace 10.88.2.0/24 via 192.0.2.2 proto 88 metric 88"},
		"link":         {"link set uplink down", "link set uplink up", "-6 addr replace 2001:db8:1::1/64 dev uplink nodad"},
		"device":       {"link set flvxlan down", "link set flvxlan up"},
		"extra":        {"route add 10.88.99.0/24 via 192.0.2.2 proto 88 metric 88", "route add 10.88.98.0/24 via 192.0.2.2 proto 88", "-6 route add unreachable 2001:db8:88:99::/64 proto 88", "route add prohibit 10.88.97.0/24 proto 88 table 99"},
	} {
		t.Run(name, func(t *testing.T) {
			settle(t, h.k.Routes(), want)
			for _, hand := range hands {
				h.IP(hand)
			}
			settle(t, h.k.Routes(), want)
		})
	}
}

// A route of ours with another metric, of an older version perhaps, is cleared away in at most two passes.
func TestOurRouteWithAnotherMetricGoes(t *testing.T) {
	h := routeHost(t)
	p := "10.88.2.0/24"
	want := map[tunnel.RouteKey]tunnel.Route{main4(p): routeCases()[p]}
	for _, before := range []bool{false, true} {
		if before {
			settle(t, h.k.Routes(), want)
		}
		h.IP("route add 10.88.2.0/24 via 192.0.2.5 proto 88")
		h.IP("route add 10.88.2.0/24 via 192.0.2.5 proto 88 metric 200")
		for range 2 {
			apply(t, h.k.Routes(), want)
		}
		settle(t, h.k.Routes(), want)
	}
}

func TestRouteOnAMissingDeviceWaits(t *testing.T) {
	h := newHost(t)
	for p, r := range routeCases() {
		if r.Kind == tunnel.Blackhole || r.Hops[0].Dev == "uplink" {
			continue
		}
		if err := h.k.Routes().Put(t.Context(), main4(p), r); !errors.Is(err, reconcile.ErrWaits) {
			t.Errorf("put %s on a missing device: %v", p, err)
		}
	}
	err := h.k.Routes().Put(t.Context(), main4("10.88.2.0/24"), tunnel.Route{
		Kind: tunnel.Unicast, Hops: hops(tunnel.NextHop{Via: addr("203.0.113.1"), Dev: "uplink"}),
	})
	if errors.Is(err, reconcile.ErrWaits) || !errors.Is(err, unix.ENETUNREACH) {
		t.Errorf("put via a gateway that is not on the link: %v", err)
	}
	t.Log(err)
}

func TestThousandRoutesInOneGo(t *testing.T) {
	h := newHost(t)
	want := make(map[tunnel.RouteKey]tunnel.Route)
	for _, s := range lines("10.88.%d.%d/32", 1000) {
		want[main4(s)] = tunnel.Route{Kind: tunnel.Unicast, Source: addr("192.0.2.1"),
			Hops: hops(tunnel.NextHop{Via: addr("192.0.2.2"), Dev: "uplink"})}
	}
	bad := main4("10.88.200.0/24")
	want[bad] = tunnel.Route{Kind: tunnel.Unicast, Hops: hops(tunnel.NextHop{Via: addr("203.0.113.1"), Dev: "uplink"})}
	failed := h.k.Routes().Apply(t.Context(), want, nil)
	if len(failed) != 1 || failed[bad] == nil {
		t.Fatalf("failed: %v", failed)
	}
	delete(want, bad)
	settle(t, h.k.Routes(), want)
	for k, r := range want {
		r.Hops[0].Via = addr("192.0.2.3")
		want[k] = r
	}
	settle(t, h.k.Routes(), want)
	settle(t, h.k.Routes(), map[tunnel.RouteKey]tunnel.Route{})
}

// The kernel itself leaves foreign routes out: reading ours costs us no more when there are thousands of them.
func TestForeignRoutesDoNotLeaveTheKernel(t *testing.T) {
	h := newHost(t)
	p := "10.88.2.0/24"
	settle(t, h.k.Routes(), map[tunnel.RouteKey]tunnel.Route{main4(p): routeCases()[p]})
	cost := func() float64 {
		return testing.AllocsPerRun(5, func() { list(t, h.k.Routes()) })
	}
	before := cost()
	var b strings.Builder
	for _, s := range lines("10.88.%d.%d", 5000) {
		fmt.Fprintf(&b, "route add %s via 192.0.2.7\n", s)
	}
	run(t, h, b.String())
	if after := cost(); after > before+50 {
		t.Errorf("reading our routes takes %.0f allocations beside 5,000 foreign routes, %.0f without", after, before)
	}
}

func TestShadowedRoutesAreTold(t *testing.T) {
	h := routeHost(t)
	cases := routeCases()
	for p, foreign := range map[string]string{
		"10.88.2.0/24":       "route add 10.88.2.0/24 via 192.0.2.7 proto static",
		"10.88.4.0/24":       "route add 10.88.4.0/24 via 192.0.2.7 metric 100",
		"10.88.6.0/24":       "route add 10.88.6.0/25 dev uplink metric 500",
		"2001:db8:88:2::/64": "-6 route add 2001:db8:88:2::/64 via 2001:db8:1::7",
		"2001:db8:88:4::/64": "-6 route add 2001:db8:88:4::/64 via 2001:db8:1::7 metric 20",
		"10.88.3.0/24":       "route add 10.88.0.0/16 via 192.0.2.7",
	} {
		h.IP(foreign)
		must(t, h.k.Routes().Put(t.Context(), main4(p), cases[p]))
	}
	var ask []netip.Prefix
	for k := range list(t, h.k.Routes()) {
		ask = append(ask, k.Prefix)
	}
	have, err := h.k.Shadowed(t.Context(), ask)
	must(t, err)
	want := map[netip.Prefix]string{
		prefix("10.88.2.0/24"):       "10.88.2.0/24 dev uplink protocol 4 metric 0",
		prefix("10.88.6.0/24"):       "10.88.6.0/25 dev uplink protocol 3 metric 500",
		prefix("2001:db8:88:4::/64"): "2001:db8:88:4::/64 dev uplink protocol 3 metric 20",
	}
	if diff := cmp.Diff(want, have, compareValues); diff != "" {
		t.Errorf("shadowed (-want +have):\n%s", diff)
	}
}

// Tables that change while they are read are read again, and what is ours is never missed.
func TestRoutesAreReadWholeWhileOthersWrite(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	want := make(map[tunnel.RouteKey]tunnel.Route)
	for _, s := range lines("10.88.%d.%d/32", 500) {
		want[main4(s)] = tunnel.Route{Kind: tunnel.Unicast, Source: addr("192.0.2.1"),
			Hops: hops(tunnel.NextHop{Via: addr("192.0.2.2"), Dev: "uplink"})}
	}
	settle(t, h.k.Routes(), want)
	var churn strings.Builder
	for i := range 60 {
		fmt.Fprintf(&churn, "route add 203.0.113.%d via 192.0.2.7\nlink add x%d type veth peer name y%d\n", i, i%5, i%5)
		fmt.Fprintf(&churn, "route del 203.0.113.%d via 192.0.2.7\nlink del x%d\n", i, i%5)
	}
	done := make(chan error, 1)
	go func() { done <- commands(h, churn.String()) }()
	for reads := 0; ; reads++ {
		if diff := cmp.Diff(want, list(t, h.k.Routes()), compareValues); diff != "" {
			t.Fatalf("read %d (-want +have):\n%s", reads, diff)
		}
		select {
		case err := <-done:
			must(t, err)
			t.Logf("%d reads", reads)
			return
		default:
		}
	}
}

// The gateway of containers is this host though no link has its address, and a tunnel device that has it changes nothing.
func TestTheGatewayIsThisHost(t *testing.T) {
	h := newHost(t)
	h.IP("link set lo up")
	key := tunnel.RouteKey{Table: tunnel.Local, Prefix: prefix("169.254.1.1/32")}
	want := tunnel.Route{Kind: tunnel.Here, Hops: tunnel.SortHops([]tunnel.NextHop{{Dev: "lo"}})}
	must(t, h.k.Routes().Put(t.Context(), key, want))
	h.IP("addr add 169.254.1.1/32 dev uplink scope link")
	h.IP("addr del 169.254.1.1/32 dev uplink")
	have, err := h.k.Routes().List(t.Context())
	must(t, err)
	if len(have) != 1 || have[key] != want {
		t.Errorf("have %v", have)
	}
	if out := h.IP("route get 169.254.1.1"); !strings.HasPrefix(out, "local ") {
		t.Errorf("the kernel routes to it by %s", out)
	}
	must(t, h.k.Routes().Delete(t.Context(), key))
	if out, err := h.Try("ip", "route", "show", "table", "local", "proto", "88"); err != nil || strings.TrimSpace(out) != "" {
		t.Errorf("left: %s, %v", out, err)
	}
}
