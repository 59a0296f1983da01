package agent_test

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/agent"
	"github.com/fairlead-net/fairlead/nat"
	"github.com/fairlead-net/fairlead/nettest"
)

// harbour is a node with two places to attach.
type harbour struct {
	*agent.Agent
	w        *world
	web, sea *nettest.Host
}

func newHarbour(t *testing.T, change func(*agent.Config)) *harbour {
	t.Helper()
	cfg := config("10.88.1.0/24")
	cfg.NAT = agent.NAT{Random: nat.Range{First: 30000, Last: 30009}, Hairpin: true}
	if change != nil {
		change(&cfg)
	}
	h := &harbour{w: newWorld(), web: nettest.NewHost(t, "web"), sea: nettest.NewHost(t, "sea")}
	h.w.holds.taken = map[uint16]bool{30001: true}
	h.Agent = start(t, h.w, cfg)
	eventually(t, "ready", func() bool { return h.Status().Ready })
	return h
}

func (h *harbour) attach(t *testing.T, name string, box *nettest.Host, publish ...string) agent.Endpoint {
	t.Helper()
	e, _, err := h.Attach(t.Context(), agent.AttachRequest{Name: name, NetNS: box.Path, Publish: publish})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// ports are as `fairlead ports` lists them, in short.
func (h *harbour) ports() string {
	var all []string
	for _, p := range h.Ports() {
		all = append(all, fmt.Sprintf("%s %s->%d/%s %s", p.Endpoint, netip.AddrPortFrom(p.HostIP, p.HostPort), p.Port, p.Proto, p.State))
	}
	return strings.Join(all, ", ")
}

// rules are what the kernel does.
func (h *harbour) rules() string { return strings.Join(h.w.ports.text("port"), ", ") }

func expect(t *testing.T, what, have, want string) {
	t.Helper()
	if have != want {
		t.Errorf("%s:\nhave %s\nwant %s", what, have, want)
	}
}

func TestPortsComeAndGoWithTheirEndpoint(t *testing.T) {
	h := newHarbour(t, nil)
	e := h.attach(t, "web", h.web, "8080:80", "53/udp")
	random := e.Ports[0].HostPort
	if e.Ports[0].Proto != "udp" || random < 30000 || random > 30009 || random == 30001 {
		t.Errorf("random port: %+v", e.Ports)
	}
	mapped := fmt.Sprintf("web 0.0.0.0:%d->53/udp mapped, web 0.0.0.0:8080->80/tcp mapped", random)
	expect(t, "attached", h.ports(), mapped)
	expect(t, "the kernel", h.rules(), fmt.Sprintf("port 0.0.0.0:%d/udp -> to 10.88.1.1:53, port 0.0.0.0:8080/tcp -> to 10.88.1.1:80", random))
	if got := h.w.sysctls.text("")[0:]; !slices.ContainsFunc(got, func(s string) bool { return strings.Contains(s, "route_localnet -> 1") }) {
		t.Errorf("programs of the host do not get there by 127.0.0.1: %v", got)
	}

	if err := h.Detach(t.Context(), "web"); err != nil {
		t.Fatal(err)
	}
	expect(t, "detached", h.ports(), strings.ReplaceAll(mapped, "mapped", "resting"))
	expect(t, "the kernel after that", h.rules(), "")
	if held := h.w.holds.text("hold"); len(held) != 2 {
		t.Errorf("held while they rest: %v", held)
	}
	h.attach(t, "web", h.web, "8080:80", "53/udp")
	expect(t, "attached again", h.ports(), mapped)
	h.attach(t, "web", h.web, "8080:80")
	expect(t, "attached with less", h.ports(), "web 0.0.0.0:8080->80/tcp mapped")

	if err := h.Detach(t.Context(), "web"); err != nil {
		t.Fatal(err)
	}
	h.w.clock.advance(nat.RestTime + time.Minute)
	h.Publish(t.Context(), agent.PortsRequest{Endpoint: "none", Specs: []string{"1:1"}}) //nolint:errcheck // only to have a pass
	h.attach(t, "sea", h.sea)
	eventually(t, "ports that nobody came back for are gone", func() bool { return h.ports() == "" && len(h.w.holds.text("")) == 0 })
	if h.w.holds.left != 0 {
		t.Errorf("%d claims are not settled", h.w.holds.left)
	}
}

func TestOnePortHasOneEndpoint(t *testing.T) {
	h := newHarbour(t, nil)
	h.attach(t, "web", h.web, "8080:80")
	sea := h.attach(t, "sea", h.sea)
	publish := func(name, spec string) error {
		_, err := h.Publish(t.Context(), agent.PortsRequest{Endpoint: name, Specs: []string{spec}})
		return err
	}
	for spec, says := range map[string]string{
		"8080:80":           "0.0.0.0:8080/tcp is published for port 80 of web: fairlead unpublish web 8080:80/tcp gives it free",
		"192.0.2.1:8080:80": "published for port 80 of web",
		"666:80":            "in use by nginx (process 77)",
	} {
		h.w.holds.mu.Lock()
		h.w.holds.taken[666] = true
		h.w.holds.mu.Unlock()
		if err := publish("sea", spec); !errors.Is(err, nat.ErrTaken) || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", spec, err)
		}
	}
	if err := publish("sea", "8080:80/udp"); err != nil {
		t.Errorf("another protocol: %v", err)
	}
	if _, err := h.Unpublish(t.Context(), agent.PortsRequest{Endpoint: "sea", Specs: []string{"8080:80/udp"}}); err != nil {
		t.Error(err)
	}
	if _, err := h.Unpublish(t.Context(), agent.PortsRequest{Endpoint: "sea", Specs: []string{"8080:80/udp"}}); !errors.Is(err, nat.ErrNotMapped) {
		t.Errorf("twice: %v", err)
	}
	// Who is gone gives way to who asks for that very port.
	if err := h.Detach(t.Context(), "web"); err != nil {
		t.Fatal(err)
	}
	if err := publish("sea", "8080:80"); err != nil {
		t.Errorf("the port of who is gone: %v", err)
	}
	expect(t, "in the end", h.ports(), "sea 0.0.0.0:8080->80/tcp mapped")
	expect(t, "the kernel", h.rules(), fmt.Sprintf("port 0.0.0.0:8080/tcp -> to %s:80", sea.Addresses[0]))
}

func TestReservedBeforeTheContainerIsThere(t *testing.T) {
	h := newHarbour(t, nil)
	told, err := h.Reserve(t.Context(), agent.PortsRequest{Endpoint: "web", Specs: []string{"80", "9000:90/udp"}})
	if err != nil {
		t.Fatal(err)
	}
	if len(told) != 3 || told[0] != (agent.Variable{Name: "FAIRLEAD_HOST_IP", Value: "192.0.2.1"}) || told[2] != (agent.Variable{Name: "FAIRLEAD_PORT_90_UDP", Value: "9000"}) {
		t.Errorf("told %v", told)
	}
	if strings.Count(h.ports(), "reserved") != 2 || h.rules() != "" {
		t.Errorf("have %s; %s", h.ports(), h.rules())
	}
	again, err := h.Reserve(t.Context(), agent.PortsRequest{Endpoint: "web", Specs: []string{"80", "9000:90/udp"}})
	if err != nil || !slices.Equal(told, again) {
		t.Errorf("asked again: %v, %v", again, err)
	}
	h.attach(t, "web", h.web)
	if strings.Count(h.ports(), "mapped") != 2 || strings.Count(h.rules(), "10.88.1.1") != 2 {
		t.Errorf("have %s; %s", h.ports(), h.rules())
	}
	if env, err := h.Environment("web"); err != nil || !slices.Equal(env, told) {
		t.Errorf("environment: %v, %v", env, err)
	}
	if _, err := h.Environment("nobody"); !errors.Is(err, agent.ErrNotFound) {
		t.Errorf("of nobody: %v", err)
	}
}

func TestAnApplicationIsToldOfWhatItsAddressLeadsTo(t *testing.T) {
	h := newHarbour(t, nil)
	h.attach(t, "web", h.web, "127.0.0.1:70:90", "9090:90", "127.0.0.1:71:91")
	want := []agent.Variable{
		{Name: "FAIRLEAD_HOST_IP", Value: "192.0.2.1"}, {Name: "FAIRLEAD_PORT_90_TCP", Value: "9090"},
		{Name: "FAIRLEAD_PORT_91_TCP", Value: "71"}, {Name: "FAIRLEAD_PORT_91_TCP_IP", Value: "127.0.0.1"},
	}
	if env, err := h.Environment("web"); err != nil || !slices.Equal(env, want) {
		t.Errorf("told %v, %v", env, err)
	}
}

func TestNoLinkTakesPacketsToLoopbackUnguarded(t *testing.T) {
	h := newHarbour(t, nil)
	h.w.filter.mu.Lock()
	h.w.filter.refuse = func(nat.EntryKey) error { return errors.New("no iptables") }
	h.w.filter.mu.Unlock()
	h.attach(t, "web", h.web, "8080:80")
	set := func() bool { return strings.Contains(strings.Join(h.w.sysctls.text(""), " "), "route_localnet") }
	if set() {
		t.Error("a link takes packets to 127.0.0.0/8, and there is no guard")
	}
	h.w.filter.mu.Lock()
	h.w.filter.refuse = nil
	h.w.filter.mu.Unlock()
	eventually(t, "set once the guard is there", set)
}

func TestPublishedByTheConfig(t *testing.T) {
	specs := func(text string) []nat.Spec {
		all, err := nat.ParseSpec(text)
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	h := newHarbour(t, func(c *agent.Config) {
		c.NAT.Published = []agent.Published{{Endpoint: "web", Specs: specs("8080:80")}, {Endpoint: "sea", Specs: specs("22")}}
	})
	eventually(t, "reserved", func() bool { return strings.Count(h.ports(), "reserved") == 2 })
	h.attach(t, "web", h.web)
	expect(t, "the kernel", h.rules(), "port 0.0.0.0:8080/tcp -> to 10.88.1.1:80")
	if err := h.Detach(t.Context(), "web"); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(h.ports(), "web 0.0.0.0:8080->80/tcp reserved") {
		t.Errorf("after the end: %s", h.ports())
	}
	_, err := h.Unpublish(t.Context(), agent.PortsRequest{Endpoint: "web", Specs: []string{"8080:80"}})
	if !errors.Is(err, nat.ErrConfigured) {
		t.Errorf("unpublish: %v", err)
	}
}

func TestPortsAreRefusedUntilOneIsFree(t *testing.T) {
	h := newHarbour(t, nil)
	h.attach(t, "web", h.web)
	var err error
	for i := range 9 { // of ten, one of which a program has
		if _, err = h.Publish(t.Context(), agent.PortsRequest{Endpoint: "web", Specs: []string{fmt.Sprint(100 + i)}}); err != nil {
			t.Fatal(err)
		}
	}
	_, err = h.Publish(t.Context(), agent.PortsRequest{Endpoint: "web", Specs: []string{"200"}})
	if !errors.Is(err, nat.ErrNoPort) || !strings.Contains(err.Error(), "30000-30009/tcp") {
		t.Errorf("the tenth: %v", err)
	}
	if _, err := h.Unpublish(t.Context(), agent.PortsRequest{Endpoint: "web", Specs: []string{"104"}}); err != nil {
		t.Fatal(err)
	}
	if _, err = h.Publish(t.Context(), agent.PortsRequest{Endpoint: "web", Specs: []string{"200"}}); err != nil {
		t.Errorf("after one was given back: %v", err)
	}
}

func TestPortsThatTheKernelRefusesAreTakenBack(t *testing.T) {
	h := newHarbour(t, nil)
	h.attach(t, "web", h.web, "8080:80")
	h.w.ports.mu.Lock()
	h.w.ports.refuse = func(p nat.Port) error {
		if p.Number == 9090 {
			return errors.New("no room")
		}
		return nil
	}
	h.w.ports.mu.Unlock()
	_, err := h.Publish(t.Context(), agent.PortsRequest{Endpoint: "web", Specs: []string{"9090:90"}})
	if err == nil || !strings.Contains(err.Error(), "no room") {
		t.Errorf("publish: %v", err)
	}
	_, _, err = h.Attach(t.Context(), agent.AttachRequest{Name: "sea", NetNS: h.sea.Path, Publish: []string{"9090:90"}})
	if err == nil || !strings.Contains(err.Error(), "no room") {
		t.Errorf("attach: %v", err)
	}
	eventually(t, "only what was there is left", func() bool {
		return h.ports() == "web 0.0.0.0:8080->80/tcp mapped" && len(h.w.holds.text("")) == 1
	})
}

func TestNoPortIsGivenWhileAllIsTakenAway(t *testing.T) {
	h := newHarbour(t, nil)
	h.attach(t, "web", h.web)
	h.w.holds.mu.Lock()
	h.w.holds.meanwhile = func() {
		if _, err := h.Leave(t.Context(), true); err != nil {
			t.Error(err)
		}
	}
	h.w.holds.mu.Unlock()
	_, err := h.Reserve(t.Context(), agent.PortsRequest{Endpoint: "late", Specs: []string{"8080:80"}})
	if !errors.Is(err, agent.ErrConflict) || !strings.Contains(err.Error(), "uninstalled") {
		t.Errorf("reserved while all is taken away: %v", err)
	}
	if h.w.holds.left != 0 || h.ports() != "" {
		t.Errorf("left: %d claims, %s", h.w.holds.left, h.ports())
	}
}
