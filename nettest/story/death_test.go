package story_test

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/agent"
	"github.com/fairlead-net/fairlead/nettest"
)

func TestADeadHostsRoutesGoInTimeAndComeBackWithIt(t *testing.T) {
	for _, hold := range []time.Duration{3 * time.Second, 9 * time.Second} {
		t.Run("hold time "+hold.String(), func(t *testing.T) {
			l := running(t, nettest.LabOptions{HoldTime: hold, Pools: []string{pool4, pool6}})
			dead, alive := l.Node("n2"), l.Node("n1")
			there, here := dead.Attach("n2a"), alive.Attach("n1a")
			there.Serve(there.IP4)
			there.Serve(there.IP6)
			blocks := []netip.Prefix{block(t, dead, pool4), block(t, dead, pool6)}
			dead.Unplug()
			cut := time.Now()
			for _, p := range blocks {
				for _, n := range others(l, dead) {
					nettest.Eventually(t, hold+time.Second-time.Since(cut), func() error { return without(n, p) })
				}
			}
			t.Logf("gone after %v", time.Since(cut))
			dead.Plug()
			back := time.Now()
			for _, n := range others(l, dead) {
				for _, p := range blocks {
					nettest.Eventually(t, 3*time.Second-time.Since(back), func() error { return known(n, p) })
				}
				t.Logf("back on %s after %v", n.Name, time.Since(back))
			}
			nettest.Eventually(t, 3*time.Second, func() error { return reaches(here, there.IP4) })
			nettest.Eventually(t, 3*time.Second, func() error { return reaches(here, there.IP6) })
		})
	}
}

// known is an error that says how a host's sessions fare, unless it has the route.
func known(n *nettest.Node, p netip.Prefix) error {
	err := with(n, p)
	if err == nil {
		return nil
	}
	var peers []agent.Peer
	if asked := n.Get("peers", &peers); asked != nil {
		return errors.Join(err, asked)
	}
	return fmt.Errorf("%w; its peers: %+v", err, peers)
}

// others are all hosts but one.
func others(l *nettest.Lab, but *nettest.Node) []*nettest.Node {
	return slices.DeleteFunc(slices.Clone(l.Nodes), func(n *nettest.Node) bool { return n == but })
}

func TestADrainedHostIsLeftByTheOthersUntilItStartsAgain(t *testing.T) {
	l := running(t, nettest.LabOptions{Nodes: []string{"n1", "n2", "n3"}, Pools: []string{pool4, pool6}, HoldTime: 9 * time.Second})
	n := l.Node("n1")
	c, other := n.Attach("n1a"), l.Node("n2").Attach("n2a")
	other.Serve(other.IP4)
	blocks := []netip.Prefix{block(t, n, pool4), block(t, n, pool6)}
	n.Fairlead("drain")
	for _, peer := range others(l, n) {
		for _, p := range blocks {
			nettest.Eventually(t, soon, func() error { return without(peer, p) })
		}
	}
	s := show[agent.Status](t, n, "status")
	if !s.Drained || s.Peers.Established != 2 || used(t, n) != 4 {
		t.Errorf("the drained host: %+v", s)
	}
	n.Stop()
	n.Start()
	for _, node := range l.Nodes {
		node.WaitConverged(20 * time.Second)
	}
	nettest.Eventually(t, 5*time.Second, func() error { return reaches(c, other.IP4) })
}
