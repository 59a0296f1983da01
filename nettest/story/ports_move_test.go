package story_test

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/nettest"
)

// checkMove: a client that goes on sending from one port is answered by the new holder of the port it sends to, and who
// has nothing to do with it notices nothing.
func (h *harbour) checkMove(t *testing.T) {
	holders := []*nettest.Container{h.n.Attach("here", "--publish", "5000:53/udp", "--publish", "5001:7001"), h.n.Attach("there")}
	for _, c := range holders {
		offer(c, 53, "udp")
		c.Serve(c.IP4)
	}
	foreign := h.bystander(t)
	var talks []*nettest.Talk
	for _, a := range addressesOf(h.n) {
		talks = append(talks, h.stranger.Talk(netip.AddrPortFrom(a, 5000), 2*time.Millisecond))
	}
	hears(t, talks, time.Time{}, "here")
	for i := range 6 {
		old, now := holders[i%2], holders[1-i%2]
		again := h.idle(t, 5001)
		h.n.Fairlead("unpublish", old.Endpoint, "5000:53/udp", "5001:7001")
		gone := time.Now()
		time.Sleep(50 * time.Millisecond) // the client goes on: the kernel notes a flow that leads nowhere
		for _, talk := range talks {
			if got := talk.Since(gone.Add(10 * time.Millisecond)); len(got) > 0 {
				t.Errorf("after it was unpublished %s still answers: %d times", old.Endpoint, len(got))
			}
		}
		h.n.Fairlead("publish", now.Endpoint, "5000:53/udp", "5001:7001")
		hears(t, talks, time.Now(), now.Endpoint)
		if err := again(); err == nil {
			t.Errorf("a connection with %s goes on, and its port is another's", old.Endpoint)
		}
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

// idle is a connection through a mapping that has been used; what it returns uses it again.
func (h *harbour) idle(t *testing.T, port uint16) (again func() error) {
	t.Helper()
	var c net.Conn
	err := h.stranger.Do(func() (err error) {
		c, err = net.Dial("tcp", netip.AddrPortFrom(h.n.Address4, port).String())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	again = func() error {
		_ = c.SetDeadline(time.Now().Add(nettest.Patience(2 * time.Second))) // fails when closed, as the write will
		if _, err := c.Write([]byte("echo")); err != nil {
			return err
		}
		_, err := io.ReadFull(c, make([]byte, 4))
		return err
	}
	if err := again(); err != nil {
		t.Fatal(err)
	}
	return again
}
