package story_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/agent"
	"github.com/fairlead-net/fairlead/nettest"
)

// sessions are the TCP connections of the host's BGP sessions with one peer, by their ports.
func sessions(n *nettest.Node, peer string) []string {
	return lines(n.Run("ss", "-Htn", "state", "established", "( sport = :179 or dport = :179 ) and dst "+peer))
}

// peered is the number of the host's sessions that there should be.
func peered(n *nettest.Node, configured int) error {
	var s agent.Status
	if err := n.Get("status", &s); err != nil {
		return err
	}
	if s.Peers.Configured != configured {
		return fmt.Errorf("%s has %d peers, want %d", n.Name, s.Peers.Configured, configured)
	}
	return nil
}

func TestAReloadThatTouchesOnePeerResetsNoOtherSession(t *testing.T) {
	l := running(t, nettest.LabOptions{HoldTime: 9 * time.Second})
	n, touched, gone, quiet := l.Node("n1"), l.Node("n2"), l.Node("n4"), l.Node("n3")
	block4 := block(t, gone, pool4)
	c, other := n.Attach("n1a"), quiet.Attach("n3a")
	other.Serve(other.IP4)
	probe, before := c.Probe(other.IP4, 500), sessions(n, quiet.Address().String())
	if len(before) == 0 {
		t.Fatal("there is no session with n3")
	}
	config := n.Config()
	change := func(old, now string, configured int) {
		t.Helper()
		text := strings.Replace(config, old, now, 1)
		if text == config {
			t.Fatalf("%q is not in the config", old)
		}
		config = text
		n.WriteConfig(config)
		if out := n.Fairlead("reload"); !strings.Contains(out, "bgp.peer") {
			t.Errorf("the reload says: %s", out)
		}
		if err := peered(n, configured); err != nil {
			t.Error(err)
		}
		if now := sessions(n, quiet.Address().String()); !slices.Equal(before, now) {
			t.Errorf("the session with n3 was %q and is %q", before, now)
		}
	}
	change(`{ address = "192.0.2.2" }`, `{ address = "192.0.2.2", hold_time = "12s" }`, 3)
	n.WaitConverged(20 * time.Second)
	change(`, { address = "198.51.100.4" }`, ``, 2)
	nettest.Eventually(t, 5*time.Second, func() error { return without(n, block4) })
	change(`[{`, `[{ address = "198.51.100.4" }, {`, 3)
	n.WaitConverged(20 * time.Second)
	touched.WaitConverged(20 * time.Second)
	change(`[{`, `[{ address = "203.0.113.9" }, {`, 4)
	if got := probe.Stop(); got.Lost != 0 {
		t.Error(got)
	}
}

func TestABadFileChangesNothingAndIsNamed(t *testing.T) {
	l := running(t, nettest.LabOptions{Nodes: []string{"n1", "n2"}})
	n := l.Node("n1")
	before, session := n.State(), sessions(n, "192.0.2.2")
	good := n.Config()
	bad := strings.Replace(good, "[bgp]", "[bgp]\nasn = 0\nhold_tmie = \"9s\"", 1)
	head, _, _ := strings.Cut(bad, "hold_tmie")
	place := fmt.Sprintf("%s:%d:", n.ConfigFile(), 1+strings.Count(head, "\n"))
	for _, reload := range []func(){
		func() {
			r := n.CLI("reload")
			for _, part := range []string{place, "hold_time", "asn"} {
				if r.Code != 1 || !strings.Contains(r.Stderr, part) {
					t.Errorf("reload: exit code %d, and no %q in: %s", r.Code, part, r.Stderr)
				}
			}
		},
		func() { n.Signal(syscall.SIGHUP) },
	} {
		n.WriteConfig(bad)
		reload()
		nettest.Eventually(t, 5*time.Second, func() error {
			s := show[agent.Status](t, n, "status")
			if !strings.Contains(s.ConfigError, "hold_tmie") || !strings.Contains(strings.Join(s.Problems, "\n"), "hold_tmie") {
				return fmt.Errorf("status says: %q, %q", s.ConfigError, s.Problems)
			}
			return nil
		})
		if ok := n.Metric("fairlead_config_last_reload_successful"); ok != 0 {
			t.Errorf("the metric says %v", ok)
		}
		if s := show[agent.Status](t, n, "status"); !s.Ready {
			t.Errorf("a bad file made the node unready: %q", s.Problems)
		}
		nothingLeft(t, before, n.State())
		if now := sessions(n, "192.0.2.2"); !slices.Equal(session, now) {
			t.Errorf("the session was %q and is %q", session, now)
		}
		n.WriteConfig(good)
		n.Signal(syscall.SIGHUP)
		nettest.Eventually(t, 5*time.Second, func() error {
			if s := show[agent.Status](t, n, "status"); s.ConfigError != "" || len(s.Problems) > 0 {
				return fmt.Errorf("status still says: %q, %q", s.ConfigError, s.Problems)
			}
			if n.Metric("fairlead_config_last_reload_successful") != 1 {
				return fmt.Errorf("the metric still says that it failed")
			}
			return nil
		})
	}
	n.WriteConfig(bad)
	if r := n.CLI("check", "--config", n.ConfigFile()); r.Code != 1 || !strings.Contains(r.Stdout+r.Stderr, place) {
		t.Errorf("check: exit code %d: %s%s", r.Code, r.Stdout, r.Stderr)
	}
}

func TestAWatchedConfigIsAppliedWhenItIsWritten(t *testing.T) {
	l := lab(t, nettest.LabOptions{Nodes: []string{"n1", "n2"}})
	n := l.Node("n1")
	good := strings.Replace(n.Config(), "[node]\n", "[node]\nwatch = true\n", 1)
	n.WriteConfig(good)
	l.Start()
	refused := func(want string) func() error {
		return func() error {
			if s := show[agent.Status](t, n, "status"); (s.ConfigError == "") != (want == "") || !strings.Contains(s.ConfigError, want) {
				return fmt.Errorf("status says %q, want %q", s.ConfigError, want)
			}
			return nil
		}
	}
	dropIn := filepath.Join(n.Dir, "conf.d", "10-more.toml")
	if err := os.WriteFile(dropIn, []byte("[[bgp.peer]]\naddress = \"203.0.113.9\"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	nettest.Eventually(t, 5*time.Second, func() error { return peered(n, 2) })
	if err := os.WriteFile(dropIn, []byte("[[bgp.peer]]\naddress = 7\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	nettest.Eventually(t, 5*time.Second, refused("10-more.toml:2:"))
	if err := peered(n, 2); err != nil {
		t.Error(err)
	}
	if err := os.Remove(dropIn); err != nil {
		t.Fatal(err)
	}
	nettest.Eventually(t, 5*time.Second, refused(""))
	nettest.Eventually(t, 5*time.Second, func() error { return peered(n, 1) })
	n.WriteConfig(strings.Replace(good, "peer = [", `peer = [{ address = "203.0.113.8" }, `, 1))
	nettest.Eventually(t, 5*time.Second, func() error { return peered(n, 2) })
	if got := n.CLI("status"); got.Code != 0 || !strings.Contains(got.Stdout, "203.0.113.8") {
		t.Errorf("the status does not name the silent peer: %s%s", got.Stdout, got.Stderr)
	}
}
