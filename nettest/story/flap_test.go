package story_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/nettest"
)

const (
	flaps    = 20
	flapTime = time.Second / 2 // that a link is down, and then up
)

// flap takes links down and up again, once a second, and returns the longest time that they were down.
func flap(down, up func()) (longest time.Duration) {
	begun := time.Now()
	for i := range flaps {
		time.Sleep(time.Until(begun.Add(2 * time.Duration(i) * flapTime)))
		cut := time.Now()
		down()
		time.Sleep(time.Until(begun.Add((2*time.Duration(i) + 1) * flapTime)))
		up()
		longest = max(longest, time.Since(cut))
	}
	return longest
}

// hasten has hosts and router ask for a neighbour every 50 ms instead of every second. With one question a second, of
// which the first is asked while the link is down, links that flap once a second are always down when it is asked again:
// the hosts themselves would not reach each other for as long as it goes on.
func hasten(l *nettest.Lab) {
	for _, family := range []string{"ipv4", "ipv6"} {
		for _, n := range l.Nodes {
			n.Sysctl("net/"+family+"/neigh/eth0/retrans_time_ms", "50")
		}
		for _, dev := range []string{"eth0", "eth1"} {
			l.Router.Sysctl("net/"+family+"/neigh/"+dev+"/retrans_time_ms", "50")
		}
	}
}

// One host has its own link taken down, so that its kernel drops routes and IPv6 addresses; another one only loses the
// carrier, so that its kernel keeps everything. Each talks to a host of its subnet and to one behind the router.
func TestFlappingLinksLeaveNoStaleRouteAndCostLittleMoreThanTheFlaps(t *testing.T) {
	l := running(t, nettest.LabOptions{Pools: []string{pool4, pool6}, RPFilter: 1, HoldTime: 9 * time.Second, Mode: "auto"})
	hasten(l)
	containers := make(map[string]*nettest.Container)
	for _, c := range l.AttachAll(1) {
		containers[c.Node.Name] = c
		for _, a := range c.Addresses() {
			c.Serve(a)
		}
	}
	own, carrier := l.Node("n1"), l.Node("n4")
	var probes []*nettest.Probe
	for from, peers := range map[*nettest.Node][]string{own: {"n2", "n3"}, carrier: {"n3", "n2"}} {
		for _, peer := range peers {
			for i, a := range containers[peer].Addresses() {
				nettest.Eventually(t, 5*time.Second, func() error { return reaches(containers[from.Name], a) })
				probes = append(probes, containers[from.Name].Probe(a, []int{1000, 250}[i])) // less of IPv6: both take the same ways
			}
		}
	}
	before := make(map[*nettest.Node]nettest.State)
	for _, n := range l.Nodes {
		before[n] = n.State()
	}
	longest := flap(func() { own.Down(); carrier.Unplug() }, func() { own.Up(); carrier.Plug() })
	for _, n := range l.Nodes {
		took := nettest.Eventually(t, 3*time.Second, func() error {
			if diff := nettest.Diff(before[n], n.State()); len(diff) > 0 {
				return fmt.Errorf("the kernel of %s differs:\n%s", n.Name, strings.Join(diff, "\n"))
			}
			return nil
		})
		t.Logf("%s as before after %v", n.Name, took)
	}
	t.Logf("links were down for up to %v", longest)
	for _, got := range tallies(probes) {
		gap := got.LongestGap()
		t.Logf("%s: %d of %d lost, %d gaps, the longest %v", got.Title, got.Lost, got.Sent, len(got.Gaps), gap)
		if gap.For > longest+time.Second {
			t.Errorf("%s: silent for %v, and the link was down for up to %v", got.Title, gap, longest)
		}
		if gap.For < flapTime/2 {
			t.Errorf("%s: nothing was cut: %v", got.Title, got)
		}
	}
}
