package story_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/nettest"
)

// TestMappedTrafficGoesOn tells one story of ports under load.
func TestMappedTrafficGoesOn(t *testing.T) {
	h := newHarbour(t, nettest.LabOptions{Nodes: []string{"n1", "n2"}, RPFilter: 1, HoldTime: 9 * time.Second, Extra: "[nat]\nport_range = \"30000-39999\"\n"})
	t.Run("while daemons restart and are killed", h.checkRestarts)
	t.Run("while many change what is mapped", h.checkChurn)
}

// checkRestarts: 200 flows through mapped ports, from all sides, lose nothing.
func (h *harbour) checkRestarts(t *testing.T) {
	c, near, direct := h.n.Attach("web", "--publish", "7001:7001/tcp", "--publish", "7001:7001/udp"), h.n.Attach("near"), h.Node("n2").Attach("direct")
	for _, a := range c.Addresses() {
		c.Serve(a)
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	chance := rand.New(rand.NewPCG(seed, 88))
	var flows []*nettest.Flows
	var probes []*nettest.Probe
	for _, from := range []*nettest.Host{h.stranger, h.n.Host, near.Host, direct.Host} {
		for _, a := range addressesOf(h.n) {
			flows = append(flows, from.Flows(a, max(1, 25/nettest.Slowness())))
			probes = append(probes, from.Probe(a, 50))
		}
	}
	for i := range 6 {
		pause(chance, 400*time.Millisecond)
		n := h.Nodes[i/2%2] // the host with the ports twice as often
		if i > 3 {
			n = h.n
		}
		if i%2 == 0 {
			n.Kill()
		} else if code := n.Stop(); code > 0 {
			t.Errorf("%s ended with exit code %d", n.Name, code)
		}
		pause(chance, 200*time.Millisecond)
		n.Start()
		n.WaitReady(20 * time.Second)
	}
	time.Sleep(time.Second) // what a late prune would break shows now
	rounds := 0
	for _, f := range flows {
		got := f.Stop()
		rounds += got.Rounds
		if len(got.Faults) > 0 || got.Rounds == 0 {
			t.Errorf("flows broken: %v", got)
		}
	}
	for _, got := range tallies(probes) {
		if got.Lost > 0 || len(got.Errors) > 0 || got.Sent == 0 {
			t.Errorf("packets lost: %v", got)
		}
	}
	t.Logf("%d messages in %d flows", rounds, 25*len(flows))
	unpublishAll(t, h.n)
	h.n.Fairlead("detach", "web", "near")
	h.Node("n2").Fairlead("detach", "direct")
}
