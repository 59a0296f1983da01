package story_test

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/agent"
	"github.com/fairlead-net/fairlead/nettest"
)

const byEBPF = "[nat]\nbackend = \"ebpf\"\n"

// TestPortsByTheFastPath tells one story of published ports whose packets the programs translate.
func TestPortsByTheFastPath(t *testing.T) {
	t.Parallel()
	h := newHarbour(t, nettest.LabOptions{Nodes: []string{"n1", "n2", "n3"}, RPFilter: 1, Fastpath: "on", Extra: byEBPF})
	c := h.gather(t, "tcp", "udp")
	c.direct, c.tunnelled = h.Node("n2").Attach("direct"), h.Node("n3").Attach("tunnelled")
	h.WaitFast(fastSoon)
	t.Run("and the container sees who asks", func(t *testing.T) { h.checkFastWays(t, c) })
	t.Run("with much to say", func(t *testing.T) { h.checkBulk(t, c) })
	t.Run("and learns that nobody listens", h.checkRefusal)
	t.Run("while others flush the packet filter", h.checkFastFlush)
	t.Run("until another back end takes over, and after", h.checkBackends)
}

// checkFastWays has everybody but programs of the host itself be answered by the fast path alone.
func (h *harbour) checkFastWays(t *testing.T, c crowd) {
	for _, p := range append(show[[]agent.Port](t, h.n, "ports"), show[agent.Endpoint](t, h.n, "endpoints/"+c.own.Endpoint).Ports...) {
		if p.Backend != "ebpf" {
			t.Errorf("port %d is mapped by %q", p.HostPort, p.Backend)
		}
	}
	for _, w := range h.ways(c) {
		for _, proto := range []string{"tcp", "udp"} {
			before := h.n.FastCounts()
			if err := w.works(proto, fixedPort, c.own.Endpoint); err != nil {
				t.Errorf("%s by %s: %v", w, proto, err)
			}
			grown := h.n.FastCounts().Since(before)
			in, out := grown.Ways("fast-mapped"), grown.Ways("fast-answered")
			if own := w.from == h.n.Host; own != (in == 0) || own != (out == 0) {
				t.Errorf("%s by %s: the fast path took %d packets in and %d out: %v", w, proto, in, out, grown)
			}
		}
	}
}

// checkRefusal: whoever asks a port behind which nobody listens is told by ICMP, which quotes the question as it was asked.
func (h *harbour) checkRefusal(t *testing.T) {
	h.n.Attach("deaf", "--publish", "7098:98/udp")
	h.n.WaitFast(fastSoon)
	for _, from := range []*nettest.Host{h.stranger, h.Node("n3").Host} {
		for _, a := range addressesOf(h.n) {
			before := h.n.FastCounts()
			if _, err := from.Call("udp", netip.AddrPortFrom(a, 7098)); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("%s at %s: %v", from.Name, a, err)
			}
			if grown := h.n.FastCounts().Since(before); grown.Ways("fast-answered") == 0 {
				t.Errorf("%s at %s: the kernel answered: %v", from.Name, a, grown)
			}
		}
	}
}

// checkFastFlush: who is established loses nothing when all rules of the host are taken away, and who is new is served.
func (h *harbour) checkFastFlush(t *testing.T) {
	c := h.n.Attach("flushed", "--publish", "7001:7001/tcp", "--publish", "7001:7001/udp")
	for _, a := range c.Addresses() {
		c.Serve(a)
	}
	h.n.WaitFast(fastSoon)
	tr := h.visit()
	time.Sleep(500 * time.Millisecond)
	before := h.n.FastCounts()
	h.n.Run("nft", "flush", "ruleset")
	time.Sleep(2 * time.Second)
	tr.end(t)
	if grown := h.n.FastCounts().Since(before); grown.Ways("fast-mapped") == 0 || grown.Ways("fast-answered") == 0 {
		t.Errorf("the fast path took nothing: %v", grown)
	}
}

// visit has others talk through the port 7001.
func (h *harbour) visit() *traffic {
	tr := &traffic{}
	for _, a := range addressesOf(h.n) {
		tr.flows = append(tr.flows, h.stranger.Flows(a, 4), h.Node("n3").Flows(a, 4))
		tr.probes = append(tr.probes, h.stranger.Probe(a, 200/nettest.Slowness()))
	}
	return tr
}

// checkBackends: open connections are handed over when ports change to iptables, and stay there when they change back; new ones
// are by the back end of then.
func (h *harbour) checkBackends(t *testing.T) {
	mapped := func() int {
		before := h.n.FastCounts()
		time.Sleep(500 * time.Millisecond)
		return h.n.FastCounts().Since(before).Ways("fast-mapped")
	}
	all := []*traffic{h.visit()}
	if mapped() == 0 {
		t.Error("the fast path takes nothing though ports are its own")
	}
	for _, backend := range []string{"iptables", "ebpf"} {
		h.n.WriteConfig(withBlocks(strings.Replace(h.n.Config(), "backend = ", "backend = \""+backend+"\" # was ", 1), 1))
		if out := h.n.Fairlead("reload"); !strings.Contains(out, "nat.backend") {
			t.Errorf("the reload says: %s", out)
		}
		nettest.Eventually(t, fastSoon, func() error {
			for _, p := range show[[]agent.Port](t, h.n, "ports") {
				if p.Backend != backend {
					return fmt.Errorf("port %d is mapped by %q", p.HostPort, p.Backend)
				}
			}
			return nil
		})
		if n := mapped(); n > 0 {
			t.Errorf("%s: the fast path takes %d packets of connections that are the kernel's", backend, n)
		}
		all = append(all, h.visit())
		if n := mapped(); (n > 0) != (backend == "ebpf") {
			t.Errorf("%s: the fast path takes %d packets of new connections", backend, n)
		}
	}
	for _, tr := range all {
		tr.end(t)
	}
}
