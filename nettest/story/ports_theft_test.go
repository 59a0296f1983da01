package story_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/agent"
	"github.com/fairlead-net/fairlead/nettest"
)

// The range from which the kernel chooses ports while somebody tries to get at those of it that are mapped.
const firstChosen, lastChosen = 40000, 40063

// checkDurable: a port that was answered is there after kill -9, also when that comes with the answer.
func (h *harbour) checkDurable(t *testing.T) {
	c := h.n.Attach("web")
	var promised []string
	for i := range 4 {
		offer(c, uint16(8600+i), "tcp")
		var answer json.RawMessage
		err := nettest.NewAPI(t, h.n.Socket()).Call(http.MethodPost, "ports", agent.PortsRequest{Endpoint: "web", Specs: []string{strconv.Itoa(8600 + i)}}, &answer)
		h.n.Kill()
		if err != nil {
			t.Fatal(err)
		}
		promised = append(promised, string(answer))
		h.n.Start()
		h.n.WaitReady(10 * time.Second)
		port := hostPort(t, h.n, "web", "tcp", uint16(8600+i))
		if !strings.Contains(promised[i], strconv.Itoa(int(port))) {
			t.Errorf("promised was %s, and it is %d", promised[i], port)
		}
		if err := answers(h.stranger, "tcp", netip.AddrPortFrom(h.n.Address4, port), "web"); err != nil {
			t.Error(err)
		}
	}
	unpublishAll(t, h.n)
	h.n.Fairlead("detach", "web")
}

// loot is a port that is held, and the addresses of the host by which nobody else may have it.
type loot struct {
	spec, proto string
	port        uint16
	at          []string
}

// checkTheft: no program gets a mapped port, by whatever means, while the daemon is down.
func (h *harbour) checkTheft(t *testing.T) {
	every := []string{"0.0.0.0", "192.0.2.1", "127.0.0.1", "::", "2001:db8:1::1", "::1"}
	loots := []loot{
		{"40010:80", "tcp", 40010, every},
		{"40011:80/udp", "udp", 40011, every},
		{"192.0.2.1:40012:80", "tcp", 40012, []string{"0.0.0.0", "192.0.2.1"}},
		{"[2001:db8:1::1]:40013:80/udp", "udp", 40013, []string{"::", "2001:db8:1::1"}},
		{"127.0.0.1:40014:80", "tcp", 40014, []string{"0.0.0.0", "127.0.0.1"}},
	}
	h.n.Sysctl("net/ipv4/ip_local_port_range", fmt.Sprint(firstChosen, " ", lastChosen))
	c := h.n.Attach("web")
	offer(c, plainPort, "tcp")
	for _, l := range loots {
		h.n.Fairlead("publish", "web", l.spec)
	}
	h.stealAll(t, loots)
	h.n.Kill()
	h.stealAll(t, loots)
	h.checkChosen(t, loots)
	for _, elsewhere := range []*nettest.Host{h.stranger, c.Host} {
		if err := elsewhere.Bind("tcp", netip.MustParseAddrPort("0.0.0.0:40010"), nettest.Trick{}); err != nil {
			t.Errorf("on %s, where nothing is mapped: %v", elsewhere.Name, err)
		}
	}
	if err := h.n.Bind("tcp", netip.MustParseAddrPort("127.0.0.1:40012"), nettest.Trick{}); err != nil {
		t.Errorf("by an address that is not mapped: %v", err)
	}
	h.n.Start()
	h.n.WaitReady(10 * time.Second)
	h.stealAll(t, loots)
	if err := answers(h.stranger, "tcp", netip.AddrPortFrom(h.n.Address4, 40010), "web"); err != nil {
		t.Error(err)
	}
	if s := show[agent.Status](t, h.n, "status"); len(s.Problems) > 0 {
		t.Errorf("problems: %q", s.Problems)
	}
	unpublishAll(t, h.n)
	h.n.Fairlead("detach", "web")
	h.n.Sysctl("net/ipv4/ip_local_port_range", "32768 60999")
}

// stealAll tries every trick at every address.
func (h *harbour) stealAll(t *testing.T, loots []loot) {
	t.Helper()
	tried := 0
	for _, l := range loots {
		for _, at := range l.at {
			for _, trick := range nettest.Tricks() {
				tried++
				if err := h.n.Bind(l.proto, netip.AddrPortFrom(netip.MustParseAddr(at), l.port), trick); err == nil {
					t.Errorf("%s of %s at %s: stolen (%s)", l.proto, l.spec, at, trick.Name)
				}
			}
		}
	}
	t.Logf("%d attempts", tried)
}

// checkChosen has the kernel choose ports until none is left: for sockets that bind, and for those that only connect.
func (h *harbour) checkChosen(t *testing.T, loots []loot) {
	t.Helper()
	target := netip.AddrPortFrom(h.stranger4, 7700)
	h.stranger.Offer("tcp", target, "stranger")
	for _, way := range []struct {
		proto     string
		bound     netip.Addr
		connected netip.AddrPort
	}{
		{"tcp", netip.IPv4Unspecified(), netip.AddrPort{}}, {"tcp", netip.IPv6Unspecified(), netip.AddrPort{}}, {"tcp", netip.Addr{}, target},
		{"udp", netip.IPv4Unspecified(), netip.AddrPort{}}, {"udp", netip.IPv6Unspecified(), netip.AddrPort{}}, {"udp", netip.Addr{}, target},
	} {
		got, err := h.n.Drain(way.proto, way.bound, way.connected)
		if err != nil {
			t.Fatal(err)
		}
		if len(got) < (lastChosen-firstChosen)/2 || len(got) > lastChosen-firstChosen+1 {
			t.Errorf("%v: the kernel chose %d ports", way, len(got))
		}
		for _, l := range loots {
			if l.proto == way.proto && slices.Contains(got, l.port) {
				t.Errorf("%v: the kernel chose %d, which is mapped", way, l.port)
			}
		}
	}
}
