package story_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/fairlead-net/fairlead/nettest"
)

// checkBridge: a container may be on Docker's own bridge too. Who has its default route has its ports.
func (y *yard) checkBridge(t *testing.T) {
	a, c := y.Nodes[0], y.Nodes[2]
	var far, both *nettest.Container
	abreast(t,
		func() { far = inhabit(c, "far", "apps") },
		func() {
			create(a, "zone", "--subnet", pool4)
			a.Docker("run", "-d", "--name", "both", "--network", "zone", "--publish", "8090:80", nettest.Image)
			a.Docker("network", "connect", "bridge", "both")
			both = ready(a, "both", "zone")
		})
	check := func(when, gateway string, ours int) {
		t.Helper()
		if way := both.IP("-4 route show default"); !strings.HasPrefix(way, "default via "+gateway) {
			t.Errorf("%s: default route %s", when, way)
		}
		for _, err := range []error{
			answers(y.stranger, "tcp", netip.AddrPortFrom(a.Address4, 8090), "both"),
			answers(a.Host, "tcp", netip.AddrPortFrom(a.Address4, 8090), "both"),
			called(far, both), called(both, far),
			answers(y.Node("n2").Host, "tcp", netip.AddrPortFrom(both.IP4, plainPort), "both"),
		} {
			if err != nil {
				t.Errorf("%s: %v", when, err)
			}
		}
		nettest.Eventually(t, 5*soon, func() error { // the name of an endpoint is learnt after a while
			if theirs := a.Docker("port", "both"); len(ports(t, a, "both")) != ours || (theirs == "") != (ours > 0) {
				return fmt.Errorf("%s: Docker has %q, and Fairlead %v", when, theirs, ports(t, a, "both"))
			}
			return nil
		})
	}
	check("on both", "172.17.0.1", 0)
	if err := answers(a.Host, "tcp", netip.AddrPortFrom(a.Box("both", "bridge").IP4, plainPort), "both"); err != nil {
		t.Error(err)
	}
	a.Docker("network", "disconnect", "bridge", "both")
	check("without the bridge", "169.254.", 1)
	a.Docker("network", "connect", "bridge", "both")
	check("on both again", "172.17.0.1", 0)
	a.Docker("network", "connect", "apps", "both") // Docker prefers what comes first in the alphabet
	check("on three", "169.254.", 2)               // of either family
	abreast(t, func() { remove(a, "both"); a.Docker("network", "rm", "zone") }, func() { remove(c, "far") })
}

// learnt is an error unless Fairlead knows a container by its name.
func learnt(t *testing.T, n *nettest.Node, name string) error {
	t.Helper()
	var e struct{ Name string }
	return n.Get("endpoints/"+name, &e)
}

// checkApart: containers of two networks reach each other, unless both networks are isolated: then neither by their
// addresses nor by a port of the host, on one host and from one to another.
func (y *yard) checkApart(t *testing.T) {
	a, c := y.Nodes[0], y.Nodes[2]
	networks := []string{"left", "right", "apps"}
	boxes := make([]*nettest.Container, 2*len(networks))
	fill := func(n *nettest.Node, boxes []*nettest.Container) func() {
		return func() {
			create(n, "left", "--subnet", otherPool, "-o", "fairlead.isolate=on")
			create(n, "right", "--subnet", thirdPool, "-o", "fairlead.isolate=on")
			for i, network := range networks {
				boxes[i] = inhabit(n, network+n.Name, network, "--publish", "80")
			}
		}
	}
	abreast(t, fill(a, boxes[:3]), fill(c, boxes[3:]))
	all := make(map[string]*nettest.Container)
	for _, box := range boxes {
		all[box.Endpoint] = box
	}
	var g errgroup.Group
	for name, from := range all {
		for other, to := range all {
			apart := strings.HasPrefix(name, "left") && strings.HasPrefix(other, "right") || strings.HasPrefix(name, "right") && strings.HasPrefix(other, "left")
			port := netip.AddrPortFrom(to.Node.Address4, hostPort(t, to.Node, endpointOf(t, to), "tcp", plainPort))
			g.Go(func() error {
				switch {
				case from == to && to.Node != y.n: // the stranger has no way there
					return nil
				case from == to:
					return answers(y.stranger, "tcp", port, other)
				case apart:
					if err := misses(from, to); err != nil {
						return err
					}
					return silent(from.Host, "tcp", port)
				}
				if err := called(from, to); err != nil {
					return err
				}
				return answers(from.Host, "tcp", port, other)
			})
		}
	}
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
	t.Run("and share a container with one that is not", func(t *testing.T) { y.checkShared(t, all) })
	abreast(t,
		func() { remove(a, "leftn1", "rightn1", "appsn1"); a.Docker("network", "rm", "left", "right") },
		func() { remove(c, "leftn3", "rightn3", "appsn3"); c.Docker("network", "rm", "left", "right") })
}

// endpointOf is the name under which the host knows of a container: its own, once that is learnt.
func endpointOf(t *testing.T, c *nettest.Container) string {
	t.Helper()
	nettest.Eventually(t, 5*soon, func() error { return learnt(t, c.Node, c.Endpoint) })
	return c.Endpoint
}

// checkShared: a container that is on an isolated network and on one that is not reaches everyone of both.
func (y *yard) checkShared(t *testing.T, all map[string]*nettest.Container) {
	a := y.n
	a.Docker("run", "-d", "--name", "many", "--network", "right", nettest.Image)
	a.Docker("network", "connect", "apps", "many")
	ready(a, "many", "right")
	for name, other := range all {
		if strings.HasPrefix(name, "left") {
			continue
		}
		for _, network := range []string{"right", "apps"} {
			box := a.Box("many", network)
			if err := called(other, box); err != nil {
				t.Error(err)
			}
			if err := called(box, other); err != nil {
				t.Error(err)
			}
		}
	}
	create(a, "twin", "--subnet", thirdPool, "-o", "fairlead.isolate=on")
	refuses(t, a, []string{"network", "connect", "twin", "many"}, "on network right too", "two that are isolated")
	remove(a, "many")
	a.Docker("network", "rm", "twin")
}

// checkOutgoing: whoever is beyond the pools sees a container by its host's address or by its own, as the pool says or the
// network. Other hosts of ours see its own always.
func (y *yard) checkOutgoing(t *testing.T) {
	a, c := y.Nodes[0], y.Nodes[2]
	y.stranger.Batch("route add "+pool4+" via "+a.Address4.String(), "route add "+otherPool+" via "+a.Address4.String(), "-6 route add "+pool6+" via "+a.Address6.String())
	for _, ip := range []netip.Addr{y.stranger4, y.stranger6} {
		y.stranger.Offer("tcp", netip.AddrPortFrom(ip, outPort), "stranger")
		y.stranger.Offer("udp", netip.AddrPortFrom(ip, outPort), "stranger")
	}
	far := inhabit(c, "far", "apps")
	both := []string{"--ipv6", "--subnet", pool4, "--subnet", pool6}
	abreast(t,
		func() { y.checkSeenOut(t, "usual", "fairlead.isolate=off", both, true, far) },
		func() { y.checkSeenOut(t, "shown", "fairlead.nat=off", both, false, far) },
		func() { y.checkSeenOut(t, "plainly", "fairlead.mtu=1400", []string{"--subnet", otherPool}, false, far) },
		func() { y.checkSeenOut(t, "hidden", "fairlead.nat=on", []string{"--subnet", otherPool}, true, far) })
	remove(c, "far")
	y.stranger.Batch("route del "+pool4, "route del "+otherPool, "-6 route del "+pool6)
}

// checkSeenOut: containers of a network are seen by the stranger as told, and by one of another host always as themselves.
func (y *yard) checkSeenOut(t *testing.T, name, option string, subnets []string, hidden bool, far *nettest.Container) {
	a := y.n
	create(a, name, append(subnets, "-o", option)...)
	box := inhabit(a, name, name)
	for _, own := range box.Addresses() {
		to, want := y.stranger4, a.Address4
		if own.Is6() {
			to, want = y.stranger6, a.Address6
		}
		if !hidden {
			want = own
		}
		for _, proto := range []string{"tcp", "udp"} {
			if err := (way{option, box.Host, to, want}).works(proto, outPort, "stranger"); err != nil {
				t.Error(err)
			}
		}
	}
	if err := reaches(box, far.IP4); err != nil {
		t.Error(err)
	}
	remove(a, name)
	a.Docker("network", "rm", name)
}
