package story_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/agent"
	"github.com/fairlead-net/fairlead/nettest"
)

// alone is a lab of one host with pools of both families and fixed blocks.
func alone(t *testing.T) *nettest.Node {
	t.Helper()
	l := lab(t, nettest.LabOptions{Nodes: []string{"n1"}, Pools: []string{pool4, pool6}})
	n := l.Node("n1")
	n.WriteConfig(withBlocks(n.Config(), 1))
	n.Start()
	n.WaitReady(10 * time.Second)
	return n
}

// tenant starts a process that stays in a namespace.
func tenant(t *testing.T, h *nettest.Host) *exec.Cmd {
	t.Helper()
	cmd := h.Command(context.Background(), "sleep", "600")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
	})
	nettest.Eventually(t, 5*time.Second, func() error {
		exe, err := os.ReadFile("/proc/" + strconv.Itoa(cmd.Process.Pid) + "/comm")
		if err == nil && strings.TrimSpace(string(exe)) != "sleep" {
			err = fmt.Errorf("process %d is still %s", cmd.Process.Pid, exe)
		}
		return err
	})
	return cmd
}

func TestAttachTakesANameAPathOrAProcess(t *testing.T) {
	n := alone(t)
	hosts := []*nettest.Host{nettest.NewHost(t, "a"), nettest.NewHost(t, "b"), nettest.NewHost(t, "c"), nettest.NewHost(t, "d")}
	for i, args := range [][]string{
		{filepath.Base(hosts[0].Path)},
		{"byname", "--netns", filepath.Base(hosts[1].Path)},
		{"bypath", "--netns", hosts[2].Path},
		{"bypid", "--pid", strconv.Itoa(tenant(t, hosts[3]).Process.Pid)},
	} {
		e := decode[agent.Endpoint](t, n.Fairlead(append([]string{"attach", "-o", "json"}, args...)...))
		h := hosts[i]
		for _, a := range e.Addresses {
			h.Serve(a)
			if saw, err := n.Ask(a); err != nil || saw.Source != n.Address4 && saw.Source != n.Address6 {
				t.Errorf("attach %q: seen as %v, %v", args, saw.Source, err)
			}
		}
		again := decode[agent.Endpoint](t, n.Fairlead(append([]string{"attach", "-o", "json"}, args...)...))
		if !slices.Equal(again.Addresses, e.Addresses) || again.ID != e.ID || again.HostIfName != e.HostIfName {
			t.Errorf("attached again: %+v, before %+v", again, e)
		}
	}
	if got := len(show[[]agent.Endpoint](t, n, "endpoints")); got != len(hosts) {
		t.Errorf("%d endpoints", got)
	}
	for range 2 {
		n.Fairlead("detach", "byname", "bypath", "bypid", filepath.Base(hosts[0].Path), "never-there")
	}
	for _, h := range hosts {
		if out, err := h.Try("ip", "link", "show", "dev", "eth0"); err == nil {
			t.Errorf("after detach: %s", out)
		}
	}
	if left := show[[]agent.Lease](t, n, "leases"); len(left) != 0 {
		t.Errorf("after detach there are leases: %v", left)
	}
}

func TestAttachHonoursWhatIsAskedFor(t *testing.T) {
	n := alone(t)
	c := n.Attach("web", "--ip", "10.88.1.77", "--ip", "2001:db8:88::177", "--ifname", "net7", "--label", "app=web", "--label", "tier=1")
	e := show[agent.Endpoint](t, n, "endpoints/web")
	if c.IP4.String() != "10.88.1.77" || c.IP6.String() != "2001:db8:88::177" || e.IfName != "net7" ||
		e.Labels["app"] != "web" || e.Labels["tier"] != "1" || e.Node != "n1" || e.Network != "default" || e.NetNS != c.Path {
		t.Errorf("endpoint: %+v", e)
	}
	if out := c.IP("-oneline address show dev net7"); !strings.Contains(out, "10.88.1.77/32") || !strings.Contains(out, e.MAC) && out == "" {
		t.Errorf("inside: %s", out)
	}
	if out := c.IP("link show dev net7"); !strings.Contains(out, e.MAC) {
		t.Errorf("the link has not the MAC %s: %s", e.MAC, out)
	}
	other := nettest.NewHost(t, "other")
	for _, bad := range []struct {
		args []string
		want string
		code int
	}{
		{[]string{"b", "--ip", "10.88.1.77"}, "10.88.1.77", 1},
		{[]string{"b", "--ip", "10.88.2.1"}, "10.88.2.1", 1},
		{[]string{"b", "--ip", "192.0.2.9"}, "192.0.2.9", 1},
		{[]string{"b", "--ip", "10.88.1.0"}, "10.88.1.0", 1},
		{[]string{"b", "--ip", "ten"}, "ten", 2},
		{[]string{"b", "--pool", "none"}, "none", 1},
		{[]string{"b", "--network", "none"}, "none", 1},
		{[]string{"b", "--ifname", "an-interface-name-too-long"}, "ifname", 2},
		{[]string{"../b"}, "name", 1},
		{[]string{"web"}, "detach it first", 1},
	} {
		args := append([]string{"attach", "--netns", other.Path}, bad.args...)
		if r := n.CLI(args...); r.Code != bad.code || !strings.Contains(r.Stderr, bad.want) || r.Stdout != "" {
			t.Errorf("%q: exit code %d, want %d and %q in: %s%s", args, r.Code, bad.code, bad.want, r.Stdout, r.Stderr)
		}
	}
	if got := show[[]agent.Endpoint](t, n, "endpoints"); len(got) != 1 {
		t.Errorf("after bad requests there are endpoints: %+v", got)
	}
	if got := show[[]agent.Lease](t, n, "leases"); len(got) != 2 {
		t.Errorf("after bad requests there are leases: %+v", got)
	}
}

func TestAFailedAttachLeavesNothingBehind(t *testing.T) {
	n := alone(t)
	old := n.Attach("old")
	before, leases := n.State(), show[[]agent.Lease](t, n, "leases")
	occupied := nettest.NewHost(t, "occupied")
	occupied.IP("link add eth0 type bridge")
	within := occupied.State()
	file := filepath.Join(n.Dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"new", "--netns", occupied.Path}, {"new", "--netns", file}, {"new", "--netns", "/run/netns/none"},
		{"new", "--netns", "/dev/null"}, {"new", "--netns", "/proc/self/ns/mnt"}, {"new", "--pid", strconv.Itoa(n.Pid())},
		{"old", "--netns", occupied.Path, "--ip", "10.88.1.200"},
	} {
		if r := n.CLI(append([]string{"attach"}, args...)...); r.Code != 1 || r.Stderr == "" {
			t.Errorf("attach %q: exit code %d: %s%s", args, r.Code, r.Stdout, r.Stderr)
		}
		nothingLeft(t, before, n.State())
	}
	nothingLeft(t, within, occupied.State())
	if now := show[[]agent.Lease](t, n, "leases"); !slices.Equal(now, leases) {
		t.Errorf("leases are %v, were %v", now, leases)
	}
	old.Serve(old.IP4)
	if _, err := n.Ask(old.IP4); err != nil {
		t.Error(err)
	}
	if s := show[agent.Status](t, n, "status"); !s.Ready || len(s.Problems) > 0 {
		t.Errorf("the node is ready %v: %q", s.Ready, s.Problems)
	}
}

// hasLease tells whether an owner has an address.
func hasLease(t *testing.T, n *nettest.Node, owner string) bool {
	t.Helper()
	return slices.ContainsFunc(show[[]agent.Lease](t, n, "leases"), func(l agent.Lease) bool { return l.Owner == owner })
}

func collected(t *testing.T, n *nettest.Node, c *nettest.Container) error {
	t.Helper()
	if hasLease(t, n, c.Endpoint) {
		return fmt.Errorf("%s still has leases", c.Endpoint)
	}
	if _, err := n.Try("ip", "link", "show", "dev", c.HostIf); err == nil {
		return fmt.Errorf("%s still has its link", c.Endpoint)
	}
	if hasRoute(n, netip.PrefixFrom(c.IP4, 32)) || strings.Contains(n.IP("-4 route show proto 88"), c.IP4.String()+" ") {
		return fmt.Errorf("%s still has its route", c.Endpoint)
	}
	return nil
}

func TestAContainerThatVanishedIsCollectedWhenItIsReallyGone(t *testing.T) {
	n := alone(t)
	gone, kept, late := n.Attach("gone"), n.Attach("kept"), n.Attach("late")
	process := tenant(t, kept.Host)
	kept.Serve(kept.IP4)
	for _, c := range []*nettest.Container{gone, kept} {
		if err := nettest.Remove(c.Path); err != nil {
			t.Fatal(err)
		}
	}
	begun := time.Now()
	for time.Since(begun) < time.Second { // it must be missed twice, with time between
		if !hasLease(t, n, "gone") {
			t.Fatalf("the lease was taken back after %v", time.Since(begun))
		}
		time.Sleep(20 * time.Millisecond)
	}
	nettest.Eventually(t, 10*time.Second, func() error { return collected(t, n, gone) })
	t.Logf("collected after %v", time.Since(begun))
	// A process keeps the other namespace, and so its addresses, though the path is gone.
	if !hasLease(t, n, "kept") {
		t.Error("the lease of a living namespace was taken back")
	}
	if _, err := n.Ask(kept.IP4); err != nil {
		t.Error(err)
	}
	n.Kill()
	if err := nettest.Remove(late.Path); err != nil {
		t.Fatal(err)
	}
	if err := process.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	n.Start()
	n.WaitReady(10 * time.Second)
	nettest.Eventually(t, 10*time.Second, func() error { return collected(t, n, late) })
}

func TestAnswersHaveTheFieldsOfTheContract(t *testing.T) {
	l := running(t, nettest.LabOptions{Nodes: []string{"n1", "n2", "n3"}})
	n := l.Node("n1")
	n.Attach("web", "--label", "app=web")
	for command, fields := range map[string]string{
		"endpoints": "name id node network addresses mac ifname host_ifname netns labels ports created",
		"peers":     "address asn role state uptime_seconds received accepted advertised last_error",
		"routes":    "prefix via encap dev mtu node installed reason",
		"leases":    "address owner pool policy since",
		"status":    "node version ready revision peers routes endpoints pools ports fastpath drift_repaired",
	} {
		text := n.Fairlead(command, "-o", "json")
		var items []map[string]json.RawMessage
		if command == "status" {
			items = append(items, decode[map[string]json.RawMessage](t, text))
		} else {
			items = decode[[]map[string]json.RawMessage](t, text)
		}
		if len(items) == 0 {
			t.Errorf("%s: nothing in the list", command)
		}
		for _, item := range items {
			for _, field := range strings.Fields(fields) {
				if v, found := item[field]; !found || string(v) == "null" {
					t.Errorf("%s: the field %s is %s in %s", command, field, v, text)
				}
			}
		}
		for _, format := range []string{"yaml", "table"} {
			if out := n.Fairlead(command, "-o", format); strings.TrimSpace(out) == "" {
				t.Errorf("%s -o %s prints nothing", command, format)
			}
		}
	}
	if out := n.Fairlead("ports", "-o", "json"); strings.TrimSpace(out) != "[]" {
		t.Errorf("ports: %s", out)
	}
	if got := n.CLI("status", "--nonsense").Code; got != 2 {
		t.Errorf("misuse ends with exit code %d", got)
	}
}
