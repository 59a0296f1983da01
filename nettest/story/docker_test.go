package story_test

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/fairlead-net/fairlead/agent"
	"github.com/fairlead-net/fairlead/nettest"
)

// otherPool is a second range of IPv4 that the hosts of a yard share, and otherName what it is called; thirdPool is one more.
const (
	otherPool = "10.99.0.0/16"
	otherName = "pool3"
	thirdPool = "10.77.0.0/16"
)

// yard is a harbour whose hosts have Docker daemons of their own. That of the first has Docker's own bridge, too.
type yard struct{ *harbour }

// newYard starts everything on the hosts, and makes the network apps on each, of both families.
func newYard(t *testing.T, names ...string) *yard {
	t.Helper()
	o := nettest.LabOptions{Nodes: names, Pools: []string{pool4, pool6, otherPool, thirdPool}, RPFilter: 2} // loose, as systemd has it
	y := &yard{&harbour{
		Lab: lab(t, o), stranger4: netip.MustParseAddr("192.0.2.66"), stranger6: netip.MustParseAddr("2001:db8:1::66"),
	}}
	y.n = y.Nodes[0]
	y.stranger = strangerAt(t, y.Lab, y.stranger4, y.stranger6)
	for i, n := range y.Nodes {
		n.AddDocker()
		n.WriteConfig(y.config(n))
		flags := []string{"--bridge=none"}
		if i == 0 {
			n.Run("ip6tables", "-P", "FORWARD", "DROP")
			flags = nil
		}
		n.LaunchDocker(flags...)
	}
	t.Cleanup(func() {
		if t.Failed() { // who has what in the packet filter there is half of every answer
			t.Logf("packet filter of n1:\n%s%s", y.n.Run("iptables-save", "-c"), y.n.Run("sysctl", "net.ipv4.ip_forward"))
		}
	})
	y.Start()
	y.each(t, func(n *nettest.Node) {
		n.WaitDocker(time.Minute)
		if n == y.n { // as Docker does where it is the first to want packets forwarded
			n.Run("iptables", "-P", "FORWARD", "DROP")
		}
		create(n, "apps", "--ipv6", "--subnet", pool4, "--subnet", pool6)
	})
	return y
}

// config is that of a host, with blocks after its number. The second one is told nothing by Docker.
func (y *yard) config(n *nettest.Node) string {
	i := slices.Index(y.Nodes, n)
	config := withBlocks(n.Config(), i+1)
	config = strings.Replace(config, fmt.Sprintf("cidr = %q\n", otherPool),
		fmt.Sprintf("cidr = %q\nblock = \"10.99.%d.0/24\"\nnat_outgoing = false\n", otherPool, i+1), 1)
	if i == 1 {
		config += "\n[docker]\napi = \"\"\n"
	}
	return config
}

// create makes a network as a user does.
func create(n *nettest.Node, name string, flags ...string) {
	n.Docker(slices.Concat([]string{"network", "create", "-d", "fairlead", "--ipam-driver", "fairlead"}, flags, []string{name})...)
}

// abreast does things at once, and ends the test if one of them fails.
func abreast(t *testing.T, all ...func()) {
	t.Helper()
	var g sync.WaitGroup
	for _, f := range all {
		g.Go(f)
	}
	g.Wait()
	if t.Failed() {
		t.FailNow()
	}
}

// each does something on every host at once.
func (y *yard) each(t *testing.T, do func(n *nettest.Node)) {
	t.Helper()
	var all []func()
	for _, n := range y.Nodes {
		all = append(all, func() { do(n) })
	}
	abreast(t, all...)
}

// inhabit starts a container that answers with its name on a network.
func inhabit(n *nettest.Node, name, network string, flags ...string) *nettest.Container {
	n.Docker(slices.Concat([]string{"run", "-d", "--name", name, "--network", network}, flags, []string{nettest.Image})...)
	return open(n.Box(name, network))
}

// open has a container answer at all of its addresses on a network.
func open(c *nettest.Container) *nettest.Container {
	offer(c, plainPort, "tcp", "udp")
	for _, a := range c.Addresses() {
		c.Serve(a)
	}
	return c
}

// remove removes containers of a host, whatever they do.
func remove(n *nettest.Node, names ...string) { n.Docker(append([]string{"rm", "-f"}, names...)...) }

// vacate removes all containers of a host, and some networks.
func vacate(t *testing.T, n *nettest.Node, networks ...string) {
	t.Helper()
	if ids := strings.Fields(n.Docker("ps", "-aq")); len(ids) > 0 {
		remove(n, ids...)
	}
	if len(networks) > 0 {
		n.Docker(append([]string{"network", "rm"}, networks...)...)
	}
}

// meets is an error unless a container is reached by another one, and seen with its own address.
func meets(from, to *nettest.Container) error {
	var errs []error
	for _, a := range to.Addresses() {
		errs = append(errs, reaches(from, a), answers(from.Host, "tcp", netip.AddrPortFrom(a, plainPort), to.Endpoint))
	}
	return errors.Join(errs...)
}

// misses is an error if a container gets an answer from another one.
func misses(from, to *nettest.Container) error {
	var g errgroup.Group
	for _, a := range to.Addresses() {
		for _, proto := range []string{"tcp", "udp"} {
			g.Go(func() error { return silent(from.Host, proto, netip.AddrPortFrom(a, plainPort)) })
		}
	}
	return g.Wait()
}

// allMeet is an error unless everyone reaches everyone.
func allMeet(all ...*nettest.Container) error {
	var g errgroup.Group
	for _, from := range all {
		g.Go(func() error {
			for _, to := range all {
				if err := meets(from, to); err != nil && from != to {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// TestContainersOfManyHostsShareANetwork tells what a user of Docker sees.
func TestContainersOfManyHostsShareANetwork(t *testing.T) {
	t.Parallel()
	y := newYard(t, "n1", "n2", "n3")
	t.Run("and reach each other", y.checkReach)
	t.Run("or more than one", y.checkNetworks)
	t.Run("or one that is internal", y.checkInternal)
	t.Run("beside Docker's own", y.checkBridge)
	t.Run("that can be kept apart", y.checkApart)
	t.Run("with ways out of its own", y.checkOutgoing)
	t.Run("and nothing is left of it", y.checkNothingIsLeft)
}

// checkReach: containers of all hosts, namespaces that were attached by hand, and the hosts reach each other.
func (y *yard) checkReach(t *testing.T) {
	a, b, c := y.Nodes[0], y.Nodes[1], y.Nodes[2]
	all := make([]*nettest.Container, 6)
	abreast(t,
		func() {
			all[0] = inhabit(a, "web", "apps", "--network-alias", "front")
			all[1] = inhabit(a, "near", "apps")
			all[2] = a.Attach("plain")
		},
		func() {
			all[3] = inhabit(b, "direct", "apps")
			b.Docker("run", "-d", "--name", "other", "--network", "apps", nettest.Image)
		},
		func() { all[4], all[5] = inhabit(c, "tunnelled", "apps"), c.Attach("byhand") },
	)
	open(all[2])
	open(all[5])
	if err := allMeet(all...); err != nil {
		t.Error(err)
	}
	var pings strings.Builder
	for _, to := range all {
		for _, ip := range to.Addresses() {
			fmt.Fprintf(&pings, "ping -q -c 1 -W 2 %s && ", ip)
			for _, n := range y.Nodes {
				if saw, err := n.Ask(ip); err != nil || saw.Source != n.Address4 && saw.Source != n.Address6 {
					t.Errorf("%s to %s: seen as %v, %v", n.Name, to.Endpoint, saw.Source, err)
				}
			}
		}
	}
	a.Docker("exec", "near", "sh", "-c", pings.String()+"true")
	a.Docker("exec", "near", "sh", "-c", "ping -q -c 1 web && ping -q -c 1 front && ping -q -c 1 -6 web")
	b.Docker("exec", "direct", "ping", "-q", "-c", "1", "other")
	if e := show[agent.Endpoint](t, a, "endpoints/web"); e.IfName != "" || e.Network != "apps" || !slices.Equal(e.Addresses, all[0].Addresses()) {
		t.Errorf("endpoint: %+v", e)
	}
	abreast(t,
		func() { remove(a, "web"); a.Fairlead("detach", "plain") },
		func() { remove(b, "direct", "other") },
		func() { remove(c, "tunnelled"); c.Fairlead("detach", "byhand") })
}

// checkNothingIsLeft: when containers and networks are gone, so is all that was theirs; and Docker has made no interface
// that nobody asked for at any time.
func (y *yard) checkNothingIsLeft(t *testing.T) {
	y.each(t, func(n *nettest.Node) {
		vacate(t, n)
		n.Docker("network", "prune", "-f")
	})
	for _, n := range y.Nodes {
		if out, err := n.Try("ip", "link", "show", "docker_gwbridge"); err == nil {
			t.Errorf("%s: %s", n.Name, out)
		}
		if out := lines(n.Docker("network", "ls", "--filter", "driver=fairlead", "-q")); len(out) > 0 {
			t.Errorf("%s: networks are left: %q", n.Name, out)
		}
		nettest.Eventually(t, 5*time.Second, func() error { return y.bare(t, n) })
	}
}

// bare is an error while a host has something of a container.
func (y *yard) bare(t *testing.T, n *nettest.Node) error {
	t.Helper()
	leases, endpoints := show[[]agent.Lease](t, n, "leases"), show[[]agent.Endpoint](t, n, "endpoints")
	var links []string
	for _, line := range lines(n.IP("-oneline link show type veth")) {
		if _, name, _ := strings.Cut(line, " "); strings.HasPrefix(name, "fl") {
			links = append(links, name)
		}
	}
	if len(leases)+len(endpoints)+len(links)+len(show[[]agent.Port](t, n, "ports")) > 0 {
		return fmt.Errorf("%s: left are %v, %v, %q, and ports", n.Name, leases, endpoints, links)
	}
	return nil
}
