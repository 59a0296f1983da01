package story_test

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/nettest"
)

// checkMove: a client that goes on sending from one port is answered by the new holder of the port it sends to, and who
// has nothing to do with it notices nothing.
func (h *harbour) checkMove(t *testing.T) {
	holders := []*nettest.Container{h.n.Attach("here", "--publish", "5000:53/udp"), h.n.Attach("there")}
	offer(holders[0], 53, "udp")
	offer(holders[1], 53, "udp")
	foreign := h.bystander(t)
	var talks []*nettest.Talk
	for _, a := range addressesOf(h.n) {
		talks = append(talks, h.stranger.Talk(netip.AddrPortFrom(a, 5000), 2*time.Millisecond))
	}
	hears(t, talks, time.Time{}, "here")
	for i := range 6 {
		old, now := holders[i%2], holders[1-i%2]
		h.n.Fairlead("unpublish", old.Endpoint, "5000:53/udp")
		gone := time.Now()
		time.Sleep(50 * time.Millisecond) // the client goes on: the kernel notes a flow that leads nowhere
		for _, talk := range talks {
			if got := talk.Since(gone.Add(10 * time.Millisecond)); len(got) > 0 {
				t.Errorf("after it was unpublished %s still answers: %d times", old.Endpoint, len(got))
			}
		}
		h.n.Fairlead("publish", now.Endpoint, "5000:53/udp")
		hears(t, talks, time.Now(), now.Endpoint)
	}
	for _, talk := range talks {
		talk.Stop()
	}
	foreign(t)
	unpublishAll(t, h.n)
	h.n.Fairlead("detach", "here", "there", "bystander")
}

// hears waits until every client is answered, and holds the first answers to coming from the right one, and soon.
func hears(t *testing.T, talks []*nettest.Talk, since time.Time, name string) {
	t.Helper()
	for _, talk := range talks {
		took := nettest.Eventually(t, time.Second, func() error {
			got := talk.Since(since)
			if len(got) < 10 {
				return fmt.Errorf("%d answers", len(got))
			}
			for _, answer := range got {
				if answer.Name != name {
					return fmt.Errorf("answered by %s, not %s", answer.Name, name)
				}
			}
			return nil
		})
		t.Logf("%s answers after %v", name, took)
	}
}

// bystander sets traffic to run through ports of another container; what it returns holds that to no loss.
func (h *harbour) bystander(t *testing.T) (end func(t *testing.T)) {
	t.Helper()
	c := h.n.Attach("bystander", "--publish", "7001:7001/tcp", "--publish", "7001:7001/udp")
	c.Serve(c.IP4)
	flows, probe := h.stranger.Flows(h.n.Address4, 20), h.stranger.Probe(h.n.Address4, 200)
	return func(t *testing.T) {
		t.Helper()
		if got := flows.Stop(); len(got.Faults) > 0 || got.Rounds == 0 {
			t.Errorf("foreign flows: %v", got)
		}
		if got := probe.Stop(); got.Lost > 0 || got.Sent == 0 {
			t.Errorf("foreign packets: %v", got)
		}
	}
}
