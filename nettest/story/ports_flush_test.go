package story_test

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/fairlead-net/fairlead/agent"
	"github.com/fairlead-net/fairlead/nettest"
)

// TestMappingsComeBackAfterOthersChangedTheFirewall tells one story for each back end of iptables.
func TestMappingsComeBackAfterOthersChangedTheFirewall(t *testing.T) {
	backends(t, func(t *testing.T) {
		h := newHarbour(t, nettest.LabOptions{Nodes: []string{"n1"}})
		c := h.n.Attach("web", "--publish", fmt.Sprintf("%d:%d", fixedPort, plainPort), "--publish", "7001:7001/tcp")
		near, thief := h.n.Attach("near"), h.n.Attach("thief", "--publish", "7504:80") // its link takes answers to 127.0.0.1
		breakIn(thief.Host, "169.254.1.1")
		h.n.Offer("tcp", loopback(trustingTCP), "trusting")
		offer(c, plainPort, "tcp")
		c.Serve(c.IP4)
		c.Serve(c.IP6)
		h.stranger.Offer("tcp", netip.AddrPortFrom(h.stranger4, outPort), "stranger")
		t.Run("within a second", func(t *testing.T) { h.checkFlushes(t, near, thief) })
		t.Run("and Docker's rules are as they were", func(t *testing.T) { h.checkDocker(t, c, near) })
	})
}

// disturbance is what somebody does to the packet filter.
type disturbance struct {
	what string
	harm func()
	keep bool // established flows notice nothing
}

// disturbances are what firewalls and people do. A restore is what `firewall-cmd --reload` comes to.
func (h *harbour) disturbances(t *testing.T) (all []disturbance) {
	t.Helper()
	run := func(text string) func() {
		return func() { h.n.Run(strings.Fields(text)...) }
	}
	all = []disturbance{
		{"iptables -F", run("iptables -F"), true},
		{"iptables -t nat -F", run("iptables -t nat -F"), true},
		{"ip6tables -t nat -F", run("ip6tables -t nat -F"), true},
		{"a restore without ours", run("iptables-restore " + h.saved(t, "iptables-save")), false},
	}
	if strings.Contains(h.n.Run("iptables", "--version"), "nf_tables") {
		all = append(all, disturbance{"nft flush ruleset", run("nft flush ruleset"), false})
	}
	return all
}

// saved is a file with the rules of a host, but for ours.
func (h *harbour) saved(t *testing.T, tool string) string {
	t.Helper()
	var rules strings.Builder
	for line := range strings.Lines(h.n.Run(tool)) {
		if !strings.Contains(line, "FAIRLEAD") {
			rules.WriteString(line)
		}
	}
	file := filepath.Join(h.n.Dir, tool)
	if err := os.WriteFile(file, []byte(rules.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// checkFlushes: whatever is taken away, a second later new connections through mappings and on the way out work again, also
// where what is not let through is dropped, and what listens on 127.0.0.1 is shut to containers.
func (h *harbour) checkFlushes(t *testing.T, near, thief *nettest.Container) {
	h.n.Run("iptables", "-P", "FORWARD", "DROP")
	h.n.Run("ip6tables", "-P", "FORWARD", "DROP")
	works := func() error { return h.works(near, thief) }
	if err := works(); err != nil {
		t.Fatal(err)
	}
	for _, d := range h.disturbances(t) {
		h.suffer(t, d, works)
	}
}

// works asks from everywhere at once, with less patience than TCP has to try again.
func (h *harbour) works(near, thief *nettest.Container) error {
	var g errgroup.Group
	ask := func(from *nettest.Host, to netip.AddrPort, name string) {
		g.Go(func() error {
			got, err := from.CallSoon("tcp", to)
			if err == nil && (got.Name != name || name == "stranger" && got.Source.Addr() != h.n.Address4) {
				err = fmt.Errorf("%s at %s: answered by %q, seen as %s", from.Name, to, got.Name, got.Source)
			}
			return err
		})
	}
	g.Go(func() error {
		if got, err := thief.CallSoon("tcp", loopback(trustingTCP)); err == nil {
			return fmt.Errorf("%s is answered on 127.0.0.1 of the host by %q", thief.Name, got.Name)
		}
		return nil
	})
	for _, from := range []*nettest.Host{h.stranger, h.n.Host, near.Host} {
		for _, a := range addressesOf(h.n) {
			ask(from, netip.AddrPortFrom(a, fixedPort), "web")
		}
	}
	ask(h.n.Host, loopback(fixedPort), "web")
	ask(near.Host, netip.AddrPortFrom(h.stranger4, outPort), "stranger")
	return g.Wait()
}

// suffer does the harm under flows that were there before, and waits until all works again.
func (h *harbour) suffer(t *testing.T, d disturbance, works func() error) {
	t.Helper()
	repaired := show[agent.Status](t, h.n, "status").DriftRepaired
	flows, idle := h.stranger.Flows(h.n.Address4, 5), h.idle(t, 7001)
	time.Sleep(100 * time.Millisecond)
	begun := time.Now()
	d.harm()
	var took time.Duration
	for {
		// That the daemon counted it shows that something was gone at all.
		err := works()
		took = time.Since(begun)
		if err == nil && show[agent.Status](t, h.n, "status").DriftRepaired > repaired {
			break
		}
		if took > nettest.Patience(10*time.Second) {
			t.Fatalf("%s: not back: %v", d.what, err)
		}
	}
	if took > nettest.Patience(soon) {
		t.Errorf("%s: works again after %v", d.what, took)
	}
	got, rested := flows.Stop(), idle()
	t.Logf("%s: works again after %v; %d of %d busy flows broke; one that said nothing meanwhile: %v", d.what, took, len(got.Faults), got.Flows, rested)
	if d.keep && len(got.Faults) > 0 {
		t.Errorf("%s: %v", d.what, got)
	}
	if rested != nil {
		t.Errorf("%s: a flow that said nothing meanwhile: %v", d.what, rested)
	}
}

// foreign are the lines of the packet filter that are not ours.
func foreign(n *nettest.Node) (all []string) {
	counters := regexp.MustCompile(` \[\d+:\d+\]$|^# .*`)
	for _, tool := range []string{"iptables-save", "ip6tables-save"} {
		for line := range strings.Lines(n.Run(tool)) {
			line = counters.ReplaceAllString(strings.TrimRight(line, "\n"), "")
			if line != "" && !strings.Contains(line, "FAIRLEAD-") {
				all = append(all, tool+" "+line)
			}
		}
	}
	return all
}

// order is an error unless the foreign lines are these, in this order.
func order(want, got []string) error {
	if slices.Equal(want, got) {
		return nil
	}
	return fmt.Errorf("what is not ours was\n%s\nand is\n%s", strings.Join(want, "\n"), strings.Join(got, "\n"))
}
