package story_test

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/agent"
	"github.com/fairlead-net/fairlead/nettest"
)

// TestHostsWithAndWithoutTheFastPathMeet: hosts of which every other one has none reach each other in all directions,
// families and protocols, and those that have one use it towards all.
func TestHostsWithAndWithoutTheFastPathMeet(t *testing.T) {
	t.Parallel()
	l := lab(t, nettest.LabOptions{Pools: []string{pool4, pool6}, RPFilter: 1})
	slow := []*nettest.Node{l.Node("n2"), l.Node("n4")}
	for _, n := range slow {
		n.WriteConfig(withFastpath(t, n, "off"))
	}
	l.Start()
	var all []*nettest.Container
	for _, n := range l.Nodes {
		all = append(all, n.Attach(n.Name+"a", "--publish", "8080:80/tcp", "--publish", "8080:80/udp"))
	}
	fast := []*nettest.Node{l.Node("n1"), l.Node("n3")}
	for _, n := range fast {
		n.WaitFast(fastSoon)
	}
	for _, n := range slow {
		if s := show[agent.Status](t, n, "status"); s.Fastpath != "off" || len(n.Programs()) > 0 {
			t.Errorf("%s: fast path %s, %v", n.Name, s.Fastpath, n.Programs())
		}
	}
	meetAll(t, all)
	way := func(a, b *nettest.Node, is4 bool) string {
		if a.Subnet != b.Subnet && is4 && (slices.Contains(slow, a) || slices.Contains(slow, b)) {
			return "vxlan" // IPIP needs the fast path on both sides where the kernel has none
		}
		return wayTo(a, b, is4)
	}
	checkMeeting(t, l, fast, all, way)
	checkStreams(t, all)
	for _, c := range all {
		offer(c, plainPort, "tcp", "udp")
	}
	for _, from := range all {
		for _, to := range all {
			for _, a := range addressesOf(to.Node) {
				for _, proto := range []string{"tcp", "udp"} {
					if err := answers(from.Host, proto, netip.AddrPortFrom(a, fixedPort), to.Endpoint); err != nil {
						t.Error(err)
					}
				}
			}
		}
	}
}

// checkStreams: a TCP connection from each container to each other one carries what is sent.
func checkStreams(t *testing.T, all []*nettest.Container) {
	t.Helper()
	var flows []*nettest.Flows
	for _, from := range all {
		for _, to := range all {
			for _, a := range to.Addresses() {
				if from != to {
					flows = append(flows, from.Flows(a, 1))
				}
			}
		}
	}
	time.Sleep(200 * time.Millisecond)
	for _, f := range flows {
		if got := f.Stop(); len(got.Faults) > 0 || got.Rounds == 0 {
			t.Errorf("flows broken: %v", got)
		}
	}
}
