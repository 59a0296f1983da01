package story_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/agent"
	"github.com/fairlead-net/fairlead/nettest"
)

// TestTheFastPathDoesWhatThisKernelCan: with nothing said about it, each way between containers is the fast path's, but
// for those that no program can wrap, or that none can unwrap on this kernel.
func TestTheFastPathDoesWhatThisKernelCan(t *testing.T) {
	t.Parallel()
	t.Run("auto", func(t *testing.T) {
		l := running(t, nettest.LabOptions{Nodes: []string{"n1", "n2", "n3"}, Pools: []string{pool4, pool6}, RPFilter: 1})
		from := l.Node("n1").Attach("from")
		for _, near := range []struct{ host, way string }{{"n1", "local"}, {"n2", "direct"}} {
			to := l.Node(near.host).Attach("to-" + near.host)
			goesFast(t, from, to, true, near.way)
			goesFast(t, from, to, false, near.way)
		}
		far := l.Node("n3").Attach("far")
		goesFast(t, from, far, true, "ipip")
		goesSlow(t, from, far, "outer-ipv6")
	})
	t.Run("vxlan", func(t *testing.T) {
		l := running(t, nettest.LabOptions{
			Nodes: []string{"n1", "n2"}, Pools: []string{pool4, pool6}, Mode: "vxlan", Underlay: nettest.Only4, RPFilter: 1,
		})
		from, to := l.Node("n1").Attach("from"), l.Node("n2").Attach("to")
		goesFast(t, from, to, true, "vxlan")
		if crosses(t) {
			goesFast(t, from, to, false, "vxlan")
		} else {
			goesSlow(t, from, to, "family-crossing")
		}
	})
}

// goesFast holds that the container's packets to the other one go by the fast path of both hosts, and which way.
func goesFast(t *testing.T, from, to *nettest.Container, is4 bool, way string) {
	t.Helper()
	out, in := "fast-"+way, "fast-from-"+way
	if from.Node == to.Node {
		in = out
	} else if r := remote(t, from, to, is4); r.Fast != way || r.Slow != "" {
		t.Errorf("%s says of %s: fast path %q, %q", from.Node.Name, r.Prefix, r.Fast, r.Slow)
	}
	for _, c := range []*nettest.Container{from, to} {
		atWork(t, c.Node)
	}
	sent, got := packets(from.Node, out), packets(to.Node, in)
	asks(t, from, to, is4)
	if packets(from.Node, out) <= sent || packets(to.Node, in) <= got {
		t.Errorf("%s to %s: no packet more was %s there and %s here", from.Name, to.Name, out, in)
	}
}

// goesSlow holds that the packets of IPv6 are the kernel's, and that the host says why.
func goesSlow(t *testing.T, from, to *nettest.Container, why string) {
	t.Helper()
	if r := remote(t, from, to, false); r.Fast != "" || r.Slow != why || !r.Installed {
		t.Errorf("%s says of %s: fast path %q, %q, installed %v, not %s", from.Node.Name, r.Prefix, r.Fast, r.Slow, r.Installed, why)
	}
	atWork(t, from.Node)
	left, fast := packets(from.Node, "kernel-route"), packets(from.Node, "fast-vxlan")
	asks(t, from, to, false)
	if packets(from.Node, "kernel-route") <= left || packets(from.Node, "fast-vxlan") > fast {
		t.Errorf("%s to %s: no packet more was left to the kernel", from.Name, to.Name)
	}
}

func asks(t *testing.T, from, to *nettest.Container, is4 bool) {
	t.Helper()
	for _, a := range to.Addresses() {
		if a.Is4() == is4 {
			to.Serve(a)
			if err := reaches(from, a); err != nil {
				t.Error(err)
			}
		}
	}
}

// remote is the route of one container's host to the other's block.
func remote(t *testing.T, from, to *nettest.Container, is4 bool) agent.Route {
	t.Helper()
	all := show[[]agent.Route](t, from.Node, "routes")
	i := slices.IndexFunc(all, func(r agent.Route) bool {
		return r.Prefix.Addr().Is4() == is4 && slices.ContainsFunc(to.Addresses(), r.Prefix.Contains)
	})
	if i < 0 {
		t.Fatalf("%s has no route to %s", from.Node.Name, to.Name)
	}
	return all[i]
}

// atWork waits until the host has attached all of its programs.
func atWork(t *testing.T, n *nettest.Node) {
	t.Helper()
	nettest.Eventually(t, 5*time.Second, func() error {
		if s := show[agent.Status](t, n, "status"); s.Fastpath != "on (tcx)" && s.Fastpath != "on (clsact)" || len(s.Problems) > 0 {
			return fmt.Errorf("%s: fast path %s, %q", n.Name, s.Fastpath, s.Problems)
		}
		return nil
	})
}

// packets is how many the host's programs have seen that went a way.
func packets(n *nettest.Node, way string) float64 {
	return n.Metric(fmt.Sprintf("fairlead_fastpath_packets_total{way=%q}", way))
}

// crosses goes by the version of the kernel: since Linux 6.3 programs can take a packet of one family out of the other.
func crosses(t *testing.T) bool {
	t.Helper()
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		t.Fatal(err)
	}
	var major, minor int
	if _, err := fmt.Sscanf(unix.ByteSliceToString(name.Release[:]), "%d.%d", &major, &minor); err != nil {
		t.Fatalf("read the version of the kernel: %v", err)
	}
	return major > 6 || major == 6 && minor >= 3
}
