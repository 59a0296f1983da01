package story_test

import (
	"maps"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/agent"
	"github.com/fairlead-net/fairlead/nettest"
)

const fastSoon = 10 * time.Second // in which every program must be at its place

// TestPacketsGoPastTheHostsStack: containers of one host, of one subnet and of two reach each other in both families by the
// fast path, as its own counts say to the packet: of the host, of each endpoint and of each prefix.
func TestPacketsGoPastTheHostsStack(t *testing.T) {
	for name, underlay := range map[string]nettest.Family{"of both families": nettest.Dual, "of IPv4": nettest.Only4} {
		t.Run("cables "+name, func(t *testing.T) {
			t.Parallel()
			l := running(t, nettest.LabOptions{Nodes: []string{"n1", "n2", "n3"}, Underlay: underlay, Pools: []string{pool4, pool6}, Fastpath: "on", RPFilter: 1})
			all := l.AttachAll(2)
			l.WaitFast(fastSoon)
			meetAll(t, all)
			checkMeeting(t, l, l.Nodes, all, wayTo)
			for _, n := range l.Nodes {
				if s := show[agent.Status](t, n, "status"); !s.Ready || len(s.Problems) > 0 {
					t.Errorf("%s: ready %t, %v", n.Name, s.Ready, s.Problems)
				}
			}
		})
	}
}

const byKernel = "kernel" // a way that the fast path leaves to the kernel

// wayTo is how packets travel between two hosts with a fast path. No program can make the checksum of VXLAN over IPv6.
func wayTo(a, b *nettest.Node, is4 bool) string {
	way := a.WireTo(b, is4)
	if way == "vxlan" && !is4 && a.Address6.IsValid() {
		return byKernel
	}
	return way
}

// checkMeeting: packets from each container to each other one and back are counted to the packet by the hosts with a fast
// path, by the way that is told.
func checkMeeting(t *testing.T, l *nettest.Lab, fast []*nettest.Node, all []*nettest.Container, way func(a, b *nettest.Node, is4 bool) string) {
	t.Helper()
	before, want := make(map[string]nettest.FastCounts), make(map[string]nettest.FastCounts)
	for _, n := range l.Nodes {
		want[n.Name] = make(nettest.FastCounts)
	}
	for _, n := range fast {
		before[n.Name] = n.FastCounts()
	}
	var probes []*nettest.Probe
	var expects []func(sent int)
	for _, from := range all {
		for _, to := range all {
			for _, a := range to.Addresses() {
				if from != to {
					probes = append(probes, from.Probe(a, 50))
					expects = append(expects, func(sent int) { expect(t, want, from, to, a.Is4(), sent, way) })
				}
			}
		}
	}
	time.Sleep(200 * time.Millisecond)
	for i, got := range tallies(probes) {
		if got.Lost > 0 || got.Sent == 0 {
			t.Errorf("packets lost: %v", got)
		}
		expects[i](int(got.Sent))
	}
	for _, n := range fast {
		checkCounts(t, n, n.FastCounts().Since(before[n.Name]), want[n.Name])
	}
}

// meetAll has every container know its way to every other one.
func meetAll(t *testing.T, all []*nettest.Container) {
	t.Helper()
	for _, c := range all {
		for _, a := range c.Addresses() {
			c.Serve(a)
		}
	}
	for _, from := range all {
		for _, to := range all {
			for _, a := range to.Addresses() {
				if from != to {
					nettest.Eventually(t, 5*time.Second, func() error { return reaches(from, a) })
				}
			}
		}
	}
}

// expect adds what so many questions from one container to another and their answers are to be counted as.
func expect(t *testing.T, want map[string]nettest.FastCounts, from, to *nettest.Container, is4 bool, sent int, way func(a, b *nettest.Node, is4 bool) string) {
	t.Helper()
	add := func(n *nettest.Node, of, kind string) { want[n.Name][nettest.FastCount{Of: of, Way: kind}] += sent }
	for _, pair := range [][2]*nettest.Container{{from, to}, {to, from}} {
		a, b := pair[0].Node, pair[1].Node
		if a != b && way(a, b, is4) == byKernel {
			add(a, pair[0].Endpoint, "kernel")
			add(a, "", "kernel-route")
			add(b, "", "kernel-route")
			continue
		}
		add(a, pair[0].Endpoint, "out")
		add(b, pair[1].Endpoint, "in")
		if a == b {
			add(a, "", "fast-local")
			continue
		}
		add(a, "", "fast-"+way(a, b, is4))
		add(b, "", "fast-from-"+way(a, b, is4))
		add(a, blockOf(t, b, is4).String(), "out")
		add(b, blockOf(t, a, is4).String(), "in")
	}
}

// blockOf is the part of the pool of one family that the host hands out from.
func blockOf(t *testing.T, n *nettest.Node, is4 bool) netip.Prefix {
	t.Helper()
	if is4 {
		return block(t, n, pool4)
	}
	return block(t, n, pool6)
}

// checkCounts: what has grown is what is wanted, and all else has not, but ARP and the like and the packets to nobody by which
// a daemon tests the checksums of its card.
func checkCounts(t *testing.T, n *nettest.Node, grown, want nettest.FastCounts) {
	t.Helper()
	for of, got := range grown {
		if got != want[of] && of.Way != "kernel-protocol" && of.Way != "kernel-tunnel" {
			t.Errorf("%s: %q %s grew by %d, want %d", n.Name, of.Of, of.Way, got, want[of])
		}
	}
	for of := range maps.Keys(want) {
		if _, there := grown[of]; !there {
			t.Errorf("%s: %q has no count of %s", n.Name, of.Of, of.Way)
		}
	}
}

// withFastpath is the host's config with another [fastpath] mode than auto.
func withFastpath(t *testing.T, n *nettest.Node, mode string) string {
	t.Helper()
	const auto = "[fastpath]\nmode = \"auto\""
	if !strings.Contains(n.Config(), auto) {
		t.Fatalf("the config of %s has another mode:\n%s", n.Name, n.Config())
	}
	return strings.Replace(n.Config(), auto, strings.Replace(auto, "auto", mode, 1), 1)
}
