package agent_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/fairlead-net/fairlead/agent"
	"github.com/fairlead-net/fairlead/bgp"
	"github.com/fairlead-net/fairlead/ipam"
	"github.com/fairlead-net/fairlead/nat"
	"github.com/fairlead-net/fairlead/nettest"
)

func route(prefix string, via ...string) bgp.Route {
	r := bgp.Route{Prefix: netip.MustParsePrefix(prefix)}
	for _, v := range via {
		r.NextHops = append(r.NextHops, netip.MustParseAddr(v))
		r.Peers = append(r.Peers, netip.MustParseAddr(v))
		r.Encaps = append(r.Encaps, bgp.VXLAN)
	}
	return r
}

func settled(t testing.TB, w *world, what string, ok func(text string) bool) string {
	t.Helper()
	var text string
	eventually(t, what, func() bool { text = w.text(); return ok(text) })
	return text
}

func TestTheNearGetRoutesAndTheFarATunnel(t *testing.T) {
	w := newWorld()
	w.hear(route("10.88.2.0/24", "192.0.2.2"), route("10.88.3.0/24", "198.51.100.3"))
	start(t, w, config("10.88.1.0/24"))
	got := settled(t, w, "announcement", func(s string) bool { return strings.Contains(s, "announce") })
	for _, line := range []string{
		"device flvxlan -> vxlan 88 port 4789 local 192.0.2.1 mtu 1450",
		"neighbour 198.51.100.3 dev flvxlan -> ",
		"route 10.88.1.0/24 -> blackhole\n",
		"route 10.88.2.0/24 -> via 192.0.2.2 dev eth0 src 192.0.2.1\n",
		"route 10.88.3.0/24 -> via 198.51.100.3 dev flvxlan onlink src 192.0.2.1\n",
		"rule 10.88.1.0/24 -> lookup 88 priority 8800\n",
		"sysctl net/ipv4/ip_forward -> 1\n",
		"member 198.51.100.3 in fairlead-peers4",
		"filter vxlan of IPv4 -> -p 17 -m udp --dport 4789 ",
		"announce 10.88.1.0/24 via 192.0.2.1 that takes VXLAN\n",
	} {
		if !strings.Contains(got, line) {
			t.Errorf("no line %q in\n%s", line, got)
		}
	}
}

func TestWhatPeersMayNotSend(t *testing.T) {
	w := newWorld()
	w.hear(route("0.0.0.0/0", "192.0.2.2"), route("10.0.0.0/8", "192.0.2.2"), route("203.0.113.0/24", "192.0.2.2"),
		route("10.88.1.0/25", "192.0.2.2"), route("10.88.1.7/32", "192.0.2.2"), route("10.88.9.0/24", "192.0.2.9"))
	w.underlay.Subnets = append(w.underlay.Subnets, netip.MustParsePrefix("10.88.9.128/25"))
	a := start(t, w, config("10.88.1.0/24"))
	eventually(t, "routes seen", func() bool { return len(a.Routes()) == 6 })
	got := make(map[string]string)
	for _, r := range a.Routes() {
		if r.Installed {
			t.Errorf("%s is installed", r.Prefix)
		}
		got[r.Prefix.String()] = r.Reason
	}
	want := map[string]string{
		"0.0.0.0/0": "default-route", "10.0.0.0/8": "outside-pools", "203.0.113.0/24": "outside-pools",
		"10.88.1.0/25": "own-block", "10.88.1.7/32": "own-block", "10.88.9.0/24": "underlay",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatal(diff)
	}
}

func TestABlockIsNotChosenInTheNetworkBeneath(t *testing.T) {
	w := newWorld()
	free := netip.MustParsePrefix("10.88.255.0/24")
	for _, taken := range []string{
		"10.88.0.0/17", "10.88.128.0/18", "10.88.192.0/19", "10.88.224.0/20", "10.88.240.0/21", "10.88.248.0/22", "10.88.252.0/23",
		"10.88.254.0/24",
	} {
		w.underlay.Subnets = append(w.underlay.Subnets, netip.MustParsePrefix(taken))
	}
	start(t, w, config(""))
	settled(t, w, "a block outside of the host's networks", func(s string) bool {
		_, rest, _ := strings.Cut(s, "announce ")
		text, _, _ := strings.Cut(rest, " ")
		block, err := netip.ParsePrefix(text)
		return err == nil && block == free
	})
}

// TestAnyDriftIsGoneInOnePass: whatever is taken from or changed in the kernel, the next pass restores all of it.
func TestAnyDriftIsGoneInOnePass(t *testing.T) {
	w := newWorld()
	var heard []bgp.Route
	for i := 2; i < 20; i++ {
		heard = append(heard, route(fmt.Sprintf("10.88.%d.0/24", i), fmt.Sprintf("192.0.2.%d", i)),
			route(fmt.Sprintf("10.88.%d.0/24", 100+i), fmt.Sprintf("198.51.100.%d", i)))
	}
	w.hear(heard...)
	a := start(t, w, config("10.88.1.0/24"))
	before := settled(t, w, "36 remote routes, and our own announced last", func(s string) bool {
		return strings.Count(s, "\nroute ") == 36+1+18 && strings.Contains(s, "\nannounce ")
	})
	rapid.Check(t, func(t *rapid.T) {
		wreck(t, &w.devices)
		wreck(t, &w.neighbours)
		wreck(t, &w.fdb)
		wreck(t, &w.routes)
		wreck(t, &w.rules)
		wreck(t, &w.sysctls)
		passes := a.Status().Revision
		w.hear(heard...)
		for deadline := time.Now().Add(5 * time.Second); w.text() != before; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("revision %d: %s", passes, cmp.Diff(before, w.text()))
			}
		}
	})
}

// wreck removes some rows of a table and puts wrong values into others.
func wreck[K, V comparable](t *rapid.T, r *rows[K, V]) {
	r.mu.Lock()
	defer r.mu.Unlock()
	keys := slices.Collect(maps.Keys(r.table))
	for _, k := range keys {
		switch rapid.IntRange(0, 3).Draw(t, "fate") {
		case 0:
			delete(r.table, k)
		case 1:
			var wrong V
			r.table[k] = wrong
		}
	}
}

func TestNothingIsPrunedBeforeThePeersHaveToldAll(t *testing.T) {
	w := newWorld()
	w.hear(route("10.88.2.0/24", "192.0.2.2"), route("10.88.3.0/24", "198.51.100.3"))
	start(t, w, config("10.88.1.0/24"))
	before := settled(t, w, "announcement", func(s string) bool { return strings.Contains(s, "announce") })

	again := newWorld() // the same kernel under a new daemon that has heard nothing yet
	again.complete = false
	again.devices.table, again.neighbours.table, again.fdb.table = w.devices.table, w.neighbours.table, w.fdb.table
	again.routes.table, again.rules.table, again.sysctls.table = w.routes.table, w.rules.table, w.sysctls.table
	again.members.table, again.filter.table = w.members.table, w.filter.table
	again.forward.table = w.forward.table
	a := start(t, again, config("10.88.1.0/24"))
	after := settled(t, again, "announcement", func(s string) bool { return strings.Contains(s, "announce") })
	if diff := cmp.Diff(before, after); diff != "" {
		t.Fatal(diff)
	}
	again.mu.Lock()
	again.complete = true
	again.mu.Unlock()
	again.hear()
	eventually(t, "prune", func() bool { return !strings.Contains(again.text(), "10.88.2.0/24") && a.Status().Routes.Direct == 0 })
}

func TestANodeWithoutLeasesYieldsItsBlock(t *testing.T) {
	w := newWorld()
	a := start(t, w, config(""))
	eventually(t, "a block", func() bool { return a.Status().Ready })
	mine := a.Status().Pools[0].Block
	w.hear(route(mine, "192.0.2.2"))
	eventually(t, "another block", func() bool { s := a.Status(); return s.Ready && s.Pools[0].Block != mine })
}

func TestANodeWithLeasesStopsHandingOut(t *testing.T) {
	w := newWorld()
	a := start(t, w, config(""))
	eventually(t, "a block", func() bool { return a.Status().Ready })
	if _, err := a.LeaseAddress(t.Context(), agent.LeaseRequest{Owner: "vm"}); err != nil {
		t.Fatal(err)
	}
	mine := a.Status().Pools[0].Block
	rival := route(mine, "192.0.2.2")
	rival.Node = "n2"
	w.hear(rival)
	eventually(t, "hold", func() bool { return !a.Status().Ready })
	_, err := a.LeaseAddress(t.Context(), agent.LeaseRequest{Owner: "vm2"})
	if !errors.Is(err, ipam.ErrHeld) || !strings.Contains(err.Error(), "n2 (192.0.2.2)") {
		t.Fatalf("lease while held: %v", err)
	}
	if got := strings.Join(a.Status().Problems, "\n"); !strings.Contains(got, "n2 (192.0.2.2)") {
		t.Fatalf("status does not name the rival: %s", got)
	}
	w.hear()
	eventually(t, "release", func() bool { return a.Status().Ready })
}

func TestDrainWithdrawsAndKeepsForwarding(t *testing.T) {
	w := newWorld()
	w.hear(route("10.88.2.0/24", "192.0.2.2"))
	a := start(t, w, config("10.88.1.0/24"))
	before := settled(t, w, "announcement", func(s string) bool { return strings.Contains(s, "announce") })
	if err := a.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	want, _, _ := strings.Cut(before, "announce")
	if diff := cmp.Diff(want, strings.TrimSuffix(w.text(), "\n")+"\n"); diff != "" {
		t.Fatal(diff)
	}
}

func TestAttachThatFailsLeavesNothing(t *testing.T) {
	w := newWorld()
	refused := errors.New("no space left in the kernel")
	w.endpoints.refuse = func(string) error { return refused }
	a := start(t, w, config("10.88.1.0/24"))
	box := nettest.NewHost(t, "box")
	_, _, err := a.Attach(t.Context(), agent.AttachRequest{Name: "web", NetNS: box.Path})
	if !errors.Is(err, refused) {
		t.Fatalf("attach: %v", err)
	}
	if all, err := a.Endpoints(); err != nil || len(all) != 0 {
		t.Fatalf("left behind: %v, %v", all, err)
	}
	if used := a.Status().Pools[0].Leased; used != 0 {
		t.Fatalf("%d addresses leaked", used)
	}
}

func TestAttachIsIdempotentAndRefusesAnotherPlace(t *testing.T) {
	w := newWorld()
	a := start(t, w, config("10.88.1.0/24"))
	box, other := nettest.NewHost(t, "box"), nettest.NewHost(t, "other")
	first, fresh, err := a.Attach(t.Context(), agent.AttachRequest{Name: "web", NetNS: box.Path})
	if err != nil || !fresh {
		t.Fatal(fresh, err)
	}
	again, fresh, err := a.Attach(t.Context(), agent.AttachRequest{Name: "web", NetNS: box.Path})
	if err != nil || fresh || !cmp.Equal(first.Addresses, again.Addresses, cmp.Comparer(sameAddr)) || first.ID != again.ID {
		t.Fatal(again, fresh, err)
	}
	_, _, err = a.Attach(t.Context(), agent.AttachRequest{Name: "web", NetNS: other.Path})
	if !errors.Is(err, agent.ErrConflict) {
		t.Fatalf("attach elsewhere: %v", err)
	}
	text := settled(t, w, "endpoint route", func(s string) bool { return strings.Contains(s, "route 10.88.1.") })
	if err := a.Detach(t.Context(), "web"); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(w.text(), "endpoint ") {
		t.Fatalf("before\n%s\nafter\n%s", text, w.text())
	}
	if err := a.Detach(t.Context(), "web"); err != nil {
		t.Fatalf("detach again: %v", err)
	}
}

func sameAddr(a, b netip.Addr) bool { return a == b }

func TestBadAttachRequests(t *testing.T) {
	w := newWorld()
	w.holds.taken = map[uint16]bool{666: true}
	a := start(t, w, config("10.88.1.0/24"))
	box := nettest.NewHost(t, "box")
	eventually(t, "ready", func() bool { return a.Status().Ready })
	ip := netip.MustParseAddr
	for name, c := range map[string]struct {
		req  agent.AttachRequest
		want error
		says string
	}{
		"no name":         {agent.AttachRequest{NetNS: box.Path}, agent.ErrBadRequest, "name"},
		"slash in name":   {agent.AttachRequest{Name: "a/b", NetNS: box.Path}, agent.ErrBadRequest, "a/b"},
		"long ifname":     {agent.AttachRequest{Name: "a", NetNS: box.Path, IfName: "sixteen-letters-"}, agent.ErrBadRequest, "ifname"},
		"both places":     {agent.AttachRequest{Name: "a", NetNS: box.Path, PID: 1}, agent.ErrBadRequest, "not both"},
		"bad spec":        {agent.AttachRequest{Name: "a", NetNS: box.Path, Publish: []string{"80/icmp"}}, agent.ErrBadRequest, "tcp, udp, sctp"},
		"taken port":      {agent.AttachRequest{Name: "a", NetNS: box.Path, Publish: []string{"666:80"}}, nat.ErrTaken, "nginx"},
		"foreign family":  {agent.AttachRequest{Name: "a", NetNS: box.Path, Publish: []string{"[2001:db8::1]:666:80"}}, nat.ErrSpec, "IPv6"},
		"no such place":   {agent.AttachRequest{Name: "a", NetNS: "/run/netns/none-such"}, agent.ErrBadRequest, "none-such"},
		"unknown network": {agent.AttachRequest{Name: "a", NetNS: box.Path, Network: "blue"}, agent.ErrNotFound, "blue"},
		"unknown pool":    {agent.AttachRequest{Name: "a", NetNS: box.Path, Pool: "blue"}, ipam.ErrNoPool, "blue"},
		"outside pools":   {agent.AttachRequest{Name: "a", NetNS: box.Path, IPs: []netip.Addr{ip("203.0.113.1")}}, ipam.ErrForeign, "203.0.113.1"},
		"other's block":   {agent.AttachRequest{Name: "a", NetNS: box.Path, IPs: []netip.Addr{ip("10.88.2.1")}}, ipam.ErrForeign, "10.88.2.1"},
		"two of a family": {agent.AttachRequest{Name: "a", NetNS: box.Path, IPs: []netip.Addr{ip("10.88.1.1"), ip("10.88.1.2")}}, agent.ErrBadRequest, "family"},
	} {
		_, _, err := a.Attach(t.Context(), c.req)
		if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n := a.Status().Pools[0].Leased; n != 0 {
		t.Errorf("%d addresses leaked", n)
	}
}

func TestSettledSaysWhatIsInTheWay(t *testing.T) {
	w := newWorld()
	w.rules.refuse = func(netip.Prefix) error { return errors.New("rules are full") }
	w.hear(route("10.88.3.0/24", "198.51.100.3"))
	a := start(t, w, config("10.88.1.0/24"))
	ctx, stop := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer stop()
	err := a.Settled(ctx, 0)
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "rules are full") {
		t.Fatal(err)
	}
}

func TestAnOffloadThatCorruptsIsTurnedOffAndSaidSo(t *testing.T) {
	w := newWorld()
	w.broken = true
	w.hear(route("10.88.3.0/24", "198.51.100.3"))
	a := start(t, w, config("10.88.1.0/24"))
	settled(t, w, "offload off", func(s string) bool { return strings.Contains(s, "mac 02:46:c0:00:02:01 checksum offload off") })
	eventually(t, "a word about it", func() bool {
		s := a.Status()
		return s.Offload == "bad" && slices.ContainsFunc(s.Problems, func(p string) bool { return strings.Contains(p, "offload is switched off") })
	})
}
