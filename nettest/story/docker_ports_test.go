package story_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/fairlead-net/fairlead/agent"
	"github.com/fairlead-net/fairlead/nettest"
)

// checkPorts: ports of the host lead to the container while it runs, and Fairlead tells which.
func (y *yard) checkPorts(t *testing.T) {
	a := y.n
	a.Docker("run", "-d", "--name", "web", "--network", "apps", "-p", "8080:80", "-p", "81", "--expose", "85", "-P", "-p", "127.0.0.1:8081:80",
		"-p", "9000-9002:9000-9002", "-p", "9100-9103:90", "-p", "7000:80/udp", nettest.Image)
	y.checkPublished(t)
	if out := a.Docker("ps", "--format", "{{.Ports}}"); strings.Contains(out, "->") {
		t.Errorf("docker ps has learnt to show ports: %s", out) // and the documents say that it can not
	}
	a.Docker("stop", "web")
	if left := show[[]agent.Port](t, a, "ports"); len(left) > 0 {
		t.Errorf("the container has stopped, and there are ports: %v", left)
	}
	for _, at := range []string{"0.0.0.0:8080", "[::]:9001", "127.0.0.1:8081"} {
		if err := a.Bind("tcp", netip.MustParseAddrPort(at), nettest.Tricks()[0]); err != nil {
			t.Errorf("the container has stopped, and its port can not be had: %v", err)
		}
	}
	a.Docker("start", "web")
	y.checkPublished(t)
	t.Run("but for those that can not be had", y.checkPortsRefused)
	remove(a, "web")
}

// checkPublished: each port leads there.
func (y *yard) checkPublished(t *testing.T) {
	t.Helper()
	a := y.n
	web := a.Box("web", "apps")
	endpointOf(t, web)
	for _, port := range []uint16{80, 81, 85, 90, 9000, 9001, 9002} {
		web.Offer("tcp", netip.AddrPortFrom(netip.IPv6Unspecified(), port), fmt.Sprint(port))
	}
	for _, ip := range web.Addresses() {
		web.Offer("udp", netip.AddrPortFrom(ip, 80), "udp")
	}
	one, two := hostPort(t, a, "web", "tcp", 81), hostPort(t, a, "web", "tcp", 85)
	for number, leads := range map[uint16]string{8080: "80", one: "81", two: "85", 9000: "9000", 9001: "9001", 9002: "9002", 9100: "90"} {
		for _, ip := range addressesOf(a) {
			if err := answers(y.stranger, "tcp", netip.AddrPortFrom(ip, number), leads); err != nil {
				t.Error(err)
			}
		}
	}
	for _, err := range []error{
		answers(y.stranger, "udp", netip.AddrPortFrom(a.Address4, 7000), "udp"),
		answers(y.stranger, "udp", netip.AddrPortFrom(a.Address6, 7000), "udp"),
		answers(a.Host, "tcp", loopback(8081), "80"),
		silent(y.stranger, "tcp", netip.AddrPortFrom(a.Address4, 8081)),
	} {
		if err != nil {
			t.Error(err)
		}
	}
	env := lines(a.Fairlead("env", "web"))
	for _, want := range []string{
		"FAIRLEAD_HOST_IP=192.0.2.1", "FAIRLEAD_PORT_80_TCP=8080", "FAIRLEAD_PORT_80_UDP=7000", "FAIRLEAD_PORT_9002_TCP=9002",
		fmt.Sprintf("FAIRLEAD_PORT_81_TCP=%d", one),
	} {
		if !slices.Contains(env, want) {
			t.Errorf("no %s in %q", want, env)
		}
	}
	if out := a.Fairlead("ports"); !strings.Contains(out, "127.0.0.1:8081") || !strings.Contains(out, "[::]:8080") || strings.Contains(out, "docker-") {
		t.Errorf("ports: %s", out)
	}
}

// checkPortsRefused: of a port that is taken Docker says by whom, and the container does not start.
func (y *yard) checkPortsRefused(t *testing.T) {
	a := y.n
	a.Offer("tcp", netip.AddrPortFrom(netip.IPv4Unspecified(), 8099), "program")
	for _, bad := range []struct {
		port  string
		words []string
	}{
		{"8080:80", []string{"port is taken", "8080/tcp", "port 80 of web"}},
		{"8099:80", []string{"port is taken", "8099/tcp", "in use by"}},
		{"10.9.9.9:8085:80", []string{"10.9.9.9 is no address of this host"}},
	} {
		refuses(t, a, []string{"run", "-d", "--name", "never", "--network", "apps", "-p", bad.port, nettest.Image}, bad.words...)
		if got := a.Docker("inspect", "--format", "{{.State.Running}}", "never"); got != "false" {
			t.Errorf("with port %s: running %s", bad.port, got)
		}
		remove(a, "never")
	}
	if all := show[[]agent.Endpoint](t, a, "endpoints"); len(all) != 1 {
		t.Errorf("endpoints of what never ran: %+v", all)
	}
}

// checkPortsWait: ports that were given to a name before its container is there lead to it when it comes, and to the next
// of that name.
func (y *yard) checkPortsWait(t *testing.T) {
	a, config := y.n, y.config(y.n)
	a.WriteConfig(config + "\n[[endpoint]]\nname = \"later\"\npublish = [\"8443:80\"]\n")
	a.Fairlead("reload")
	a.Fairlead("reserve", "later", "8444:80")
	for _, when := range []string{"first", "second"} {
		a.Docker("run", "-d", "--name", "later", "--network", "apps", "-p", "8445:80", nettest.Image)
		ready(a, "later", "apps")
		if when == "first" {
			endpointOf(t, a.Box("later", "apps"))
			a.Fairlead("publish", "later", "8446:80")
		}
		for _, port := range []uint16{8443, 8444, 8445, 8446} {
			nettest.Eventually(t, 5*soon, func() error { return answers(y.stranger, "tcp", netip.AddrPortFrom(a.Address4, port), "later") })
		}
		remove(a, "later")
	}
	a.WriteConfig(config)
	a.Fairlead("reload")
	a.Fairlead("unpublish", "later", "8444:80", "8446:80")
}

// checkNames: Fairlead knows containers by what people call them, and what is written on them.
func (y *yard) checkNames(t *testing.T) {
	a := y.n
	c := inhabit(a, "web", "apps", "--label", "tier=front", "--label", "com.docker.compose.project=by-hand")
	e := show[agent.Endpoint](t, a, "endpoints/"+endpointOf(t, c))
	id := a.Docker("inspect", "--format", "{{.Id}}", "web")
	for key, want := range map[string]string{
		"tier": "front", "com.docker.compose.project": "by-hand", "docker.name": "web", "docker.id": id, "docker.image": nettest.Image,
	} {
		if e.Labels[key] != want {
			t.Errorf("label %s: %q, want %q", key, e.Labels[key], want)
		}
	}
	if e.Name != "web" || e.Network != "apps" || !slices.Equal(e.Addresses, c.Addresses()) {
		t.Errorf("endpoint: %+v", e)
	}
	gateway := a.Docker("inspect", "--format", "{{.NetworkSettings.Networks.apps.Gateway}}", "web")
	if out := a.Docker("exec", "web", "wget", "-q", "-O", "-", "http://"+gateway+":8088/"); !strings.Contains(out, "FAIRLEAD_NAME=web") || !strings.Contains(out, "front") {
		t.Errorf("the container is told of itself: %s", out)
	}
	a.Docker("rename", "web", "shop")
	nettest.Eventually(t, 5*soon, func() error { return learnt(t, a, "shop") })
	if learnt(t, a, "web") == nil {
		t.Error("the old name is still known")
	}
	for _, l := range show[[]agent.Lease](t, a, "leases") {
		if l.Owner != "shop" {
			t.Errorf("lease: %+v", l)
		}
	}
	remove(a, "shop")
}
