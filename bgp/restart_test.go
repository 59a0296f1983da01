package bgp_test

import (
	"net"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/bgp"
)

// established says that every session is up and has told all.
func established(e event) bool { return up(len(e.Peers))(e) }

func routed(prefix string, hops ...string) func(event) bool {
	return func(e event) bool { return has(e.Routes, prefix, hops...) }
}

// pair is two nodes with a session between them; "higher" and "lower" say whose address the first has, since only the
// higher one connects.
func pair(t *testing.T, first string) (cable *lan, a, b *node) {
	cable = newLAN(t)
	lower := &node{prefix: "10.88.1.0/24", address: "192.0.2.1"}
	higher := &node{prefix: "10.88.2.0/24", address: "192.0.2.2"}
	lower.host, lower.port = cable.host("lower", "192.0.2.1/24")
	higher.host, higher.port = cable.host("higher", "192.0.2.2/24")
	lower.cfg, higher.cfg = mesh("192.0.2.1", "192.0.2.2"), mesh("192.0.2.2", "192.0.2.1")
	a, b = lower, higher
	if first == "higher" {
		a, b = higher, lower
	}
	return cable, a, b
}

func TestKilledAndRestartedNodeIsNotMissed(t *testing.T) {
	for _, victim := range []string{"lower", "higher"} {
		t.Run(victim, func(t *testing.T) {
			t.Parallel()
			_, a, b := pair(t, victim)
			a.encaps = bgp.IPIP | bgp.VXLAN
			a.start(t)
			b.start(t)
			b.until("hears the victim", 5*time.Second, accepts(a.prefix, a.encaps))
			b.until("has a session", 5*time.Second, established)
			for range 2 {
				mark := b.mark()
				a.kill()
				began := time.Now()
				b.until("sees the session end", time.Second, func(e event) bool { return e.Peers[0].State != "established" })
				if got := b.peer(a.address); got.LastError == "" || got.Received != 1 {
					t.Errorf("the neighbour says %+v", got)
				}
				a.cfg.Warm = true
				a.start(t)
				ready := a.until("is complete", 10*time.Second, func(e event) bool { return e.Complete && established(e) })
				if !a.sees(b) {
					t.Errorf("complete without %s: %v", b.prefix, a.now().Routes)
				}
				b.until("has the session again", 5*time.Second, established)
				t.Logf("complete %v after the start, session back %v after the kill", ready, time.Since(began))
				if ready > 3*time.Second {
					t.Errorf("complete only %v after the start", ready)
				}
				if c := b.changes(mark); len(c) > 0 {
					t.Errorf("the neighbour saw %v", c)
				}
			}
		})
	}
}

// TestReturnThatFailsHalfwayIsNoDeath: a node that is restarted once more before its session is up, or whose port is
// scanned. GoBGP forgets its routes then.
func TestReturnThatFailsHalfwayIsNoDeath(t *testing.T) {
	t.Parallel()
	_, a, b := pair(t, "higher")
	for _, n := range []*node{a, b} {
		n.cfg.RestartTime = 5 * time.Second
		n.encaps = bgp.VXLAN
		n.start(t)
	}
	b.until("hears the victim", 5*time.Second, func(e event) bool { return accepts(a.prefix, a.encaps)(e) && established(e) })
	before := b.mark()
	fail := func() {
		b.until("waits for the victim", 3*time.Second, func(e event) bool { return e.Peers[0].State == "active" })
		err := a.host.Do(func() error {
			d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(a.address)}}
			c, err := d.Dial("tcp", b.address+":179")
			if err == nil {
				err = c.Close()
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		b.until("sees the return fail", time.Second, func(e event) bool { return e.Peers[0].State == "idle" })
	}
	a.kill()
	fail()
	a.cfg.Warm = true
	a.start(t)
	b.until("has the session again", 5*time.Second, established)
	if c := b.changes(before); len(c) > 0 {
		t.Errorf("the neighbour saw %v", c)
	}
	a.announce()
	b.until("hears the withdrawal", time.Second, routed(a.prefix))
	a.announce(ann(a.prefix, a.address))
	b.until("hears the route", time.Second, routed(a.prefix, a.address))
	a.kill()
	fail()
	gone := b.until("forgets the victim", 7*time.Second, routed(a.prefix))
	if gone < 2*time.Second {
		t.Errorf("forgotten after %v already", gone)
	}
}

func TestNodeThatDoesNotReturnIsForgottenAfterItsRestartTime(t *testing.T) {
	t.Parallel()
	_, a, b := pair(t, "lower")
	a.cfg.RestartTime = 2 * time.Second
	a.start(t)
	b.start(t)
	b.until("hears the victim", 5*time.Second, func(e event) bool { return routed(a.prefix, a.address)(e) && established(e) })
	a.kill()
	took := b.until("forgets the victim", 5*time.Second, routed(a.prefix))
	if took < time.Second {
		t.Errorf("forgotten after %v already", took)
	}
	if !b.now().Complete {
		t.Error("not complete any more")
	}
}

func TestPeersAskedToForgetDoSoAtOnce(t *testing.T) {
	t.Parallel()
	_, a, b := pair(t, "lower")
	a.cfg.GracefulRestart = false
	a.start(t)
	b.start(t)
	b.until("hears the victim", 5*time.Second, func(e event) bool { return routed(a.prefix, a.address)(e) && e.Complete })
	a.kill()
	b.until("forgets the victim", time.Second, routed(a.prefix))
}

// TestOrdinaryStopSendsNoCease: a daemon that is told to stop leaves as one that is killed.
func TestOrdinaryStopSendsNoCease(t *testing.T) {
	t.Parallel()
	_, a, b := pair(t, "higher")
	a.start(t)
	b.start(t)
	b.until("hears the other", 5*time.Second, func(e event) bool { return routed(a.prefix, a.address)(e) && established(e) })
	mark := b.mark()
	if e := a.do(command{Close: true}); e.Error != "" {
		t.Fatal(e.Error)
	}
	if err := a.cmd.Wait(); err != nil {
		t.Fatalf("end of the process: %v", err)
	}
	b.until("sees the session end", time.Second, func(e event) bool { return e.Peers[0].State != "established" })
	if got := b.peer(a.address).LastError; got != "connection lost: routes are kept for the peer's restart time" {
		t.Errorf("the session ended by %q", got)
	}
	time.Sleep(500 * time.Millisecond)
	if c := b.changes(mark); len(c) > 0 || !b.sees(a) {
		t.Errorf("the neighbour saw %v", c)
	}
}

func TestDeadHostIsForgottenByItsHoldTimeAndBackAtOnce(t *testing.T) {
	for _, victim := range []string{"lower", "higher"} {
		t.Run(victim, func(t *testing.T) {
			t.Parallel()
			cable, a, b := pair(t, victim)
			a.start(t)
			b.start(t)
			b.until("hears the victim", 5*time.Second, routed(a.prefix, a.address))
			cable.unplug(a.port)
			gone := b.until("forgets the victim", 5*time.Second, routed(a.prefix))
			if gone > 4*time.Second {
				t.Errorf("forgotten only after %v", gone)
			}
			if got := b.peer(a.address); got.LastError != "hold timer expired" || got.State == "established" {
				t.Errorf("the neighbour says %+v", got)
			}
			// The moment of the return is anywhere in the cycle of attempts.
			time.Sleep(time.Duration(time.Now().UnixNano() % int64(2*time.Second)))
			cable.plug(a.port)
			back := b.until("hears the victim again", 10*time.Second, routed(a.prefix, a.address))
			a.until("hears the other again", time.Second, routed(b.prefix, b.address))
			t.Logf("gone after %v, back after %v", gone, back)
			if back > 3500*time.Millisecond {
				t.Errorf("back only after %v", back)
			}
		})
	}
}

// TestLinkFlapShorterThanTheHoldTimeIsNotSeen: the connection carries on where it was.
func TestLinkFlapShorterThanTheHoldTimeIsNotSeen(t *testing.T) {
	t.Parallel()
	cable, a, b := pair(t, "lower")
	a.start(t)
	b.start(t)
	b.until("hears the other", 5*time.Second, func(e event) bool { return routed(a.prefix, a.address)(e) && established(e) })
	mark, since := b.mark(), b.peer(a.address).Since
	cable.unplug(a.port)
	time.Sleep(time.Second)
	cable.plug(a.port)
	time.Sleep(3 * time.Second)
	if c := b.changes(mark); len(c) > 0 || !b.peer(a.address).Since.Equal(since) {
		t.Errorf("the neighbour saw %v, %+v", c, b.peer(a.address))
	}
}

// TestFrozenProcessIsDead: its host answers for it, so the connection stands while nobody reads it.
func TestFrozenProcessIsDead(t *testing.T) {
	t.Parallel()
	_, a, b := pair(t, "lower")
	a.start(t)
	b.start(t)
	b.until("hears the victim", 5*time.Second, routed(a.prefix, a.address))
	if err := a.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	b.until("forgets the victim", 4*time.Second, routed(a.prefix))
	if err := a.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	back := b.until("hears the victim again", 10*time.Second, routed(a.prefix, a.address))
	t.Logf("back after %v", back)
}

// TestSecondNodeDiesWhileTheFirstIsAwaited has both others restart at once, and one die for good.
func TestSecondNodeDiesWhileTheFirstIsAwaited(t *testing.T) {
	t.Parallel()
	nodes := trio(t)
	a, b, c := nodes[0], nodes[1], nodes[2]
	for _, n := range nodes {
		n.cfg.RestartTime = 4 * time.Second
		n.start(t)
	}
	all := func(e event) bool {
		return has(e.Routes, a.prefix, a.address) && has(e.Routes, b.prefix, b.address) && established(e)
	}
	c.until("hears both", 6*time.Second, all)
	mark := c.mark()
	a.kill()
	b.kill()
	a.cfg.Warm, b.cfg.Warm = true, true
	a.start(t)
	b.start(t)
	c.until("has both again", 6*time.Second, established)
	b.until("has both again", 6*time.Second, func(e event) bool { return established(e) && b.sees(a) && b.sees(c) })
	if got := c.changes(mark); len(got) > 0 {
		t.Errorf("the neighbour saw %v", got)
	}
	a.kill()
	b.kill()
	a.start(t)
	c.until("forgets the one that stays away", 8*time.Second, func(e event) bool {
		return has(e.Routes, a.prefix, a.address) && has(e.Routes, b.prefix)
	})
	for _, r := range c.changes(mark) {
		if !slices.ContainsFunc(r, func(r bgp.Route) bool { return r.Prefix.String() == a.prefix }) {
			t.Errorf("the one that came back was missed: %v", r)
		}
	}
}
