package nettest_test

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/nettest"
)

// serve offers the services of a host on its addresses of this moment.
func serve(n *nettest.Node) {
	n.Serve(n.Address4)
	n.Serve(n.Address6)
}

// meet has every host ask every other one, in both families.
func meet(t *testing.T, l *nettest.Lab) {
	t.Helper()
	for _, from := range l.Nodes {
		for _, to := range l.Nodes {
			for _, pair := range [][2]netip.Addr{{from.Address4, to.Address4}, {from.Address6, to.Address6}} {
				if from == to {
					continue
				}
				if saw, err := from.Ask(pair[1]); err != nil || saw.Source != pair[0] {
					t.Errorf("%s asks %s: seen as %v, %v", from.Name, pair[1], saw.Source, err)
				}
			}
		}
	}
}

func TestLabHostsReachEachOtherAcrossTheRouter(t *testing.T) {
	l := nettest.NewLab(t, nettest.LabOptions{RPFilter: 1})
	for _, n := range l.Nodes {
		serve(n)
	}
	meet(t, l)
	if lines := strings.Count(l.Nodes[0].Config(), "\n"); lines >= 15 {
		t.Errorf("the config has %d lines", lines)
	}
}

func TestHostsOfThreeSubnetsMayMove(t *testing.T) {
	l := nettest.NewLab(t, nettest.LabOptions{Nodes: []string{"n1", "n2", "n3", "n4", "n5", "n6"}, RPFilter: 1})
	for _, n := range l.Nodes {
		serve(n)
	}
	meet(t, l)
	l.Node("n1").Move(2)
	l.Node("n3").Move(0)
	l.Node("n6").Move(1)
	l.Node("n4").Renumber(44)
	for name, want := range map[string]string{"n1": "203.0.113.1", "n3": "192.0.2.3", "n6": "198.51.100.6", "n4": "198.51.100.44"} {
		n := l.Node(name)
		if n.Address4.String() != want || !strings.Contains(l.Node("n2").Config(), want) {
			t.Errorf("%s has %s, want %s", name, n.Address4, want)
		}
		serve(n)
	}
	meet(t, l)
	l.Node("n4").Down()
	l.Node("n4").Up()
	n := l.Node("n2")
	n.AddUplink(1)
	for _, far := range []netip.Addr{l.Node("n4").Address4, l.Node("n4").Address6} {
		if out := n.IP("route get " + far.String()); !strings.Contains(out, "dev eth1") || strings.Contains(out, "via") {
			t.Errorf("with a second link: %s", out)
		}
	}
	n.CutUplink()
	meet(t, l)
}

func TestALabKnowsTheWayOfEachMode(t *testing.T) {
	for _, c := range []struct {
		o    nettest.LabOptions
		want map[string]string // by mode: to n2 over IPv4 and IPv6, and to n3
	}{
		{nettest.LabOptions{}, map[string]string{"": "direct direct vxlan vxlan"}},
		{nettest.LabOptions{Across: "ipip"}, map[string]string{
			"auto": "direct direct ipip vxlan", "vxlan": "vxlan vxlan vxlan vxlan", "ipip": "ipip - ipip -",
			"gre": "gre gre gre gre", "host-gw": "direct direct - -",
		}},
		{nettest.LabOptions{Across: "ipip", Underlay: nettest.Only4}, map[string]string{
			"auto": "direct vxlan ipip vxlan", "host-gw": "direct - - -",
		}},
		{nettest.LabOptions{Across: "ipip", Underlay: nettest.Only6}, map[string]string{
			"auto": "direct direct vxlan vxlan", "gre": "- - - -",
		}},
	} {
		c.o.Nodes = []string{"n1", "n2", "n3"}
		l := nettest.NewLab(t, c.o)
		n, near, far := l.Node("n1"), l.Node("n2"), l.Node("n3")
		for mode, want := range c.want {
			l.SetMode(mode)
			words := []string{n.EncapTo(near, true), n.EncapTo(near, false), n.EncapTo(far, true), n.EncapTo(far, false)}
			for i := range words {
				words[i] = cmp.Or(words[i], "-")
			}
			if got := strings.Join(words, " "); got != want {
				t.Errorf("%+v in mode %q: %s, want %s", c.o, mode, got, want)
			}
			if line := fmt.Sprintf("mode = %q", mode); strings.Contains(n.Config(), line) != (mode != "") {
				t.Errorf("the config of mode %q: %s", mode, n.Config())
			}
		}
	}
}

func TestProbesCountWhatIsLost(t *testing.T) {
	l := nettest.NewLab(t, nettest.LabOptions{})
	a, b := l.Node("n1"), l.Node("n2")
	b.Serve(b.Address4)
	tap := a.Tap("eth0")
	whole, flows := a.Probe(b.Address4, 1000), a.Flows(b.Address4, 3)
	nettest.Eventually(t, 5*time.Second, func() error { return atLeast(tap, a.Address4, b.Address4, 400) })
	if got := whole.Stop(); got.Lost != 0 || got.Sent < 100 || got.Duplicate != 0 || len(got.Errors) != 0 {
		t.Errorf("over a good cable: %v", got)
	}
	if got := flows.Stop(); len(got.Faults) != 0 || got.Rounds == 0 {
		t.Errorf("over a good cable: %v", got)
	}
	holed := a.Probe(b.Address4, 1000)
	time.Sleep(100 * time.Millisecond)
	b.Unplug()
	time.Sleep(50 * time.Millisecond)
	b.Plug()
	time.Sleep(100 * time.Millisecond)
	if got := holed.Stop(); got.Lost < 20 || got.Lost > 150 || len(got.LostAt) == 0 {
		t.Errorf("over a cable that was out for 50 ms: %v", got)
	} else if gap := got.LongestGap(); gap.For < 20*time.Millisecond || gap.For > 150*time.Millisecond || gap.At < 50*time.Millisecond {
		t.Errorf("over a cable that was out for 50 ms: %v of %v", gap, got.Gaps)
	}
	all, tunnelled := tap.Between(a.Address4, b.Address4)
	if all < 400 || tunnelled != 0 {
		t.Errorf("on the wire: %d packets, %d in a tunnel\n%s", all, tunnelled, nettest.Print(tap.Stop()))
	}
}

func TestTapSeesWhatIsInATunnel(t *testing.T) {
	l := nettest.NewLab(t, nettest.LabOptions{})
	a, b := l.Node("n1"), l.Node("n3")
	in := map[*nettest.Node]netip.Addr{a: netip.MustParseAddr("203.0.113.1"), b: netip.MustParseAddr("203.0.113.3")}
	for n, other := range map[*nettest.Node]*nettest.Node{a: b, b: a} {
		n.Batch("link add vx type vxlan id 7 dstport 4789 local "+n.Address4.String()+" remote "+other.Address4.String(),
			"addr add "+in[n].String()+"/24 dev vx", "link set vx up")
		n.Serve(in[n])
	}
	tap := l.Router.Tap("eth0")
	if _, err := a.Ask(in[b]); err != nil {
		t.Fatal(err)
	}
	nettest.Eventually(t, time.Second, func() error { return atLeast(tap, in[a], in[b], 2) })
	if all, tunnelled := tap.Between(in[a], in[b]); all != tunnelled {
		t.Errorf("%d packets, of them in a tunnel %d\n%s", all, tunnelled, nettest.Print(tap.Stop()))
	}
}

func TestMonitorAndStateShowWhatChanged(t *testing.T) {
	h := nettest.NewHost(t, "h")
	h.IP("link add br0 type bridge")
	h.IP("link set br0 up")
	before, monitor := h.State(), h.Monitor()
	h.IP("route add 203.0.113.0/24 dev br0 proto 88")
	h.IP("route add 198.51.100.0/24 dev br0")
	h.Run("iptables", "-A", "FORWARD", "-s", "203.0.113.9", "-j", "DROP")
	h.Sysctl("net/ipv4/ip_forward", "1")
	diff := strings.Join(nettest.Diff(before, h.State()), "\n")
	for _, part := range []string{"203.0.113.0/24 dev br0 proto 88", "198.51.100.0/24", "203.0.113.9/32 -j DROP", "ip_forward = 1"} {
		if !strings.Contains(diff, part) {
			t.Errorf("the difference lacks %q:\n%s", part, diff)
		}
	}
	h.IP("route del 203.0.113.0/24 dev br0 proto 88")
	nettest.Eventually(t, time.Second, func() error {
		if got := monitor.Changes(); len(got) < 2 {
			return fmt.Errorf("changes: %q", got)
		}
		return nil
	})
	got := monitor.Changes()
	if len(got) != 2 || !strings.HasPrefix(got[0], "new ") || !strings.HasPrefix(got[1], "deleted ") {
		t.Errorf("changes: %q", got)
	}
	if again := h.State(); !slices.Equal(again, h.State()) {
		t.Error("two looks at a quiet host differ")
	}
}

func atLeast(tap *nettest.Tap, a, b netip.Addr, want int) error {
	if all, _ := tap.Between(a, b); all < want {
		return fmt.Errorf("%d packets of %d", all, want)
	}
	return nil
}
