package story_test

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/agent"
	"github.com/fairlead-net/fairlead/nettest"
	"github.com/fairlead-net/fairlead/store"
)

// lifeNetwork is the network of the containers whose lives are told.
const lifeNetwork = "apps"

// lifeRun starts a container on that network, which does nothing unless it is told to.
func lifeRun(n *nettest.Node, name string, more ...string) *nettest.Container {
	args := append([]string{"run", "-d", "--name", name, "--network", lifeNetwork}, more...)
	n.Docker(append(args, nettest.Image)...)
	return n.Box(name, lifeNetwork)
}

// lifeEngine is where the programs of the engine under test are, "" for the installed one.
func lifeEngine() string { return os.Getenv(nettest.DockerVariable) }

// lifeLab is a host with Docker, and one in another subnet that has none, but a container.
func lifeLab(t *testing.T, hold bool, engine string, flags ...string) (n *nettest.Node, far *nettest.Container) {
	t.Helper()
	l := lab(t, nettest.LabOptions{Nodes: []string{"n1", "n3"}})
	n = l.Node("n1")
	n.AddDocker()
	n.SwitchDocker(engine)
	if hold {
		n.HoldSocket()
	}
	n.LaunchDocker(append(flags, "--bridge=none")...)
	l.Start()
	n.WaitDocker(time.Minute)
	return n, l.Node("n3").Attach("far")
}

// lifeCreate makes the network.
func lifeCreate(n *nettest.Node) {
	n.Docker("network", "create", "-d", "fairlead", "--ipam-driver", "fairlead", "--subnet", pool4, lifeNetwork)
}

// lifeFixed is an address of the host's block that nobody is given who asks for none.
func lifeFixed(t *testing.T, n *nettest.Node) netip.Addr {
	t.Helper()
	b := block(t, n, pool4).Addr().As4()
	b[3] += 200
	return netip.AddrFrom4(b)
}

// lifeBoxes are the addresses of the containers that run, by name. None are shared.
func lifeBoxes(n *nettest.Node) (boxes map[string]netip.Addr, err error) {
	var running []struct {
		Names           []string
		NetworkSettings struct {
			Networks map[string]struct{ IPAddress string }
		}
	}
	if err := n.DockerAPI("GET", "/containers/json", nil, &running); err != nil {
		return nil, err
	}
	boxes, owners := make(map[string]netip.Addr), make(map[netip.Addr]string)
	for _, c := range running {
		name := strings.TrimPrefix(c.Names[0], "/")
		ip, err := netip.ParseAddr(c.NetworkSettings.Networks[lifeNetwork].IPAddress)
		if err != nil {
			return nil, fmt.Errorf("%s: address of %s: %w", n.Name, name, err)
		}
		if other, shared := owners[ip]; shared {
			return nil, fmt.Errorf("%s: %s and %s have %s", n.Name, other, name, ip)
		}
		boxes[name], owners[ip] = ip, name
	}
	return boxes, nil
}

// lifeLinks are the host's links of endpoints, and their insides that nobody took.
func lifeLinks(n *nettest.Node) (all []string) {
	name := regexp.MustCompile(`^\d+: (fl[0-9a-f]{10}c?)@`)
	for line := range strings.Lines(n.IP("-oneline link show")) {
		if found := name.FindStringSubmatch(line); found != nil {
			all = append(all, found[1])
		}
	}
	slices.Sort(all)
	return all
}

// lifeAgrees is an error unless the host has for its running containers what they need, and nothing else: a lease, a link
// and a route for each, and only the ports that are named.
func lifeAgrees(t *testing.T, n *nettest.Node, ports ...string) error {
	t.Helper()
	boxes, err := lifeBoxes(n)
	if err != nil {
		return err
	}
	var leased, links, mapped, wantLeased, wantWays []string
	for _, l := range show[[]agent.Lease](t, n, "leases") {
		leased = append(leased, l.Address.String()+" "+l.Owner)
	}
	for name, ip := range boxes {
		wantLeased = append(wantLeased, ip.String()+" "+name)
		wantWays = append(wantWays, ip.String())
	}
	for _, e := range show[[]agent.Endpoint](t, n, "endpoints") {
		links = append(links, e.HostIfName)
	}
	for _, p := range show[[]agent.Port](t, n, "ports") {
		mapped = append(mapped, fmt.Sprintf("%s %d %s", p.Endpoint, p.HostPort, p.State))
	}
	switch {
	case !sameLines(leased, wantLeased):
		return fmt.Errorf("%s: leased: %q, of running containers: %q", n.Name, leased, wantLeased)
	case len(links) != len(boxes) || !sameLines(links, lifeLinks(n)):
		return fmt.Errorf("%s: %d containers, endpoints %q, links %q", n.Name, len(boxes), links, lifeLinks(n))
	case !sameLines(lifeWays(n), wantWays):
		return fmt.Errorf("%s: routes to %q, of running containers: %q", n.Name, lifeWays(n), wantWays)
	case !sameLines(mapped, ports):
		return fmt.Errorf("%s: ports %q, want %q", n.Name, mapped, ports)
	}
	if led := strings.Count(n.Run("iptables-save"), " --to-destination "); led != len(ports) {
		return fmt.Errorf("%s: %d ports in the packet filter, want %q", n.Name, led, ports)
	}
	return nil
}

// lifeWays are the addresses that the host has a route of its own to, by a container's link.
func lifeWays(n *nettest.Node) (all []string) {
	for _, r := range routes(n) {
		words := strings.Fields(r)
		if len(words) > 2 && words[1] == "dev" && strings.HasPrefix(words[2], "fl") && !strings.Contains(words[0], "/") {
			all = append(all, words[0])
		}
	}
	return all
}

// sameLines tells whether two lists hold the same, in whatever order.
func sameLines(a, b []string) bool {
	return slices.Equal(slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b)))
}

// lifeSame is an error unless those containers run that did, with the addresses that they had.
func lifeSame(n *nettest.Node, had map[string]netip.Addr) error {
	boxes, err := lifeBoxes(n)
	for name, ip := range had {
		if err == nil && boxes[name] != ip {
			err = fmt.Errorf("%s: %s had %s and has %s", n.Name, name, ip, boxes[name])
		}
	}
	return err
}

// lifeSettles waits until those containers run that did, as they did, and the host has what the running ones need and
// nothing else. What they are called is learnt a bit later.
func lifeSettles(t *testing.T, n *nettest.Node, had map[string]netip.Addr, ports ...string) {
	t.Helper()
	lifeAwaits(t, 10*time.Second, func() error { return cmp.Or(lifeSame(n, had), lifeAgrees(t, n, ports...)) })
}

// lifeAwaits is nettest.Eventually for what takes the processor some work to find out.
func lifeAwaits(t *testing.T, patience time.Duration, holds func() error) time.Duration {
	t.Helper()
	return nettest.Eventually(t, patience, func() error {
		err := holds()
		if err != nil {
			time.Sleep(100 * time.Millisecond)
		}
		return err
	})
}

// lifeEnd takes all containers and the network away, and holds the host to be as it was before them: in the kernel, and in
// the store. The daemon has ended after it.
func lifeEnd(t *testing.T, n *nettest.Node, before nettest.State) {
	t.Helper()
	if all := strings.Fields(n.Docker("ps", "--all", "--quiet")); len(all) > 0 {
		n.Docker(append([]string{"rm", "--force"}, all...)...)
	}
	n.Docker("network", "rm", lifeNetwork)
	if err := lifeAgrees(t, n); err != nil {
		t.Error(err)
	}
	lifeAwaits(t, 5*time.Second, func() error {
		if diff := nettest.Diff(before, n.State()); len(diff) > 0 {
			return fmt.Errorf("the kernel has something else than before:\n%s", strings.Join(diff, "\n"))
		}
		return nil
	})
	n.Stop()
	if left := lifeStored(t, n); len(left) > 0 {
		t.Errorf("left in the store of %s: %q", n.Name, left)
	}
}

// lifeStored is what the store of a host without daemon keeps for Docker.
func lifeStored(t *testing.T, n *nettest.Node) (all []string) {
	t.Helper()
	db, err := store.Open(t.Context(), storeFile(n), store.Options{Check: []string{binary, "check-store"}})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	err = db.View(func(tx *store.Tx) error {
		for _, bucket := range []string{"endpoints", "networks", "gateways", "leases", "ports"} {
			for key, value := range (store.Bucket[json.RawMessage]{Name: bucket}).All(tx) {
				all = append(all, fmt.Sprintf("%s %s %s", bucket, key, value))
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// lifeFlow is UDP from far away to containers and back, so many datagrams a second, and TCP.
func lifeFlow(t *testing.T, far *nettest.Container, rate int, boxes ...*nettest.Container) (calm func()) {
	t.Helper()
	tr := &traffic{}
	for _, c := range boxes {
		c.Serve(c.IP4)
		nettest.Eventually(t, 5*time.Second, func() error { return reaches(far, c.IP4) })
		tr.probes = append(tr.probes, far.Probe(c.IP4, max(1, rate/nettest.Slowness())))
		tr.flows = append(tr.flows, far.Flows(c.IP4, 4))
	}
	return func() {
		t.Helper()
		tr.end(t)
	}
}

func TestContainersRunThroughRestartsOfDocker(t *testing.T) {
	t.Parallel()
	n, far := lifeLab(t, false, "", "--live-restore")
	before := n.State()
	lifeCreate(n)
	web := lifeRun(n, "web", "-p", "8080:80")
	always := lifeRun(n, "always", "--restart=always")
	fixed := lifeRun(n, "fixed", "--restart=always", "--ip", lifeFixed(t, n).String())
	had, err := lifeBoxes(n)
	if err != nil || len(had) != 3 || fixed.IP4 != lifeFixed(t, n) {
		t.Fatal(had, err)
	}
	calm := lifeFlow(t, far, 1000, web, always, fixed)
	for _, c := range []struct {
		name string
		end  func()
		next string
	}{
		{"restarted", n.StopDocker, ""},
		{"killed", n.KillDocker, ""},
		{"upgraded", n.StopDocker, lifeEngine()},
	} {
		c.end()
		n.SwitchDocker(c.next)
		n.StartDocker("--bridge=none", "--live-restore")
		t.Logf("Docker %s: %s", c.name, n.Docker("version", "--format", "{{.Server.Version}}"))
		lifeSettles(t, n, had, "web 8080 mapped")
		n.Docker("exec", "web", "true")
		if next := lifeRun(n, "next"); next.IP4 == web.IP4 || next.IP4 == always.IP4 {
			t.Errorf("Docker %s: %s has two containers", c.name, next.IP4)
		}
		n.Docker("rm", "--force", "next")
	}
	calm()
	lifeEnd(t, n, before)
}

func TestContainersComeBackAfterRestartsOfDocker(t *testing.T) {
	t.Parallel()
	n, far := lifeLab(t, false, lifeEngine())
	before := n.State()
	lifeCreate(n)
	lifeRun(n, "once", "-p", "8080:80")
	lifeRun(n, "always", "--restart=always", "-p", "8081:80")
	lifeRun(n, "fixed", "--restart=always", "--ip", lifeFixed(t, n).String())
	for _, end := range []func(){n.StopDocker, n.KillDocker} {
		end()
		n.StartDocker("--bridge=none")
		lifeSettles(t, n, map[string]netip.Addr{"fixed": lifeFixed(t, n)}, "always 8081 mapped")
		for _, name := range []string{"always", "fixed"} {
			c := n.Box(name, lifeNetwork)
			c.Serve(c.IP4)
			nettest.Eventually(t, 5*time.Second, func() error { return reaches(far, c.IP4) })
		}
		n.Docker("start", "once")
		lifeSettles(t, n, nil, "once 8080 mapped", "always 8081 mapped")
	}
	lifeEnd(t, n, before)
}
