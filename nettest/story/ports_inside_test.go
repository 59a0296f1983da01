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

// insidePort is where a container's gateway tells it of itself.
const insidePort = 8088

// telling is what a container's gateway says to it as JSON.
type telling struct {
	Name      string            `json:"name"`
	Addresses []netip.Addr      `json:"addresses"`
	Labels    map[string]string `json:"labels"`
	HostIP    []netip.Addr      `json:"host_ip"`
	Ports     []agent.Port      `json:"ports"`
}

// checkInside: a container is told its own name, addresses and ports at its gateway, and nobody else is told anything.
func (h *harbour) checkInside(t *testing.T, c crowd) {
	env := h.n.Fairlead("env", c.own.Endpoint)
	for _, proto := range []string{"tcp", "udp"} {
		for _, port := range []uint16{plainPort, otherPort} {
			line := fmt.Sprintf("FAIRLEAD_PORT_%d_%s=%d\n", port, strings.ToUpper(proto), hostPort(t, h.n, c.own.Endpoint, proto, port))
			if !strings.Contains(env, line) {
				t.Errorf("no %q in:\n%s", line, env)
			}
		}
	}
	if !strings.Contains(env, "FAIRLEAD_HOST_IP="+h.n.Address4.String()+"\n") {
		t.Errorf("the environment does not say where the host is:\n%s", env)
	}
	six := h.n.Attach("six", "--pool", "v6", "--publish", "80")
	for _, caller := range []*nettest.Container{c.own, c.near, six} {
		h.checkTold(t, caller)
	}
	if rows := ports(t, h.n, "six"); len(rows) != 1 || rows[0].HostIP != netip.IPv6Unspecified() {
		t.Errorf("a container without IPv4 has the ports %+v", rows)
	}
	h.checkUntold(t, c)
	h.n.Fairlead("detach", six.Endpoint)
}

// checkTold compares what a container is told with what the host knows.
func (h *harbour) checkTold(t *testing.T, c *nettest.Container) {
	t.Helper()
	at := "http://169.254.1.1:8088"
	if !c.IP4.IsValid() {
		at = "http://[fe80::1%25eth0]:8088"
	}
	code, text, err := c.Fetch(at + "/")
	if err != nil || code != 200 {
		t.Errorf("%s: %d, %v: %s", c.Endpoint, code, err, text)
		return
	}
	want := append(lines(h.n.Fairlead("env", c.Endpoint)), "FAIRLEAD_NAME="+c.Endpoint)
	for _, line := range want {
		if !slices.Contains(lines(text), line) {
			t.Errorf("%s is not told %s, but\n%s", c.Endpoint, line, text)
		}
	}
	for _, a := range c.Addresses() {
		if !strings.Contains(text, a.String()) {
			t.Errorf("%s is not told its address %s:\n%s", c.Endpoint, a, text)
		}
	}
	code, text, err = c.Fetch(at + "/json")
	if err != nil || code != 200 {
		t.Errorf("%s: %d, %v: %s", c.Endpoint, code, err, text)
		return
	}
	got := decode[telling](t, text)
	e := show[agent.Endpoint](t, h.n, "endpoints/"+c.Endpoint)
	if got.Name != e.Name || !slices.Equal(got.Addresses, e.Addresses) || fmt.Sprint(got.Labels) != fmt.Sprint(e.Labels) ||
		len(got.HostIP) == 0 || !slices.Contains(addressesOf(h.n), got.HostIP[0]) || fmt.Sprint(got.Ports) != fmt.Sprint(ports(t, h.n, c.Endpoint)) {
		t.Errorf("%s is told %s; it is %+v with %+v", c.Endpoint, text, e, ports(t, h.n, c.Endpoint))
	}
	for _, other := range []string{"web", "near", "six"} {
		if other != c.Endpoint && strings.Contains(text, other) {
			t.Errorf("%s is told of %s: %s", c.Endpoint, other, text)
		}
	}
}

// checkUntold: who is no container of this host learns nothing, nor does one that pretends to be another.
func (h *harbour) checkUntold(t *testing.T, c crowd) {
	t.Helper()
	var asked []netip.AddrPort
	for _, a := range append(addressesOf(h.n), netip.MustParseAddr("169.254.1.1")) {
		asked = append(asked, netip.AddrPortFrom(a, insidePort))
	}
	h.stranger.IP("route add 169.254.1.1 via " + h.n.Address4.String())
	for _, from := range []*nettest.Host{h.stranger, h.Node("n2").Host, h.n.Host} {
		for _, to := range asked {
			code, text, err := from.Fetch("http://" + to.String() + "/")
			if err == nil && (code < 400 || strings.Contains(text, "FAIRLEAD_")) {
				t.Errorf("%s is told at %s: %d %s", from.Name, to, code, text)
			}
		}
	}
	// A container of another node asks its own host, which knows it and not the others.
	code, text, err := c.direct.Fetch("http://169.254.1.1:8088/")
	if err != nil || code != 200 || !strings.Contains(text, "FAIRLEAD_NAME=direct\n") {
		t.Errorf("a container of another node: %d, %v: %s", code, err, text)
	}
	// One that takes the address of another one gets no answer: answers go to who has it.
	c.near.IP("addr add " + c.own.IP4.String() + "/32 dev eth0")
	code, text, err = c.near.FetchFrom(c.own.IP4, "http://169.254.1.1:8088/")
	if err == nil && (code < 400 || strings.Contains(text, "FAIRLEAD_")) {
		t.Errorf("with the address of another one: %d %s", code, text)
	}
	c.near.IP("addr del " + c.own.IP4.String() + "/32 dev eth0")
}
