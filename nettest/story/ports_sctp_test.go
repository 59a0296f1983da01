package story_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/nettest"
)

// TestSCTPPortsAreReachedAndHeld is what the other stories of ports tell of TCP and UDP.
func TestSCTPPortsAreReachedAndHeld(t *testing.T) {
	if err := nettest.SCTP(); err != nil {
		t.Skipf("this kernel has no SCTP: %v", err)
	}
	h := newHarbour(t, nettest.LabOptions{Nodes: []string{"n1"}, RPFilter: 1})
	c := h.gather(t, "sctp")
	t.Run("from everywhere", func(t *testing.T) { h.checkWays(t, c, "sctp") })
	t.Run("by its container alone", func(t *testing.T) {
		random := hostPort(t, h.n, c.own.Endpoint, "sctp", otherPort)
		loots := []loot{
			{"fixed", "sctp", fixedPort, []string{"0.0.0.0", "192.0.2.1", "127.0.0.1", "::", "2001:db8:1::1"}},
			{"random", "sctp", random, []string{"0.0.0.0", "192.0.2.1", "127.0.0.1", "::", "2001:db8:1::1"}},
		}
		h.stealAll(t, loots)
		h.n.Kill()
		h.stealAll(t, loots)
		if err := h.stranger.Bind("sctp", netip.AddrPortFrom(netip.IPv4Unspecified(), fixedPort), nettest.Trick{}); err != nil {
			t.Errorf("on another host: %v", err)
		}
		h.n.Start()
		h.n.WaitReady(20 * time.Second)
		if err := answers(h.stranger, "sctp", netip.AddrPortFrom(h.n.Address4, random), c.own.Endpoint); err != nil {
			t.Error(err)
		}
	})
}
