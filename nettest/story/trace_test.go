package story_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/fairlead-net/fairlead/agent"
	"github.com/fairlead-net/fairlead/nettest"
)

// mirrorPort is what Ask asks.
const mirrorPort = 7002

// journey is packets whose way through a host is foretold, and then looked at.
type journey struct {
	at   *nettest.Node // whose way it is
	from *nettest.Host
	own  netip.Addr // that it sends from
	to   netip.Addr
	port string // given to trace; "" for none
	way  string
}

// TestTraceTellsTheTruth: what trace foretells is what the counters and the far end see.
func TestTraceTellsTheTruth(t *testing.T) {
	t.Parallel()
	l := lab(t, nettest.LabOptions{Nodes: []string{"n1", "n2", "n3"}, Pools: []string{pool4, pool6}, Fastpath: "on", RPFilter: 1})
	stranger4, stranger6 := netip.MustParseAddr("192.0.2.66"), netip.MustParseAddr("2001:db8:1::66")
	stranger := strangerAt(t, l, stranger4, stranger6)
	l.Start()
	n1, n2 := l.Nodes[0], l.Nodes[1]
	published := fmt.Sprintf("%d:%d/udp", mirrorPort, mirrorPort)
	web, near, far, afar := n1.Attach("web", "--publish", published), n1.Attach("near"), n2.Attach("far"), l.Nodes[2].Attach("afar")
	for _, h := range []struct {
		*nettest.Host
		addresses []netip.Addr
	}{{web.Host, web.Addresses()}, {near.Host, near.Addresses()}, {far.Host, far.Addresses()}, {afar.Host, afar.Addresses()}, {stranger, []netip.Addr{stranger4, stranger6}}} {
		for _, a := range h.addresses {
			h.Serve(a)
		}
	}
	l.WaitFast(fastSoon)
	mapped := fmt.Sprintf("udp/%d", mirrorPort)
	for _, j := range []journey{
		{n1, web.Host, web.IP4, near.IP4, "", "fast-local"},
		{n1, web.Host, web.IP6, near.IP6, "", "fast-local"},
		{n1, web.Host, web.IP4, far.IP4, "", "fast-direct"},
		{n1, web.Host, web.IP6, far.IP6, mapped, "fast-direct"},
		{n2, web.Host, web.IP4, far.IP4, "", "fast-from-direct"},
		{n1, web.Host, web.IP4, afar.IP4, "", "fast-ipip"},
		{n1, web.Host, web.IP6, afar.IP6, "", "kernel-route"}, // no program makes a tunnel over IPv6
		{l.Nodes[2], web.Host, web.IP4, afar.IP4, "", "fast-from-ipip"},
		{l.Nodes[2], web.Host, web.IP6, afar.IP6, "", "kernel-route"},
		{n1, web.Host, web.IP4, stranger4, "", "kernel-route"},
		{n1, near.Host, near.IP4, n1.Address4, mapped, "kernel-route"},
		{n1, web.Host, web.IP4, n1.Address4, mapped, "kernel-route"},
	} {
		j.check(t, l)
	}
	checkNoEndpoint(t, n1, web)
	if r := n1.CLI("trace", "web", n1.Address4.String()); r.Code != 1 || !strings.Contains(r.Stderr, "fairlead ports lists them") {
		t.Errorf("the host's own address: exit code %d: %s", r.Code, r.Stderr)
	}
}

// check foretells the way, sends packets, and compares.
func (j journey) check(t *testing.T, l *nettest.Lab) {
	t.Helper()
	args := []string{"trace", "-o", "json", j.own.String(), j.to.String()}
	if j.port != "" {
		args = append(args, j.port)
	}
	told := decode[agent.Trace](t, j.at.Fairlead(args...))
	if told.Way != j.way {
		t.Errorf("%s: %v to %v %s: foretold is %s, want %s: %+v", j.at.Name, j.own, j.to, j.port, told.Way, j.way, told.Hops)
	}
	before := ways(t, j.at)[told.Way]
	saw, err := j.from.Ask(j.to)
	if err != nil {
		t.Errorf("%s: foretold is %s: %v", j.at.Name, told.Way, err)
		return
	}
	if now := ways(t, j.at)[told.Way]; now <= before {
		t.Errorf("%s: %v to %v %s: foretold is %s, of which there were %s packets, and now are %s", j.at.Name, j.own, j.to, j.port, told.Way, before, now)
	}
	if (told.Source == "own") != (saw.Source == j.own) {
		t.Errorf("%s: %v to %v %s: seen as %v, foretold is %q: %+v", j.at.Name, j.own, j.to, j.port, saw.Source, told.Source, told.Hops)
	}
}

// ways are the packets that the host's fast path has counted, by their ways. Counts of one length compare as text.
func ways(t *testing.T, n *nettest.Node) map[string]string {
	t.Helper()
	text, err := n.Metrics()
	if err != nil {
		t.Fatal(err)
	}
	counts := make(map[string]string)
	for line := range strings.Lines(text) {
		if rest, found := strings.CutPrefix(line, `fairlead_fastpath_packets_total{way="`); found {
			way, count, _ := strings.Cut(strings.TrimSpace(rest), `"} `)
			counts[way] = fmt.Sprintf("%12s", count)
		}
	}
	return counts
}

// checkNoEndpoint: an address of the own block that nobody has answers nobody, as foretold.
func checkNoEndpoint(t *testing.T, n *nettest.Node, from *nettest.Container) {
	t.Helper()
	b := block(t, n, pool4)
	nobody := netip.PrefixFrom(b.Addr().Next(), 32).Addr()
	for used := true; used; {
		used = false
		for _, e := range show[[]agent.Endpoint](t, n, "endpoints") {
			for _, a := range e.Addresses {
				used = used || a == nobody
			}
		}
		if used {
			nobody = nobody.Next()
		}
	}
	told := decode[agent.Trace](t, n.Fairlead("trace", "-o", "json", from.Name, nobody.String()))
	if told.Way != "dropped: no-endpoint" || told.MTU != 0 {
		t.Errorf("to %v, which nobody has: %+v", nobody, told)
	}
	if _, err := from.Ask(nobody); err == nil {
		t.Errorf("%v, which nobody has, answers", nobody)
	}
}
