package story_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/nettest"
)

// TestLargeDataArrivesAsItWasSent: what is sent in full segments and beyond arrives whole by each way, with and without a
// card that cuts them, and the counts say that the fast path carried every byte.
func TestLargeDataArrivesAsItWasSent(t *testing.T) {
	t.Parallel()
	l := running(t, nettest.LabOptions{Nodes: []string{"n1", "n2", "n3"}, Underlay: nettest.Only4, Pools: []string{pool4, pool6}, Fastpath: "on", RPFilter: 1})
	n := l.Node("n1")
	c, near, direct, far := n.Attach("c"), n.Attach("near"), l.Node("n2").Attach("direct"), l.Node("n3").Attach("far")
	l.WaitFast(fastSoon)
	meetAll(t, []*nettest.Container{c, near, direct, far})
	for offloads, size := range map[string]int{"on": 128 << 20, "off": 32 << 20} {
		for _, host := range l.Nodes {
			host.Run("ethtool", "-K", "eth0", "tso", offloads, "gso", offloads, "gro", offloads)
		}
		for to, way := range map[netip.Addr]string{near.IP4: "local", direct.IP4: "direct", far.IP4: "ipip", far.IP6: "vxlan"} {
			before, bytes := n.FastCounts(), n.FastBytes()
			took, err := c.Bulk(to, size, 20*time.Second)
			if err != nil {
				t.Errorf("%s, offloads %s: %v", way, offloads, err)
				continue
			}
			t.Logf("%s, offloads %s: %d MiB there and back in %v", way, offloads, size>>20, took)
			grown, carried := n.FastCounts().Since(before), n.FastBytes().Since(bytes)
			for _, side := range []string{"out", "in"} {
				if got := carried[nettest.FastCount{Of: "c", Way: side}]; got < size {
					t.Errorf("%s, offloads %s: %d bytes %s by the fast path, of %d", way, offloads, got, side, size)
				}
			}
			if got := grown[nettest.FastCount{Of: "c", Way: "in"}]; offloads == "off" && to != near.IP4 && got < size/1500 {
				t.Errorf("%s: %d packets are not cut as for the wire", way, got)
			}
			if got := grown[nettest.FastCount{Of: "c", Way: "out"}]; got > grown[nettest.FastCount{Way: "fast-" + way}] {
				t.Errorf("%s, offloads %s: %d packets by the fast path, but not by that way: %v", way, offloads, got, grown)
			}
			if got := grown[nettest.FastCount{Of: "c", Way: "kernel"}] + grown[nettest.FastCount{Way: "kernel-failed"}]; got > 0 {
				t.Errorf("%s, offloads %s: %d packets left to the kernel: %v", way, offloads, got, grown)
			}
		}
	}
}
