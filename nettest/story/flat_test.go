package story_test

import (
	"cmp"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/nettest"
)

// flat is a running lab with two containers on each host, a service on every address, and taps on every cable.
type flat struct {
	*nettest.Lab
	containers []*nettest.Container
	owner      map[netip.Addr]*nettest.Node // of every address
	taps       map[string]*nettest.Tap      // by the name of the host
}

func newFlat(t *testing.T, o nettest.LabOptions) *flat {
	t.Helper()
	f := &flat{Lab: running(t, o), owner: make(map[netip.Addr]*nettest.Node), taps: make(map[string]*nettest.Tap)}
	f.containers = f.AttachAll(2)
	for _, c := range f.containers {
		for _, a := range c.Addresses() {
			c.Serve(a)
			f.owner[a] = c.Node
		}
	}
	for _, n := range f.Nodes {
		for _, a := range hostAddresses(n) {
			n.Serve(a)
			f.owner[a] = n
		}
		f.taps[n.Name] = n.Tap("eth0")
	}
	f.taps["router"] = f.Router.Tap("eth0")
	f.WaitFast(10 * time.Second)
	return f
}

func hostAddresses(n *nettest.Node) []netip.Addr {
	return slices.DeleteFunc([]netip.Addr{n.Address4, n.Address6}, func(a netip.Addr) bool { return !a.IsValid() })
}

// sameFamily is the address of the list that can talk to a.
func sameFamily(list []netip.Addr, a netip.Addr) (netip.Addr, bool) {
	i := slices.IndexFunc(list, func(b netip.Addr) bool { return b.Is4() == a.Is4() })
	if i < 0 {
		return netip.Addr{}, false
	}
	return list[i], true
}

// checkReach holds the three rules of a flat network: all containers reach each other, hosts reach all containers, and
// containers reach all hosts, each seen with the address that it has itself.
func (f *flat) checkReach(t *testing.T) {
	t.Helper()
	for _, from := range f.containers {
		f.checkOwn(t, from)
		for _, to := range f.containers {
			f.checkAll(t, from.Host, from.Addresses(), to.Addresses())
		}
		for _, to := range f.Nodes {
			f.checkAll(t, from.Host, from.Addresses(), hostAddresses(to))
		}
	}
	for _, from := range f.Nodes {
		for _, to := range f.containers {
			f.checkAll(t, from.Host, hostAddresses(from), to.Addresses())
		}
	}
}

func (f *flat) checkAll(t *testing.T, from *nettest.Host, own, targets []netip.Addr) {
	t.Helper()
	for _, to := range targets {
		self, common := sameFamily(own, to)
		if !common || self == to {
			continue
		}
		saw, err := from.Ask(to)
		if err != nil {
			t.Error(err)
		} else if saw.Source != self {
			t.Errorf("%s has %s and is seen by %s as %s", from.Name, self, to, saw.Source)
		}
	}
}

// checkOwn looks at the address as the container itself sees it.
func (f *flat) checkOwn(t *testing.T, c *nettest.Container) {
	t.Helper()
	inside := c.IP("-oneline address show dev eth0")
	for _, a := range c.Addresses() {
		if want := fmt.Sprintf(" %s/%d ", a, a.BitLen()); !strings.Contains(inside, want) {
			t.Errorf("%s does not see %s on itself: %s", c.Name, a, inside)
		}
	}
}

// checkWire looks at what went over the cables: by the one way that the mode has for two hosts, and never by another.
func (f *flat) checkWire(t *testing.T) {
	t.Helper()
	heard := make(map[string]bool) // pairs of hosts that were heard to talk
	for name, tap := range f.taps {
		for p := range tap.Stop() {
			src, dst := p.Ends()
			a, b := f.owner[src], f.owner[dst]
			switch {
			case a == nil || b == nil || p.Encap == "" && isHost(a, src) && isHost(b, dst):
				continue // the hosts' own business
			case a == b:
				t.Errorf("%s left its host on the cable of %s", p, name)
			case a.EncapTo(b, src.Is4()) == "gre" && src.Is6() && (isHost(a, src) || isHost(b, dst)):
				// GRE leads to IPv4 addresses alone: the others do not know that this one is of the same host.
			case cmp.Or(p.Encap, "direct") != wire(a, b, src, dst):
				t.Errorf("on the cable of %s: %s, want %s", name, p, wire(a, b, src, dst))
			}
			heard[a.Name+b.Name] = true
		}
	}
	if n := len(f.Nodes); len(heard) != n*(n-1) {
		t.Errorf("the taps heard %d pairs of hosts, not all %d", len(heard), n*(n-1))
	}
}

// wire is how packets from an address of the one host or its containers to one of the other's travel: what hosts themselves
// have to say goes by their kernel's way.
func wire(a, b *nettest.Node, src, dst netip.Addr) string {
	if isHost(a, src) || isHost(b, dst) {
		return a.EncapTo(b, src.Is4())
	}
	return a.WireTo(b, src.Is4())
}

func isHost(n *nettest.Node, a netip.Addr) bool { return a == n.Address4 || a == n.Address6 }

func TestTheNetworkIsFlatUnderStrictAndLooseReversePathFilters(t *testing.T) {
	t.Parallel()
	f := newFlat(t, nettest.LabOptions{Pools: pools(), RPFilter: 1})
	t.Run("strict", f.checkReach)
	for _, n := range f.Nodes {
		n.Sysctl("net/ipv4/conf/all/rp_filter", "2") // the larger of this and the link's own is in force
	}
	t.Run("loose", f.checkReach)
	f.checkWire(t)
}

// families are a pool of one family on hosts that have both or one.
type families struct {
	name     string
	pool     string
	underlay nettest.Family
}

// oneFamily is a lab for each of the cases that the mode can carry.
func oneFamily(t *testing.T, cases []families, play func(*testing.T, *flat)) {
	t.Helper()
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			mode := os.Getenv(modeVariable)
			if mode == "ipip" && c.pool == pool6 || (mode == "ipip" || mode == "gre") && c.underlay == nettest.Only6 {
				t.Skipf("mode %s does not carry %s", mode, c.name)
			}
			play(t, newFlat(t, nettest.LabOptions{
				Nodes: []string{"n1", "n2", "n3"}, Pools: []string{c.pool}, Underlay: c.underlay, RPFilter: 1,
			}))
		})
	}
}

func TestTheNetworkIsFlatWithOneFamilyOnly(t *testing.T) {
	t.Parallel()
	oneFamily(t, []families{
		{"IPv4 on two families", pool4, nettest.Dual},
		{"IPv4 on IPv4", pool4, nettest.Only4},
		{"IPv6 on two families", pool6, nettest.Dual},
		{"IPv6 on IPv6", pool6, nettest.Only6},
	}, func(t *testing.T, f *flat) {
		f.checkReach(t)
		f.checkWire(t)
	})
}

// Between hosts without a family, containers of it are reached through a tunnel, also inside a subnet.
func TestContainersUseAFamilyThatTheHostsDoNotHave(t *testing.T) {
	t.Parallel()
	oneFamily(t, []families{
		{"IPv6 on IPv4", pool6, nettest.Only4},
		{"IPv4 on IPv6", pool4, nettest.Only6},
	}, func(t *testing.T, f *flat) {
		f.checkReach(t)
	})
}
