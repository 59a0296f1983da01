package story_test

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/nettest"
)

// traffic is what flows over both kinds of path while something happens to the daemons.
type traffic struct {
	probes []*nettest.Probe
	flows  []*nettest.Flows
}

// busy sets containers to talk, on the direct path and through the tunnel: UDP at 1 kHz both ways, and TCP flows.
func busy(t *testing.T, a, direct, tunnelled *nettest.Container, flows int) *traffic {
	t.Helper()
	for _, c := range []*nettest.Container{a, direct, tunnelled} {
		c.Serve(c.IP4)
	}
	for _, c := range []*nettest.Container{direct, tunnelled} {
		nettest.Eventually(t, 5*time.Second, func() error { return reaches(a, c.IP4) })
	}
	tr := &traffic{}
	for _, pair := range [][2]*nettest.Container{{a, direct}, {direct, a}, {a, tunnelled}, {tunnelled, a}} {
		tr.probes = append(tr.probes, pair[0].Probe(pair[1].IP4, 1000))
	}
	for _, c := range []*nettest.Container{direct, tunnelled} {
		tr.flows = append(tr.flows, a.Flows(c.IP4, flows))
	}
	return tr
}

// end stops the traffic and holds it to no loss at all.
func (tr *traffic) end(t *testing.T) {
	t.Helper()
	for _, p := range tr.probes {
		got := p.Stop()
		t.Log(got)
		if got.Lost != 0 || got.Duplicate != 0 || len(got.Errors) != 0 {
			t.Errorf("packets lost: %v", got)
		}
	}
	for _, f := range tr.flows {
		got := f.Stop()
		t.Log(got)
		if len(got.Faults) != 0 || got.Rounds == 0 {
			t.Errorf("flows broken: %v", got)
		}
	}
}

func TestKillingAndRestartingDaemonsLosesNoPacketAndFlapsNoRoute(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	chance := rand.New(rand.NewPCG(seed, 88))
	l := running(t, nettest.LabOptions{HoldTime: 9 * time.Second, RPFilter: 1})
	tr := busy(t, l.Node("n1").Attach("n1a"), l.Node("n2").Attach("n2a"), l.Node("n3").Attach("n3a"), 50)
	monitors := make(map[string]*nettest.Monitor)
	for _, n := range l.Nodes {
		monitors[n.Name] = n.Monitor()
	}
	kill := make([]bool, 20)
	for i := range 10 {
		kill[i] = true
	}
	chance.Shuffle(len(kill), func(i, j int) { kill[i], kill[j] = kill[j], kill[i] })
	for i, hard := range kill {
		pause(chance, 1500*time.Millisecond)
		n := l.Nodes[chance.IntN(3)]
		if hard {
			n.Kill()
		} else if code := n.Stop(); code != 0 {
			t.Errorf("%d: %s ended with exit code %d on SIGTERM", i, n.Name, code)
		}
		pause(chance, 500*time.Millisecond)
		n.Start()
	}
	for _, n := range l.Nodes {
		n.WaitConverged(60 * time.Second)
	}
	time.Sleep(time.Second) // what a late prune would break shows now
	tr.end(t)
	for _, n := range l.Nodes {
		if changes := slices.Compact(monitors[n.Name].Changes()); len(changes) > 0 {
			t.Errorf("routes of %s changed: %q", n.Name, changes)
		}
	}
}

// pause lets a random time pass, because the moment of a fault is what the story varies.
func pause(chance *rand.Rand, most time.Duration) {
	time.Sleep(time.Duration(chance.Int64N(int64(most))))
}
