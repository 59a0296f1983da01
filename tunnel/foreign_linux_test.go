package tunnel_test

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-net/fairlead/tunnel"
)

func pools() []netip.Prefix {
	return []netip.Prefix{prefix("10.88.0.0/16"), prefix("2001:db8:88::/48")}
}

func foreign(t *testing.T, h host) map[netip.Prefix]int {
	t.Helper()
	all, err := h.k.Foreign(t.Context(), pools())
	must(t, err)
	found := make(map[netip.Prefix]int, len(all))
	for _, f := range all {
		found[f.Prefix] = f.Metric
	}
	if len(found) != len(all) {
		t.Errorf("a prefix is there twice: %v", all)
	}
	return found
}

func TestForeignRoutesInsideThePoolsAreTold(t *testing.T) {
	h := routeHost(t)
	cases := routeCases()
	for _, p := range []string{"10.88.1.0/24", "10.88.2.0/24", "10.88.1.7/32", "2001:db8:88:2::/64", "2001:db8:88:1::7/128"} {
		must(t, h.k.Routes().Put(t.Context(), main4(p), cases[p]))
	}
	if have := foreign(t, h); len(have) != 0 {
		t.Errorf("our own routes are foreign: %v", have)
	}
	for _, r := range []string{
		"default via 192.0.2.254", "10.0.0.0/8 via 192.0.2.7", "10.88.0.0/15 via 192.0.2.7", "203.0.113.0/24 via 192.0.2.7",
		"10.88.0.0/16 via 192.0.2.7 metric 7", "10.88.2.0/24 via 192.0.2.7 metric 100", "10.88.2.0/24 via 192.0.2.7 metric 50 proto bird",
		"10.88.2.128/25 dev uplink metric 500", "blackhole 10.88.3.0/24", "throw 10.88.4.0/24", "10.88.5.0/24 via 192.0.2.7 table 77",
		"10.88.6.0/24 nexthop via 192.0.2.7 nexthop via 192.0.2.8", "2001:db8:88:4::/64 via 2001:db8:1::7",
		"2001:db8:88:5::/64 via 2001:db8:1::7 metric 20", "2001:db8::/32 via 2001:db8:1::7",
	} {
		h.IP("route add " + r)
	}
	h.IP("addr add 10.88.8.8/32 dev uplink")
	h.IP("addr add 2001:db8:88:8::8/128 dev uplink nodad")
	eventually(t, "the IPv6 address is there", func() bool {
		return strings.Contains(h.IP("-6 route show table local"), "local 2001:db8:88:8::8")
	})
	want := map[netip.Prefix]int{
		prefix("10.88.0.0/16"): 7, prefix("10.88.2.0/24"): 50, prefix("10.88.2.128/25"): 500, prefix("10.88.3.0/24"): 0,
		prefix("10.88.4.0/24"): 0, prefix("10.88.6.0/24"): 0, prefix("10.88.8.8/32"): 0,
		prefix("2001:db8:88:4::/64"): 1024, prefix("2001:db8:88:5::/64"): 20, prefix("2001:db8:88:8::8/128"): 0,
	}
	if diff := cmp.Diff(want, foreign(t, h), compareValues); diff != "" {
		t.Errorf("foreign routes (-want +have):\n%s", diff)
	}
	four, err := h.k.Foreign(t.Context(), pools()[:1])
	must(t, err)
	if len(four) != 7 {
		t.Errorf("of IPv4 alone: %v", four)
	}
}

// What the plan takes the legs from is what the kernel itself sends another way.
func TestCutIsWhatTheKernelDoes(t *testing.T) {
	h := routeHost(t)
	cases := routeCases()
	for p, c := range map[string]struct {
		route, to string
		cut       bool
	}{
		"10.88.2.0/24":       {"10.88.2.0/24 via 192.0.2.7", "10.88.2.5", true},
		"10.88.3.0/24":       {"10.88.3.64/26 via 192.0.2.7 metric 5000", "10.88.3.65", true},
		"10.88.4.0/24":       {"10.88.4.0/24 via 192.0.2.7 metric 89", "10.88.4.5", false},
		"10.88.5.0/24":       {"10.88.4.0/23 via 192.0.2.7", "10.88.5.5", false},
		"10.88.6.0/24":       {"local 10.88.6.9 dev uplink table local", "10.88.6.9", true},
		"2001:db8:88:2::/64": {"2001:db8:88:2::/64 via 2001:db8:1::7", "2001:db8:88:2::5", false},
		"2001:db8:88:3::/64": {"2001:db8:88:3::/64 via 2001:db8:1::7 metric 20", "2001:db8:88:3::5", true},
		"2001:db8:88:4::/64": {"2001:db8:88:4:5::/80 via 2001:db8:1::7", "2001:db8:88:4:5::5", true},
	} {
		must(t, h.k.Routes().Put(t.Context(), main4(p), cases[p]))
		h.IP("route add " + c.route)
		all, err := h.k.Foreign(t.Context(), pools())
		must(t, err)
		if u := (tunnel.Underlay{Foreign: all}); u.Cut(prefix(p)) != c.cut {
			t.Errorf("%s beside %s: cut %v", p, c.route, !c.cut)
		}
		if way := h.IP("route get fibmatch " + c.to); strings.Contains(way, "proto 88") == c.cut {
			t.Errorf("%s beside %s: the kernel sends to %s by %s", p, c.route, c.to, way)
		}
	}
}

// While somebody listens the kernel is asked again only when something may have changed: others may have many routes, and
// change them all the time.
func TestForeignRoutesAreReadWhenTheyChange(t *testing.T) {
	h := routeHost(t)
	requests := func() uint32 {
		t.Helper()
		before := h.k.Requests()
		foreign(t, h)
		return h.k.Requests() - before
	}
	if first, second := requests(), requests(); first == 0 || second != first {
		t.Fatalf("nobody listens, and %d and %d requests are made", first, second)
	}
	ctx, cancel := background(t)
	pokes, err := h.k.Watch(ctx)
	must(t, err)
	calm(pokes)
	if first, second := requests(), requests(); first == 0 || second != 0 {
		t.Fatalf("%d requests at first, then %d", first, second)
	}
	var b strings.Builder
	for _, s := range lines("10.89.%d.%d", 500) {
		fmt.Fprintf(&b, "route add %s via 192.0.2.7\n", s)
	}
	run(t, h, b.String())
	must(t, h.k.Routes().Put(t.Context(), main4("10.88.2.0/24"), routeCases()["10.88.2.0/24"]))
	h.IP("route add 10.88.9.0/24 via 192.0.2.7 proto 88 metric 88")
	calm(pokes)
	if n := requests(); n != 0 {
		t.Errorf("%d requests after changes that do not concern the pools", n)
	}
	for _, change := range []struct {
		hand string
		want int
	}{
		{"route add 10.88.2.0/25 via 192.0.2.7", 1}, {"route del 10.88.2.0/25", 0},
		{"-6 route add 2001:db8:88:2::/65 via 2001:db8:1::7", 1}, {"-6 route del 2001:db8:88:2::/65", 0},
		{"addr add 10.88.3.3/32 dev uplink", 1}, {"addr del 10.88.3.3/32 dev uplink", 0},
	} {
		h.IP(change.hand)
		calm(pokes)
		if have := foreign(t, h); len(have) != change.want {
			t.Errorf("after %s: %v", change.hand, have)
		}
	}
	h.k.Age(time.Minute)
	if n := requests(); n == 0 {
		t.Error("what is old is still believed")
	}
	if have, err := h.k.Foreign(t.Context(), pools()[:1]); err != nil || len(have) != 0 || requests() == 0 {
		t.Errorf("other pools: %v, %v", have, err)
	}
	cancel()
	eventually(t, "nobody listens and the kernel is asked", func() bool {
		first := requests() // the first one may still be answered from what was heard
		return first != 0 && requests() == first
	})
}

// Events that were lost make the next look a new reading.
func TestForeignRoutesAreReadAfterAnOverflow(t *testing.T) {
	h := newHost(t)
	ctx, _ := background(t)
	pokes, err := h.k.WatchWith(ctx, 2048)
	must(t, err)
	calm(pokes)
	foreign(t, h)
	for round := range 5 {
		var b strings.Builder
		for _, s := range lines("10.89.%d.%d", 3000) {
			fmt.Fprintf(&b, "route add %s via 192.0.2.7\n", s)
		}
		fmt.Fprintf(&b, "route add 10.88.%d.0/24 via 192.0.2.7\nroute flush root 10.89.0.0/16\n", round)
		run(t, h, b.String())
		calm(pokes)
		if have := foreign(t, h); len(have) != round+1 {
			t.Fatalf("round %d: %v", round, have)
		}
	}
}

func TestForeignRoutesEndWithTheContext(t *testing.T) {
	h := newHost(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if all, err := h.k.Foreign(ctx, pools()); err == nil {
		t.Errorf("found %v", all)
	}
}
