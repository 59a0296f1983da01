package agent_test

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-net/fairlead/agent"
	"github.com/fairlead-net/fairlead/reconcile"
	"github.com/fairlead-net/fairlead/tunnel"
)

// clash keeps the world from having a VXLAN device, and the routes by it wait. It returns what ends that.
func clash(w *world, far ...string) (over func()) {
	w.devices.mu.Lock()
	defer w.devices.mu.Unlock()
	w.devices.refuse = func(string) error { return errors.New("VNI 88 on UDP port 4789 is taken by device calico") }
	w.routes.mu.Lock()
	defer w.routes.mu.Unlock()
	w.routes.refuse = func(k tunnel.RouteKey) error {
		for _, p := range far {
			if k.Prefix == netip.MustParsePrefix(p) {
				return fmt.Errorf("link flvxlan: %w", reconcile.ErrWaits)
			}
		}
		return nil
	}
	return func() {
		w.devices.mu.Lock()
		defer w.devices.mu.Unlock()
		w.devices.refuse = nil
		w.routes.mu.Lock()
		defer w.routes.mu.Unlock()
		w.routes.refuse = nil
	}
}

// TestARouteThatTheKernelDoesNotTakeIsNotInstalled: the list of routes, the numbers in the status and the kernel agree.
func TestARouteThatTheKernelDoesNotTakeIsNotInstalled(t *testing.T) {
	w := newWorld()
	w.hear(route("10.88.2.0/24", "192.0.2.2"), route("10.88.3.0/24", "198.51.100.3"))
	over := clash(w, "10.88.3.0/24", "198.51.100.3/32")
	a := prepare(t, w, config("10.88.1.0/24"), nil)
	a.Pass(t.Context())
	holds(t, "clash", a, agent.RouteCount{Direct: 1, Skipped: 1}, "10.88.2.0/24 direct true ", "10.88.3.0/24 vxlan false not-in-kernel")
	if said := strings.Join(a.Status().Problems, "\n"); !strings.Contains(said, "taken by device calico") || strings.Contains(said, "not-in-kernel") {
		t.Errorf("the problems are the cause and not what comes of it: %s", said)
	}
	over()
	a.Pass(t.Context())
	holds(t, "no clash", a, agent.RouteCount{Direct: 1, VXLAN: 1}, "10.88.2.0/24 direct true ", "10.88.3.0/24 vxlan true ")

	// The way to one changes, and the kernel keeps the old one.
	clash(w, "10.88.2.0/24")
	w.hear(route("10.88.2.0/24", "192.0.2.4"), route("10.88.3.0/24", "198.51.100.3"))
	a.Pass(t.Context())
	holds(t, "old way", a, agent.RouteCount{VXLAN: 1, Skipped: 1}, "10.88.2.0/24 direct false not-in-kernel", "10.88.3.0/24 vxlan true ")
}

func holds(t *testing.T, when string, a *agent.Agent, count agent.RouteCount, want ...string) {
	t.Helper()
	var got []string
	for _, r := range a.Routes() {
		got = append(got, fmt.Sprintf("%s %s %v %s", r.Prefix, r.Encap, r.Installed, r.Reason))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s: want -, got +:\n%s", when, diff)
	}
	if s := a.Status(); s.Routes != count {
		t.Errorf("%s: %+v, want %+v", when, s.Routes, count)
	}
}
