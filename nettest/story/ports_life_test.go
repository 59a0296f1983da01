package story_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/agent"
	"github.com/fairlead-net/fairlead/nettest"
)

// TestPortsOutliveWhoHasThem tells one story of one host: what a port survives, and who gets it when.
func TestPortsOutliveWhoHasThem(t *testing.T) {
	h := emptyHarbour(t, nettest.LabOptions{Nodes: []string{"n1"}})
	before := h.n.State()
	h.Start()
	t.Run("bad orders are refused with a reason", h.checkBadSpecs)
	t.Run("a port is given before its container is there", h.checkReserve)
	t.Run("a port stays with its name", h.checkKept)
	t.Run("a clash names who has it", h.checkClash)
	t.Run("an attach has all of its ports or none", h.checkAttach)
	t.Run("one of many gets a port", h.checkRace)
	t.Run("a port changes hands though a program is after it", h.checkHandOver)
	t.Run("a range has an end", h.checkRange)
	t.Run("an answer is durable", h.checkDurable)
	t.Run("no port is left halfway", h.checkCutShort)
	t.Run("nobody steals a port while no daemon runs", h.checkTheft)
	t.Run("the config publishes too", h.checkConfigured)
	t.Run("a port that moves is answered by its new holder at once", h.checkMove)
	t.Run("ports are where the host is", h.checkRenumbered)
	t.Run("after a reboot everything is as before", h.checkReboot)
	t.Run("until it is uninstalled without a daemon", func(t *testing.T) {
		h.n.Kill()
		h.checkUninstall(t, before, "--config", h.n.ConfigFile())
	})
}

// row is a published port in one line.
func row(p agent.Port) string {
	return fmt.Sprintf("%s %s:%d -> %d/%s %s", p.Endpoint, p.HostIP, p.HostPort, p.Port, p.Proto, p.State)
}

// rows are the published ports of a host in order.
func rows(t *testing.T, n *nettest.Node) (all []string) {
	t.Helper()
	for _, p := range decode[[]agent.Port](t, n.Fairlead("ports", "-o", "json")) {
		all = append(all, row(p))
	}
	slices.Sort(all)
	return all
}

// same is an error unless the host's ports are these.
func same(t *testing.T, n *nettest.Node, want []string) error {
	t.Helper()
	if got := rows(t, n); !slices.Equal(got, want) {
		return fmt.Errorf("ports:\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	return nil
}

// checkBadSpecs: each is refused by the real command, with what is wrong, and nothing is left of it.
func (h *harbour) checkBadSpecs(t *testing.T) {
	c := h.n.Attach("web")
	for _, bad := range []struct {
		spec, want string
		code       int
	}{
		{"", "", 2},
		{"http", "not a number", 2},
		{"0", "not a number from 1 to 65535", 2},
		{"65536", "not a number from 1 to 65535", 2},
		{"-1", "", 2},
		{"+80", "not a number", 2},
		{"80/icmp", "none of tcp, udp, sctp", 2},
		{"80/TCP", "none of tcp, udp, sctp", 2},
		{"80/", "none of tcp, udp, sctp", 2},
		{"8080:", "not a number", 2},
		{"8080:80:80", "not an IP address", 2},
		{"1:2:3:4", "brackets", 2},
		{"2001:db8::1:8080:80", "brackets", 2},
		{"[::1:8080:80", "'['", 2},
		{"192.0.2.256:8080:80", "not an IP address", 2},
		{"fe80::1%eth0:80:80", "brackets", 2},
		{"224.0.0.1:8080:80", "can not be a host's own", 2},
		{"9-8:80", "not a range", 2},
		{"8000-8001:80-82", "2 host ports for 3 ports", 2},
		{"1-2000:80", "not a range", 2},
		{"[::1]:8080:80", "::1", 1},
		{"198.51.100.99:8080:80", "198.51.100.99", 1},
	} {
		for _, args := range [][]string{
			{"publish", "web", bad.spec}, {"reserve", "other", bad.spec}, {"attach", "other", "--netns", c.Path, "--publish", bad.spec},
		} {
			r := h.n.CLI(args...)
			if r.Code != bad.code || !strings.Contains(r.Stderr, bad.want) || strings.Count(r.Stderr, "\n") > 4 || r.Stdout != "" {
				t.Errorf("%q: exit code %d, want %d and %q in: %s%s", args, r.Code, bad.code, bad.want, r.Stdout, r.Stderr)
			}
		}
	}
	for _, misuse := range [][]string{{"publish"}, {"publish", "web"}, {"unpublish", "web"}, {"reserve", "web"}, {"env"}} {
		if r := h.n.CLI(misuse...); r.Code != 2 {
			t.Errorf("%q: exit code %d: %s", misuse, r.Code, r.Stderr)
		}
	}
	for _, absent := range [][]string{{"unpublish", "web", "80"}, {"env", "nobody"}, {"publish", "nobody", "80"}} {
		if r := h.n.CLI(absent...); r.Code != 1 || r.Stderr == "" {
			t.Errorf("%q: exit code %d: %s", absent, r.Code, r.Stderr)
		}
	}
	if err := same(t, h.n, nil); err != nil {
		t.Error(err)
	}
	h.n.Fairlead("detach", "web")
}

// environment reads lines KEY=value.
func environment(text string) map[string]string {
	all := make(map[string]string)
	for _, line := range lines(text) {
		key, value, _ := strings.Cut(line, "=")
		all[key] = value
	}
	return all
}

// checkReserve: what is reserved for a name is what the container of that name gets.
func (h *harbour) checkReserve(t *testing.T) {
	env := environment(h.n.Fairlead("reserve", "later", "80/tcp", "5353:53/udp"))
	if env["FAIRLEAD_HOST_IP"] != h.n.Address4.String() || env["FAIRLEAD_PORT_53_UDP"] != "5353" || env["FAIRLEAD_PORT_80_TCP"] == "" {
		t.Fatalf("reserve prints %v", env)
	}
	if again := environment(h.n.Fairlead("reserve", "later", "80/tcp", "5353:53/udp")); fmt.Sprint(again) != fmt.Sprint(env) {
		t.Errorf("reserved again: %v, before %v", again, env)
	}
	for _, p := range ports(t, h.n, "later") {
		if p.State != "reserved" {
			t.Errorf("%+v", p)
		}
	}
	number, err := strconv.ParseUint(env["FAIRLEAD_PORT_80_TCP"], 10, 16)
	if err != nil {
		t.Fatal(err)
	}
	c := h.n.Attach("later")
	offer(c, plainPort, "tcp")
	offer(c, 53, "udp")
	for _, a := range addressesOf(h.n) {
		for proto, port := range map[string]uint16{"tcp": uint16(number), "udp": 5353} {
			if err := answers(h.stranger, proto, netip.AddrPortFrom(a, port), "later"); err != nil {
				t.Error(err)
			}
		}
	}
	if now := environment(h.n.Fairlead("env", "later")); fmt.Sprint(now) != fmt.Sprint(env) {
		t.Errorf("the environment is %v, and was promised to be %v", now, env)
	}
	h.n.Fairlead("detach", "later")
	h.n.Fairlead("unpublish", "later", "80/tcp")
	h.n.Fairlead("unpublish", "later", "53/udp")
}

// checkKept: a restart, a kill, and a container that comes anew under its name find the port as it was.
func (h *harbour) checkKept(t *testing.T) {
	c := h.n.Attach("web", "--publish", "80", "--publish", "8080:81/udp")
	offer(c, plainPort, "tcp")
	port, want := hostPort(t, h.n, "web", "tcp", plainPort), rows(t, h.n)
	if len(want) != 4 {
		t.Fatalf("ports: %q", want)
	}
	check := func(after string) {
		t.Helper()
		if err := same(t, h.n, want); err != nil {
			t.Errorf("after %s: %v", after, err)
		}
		for _, a := range addressesOf(h.n) {
			if err := answers(h.stranger, "tcp", netip.AddrPortFrom(a, port), "web"); err != nil {
				t.Errorf("after %s: %v", after, err)
			}
		}
	}
	check("attach")
	h.n.Stop()
	h.n.Start()
	h.n.WaitReady(10 * time.Second)
	check("a restart")
	h.n.Kill()
	if err := answers(h.stranger, "tcp", netip.AddrPortFrom(h.n.Address4, port), "web"); err != nil {
		t.Errorf("without a daemon: %v", err)
	}
	h.n.Start()
	h.n.WaitReady(10 * time.Second)
	check("kill -9")
	h.n.Fairlead("detach", "web")
	for _, r := range rows(t, h.n) {
		if !strings.HasSuffix(r, " resting") {
			t.Errorf("after detach: %s", r)
		}
	}
	if err := silent(h.stranger, "tcp", netip.AddrPortFrom(h.n.Address4, port)); err != nil {
		t.Errorf("after detach: %v", err)
	}
	if h.n.Bind("tcp", netip.AddrPortFrom(netip.IPv4Unspecified(), port), nettest.Trick{}) == nil {
		t.Error("after detach the port can be bound")
	}
	c = h.n.Attach("web", "--publish", "80", "--publish", "8080:81/udp") // another namespace
	offer(c, plainPort, "tcp")
	check("detach and attach")
	h.n.Fairlead("detach", "web")
	h.checkYield(t, port)
}

// checkYield: a port that rests is for who asks for that very one, and free at once when it is unpublished.
func (h *harbour) checkYield(t *testing.T, port uint16) {
	t.Helper()
	other := h.n.Attach("other", "--publish", fmt.Sprintf("%d:80", port))
	offer(other, plainPort, "tcp")
	if err := answers(h.stranger, "tcp", netip.AddrPortFrom(h.n.Address4, port), "other"); err != nil {
		t.Error(err)
	}
	c := h.n.Attach("web", "--publish", "80")
	if got := hostPort(t, h.n, "web", "tcp", plainPort); got == port {
		t.Errorf("two have port %d", got)
	}
	port = hostPort(t, h.n, "web", "tcp", plainPort)
	h.n.Fairlead("detach", c.Endpoint, other.Endpoint)
	h.n.Fairlead("unpublish", "web", "80")
	if err := h.n.Bind("tcp", netip.AddrPortFrom(netip.IPv4Unspecified(), port), nettest.Trick{}); err != nil {
		t.Errorf("port %d is unpublished: %v", port, err)
	}
	unpublishAll(t, h.n)
}
