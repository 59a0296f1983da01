package story_test

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/fairlead-net/fairlead/nettest"
)

// TestForgedFramesReachNobody: of 10,000 frames with which a container says to be somebody else none is delivered, and each
// is counted by what is wrong with it. Meanwhile its own pass.
func TestForgedFramesReachNobody(t *testing.T) {
	t.Parallel()
	const port, times = 7009, 1000 // of each of ten kinds
	l := running(t, nettest.LabOptions{Nodes: []string{"n1", "n2"}, Pools: []string{pool4, pool6}, Fastpath: "on", RPFilter: 0})
	n := l.Node("n1")
	c, near, far := n.Attach("liar"), n.Attach("near"), l.Node("n2").Attach("far")
	l.WaitFast(fastSoon)
	meetAll(t, []*nettest.Container{c, near, far})
	var ears []*nettest.Ear
	for _, to := range []*nettest.Container{near, far} {
		for _, a := range to.Addresses() {
			ears = append(ears, to.Hear(netip.AddrPortFrom(a, port)))
		}
	}
	heard := func() (sum int) {
		for _, e := range ears {
			sum += e.Heard()
		}
		return sum
	}
	own, gateway, other := c.MAC("eth0"), n.MAC(c.HostIf), near.MAC("eth0")
	frame := func(mac net.HardwareAddr, src, dst netip.Addr) nettest.Frame {
		return nettest.Frame{From: mac, To: gateway, Src: src, Dst: dst, Port: port}
	}

	// What is made in this way arrives when nothing of it is forged.
	before := n.FastCounts()
	honest := [][]byte{
		frame(own, c.IP4, near.IP4).Bytes(), frame(own, c.IP6, near.IP6).Bytes(),
		frame(own, c.IP4, far.IP4).Bytes(), frame(own, c.IP6, far.IP6).Bytes(),
	}
	c.Inject("eth0", honest, 50)
	nettest.Eventually(t, soon, func() error {
		if got := heard(); got != 200 {
			return fmt.Errorf("%d of 200 honest frames have come", got)
		}
		return nil
	})
	if out := n.FastCounts().Since(before)[nettest.FastCount{Of: "liar", Way: "out"}]; out != 200 {
		t.Errorf("%d honest frames went by the fast path, of 200", out)
	}

	nobody4, nobody6 := netip.MustParseAddr("10.88.255.77"), netip.MustParseAddr("2001:db8:88::7777")
	outside4, outside6 := netip.MustParseAddr("203.0.113.9"), netip.MustParseAddr("2001:db8:ff::9")
	forged := [][]byte{
		frame(own, nobody4, near.IP4).Bytes(), frame(own, nobody6, far.IP6).Bytes(), // drop-source
		frame(own, outside4, far.IP4).Bytes(), frame(own, outside6, near.IP6).Bytes(),
		frame(own, near.IP4, far.IP4).Bytes(), frame(own, near.IP6, far.IP6).Bytes(), // others' addresses
		frame(other, c.IP4, near.IP4).Bytes(), frame(other, c.IP6, far.IP6).Bytes(), // drop-mac
		frame(own, near.IP4, c.IP4).ARP(own), frame(own, c.IP4, near.IP4).ARP(other), // drop-arp
	}
	probes := []*nettest.Probe{c.Probe(near.IP4, 200), c.Probe(near.IP6, 200), c.Probe(far.IP4, 200), c.Probe(far.IP6, 200)}
	before = n.FastCounts()
	c.Inject("eth0", forged, times)
	for _, got := range tallies(probes) {
		if got.Lost > 0 || got.Sent == 0 || len(got.Errors) > 0 {
			t.Errorf("the container's own packets: %v", got)
		}
	}
	grown := n.FastCounts().Since(before)
	for of, want := range map[nettest.FastCount]int{
		{Way: "drop-source"}: 6 * times, {Way: "drop-mac"}: 2 * times, {Way: "drop-arp"}: 2 * times,
		{Of: "liar", Way: "dropped"}: 10 * times, {Of: "liar", Way: "kernel"}: 0, {Way: "kernel-route"}: 0,
	} {
		if grown[of] != want {
			t.Errorf("%q %s grew by %d, want %d", of.Of, of.Way, grown[of], want)
		}
	}
	if now := heard(); now != 200 {
		t.Errorf("%d forged frames were delivered", now-200)
	}
	for line := range strings.Lines(n.IP("neigh show dev " + c.HostIf)) {
		if strings.HasPrefix(line, near.IP4.String()+" ") || strings.Contains(line, other.String()) {
			t.Errorf("the host believes: %s", line)
		}
	}
}
