package story_test

import (
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/agent"
	"github.com/fairlead-net/fairlead/nettest"
)

// A link of 1,400 bytes in the midst of the path: bulk goes through in both directions, and a packet that is too big gets
// the right error. Nothing vanishes for good.
func TestANarrowLinkInTheMidstIsNoBlackHole(t *testing.T) {
	t.Parallel()
	l := running(t, nettest.LabOptions{Nodes: []string{"n1", "n5"}, Pools: pools(), RPFilter: 1})
	near, far := l.Node("n1").Attach("n1a"), l.Node("n5").Attach("n5a")
	for _, c := range []*nettest.Container{near, far} {
		for _, a := range c.Addresses() {
			c.Serve(a)
		}
	}
	squeeze(l, 1400)
	for _, pair := range [][2]*nettest.Container{{near, far}, {far, near}} {
		for _, to := range pair[1].Addresses() {
			took, err := pair[0].Bulk(to, 4<<20, nettest.Patience(20*time.Second))
			if err != nil {
				t.Error(err)
			}
			t.Logf("4 MiB from %s to %s and back: %v", pair[0].Name, to, took)
		}
	}
	for _, pair := range [][2]*nettest.Container{{near, far}, {far, near}} {
		for _, to := range pair[1].Addresses() {
			encap := pair[0].Node.EncapTo(pair[1].Node, to.Is4())
			want := 1400 - map[string]int{"ipip": 20, "gre": 24, "vxlan": 50}[encap]
			if encap == "vxlan" && to.Is6() {
				want = 1400 - 70 // the underlay has IPv6 too, and its header is longer
			}
			nettest.Eventually(t, soon, func() error {
				if mtu := pathMTU(t, pair[0].Node, to); mtu != want {
					return fmt.Errorf("%s: the way to %s is said to carry %d, not %d", pair[0].Node.Name, to, mtu, want)
				}
				return nil
			})
			checkSizes(t, pair[0], to, want)
		}
	}
}

// The underlay's MTU is followed while everything runs: containers use jumbo frames when they can, and stop when they must.
func TestContainersFollowTheMTUOfTheUnderlay(t *testing.T) {
	t.Parallel()
	l := running(t, nettest.LabOptions{Nodes: []string{"n1", "n2", "n3"}, Pools: pools(), RPFilter: 1})
	all := l.AttachAll(1)
	for _, c := range all {
		for _, a := range c.Addresses() {
			c.Serve(a)
		}
	}
	less := 1500 - linkMTU(all[0]) // the header of the largest tunnel
	if less < 20 || less > 70 {
		t.Fatalf("containers have an MTU of %d on 1500", linkMTU(all[0]))
	}
	for _, mtu := range []int{9000, 1500} {
		cables(l, mtu)
		for _, c := range all {
			nettest.Eventually(t, 5*time.Second, func() error {
				if got := linkMTU(c); got != mtu-less {
					return fmt.Errorf("%s has MTU %d on %d", c.Name, got, mtu)
				}
				return nil
			})
		}
		for _, to := range all[1:] {
			for _, a := range to.Addresses() {
				headers := map[bool]int{true: 28, false: 48}[a.Is4()]
				nettest.Eventually(t, 5*time.Second, func() error { return ping(all[0], a, mtu-less-headers) })
				if _, err := all[0].Bulk(a, 4<<20, 20*time.Second); err != nil {
					t.Error(err)
				}
			}
		}
	}
}

// cables gives every cable of the lab an MTU.
func cables(l *nettest.Lab, mtu int) {
	size := strconv.Itoa(mtu)
	for i, sw := range l.Switches {
		sw.IP("link set router mtu " + size)
		l.Router.IP(fmt.Sprintf("link set eth%d mtu %s", i, size))
	}
	for _, n := range l.Nodes {
		n.IP("link set eth0 mtu " + size)
		l.Switches[n.Subnet].IP("link set " + n.Name + " mtu " + size)
	}
}

// linkMTU is that of the container's own link.
func linkMTU(c *nettest.Container) int {
	words := strings.Fields(c.IP("-oneline link show dev eth0"))
	i := slices.Index(words, "mtu")
	mtu, _ := strconv.Atoi(words[i+1]) // 0 is no MTU that is waited for
	return mtu
}

// Whoever can send one ICMP message to a host can lie to it about a path. Traffic may become slower by that, in smaller
// packets, and does not stop: not on the link either, and not of IPv6, whose packets can not get smaller than 1280 bytes.
func TestALieAboutAPathStopsNoTraffic(t *testing.T) {
	t.Parallel()
	if mode := os.Getenv(modeVariable); mode != "" && mode != "vxlan" {
		t.Skipf("the lie is about VXLAN, and the mode is %s", mode)
	}
	l := running(t, nettest.LabOptions{
		Nodes: []string{"n1", "n2", "n3"}, Pools: pools(), Mode: "vxlan", Underlay: nettest.Only4, RPFilter: 1,
	})
	liar := nettest.NewHost(t, "liar")
	nettest.Wire(t, liar, "eth0", l.Switches[0], "liar")
	l.Switches[0].IP("link set liar master br0")
	liar.IP("addr add 192.0.2.66/24 dev eth0")
	from, others := l.Node("n1").Attach("n1a"), []*nettest.Container{l.Node("n2").Attach("n2a"), l.Node("n3").Attach("n3a")}
	for _, to := range others {
		liar.LieAboutPath(from.Node.Address4, to.Node.Address4, 576)
		nettest.Eventually(t, 5*time.Second, func() error {
			if mtu := pathMTU(t, from.Node, to.IP4); mtu >= 1450 {
				return fmt.Errorf("the kernel believed it, and the way to %s is still said to carry %d", to.Name, mtu)
			}
			return nil
		})
		for _, a := range to.Addresses() {
			to.Serve(a)
			if _, err := from.Bulk(a, 4<<20, 20*time.Second); err != nil {
				t.Error(err)
			}
		}
	}
}

// squeeze makes the network between the two routers carry less.
func squeeze(l *nettest.Lab, mtu int) {
	size := strconv.Itoa(mtu)
	l.Routers[0].IP("link set eth1 mtu " + size)
	l.Routers[1].IP("link set eth0 mtu " + size)
	for _, port := range []string{"router", "router2", "br0"} {
		l.Switches[1].IP("link set " + port + " mtu " + size)
	}
}

// pathMTU is what the host says that its way to an address carries.
func pathMTU(t *testing.T, n *nettest.Node, to netip.Addr) int {
	t.Helper()
	all := show[[]agent.Route](t, n, "routes")
	i := slices.IndexFunc(all, func(r agent.Route) bool { return r.Prefix.Contains(to) })
	if i < 0 {
		t.Fatalf("%s has no route to %s", n.Name, to)
	}
	return all[i].MTU
}

// checkSizes sends packets that must not be cut into pieces: the largest that fits gets through, and one byte more is
// refused with the size that would fit.
func checkSizes(t *testing.T, from *nettest.Container, to netip.Addr, mtu int) {
	t.Helper()
	headers := 28
	if to.Is6() {
		headers = 48
	}
	nettest.Eventually(t, 5*time.Second, func() error { return ping(from, to, mtu-headers) })
	err := ping(from, to, mtu-headers+1)
	// "mtu=" when a host or a router says it, "mtu: " when the container has heard it before.
	if err == nil || !regexp.MustCompile(fmt.Sprintf(`mtu[ :=]+%d\b`, mtu)).MatchString(err.Error()) {
		t.Errorf("a packet of %d bytes from %s to %s: %v", mtu+1, from.Name, to, err)
	}
}

func ping(from *nettest.Container, to netip.Addr, payload int) error {
	out, err := from.Try("ping", "-n", "-M", "do", "-c", "1", "-W", "1", "-s", strconv.Itoa(payload), to.String())
	if err != nil {
		return fmt.Errorf("ping with %d bytes: %w: %s", payload, err, out)
	}
	return nil
}
