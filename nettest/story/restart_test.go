package story_test

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/agent"
	"github.com/fairlead-net/fairlead/nettest"
)

// traffic is what flows over both kinds of path while something happens to the daemons.
type traffic struct {
	probes []*nettest.Probe
	flows  []*nettest.Flows
}

// busy sets containers of three hosts to talk, on the direct path and through the tunnel: UDP at 1 kHz both ways, and TCP
// flows. Older kernels drop what they send by a link at the moment when it gets the first of its programs, so that waits.
func busy(t *testing.T, l *nettest.Lab, flows int) *traffic {
	t.Helper()
	a, direct, tunnelled := l.Node("n1").Attach("n1a"), l.Node("n2").Attach("n2a"), l.Node("n3").Attach("n3a")
	l.WaitFast(fastSoon)
	for _, c := range []*nettest.Container{a, direct, tunnelled} {
		for _, address := range c.Addresses() {
			c.Serve(address)
		}
	}
	tr := &traffic{}
	for _, pair := range [][2]*nettest.Container{{a, direct}, {direct, a}, {a, tunnelled}, {tunnelled, a}} {
		for _, address := range pair[1].Addresses() {
			nettest.Eventually(t, 5*time.Second, func() error { return reaches(pair[0], address) })
			if address.Is4() || pair[0] == a { // one IPv6 probe for each path is enough: it is there and back
				tr.probes = append(tr.probes, pair[0].Probe(address, 1000/nettest.Slowness()))
			}
		}
	}
	for _, c := range []*nettest.Container{direct, tunnelled} {
		tr.flows = append(tr.flows, a.Flows(c.IP4, max(2, flows/nettest.Slowness())))
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
	l := running(t, nettest.LabOptions{HoldTime: 9 * time.Second, RPFilter: 1, Pools: pools()})
	tr := busy(t, l, 50)
	calm := watched(t, l.Nodes)
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
		} else if code := n.Stop(); code > 0 {
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
	calm()
}

// watched listens to the routes of hosts; what it returns holds them to not having changed since.
func watched(t *testing.T, nodes []*nettest.Node) (calm func()) {
	t.Helper()
	monitors := make(map[string]*nettest.Monitor)
	for _, n := range nodes {
		monitors[n.Name] = n.Monitor()
	}
	return func() {
		t.Helper()
		for _, n := range nodes {
			if changes := slices.Compact(monitors[n.Name].Changes()); len(changes) > 0 {
				t.Errorf("routes of %s changed: %q", n.Name, changes)
			}
		}
	}
}

func TestAllDaemonsMayBeKilledAtOnce(t *testing.T) {
	l := running(t, nettest.LabOptions{HoldTime: 9 * time.Second, RPFilter: 1, Pools: pools()})
	tr := busy(t, l, 10)
	calm := watched(t, l.Nodes)
	for range 2 {
		for _, n := range l.Nodes {
			n.Kill()
		}
		for _, n := range l.Nodes {
			n.Start()
		}
		for _, n := range l.Nodes {
			n.WaitConverged(60 * time.Second)
		}
	}
	tr.end(t)
	calm()
}

func TestARestartBesideADeadHostDisturbsNobody(t *testing.T) {
	l := running(t, nettest.LabOptions{RPFilter: 1, Pools: pools()})
	n, dead := l.Node("n1"), l.Node("n4")
	tr := busy(t, l, 10)
	gone := block(t, dead, pool4)
	dead.Unplug()
	for _, other := range others(l, dead) {
		nettest.Eventually(t, 10*time.Second, func() error { return without(other, gone) })
	}
	calm := watched(t, others(l, dead))
	n.Kill()
	n.Start()
	n.WaitReady(10 * time.Second)
	nettest.Eventually(t, 20*time.Second, func() error {
		if s := show[agent.Status](t, n, "status"); s.Peers.Established != 2 || used(t, n) != 2*len(pools()) {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
	tr.end(t)
	calm()
	n.Attach("n1b") // it does not wait for the dead
}

// pause lets a random time pass, because the moment of a fault is what the story varies.
func pause(chance *rand.Rand, most time.Duration) {
	time.Sleep(time.Duration(chance.Int64N(int64(most))))
}

func TestADaemonThatIsStoppedWhileItStartsEndsWell(t *testing.T) {
	l := lab(t, nettest.LabOptions{Nodes: []string{"n1", "n2"}})
	n := l.Node("n1")
	for i := range 40 {
		n.Start()
		time.Sleep(time.Duration(i) * 5 * time.Millisecond) // another moment of the start each time
		// Before it has come as far as to listen to signals it ends by the signal itself: then the code is -1.
		if code := n.Stop(); code > 0 {
			t.Fatalf("stopped after %d ms it ended with exit code %d", i*5, code)
		}
	}
	n.Start()
	n.WaitReady(20 * time.Second)
}

func TestAReturnThatFailsHalfwayCostsARestartingHostNothing(t *testing.T) {
	l := running(t, nettest.LabOptions{HoldTime: 9 * time.Second, RPFilter: 1, Pools: pools()})
	n := l.Node("n1")
	tr := busy(t, l, 10)
	calm := watched(t, l.Nodes)
	n.Kill()
	for range 5 {
		for _, peer := range others(l, n) {
			hangUp(t, n, peer)
		}
	}
	n.Start()
	n.WaitConverged(60 * time.Second)
	tr.end(t)
	calm()
}

// hangUp opens a session with a peer as far as the peer's own words, and leaves it then, as a daemon does that is killed
// while it starts. It tries for some time: a peer that has just lost a session takes a rest.
func hangUp(t *testing.T, n, peer *nettest.Node) {
	t.Helper()
	nettest.Eventually(t, 10*time.Second, func() error {
		return n.Do(func() error {
			c, err := net.DialTimeout("tcp", netip.AddrPortFrom(peer.Address(), 179).String(), time.Second)
			if err != nil {
				return err
			}
			defer c.Close()
			if err := c.SetDeadline(time.Now().Add(2 * time.Second)); err != nil {
				return err
			}
			_, err = io.ReadFull(c, make([]byte, 29)) // the shortest OPEN, RFC 4271 section 4.2
			return err
		})
	})
}
