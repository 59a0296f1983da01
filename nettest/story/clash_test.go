package story_test

import (
	"fmt"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/agent"
	"github.com/fairlead-net/fairlead/nettest"
)

const theirVNI = 99 // of a device of somebody else at our UDP port

// TestATunnelThatCanNotBeMadeIsNoWay: another program has the VNI that our device should have. What people and programs
// are told of the routes is what the kernel has.
func TestATunnelThatCanNotBeMadeIsNoWay(t *testing.T) {
	l := running(t, nettest.LabOptions{Nodes: []string{"n1", "n3"}, Pools: []string{pool4}, Mode: "vxlan", HoldTime: 9 * time.Second})
	n, other := l.Node("n1"), l.Node("n3")
	c, far := n.Attach("n1a"), other.Attach("n3a")
	far.Serve(far.IP4)
	lost := block(t, other, pool4)
	agree(t, n, lost, "")
	f := following(t, n)

	theirs := fmt.Sprintf("link add calico type vxlan id %d dstport 4789 nolearning", theirVNI)
	n.IP(theirs)
	own := n.Config()
	n.WriteConfig(own + fmt.Sprintf("vni = %d\n", theirVNI))
	n.Signal(syscall.SIGHUP) // the command would wait in vain for a pass without failures
	agree(t, n, lost, "not-in-kernel")
	e := f.expect(soon, "the loss of the route", ofRoute("route-changed", lost.String()))
	if e.Route.Installed || e.Route.Reason != "not-in-kernel" || e.Before == nil || !e.Before.Installed {
		t.Errorf("lost: %s", told(e))
	}
	if s := show[agent.Status](t, n, "status"); s.Ready || !strings.Contains(strings.Join(s.Problems, "\n"), "is taken by device calico") {
		t.Errorf("ready %v, problems %q", s.Ready, s.Problems)
	}

	// A daemon that finds the kernel so says the same.
	n.Kill()
	n.Start()
	agree(t, n, lost, "not-in-kernel")

	f = following(t, n)
	n.IP("link del calico")
	agree(t, n, lost, "")
	e = f.expect(soon, "the return of the route", ofRoute("route-changed", lost.String()), "peer-up", "route-changed")
	if !e.Route.Installed || e.Before == nil || e.Before.Reason != "not-in-kernel" {
		t.Errorf("back: %s", told(e))
	}
	n.WriteConfig(own)
	n.Fairlead("reload")
	if err := reaches(c, far.IP4); err != nil {
		t.Error(err)
	}
}

// agree waits until the list of routes and the status say of the one remote prefix what the kernel says: that it is there
// when the reason is "", and not when there is one.
func agree(t *testing.T, n *nettest.Node, prefix netip.Prefix, reason string) {
	t.Helper()
	nettest.Eventually(t, 15*time.Second, func() error {
		var s agent.Status
		var all []agent.Route
		if err := n.Get("status", &s); err != nil {
			return err
		}
		if err := n.Get("routes", &all); err != nil {
			return err
		}
		want := agent.RouteCount{VXLAN: 1}
		if reason != "" {
			want = agent.RouteCount{Skipped: 1}
		}
		used := reason == ""
		if len(all) != 1 || all[0].Prefix != prefix || all[0].Installed != used || all[0].Reason != reason || hasRoute(n, prefix) != used || s.Routes != want {
			return fmt.Errorf("want %q; listed %+v, counted %+v, in the kernel %q", reason, all, s.Routes, routes(n))
		}
		return nil
	})
}
