package story_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/fairlead-net/fairlead/nettest"
)

func TestACleanHostIsReadAgainAndNotWrittenTo(t *testing.T) {
	l := running(t, nettest.LabOptions{Pools: []string{pool4, pool6}, Extra: "[reconcile]\ninterval = \"200ms\"\n"})
	l.AttachAll(2)
	for _, n := range l.Nodes {
		n.WaitConverged(10 * time.Second)
	}
	for _, n := range l.Nodes {
		settle(t, n)
		changes, before := n.Monitor(), n.State()
		writes, passes := n.Metric("fairlead_reconcile_writes_total"), n.Metric("fairlead_reconcile_passes_total")
		drift, log := n.Metric("fairlead_drift_repaired_total"), n.Log()
		nettest.Eventually(t, 10*time.Second, func() error {
			if now := n.Metric("fairlead_reconcile_passes_total"); now < passes+5 {
				return fmt.Errorf("%s: %v passes, %v before", n.Name, now, passes)
			}
			return nil
		})
		if now := n.Metric("fairlead_reconcile_writes_total"); now != writes || n.Metric("fairlead_drift_repaired_total") != drift {
			t.Errorf("%s: %v writes in passes over a clean host", n.Name, now-writes)
		}
		if n.Metric("fairlead_reconcile_errors_total") != 0 {
			t.Errorf("%s: %v errors", n.Name, n.Metric("fairlead_reconcile_errors_total"))
		}
		if said := strings.TrimPrefix(n.Log(), log); said != "" {
			t.Errorf("%s: a converged host says: %s", n.Name, said)
		}
		nothingLeft(t, before, n.State())
		if got := changes.Changes(); len(got) > 0 {
			t.Errorf("%s: routes changed: %q", n.Name, got)
		}
	}
}

// settle waits until the host has had passes without a write.
func settle(t *testing.T, n *nettest.Node) {
	t.Helper()
	writes, passes := -1.0, 0.0
	nettest.Eventually(t, 10*time.Second, func() error {
		now := n.Metric("fairlead_reconcile_writes_total")
		if now != writes {
			writes, passes = now, n.Metric("fairlead_reconcile_passes_total")
		}
		if n.Metric("fairlead_reconcile_passes_total") < passes+2 {
			return fmt.Errorf("%s still writes: %v", n.Name, writes)
		}
		return nil
	})
}

func TestMetricsFollowTheConventions(t *testing.T) {
	l := running(t, nettest.LabOptions{Nodes: []string{"n1", "n2", "n3"}, Pools: pools()})
	n := l.Node("n1")
	n.Attach("web")
	if r := n.CLI("attach", "none"); r.Code == 0 {
		t.Error("a namespace that is not there was attached")
	}
	text, err := n.Metrics()
	if err != nil {
		t.Fatal(err)
	}
	problems, err := promlint.New(strings.NewReader(text)).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	wanted := map[string]string{
		`fairlead_peers{state="established"}`:                    "2",
		`fairlead_endpoints`:                                     "1",
		`fairlead_leases{pool="default"}`:                        "1",
		`fairlead_pool_addresses{pool="default",state="leased"}`: "1",
		`fairlead_ready`:                                         "1",
		`fairlead_reconcile_writes_total`:                        "",
		`fairlead_reconcile_passes_total{result="clean"}`:        "",
		`fairlead_drift_repaired_total`:                          "0",
		`fairlead_build_info{`:                                   "1",
		`fairlead_config_last_reload_successful`:                 "1",
	}
	ways := make(map[string]int)
	for _, other := range others(l, n) {
		for _, pool := range pools() {
			ways[n.EncapTo(other, pool == pool4)]++
		}
	}
	for way, count := range ways {
		wanted[fmt.Sprintf("fairlead_routes{encap=%q}", way)] = fmt.Sprint(count)
	}
	for series, want := range wanted {
		if !strings.Contains(text, "\n"+series) || want != "" && !hasSeries(text, series, want) {
			t.Errorf("no %s %s in:\n%s", series, want, text)
		}
	}
}

func hasSeries(text, series, value string) bool {
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, series) && strings.HasSuffix(strings.TrimSpace(line), " "+value) {
			return true
		}
	}
	return false
}
