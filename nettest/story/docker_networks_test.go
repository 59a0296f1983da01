package story_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/fairlead-net/fairlead/nettest"
)

// checkNetworks: a container is on two networks of one range and on a third of another one, in whatever order it came
// there, and reaches everyone on each.
func (y *yard) checkNetworks(t *testing.T) {
	names := []string{"apps", "back", "data"}
	others := make([]*nettest.Container, len(names))
	y.each(t, func(n *nettest.Node) {
		create(n, "back", "--subnet", pool4)
		create(n, "data", "--subnet", otherPool)
		i := slices.Index(y.Nodes, n)
		others[i] = inhabit(n, "peer", names[(i+1)%len(names)])
	})
	abreast(t,
		func() { checkOrder(t, y.Nodes[0], names, others) },
		func() { checkOrder(t, y.Nodes[2], []string{"data", "back", "apps"}, others) },
		func() { checkStart(t, y.Nodes[1], names, others) })
	y.each(t, func(n *nettest.Node) {
		remove(n, "peer", "many")
		n.Docker("network", "rm", "back", "data")
	})
}

// checkOrder has a container come to networks in an order and leave them in the same one while it runs.
func checkOrder(t *testing.T, n *nettest.Node, names []string, others []*nettest.Container) {
	for i, name := range names {
		if i == 0 {
			n.Docker("run", "-d", "--name", "many", "--network", name, nettest.Image)
			ready(n, "many", name)
			continue
		}
		n.Docker("network", "connect", name, "many")
		if err := onAll(n, "many", names[:i+1], others); err != nil {
			t.Errorf("%s on %v: %v", n.Name, names[:i+1], err)
		}
	}
	for on := names; len(on) > 1; { // and the default route moves
		n.Docker("network", "disconnect", on[0], "many")
		on = on[1:]
		if err := onAll(n, "many", on, others); err != nil {
			t.Errorf("%s still on %v: %v", n.Name, on, err)
		}
	}
}

// checkStart has a container be on networks when it starts.
func checkStart(t *testing.T, n *nettest.Node, names []string, others []*nettest.Container) {
	n.Docker("create", "--name", "many", "--network", names[2], nettest.Image)
	for _, name := range names[:2] {
		n.Docker("network", "connect", name, "many")
	}
	for _, state := range []string{"started", "started again"} {
		n.Docker("start", "many")
		ready(n, "many", names[0])
		if err := onAll(n, "many", names, others); err != nil {
			t.Errorf("%s: %v", state, err)
		}
		n.Docker("stop", "many")
	}
}

// onAll is an error unless a container is on just these networks, has a default route by one of them, and reaches the
// others, and they each of its addresses.
func onAll(n *nettest.Node, name string, networks []string, others []*nettest.Container) error {
	links := 0
	var boxes []*nettest.Container
	for _, network := range networks {
		boxes = append(boxes, n.Box(name, network))
	}
	for _, line := range lines(boxes[0].IP("-oneline link show type veth")) {
		if strings.Contains(line, ": eth") {
			links++
		}
	}
	gateways := strings.Fields(n.Docker("inspect", "--format", "{{range .NetworkSettings.Networks}}{{.Gateway}} {{end}}", name))
	way := strings.Fields(boxes[0].IP("-4 route show default"))
	if links != len(networks) || len(gateways) != len(networks) || len(way) < 3 || !slices.Contains(gateways, way[2]) {
		return fmt.Errorf("%d links, gateways %q, default route %q", links, gateways, way)
	}
	var g errgroup.Group
	for _, other := range others {
		for _, box := range boxes {
			g.Go(func() error { return called(other, box) })
		}
		g.Go(func() error { return called(boxes[0], other) })
	}
	return g.Wait()
}

// called is an error unless a container gets answers at all addresses of another one of families that it has itself.
func called(from, to *nettest.Container) error {
	for _, a := range to.Addresses() {
		if a.Is6() && !strings.Contains(from.IP("-6 route show default"), "via") {
			continue
		}
		err := answers(from.Host, "tcp", netip.AddrPortFrom(a, plainPort), to.Endpoint)
		for range 2 { // a busy machine may take longer than a call has patience
			if err != nil {
				err = answers(from.Host, "tcp", netip.AddrPortFrom(a, plainPort), to.Endpoint)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// ready has a container answer by TCP at whatever address it comes to have.
func ready(n *nettest.Node, name, network string) *nettest.Container {
	c := n.Box(name, network)
	c.Offer("tcp", netip.AddrPortFrom(netip.IPv6Unspecified(), plainPort), name)
	return c
}

// checkInternal: containers of a network that is internal reach each other wherever they are, and nobody else. What can not
// be is refused with what to do instead.
func (y *yard) checkInternal(t *testing.T) {
	a, c := y.Nodes[0], y.Nodes[2]
	var inner [3]*nettest.Container
	var outer [2]*nettest.Container
	abreast(t,
		func() {
			create(a, "inner", "--internal", "--subnet", otherPool)
			inner[0], inner[1] = inhabit(a, "in1", "inner", "--publish", "8070:80"), inhabit(a, "in2", "inner")
			outer[0] = inhabit(a, "out1", "apps")
		},
		func() {
			create(c, "inner", "--internal", "--subnet", otherPool)
			inner[2], outer[1] = inhabit(c, "in3", "inner"), inhabit(c, "out3", "apps")
		})
	if err := allMeet(inner[:]...); err != nil {
		t.Error(err)
	}
	for _, from := range inner {
		if out := from.IP("route show default"); out != "" {
			t.Errorf("%s has a default route: %s", from.Endpoint, out)
		}
	}
	t.Run("even if they try", func(t *testing.T) { y.checkFencedIn(t, inner[:], outer[:]) })
	t.Run("and beside another one", func(t *testing.T) { y.checkInternalAndOther(t, append(inner[:], outer[:]...)) })
	abreast(t,
		func() { remove(a, "in1", "in2", "out1"); a.Docker("network", "rm", "inner") },
		func() { remove(c, "in3", "out3"); c.Docker("network", "rm", "inner") })
}

// checkFencedIn: it does not hinge on routes of their own.
func (y *yard) checkFencedIn(t *testing.T, inner, outer []*nettest.Container) {
	y.stranger.Offer("tcp", netip.AddrPortFrom(y.stranger4, 7700), "stranger")
	var g errgroup.Group
	for _, from := range inner {
		way := strings.Fields(from.IP("route show " + otherPool))
		from.IP("route add default via " + way[2])
		for _, to := range outer {
			g.Go(func() error { return silent(from.Host, "tcp", netip.AddrPortFrom(to.IP4, plainPort)) })
			g.Go(func() error { return misses(to, from) })
		}
		g.Go(func() error { return silent(from.Host, "tcp", netip.AddrPortFrom(y.stranger4, 7700)) })
	}
	g.Go(func() error { return silent(y.stranger, "tcp", netip.AddrPortFrom(y.n.Address4, 8070)) })
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
}

func (y *yard) checkInternalAndOther(t *testing.T, others []*nettest.Container) {
	a := y.n
	create(a, "cellar", "--internal", "--subnet", pool4)
	a.Docker("run", "-d", "--name", "many", "--network", "inner", nettest.Image)
	a.Docker("network", "connect", "apps", "many")
	ready(a, "many", "inner")
	var g errgroup.Group
	for _, other := range others {
		for _, network := range []string{"inner", "apps"} {
			if to := a.Box("many", network); strings.HasPrefix(other.Endpoint, "in") == (network == "inner") {
				g.Go(func() error { return called(other, to) })
				g.Go(func() error { return called(to, other) })
			}
		}
	}
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
	refuses(t, a, []string{"network", "connect", "cellar", "many"}, "on network apps too", "one that is internal", "different [[pool]]s")
	remove(a, "many")
	a.Docker("network", "rm", "cellar")
}

// refuses: Docker does not do what a user asks for, and shows the words.
func refuses(t *testing.T, n *nettest.Node, args []string, words ...string) {
	t.Helper()
	begun := time.Now()
	r := n.TryDocker(args...)
	for _, word := range words {
		if !strings.Contains(r.Stderr, word) {
			t.Errorf("docker %s: %q is not in: %s", strings.Join(args, " "), word, r.Stderr)
		}
	}
	if took := time.Since(begun); r.Code == 0 || took > nettest.Patience(5*time.Second) {
		t.Errorf("docker %s: exit code %d after %v", strings.Join(args, " "), r.Code, took)
	}
}
