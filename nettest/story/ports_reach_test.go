package story_test

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/nettest"
)

// way is how somebody asks for a published port, and whom the container sees then.
type way struct {
	who  string // in the words of docs/ports.md
	from *nettest.Host
	to   netip.Addr // the address that is asked
	seen netip.Addr
}

func (w way) String() string { return fmt.Sprintf("%s (%s) by %s", w.who, w.from.Name, w.to) }

// crowd are containers that ask for the ports of the first. Those of other nodes are nil where there is only one.
type crowd struct{ own, near, direct, tunnelled *nettest.Container }

// ways is the table of docs/ports.md, in both families.
func (h *harbour) ways(c crowd) (all []way) {
	for _, four := range []bool{true, false} {
		pick := func(ip4, ip6 netip.Addr) netip.Addr {
			if four {
				return ip4
			}
			return ip6
		}
		to := pick(h.n.Address4, h.n.Address6)
		add := func(who string, from *nettest.Host, seen netip.Addr) { all = append(all, way{who, from, to, seen}) }
		add("another host", h.stranger, pick(h.stranger4, h.stranger6))
		for _, n := range others(h.Lab, h.n) {
			add("another node", n.Host, pick(n.Address4, n.Address6))
		}
		for _, other := range []*nettest.Container{c.near, c.direct, c.tunnelled} {
			if other != nil {
				add("a container of "+other.Node.Name, other.Host, pick(other.IP4, other.IP6))
			}
		}
		add("the container itself", c.own.Host, to)
		add("a program of this host", h.n.Host, to)
	}
	return append(all, way{"a program of this host", h.n.Host, loopback(0).Addr(), h.n.Address4})
}

// TestPublishedPortsAreReachedFromEverywhere tells one story in one lab: who reaches what, who does not, and what is left.
func TestPublishedPortsAreReachedFromEverywhere(t *testing.T) {
	h := emptyHarbour(t, nettest.LabOptions{Nodes: []string{"n1", "n2", "n3"}, RPFilter: 1})
	for _, n := range h.Nodes { // as Docker does
		n.Run("iptables", "-P", "FORWARD", "DROP")
		n.Run("ip6tables", "-P", "FORWARD", "DROP")
	}
	h.n.Sysctl("net/ipv4/ip_local_reserved_ports", "50000-50002") // the administrator's own
	before := h.n.State()
	h.Start()
	c := h.gather(t, "tcp", "udp")
	c.direct, c.tunnelled = h.Node("n2").Attach("direct"), h.Node("n3").Attach("tunnelled")
	t.Run("and the container sees who asks", func(t *testing.T) { h.checkWays(t, c, "tcp", "udp") })
	t.Run("with much to say", func(t *testing.T) { h.checkBulk(t, c) })
	t.Run("by one address only if that is asked for", h.checkOneAddress)
	t.Run("but not over 127.0.0.1 from elsewhere", func(t *testing.T) { h.checkLoopback(t, c) })
	t.Run("and the way out is the host's", func(t *testing.T) { h.checkWayOut(t, c) })
	t.Run("and containers are told of their own", func(t *testing.T) { h.checkInside(t, c) })
	t.Run("until it is uninstalled", func(t *testing.T) { h.checkUninstall(t, before) })
}

// gather attaches the crowd of this host. Of the first one two ports are published, at a fixed and at a random one of the host.
func (h *harbour) gather(t *testing.T, protos ...string) crowd {
	t.Helper()
	var flags []string
	for _, proto := range protos {
		flags = append(flags, "--publish", fmt.Sprintf("%d:%d/%s", fixedPort, plainPort, proto), "--publish", fmt.Sprintf("%d/%s", otherPort, proto))
	}
	c := crowd{own: h.n.Attach("web", append(flags, "--label", "tier=front")...), near: h.n.Attach("near")}
	offer(c.own, plainPort, protos...)
	offer(c.own, otherPort, protos...)
	return c
}

// checkWays has everybody ask by every protocol, for the fixed and the random port.
func (h *harbour) checkWays(t *testing.T, c crowd, protos ...string) {
	asked := 0
	for _, proto := range protos {
		random := hostPort(t, h.n, c.own.Endpoint, proto, otherPort)
		if random == 0 || random == fixedPort {
			t.Fatalf("the random port is %d", random)
		}
		for _, w := range h.ways(c) {
			for _, port := range []uint16{fixedPort, random} {
				if err := w.works(proto, port, c.own.Endpoint); err != nil {
					t.Errorf("%s, port %d/%s: %v", w, port, proto, err)
				}
				asked++
			}
		}
	}
	t.Logf("%d questions", asked)
}

// works is an error unless the container answers and saw whom it should. A first packet may wait for a neighbour.
func (w way) works(proto string, port uint16, name string) error {
	var last error
	for range 3 {
		got, err := w.from.Call(proto, netip.AddrPortFrom(w.to, port))
		switch {
		case err != nil:
			last = err
			continue
		case got.Name != name:
			return fmt.Errorf("answered by %q", got.Name)
		case got.Source.Addr() != w.seen:
			return fmt.Errorf("seen as %s, not as %s", got.Source.Addr(), w.seen)
		}
		return nil
	}
	return last
}

// checkBulk sends much through a port, by TCP and in datagrams that are cut on the way.
func (h *harbour) checkBulk(t *testing.T, c crowd) {
	h.n.Fairlead("publish", c.own.Endpoint, "7001:7001/tcp", "7003:7003/udp")
	for _, a := range c.own.Addresses() {
		c.own.Serve(a)
		c.own.Echo(netip.AddrPortFrom(a, 7003))
	}
	for _, from := range []*nettest.Host{h.stranger, h.n.Host, h.Node("n3").Host, c.near.Host, c.direct.Host, c.tunnelled.Host} {
		for _, a := range addressesOf(h.n) {
			if _, err := from.Bulk(a, 1<<20, nettest.Patience(10*time.Second)); err != nil {
				t.Error(err)
			}
			if err := from.Large(netip.AddrPortFrom(a, 7003), 8000); err != nil {
				t.Error(err)
			}
		}
	}
	h.n.Fairlead("unpublish", c.own.Endpoint, "7001:7001/tcp", "7003:7003/udp")
}

// checkOneAddress publishes by one address of a host that has several.
func (h *harbour) checkOneAddress(t *testing.T) {
	second := netip.MustParseAddr("192.0.2.101")
	h.n.IP("addr add " + second.String() + "/24 dev eth0")
	t.Cleanup(func() { h.n.IP("addr del " + second.String() + "/24 dev eth0") })
	for name, at := range map[string]string{"one": "192.0.2.101", "two": "192.0.2.1", "six": "[2001:db8:1::1]", "own": "127.0.0.1"} {
		c := h.n.Attach(name, "--publish", at+":8090:80")
		offer(c, plainPort, "tcp")
		t.Cleanup(func() { h.n.Fairlead("detach", name) })
	}
	for _, from := range []*nettest.Host{h.stranger, h.n.Host} {
		for to, name := range map[netip.Addr]string{second: "one", h.n.Address4: "two", h.n.Address6: "six"} {
			nettest.Eventually(t, time.Second, func() error { return answers(from, "tcp", netip.AddrPortFrom(to, 8090), name) })
		}
	}
	if err := answers(h.n.Host, "tcp", loopback(8090), "own"); err != nil {
		t.Error(err)
	}
	h.n.Fairlead("unpublish", "one", "192.0.2.101:8090:80")
	if err := silent(h.stranger, "tcp", netip.AddrPortFrom(second, 8090)); err != nil {
		t.Error(err)
	}
	if err := answers(h.stranger, "tcp", netip.AddrPortFrom(h.n.Address4, 8090), "two"); err != nil {
		t.Error(err)
	}
}
