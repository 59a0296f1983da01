package agent_test

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/agent"
)

// settler is an agent that runs on a host whose address changes.
type settler struct {
	*world
	t     *testing.T
	agent *agent.Agent
	ended chan error
}

func settleDown(t *testing.T, change func(*agent.Config)) *settler {
	t.Helper()
	s := &settler{world: newWorld(), t: t, ended: make(chan error, 1)}
	s.hear(route("10.88.2.0/24", "192.0.2.2"))
	s.clock.advance(0) // from now on it stands
	cfg := config("10.88.1.0/24")
	cfg.Node.Follow = true
	change(&cfg)
	s.run(cfg)
	eventually(t, "the node is ready", func() bool { return s.agent.Status().Ready })
	if !strings.Contains(s.routes.text("")[1], "src 192.0.2.1") {
		t.Fatalf("the route has no source: %q", s.routes.text(""))
	}
	return s
}

func (s *settler) run(cfg agent.Config) {
	s.t.Helper()
	s.agent = prepare(s.t, s.world, cfg, &source{cfg: cfg})
	ctx, stop := context.WithCancel(context.Background())
	go func() { s.ended <- s.agent.Run(ctx) }()
	s.t.Cleanup(stop)
}

// has gives the host's first link another address in place of all that the host had.
func (s *settler) has(address string) { s.hasOn("eth0", address) }

func (s *settler) hasOn(dev, address string) {
	s.mu.Lock()
	s.underlay.Dev, s.underlay.Address = dev, netip.MustParseAddr(address)
	s.mu.Unlock()
}

// look waits for a pass that sees the world as it is now.
func (s *settler) look() {
	s.t.Helper()
	for range 2 { // the loop takes the second poke when the pass of the first is over
		poke(s.rib)
		eventually(s.t, "a pass", func() bool { return len(s.rib) == 0 || len(s.ended) > 0 })
	}
}

func (s *settler) stays() {
	s.t.Helper()
	s.look()
	if len(s.ended) > 0 {
		s.t.Fatalf("the agent has ended: %v", <-s.ended)
	}
}

// moves waits for the end.
func (s *settler) moves() {
	s.t.Helper()
	select {
	case err := <-s.ended:
		if !errors.Is(err, agent.ErrMoved) {
			s.t.Errorf("the agent ends with %v", err)
		}
	case <-time.After(5 * time.Second):
		s.t.Error("the agent goes on")
	}
}

func TestTheAgentEndsWhenTheHostHasAnotherAddressForASecond(t *testing.T) {
	s := settleDown(t, func(*agent.Config) {})
	s.has("192.0.2.9")
	s.stays()
	if rows := s.routes.text(""); strings.Contains(strings.Join(rows, "\n"), "src") {
		t.Errorf("a source that is gone: %q", rows)
	}
	s.clock.advance(900 * time.Millisecond)
	s.stays()
	s.has("192.0.2.10") // and so the time begins anew
	s.stays()
	s.clock.advance(900 * time.Millisecond)
	s.stays()
	s.has("192.0.2.1")
	s.stays()
	s.has("192.0.2.10")
	s.movesAfterASecond()
	if !strings.Contains(s.text(), "announce 10.88.1.0/24 via 192.0.2.1") {
		t.Errorf("left behind:\n%s", s.text())
	}
}

// movesAfterASecond holds the agent to following an address that it has just got, after a second and not before.
func (s *settler) movesAfterASecond() {
	s.t.Helper()
	s.stays()
	s.clock.advance(900 * time.Millisecond)
	s.stays()
	s.clock.advance(100 * time.Millisecond)
	poke(s.rib)
	s.moves()
}

// TestTheAgentLooksAgainByItself: nothing may poke after the address has changed.
func TestTheAgentLooksAgainByItself(t *testing.T) {
	s := settleDown(t, func(*agent.Config) {})
	s.clock.advance(0)
	s.has("192.0.2.9")
	s.stays()
	s.clock.advance(2 * time.Second)
	s.moves()
}

// TestTheAgentWaitsForTheLinkThatHadTheAddress: another uplink stands in for the first, and the others do not know its
// address.
func TestTheAgentWaitsForTheLinkThatHadTheAddress(t *testing.T) {
	s := settleDown(t, func(*agent.Config) {})
	a := s.agent
	problem := func() string { return strings.Join(a.Status().Problems, "\n") }
	s.hasOn("eth1", "198.51.100.1")
	s.stays()
	for range 3 {
		s.clock.advance(time.Minute)
		s.stays()
	}
	for _, words := range []string{"it was on eth0", "198.51.100.1 on eth1", "set [node] address and restart"} {
		if a.Status().Ready || !strings.Contains(problem(), words) {
			t.Errorf("ready %v, and the problem does not name %q: %s", a.Status().Ready, words, problem())
		}
	}
	s.has("192.0.2.1")
	s.stays()
	if status := a.Status(); !status.Ready || len(status.Problems) > 0 {
		t.Errorf("the address is back; ready %v, problems %q", status.Ready, status.Problems)
	}
	if rows := s.routes.text(""); !strings.Contains(rows[1], "src 192.0.2.1") {
		t.Errorf("the route has no source: %q", rows)
	}
	s.hasOn("eth1", "198.51.100.1")
	s.stays()
	s.clock.advance(time.Minute)
	s.has("192.0.2.9") // the first link has its new address later than the second uplink has the default route
	s.movesAfterASecond()
}

// TestTheAgentFollowsAnAddressThatItHasNeverSeen: it went while the daemon started, so no link is known for it.
func TestTheAgentFollowsAnAddressThatItHasNeverSeen(t *testing.T) {
	s := &settler{world: newWorld(), t: t, ended: make(chan error, 1)}
	s.clock.advance(0)
	s.hasOn("eth1", "198.51.100.1")
	cfg := config("10.88.1.0/24")
	cfg.Node.Follow = true
	s.run(cfg)
	s.stays()
	s.clock.advance(time.Second)
	s.moves()
}

func TestTheAgentStaysWhereItIs(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*agent.Config)
		now    string
	}{
		{"at a configured address", func(c *agent.Config) { c.Node.Follow = false }, "192.0.2.9"},
		{"without another of its family", func(*agent.Config) {}, "2001:db8:1::9"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := settleDown(t, c.change)
			s.has(c.now)
			s.stays()
			s.clock.advance(time.Minute)
			s.stays()
		})
	}
	t.Run("drained", func(t *testing.T) {
		w := newWorld()
		cfg := config("10.88.1.0/24")
		cfg.Node.Follow = true
		a := start(t, w, cfg)
		eventually(t, "the node is ready", func() bool { return a.Status().Ready })
		if err := a.Drain(t.Context()); err != nil {
			t.Fatal(err)
		}
		s := &settler{world: w, t: t}
		s.has("192.0.2.9")
		s.stays()
		s.clock.advance(time.Minute)
		s.stays()
		if !a.Status().Drained {
			t.Error("it announces again")
		}
	})
}
