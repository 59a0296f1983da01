package agent_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/fairlead-net/fairlead/agent"
	"github.com/fairlead-net/fairlead/bgp"
	"github.com/fairlead-net/fairlead/endpoint"
	"github.com/fairlead-net/fairlead/nat"
	"github.com/fairlead-net/fairlead/tunnel"
)

const (
	blue = "blueblueblue"
	gray = "graygraygray"
)

// street is a host with endpoints, with other nodes on its link, behind a router, and behind two of them, and with
// networks that are kept apart.
func street() agent.Sight {
	cfg := config("10.88.1.0/24")
	cfg.Fast, cfg.NAT.Hairpin = agent.FastOn, true
	cfg.NAT.Hidden = []netip.Prefix{netip.MustParsePrefix("10.88.0.0/16")}
	all := bgp.IPIP | bgp.VXLAN
	route := func(p string, next ...string) bgp.Route {
		r := bgp.Route{Prefix: netip.MustParsePrefix(p), Node: "n" + p[6:7]}
		for _, n := range next {
			r.NextHops, r.Encaps = append(r.NextHops, where(n)), append(r.Encaps, all)
		}
		return r
	}
	direct := tunnel.Hop{Reachable: true, OnLink: true, Dev: "eth0", MTU: 1500}
	routed := tunnel.Hop{Reachable: true, Dev: "eth0", MTU: 1500, Via: where("192.0.2.254")}
	at := func(h tunnel.Hop, via string) tunnel.Hop {
		h.Via = where(via)
		return h
	}
	subnet := func(s string) []agent.Subnet { return []agent.Subnet{{CIDR: netip.MustParsePrefix(s)}} }
	return agent.Sight{
		Config: cfg, Block: netip.MustParsePrefix("10.88.1.0/24"),
		Endpoints: map[string][]netip.Addr{
			"web": {where("10.88.1.7")}, "db": {where("10.88.1.8")}, "old": {where("10.88.1.9")}, "six": {where("2001:db8:88::7")},
			"blue": {where("10.88.1.65")}, "bluer": {where("10.88.1.66")}, "gray": {where("10.88.1.129")},
		},
		Network: map[string]string{"blue": blue, "bluer": blue, "gray": gray},
		Networks: []agent.Network{
			{ID: blue, Subnets: subnet("10.88.1.64/26"), Isolated: true}, {ID: gray, Subnets: subnet("10.88.1.128/26"), Internal: true},
		},
		Gone: []string{"old"},
		Mappings: []nat.Mapping{
			{Port: nat.Port{Proto: "tcp", IP: where("192.0.2.1"), Number: 8080}, Owner: "web", Target: 80},
			{Port: nat.Port{Proto: "udp", IP: where("0.0.0.0"), Number: 53}, Owner: "db", Target: 5353},
		},
		Routes: []bgp.Route{
			route("10.88.2.0/24", "192.0.2.2"), route("10.88.3.0/24", "198.51.100.3"), route("10.88.4.0/24", "192.0.2.2", "192.0.2.4"),
			route("10.88.5.0/24", "192.0.2.5"), route("10.88.6.0/24", "198.51.100.6"),
		},
		Underlay: tunnel.Underlay{
			Dev: "eth0", MTU: 1500, Address: where("192.0.2.1"), Subnets: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")},
			Uplinks: []string{"eth0"}, Tunnels: tunnel.SetOf(tunnel.VXLAN),
			Foreign: []tunnel.Foreign{{Prefix: netip.MustParsePrefix("10.88.6.0/25")}},
		},
		Hops: map[netip.Addr]tunnel.Hop{
			where("192.0.2.2"): at(direct, "192.0.2.2"), where("192.0.2.4"): at(direct, "192.0.2.4"), where("192.0.2.5"): {},
			where("198.51.100.3"): routed, where("198.51.100.6"): routed,
		},
	}
}

// ask is a question with a port such as tcp/80.
func ask(from, to, port string) agent.TraceRequest {
	q := agent.TraceRequest{From: from, To: to}
	if port != "" {
		_, _ = fmt.Sscanf(strings.Replace(port, "/", " ", 1), "%s %d", &q.Proto, &q.Port)
	}
	return q
}

func told(t agent.Trace) string {
	var b strings.Builder
	for _, h := range t.Hops {
		fmt.Fprintf(&b, "%s: %s\n", h.Where, h.What)
	}
	return b.String()
}

// TestTraceForeseesTheWay follows packets through the rows of a pass.
func TestTraceForeseesTheWay(t *testing.T) {
	link, peer := endpoint.HostIf("web"), endpoint.HostIf("db")
	for name, c := range map[string]struct {
		from, to, port string
		way, source    string
		mtu            int
		says           []string // in this order
	}{
		"endpoints of this host": {"web", "db", "tcp/80", "fast-local", "own", 1450, []string{
			"endpoint link " + link + ": from_container: source is web (10.88.1.7), link " + link, "map endpoints: 10.88.1.8 -> dev " + peer,
			"endpoint link " + peer + ": fast path: handed to the inside of db (10.88.1.8)"}},
		"a node on the link": {"10.88.1.7", "10.88.2.9", "", "fast-direct", "own", 1450, []string{
			"map routes: 10.88.2.0/24 -> via 192.0.2.2", "uplink eth0: fast path: route 10.88.2.0/24 by direct via 192.0.2.2 dev eth0 mtu 1500"}},
		"a node behind a router": {"web", "10.88.3.9", "", "fast-ipip", "own", 1450, []string{
			"uplink eth0: fast path: route 10.88.3.0/24 by ipip to 198.51.100.3 via 192.0.2.254 dev eth0 mtu 1480"}},
		"two nodes": {"web", "10.88.4.9", "tcp/80", "fast-direct", "own", 1450, []string{
			"uplink eth0: one of 2, by the hash of the flow: fast path: route 10.88.4.0/24 by direct via 192.0.2.2",
			"uplink eth0: one of 2, by the hash of the flow: fast path: route 10.88.4.0/24 by direct via 192.0.2.4"}},
		"a node that is not reached": {"web", "10.88.5.9", "", "kernel-route", "own", 1450, []string{
			"(kernel-route)", "route: kernel: 10.88.5.0/24 is heard of and not used: next-hop-unreachable"}},
		"a route of the operator": {"web", "10.88.6.9", "", "kernel-route", "own", 1450, []string{
			"10.88.6.9 is neither an endpoint nor behind a route of its maps: foreign-route (kernel-route)", "somebody else's route 10.88.6.0/25 wins"}},
		"beside the operator's": {"web", "10.88.6.200", "", "kernel-route", "own", 1450, []string{
			"route: kernel: route 10.88.6.0/24 via 198.51.100.6 dev flvxlan", "tunnel device flvxlan: kernel: vxlan 88 port 4789 local 192.0.2.1", "which is at 198.51.100.6"}},
		"the world": {"web", "203.0.113.77", "tcp/443", "kernel-route", "host", 1450, []string{
			"(kernel-route)", "uplink eth0: kernel: no route of ours", `source NAT: leaves by this host's address: rule "way out 10.88.0.0/16"`}},
		"another node":               {"web", "192.0.2.2", "tcp/22", "kernel-route", "own", 1450, []string{"192.0.2.2 is in 192.0.2.0/24, a subnet of this host"}},
		"an address that nobody has": {"web", "10.88.1.30", "", "dropped: no-endpoint", "", 0, []string{"kernel: route 10.88.1.0/24 blackhole"}},
		"an endpoint that is gone":   {"old", "web", "", "dropped: no-link", "", 0, []string{"old (10.88.1.9) has no link"}},
		"to one that is gone":        {"web", "old", "", "dropped: no-link", "", 0, []string{"old (10.88.1.9) has no link"}},

		"own port":         {"web", "192.0.2.1", "tcp/8080", "kernel-route", "host", 1450, []string{"mapping: kernel: mapping 192.0.2.1:8080 -> 10.88.1.7:80", `rule "hairpin"`, "forwarded to web"}},
		"port of a sister": {"web", "203.0.113.1", "udp/53", "kernel-route", "own", 1450, []string{"mapping 203.0.113.1:53 -> 10.88.1.8:5353", "kernel-flow", "forwarded to db"}},
		"port from afar":   {"203.0.113.77", "192.0.2.1", "tcp/8080", "kernel-route", "own", 1450, []string{"uplink eth0: from_wire: 192.0.2.1 is no endpoint", "mapping 192.0.2.1:8080", "forwarded to web"}},
		"port by loopback": {"127.0.0.1", "192.0.2.1", "tcp/8080", "kernel-route", "host", 1450, []string{"this host: 127.0.0.1", "mapping", `rule "local"`}},

		"in from a node":    {"10.88.2.9", "web", "", "fast-from-direct", "own", 1450, []string{"uplink eth0: from_wire: in by direct", "map routes: back to 10.88.2.9: 10.88.2.0/24", "handed to the inside of web"}},
		"in from a tunnel":  {"10.88.3.9", "web", "", "fast-from-ipip", "own", 1450, []string{"in by ipip from 198.51.100.3, a node that is known"}},
		"in from the world": {"203.0.113.77", "web", "", "kernel-route", "own", 1450, []string{"from_wire: for web", "203.0.113.77 is behind no route of the maps (kernel-route)", "forwarded to web"}},
		"out of the host":   {"192.0.2.1", "web", "", "kernel-route", "host", 1450, []string{"192.0.2.1 is of the host itself", "forwarded to web"}},

		"within a network":         {"blue", "bluer", "", "fast-local", "own", 1450, []string{"realm"}},
		"between networks":         {"blue", "web", "", "kernel-realm", "own", 1450, []string{"networks are kept apart, realms", "let it pass", "forwarded to web"}},
		"out of an isolated one":   {"blue", "10.88.2.9", "", "kernel-realm", "own", 1450, []string{"(kernel-realm)", "let it pass"}},
		"into an isolated one":     {"10.88.2.9", "blue", "", "kernel-realm", "own", 1450, []string{"in by direct", "(kernel-realm)", "forwarded to blue"}},
		"out of an internal one":   {"gray", "203.0.113.77", "", "dropped: networks-apart", "", 0, []string{`rule "out of 10.88.1.128/26" drops it`}},
		"into an internal one":     {"web", "gray", "", "dropped: networks-apart", "", 0, []string{"(kernel-realm)", `rule "into 10.88.1.128/26" drops it`}},
		"isolated to internal":     {"blue", "gray", "", "dropped: networks-apart", "", 0, []string{"(kernel-realm)", "drops it"}},
		"from afar to an internal": {"203.0.113.77", "gray", "", "dropped: networks-apart", "", 0, []string{"(kernel-route)", "drops it"}},
	} {
		t.Run(name, func(t *testing.T) {
			have, err := street().Foresee(ask(c.from, c.to, c.port))
			if err != nil {
				t.Fatal(err)
			}
			if have.Way != c.way || have.Source != c.source || have.MTU != c.mtu {
				t.Errorf("way %q source %q mtu %d, want %q %q %d", have.Way, have.Source, have.MTU, c.way, c.source, c.mtu)
			}
			text := told(have)
			rest := text
			for _, s := range c.says {
				_, after, found := strings.Cut(rest, s)
				if !found {
					t.Fatalf("does not say %q:\n%s", s, text)
				}
				rest = after
			}
		})
	}
}

// TestTraceWithoutTheFastPath: the kernel's way is told in full where no program stands, and why none does.
func TestTraceWithoutTheFastPath(t *testing.T) {
	s := street()
	s.Off = "no eBPF here"
	for to, want := range map[string]string{
		"10.88.3.9": "tunnel device flvxlan: kernel: vxlan 88", "db": "forwarded to db", "10.88.2.9": "route 10.88.2.0/24 via 192.0.2.2 dev eth0",
	} {
		have, err := s.Foresee(ask("web", to, ""))
		text := told(have)
		if err != nil || have.Way != "kernel-route" || !strings.Contains(text, want) || !strings.Contains(text, "off: no eBPF here") || strings.Contains(text, "map ") {
			t.Errorf("to %s: %v, %s, does not say %q:\n%s", to, err, have.Way, want, text)
		}
	}
	s.Config.NAT.Hairpin = false
	if have, err := s.Foresee(ask("web", "192.0.2.1", "tcp/8080")); err != nil || have.Way != "dropped: hairpin-off" || have.MTU != 0 {
		t.Errorf("a port of its own: %v, %+v", err, have)
	}
}

// TestTraceFollowsPortsOfThePrograms: those that they map do not come to the kernel, but for programs of the host.
func TestTraceFollowsPortsOfThePrograms(t *testing.T) {
	s := street()
	s.Config.NAT.Backend = nat.EBPF
	s.Underlay.Own = []netip.Addr{netip.MustParseAddr("192.0.2.1")}
	for from, want := range map[string][2]string{
		"web": {"fast-mapped", "host"}, "db": {"fast-mapped", "own"}, "203.0.113.77": {"fast-mapped", "own"},
		"10.88.3.9": {"fast-mapped", "own"}, "127.0.0.1": {"kernel-route", "host"},
	} {
		have, err := s.Foresee(ask(from, "192.0.2.1", "tcp/8080"))
		if err != nil || have.Way != want[0] || have.Source != want[1] || have.MTU != 1450 {
			t.Errorf("from %s: %v, way %q source %q mtu %d, want %q", from, err, have.Way, have.Source, have.MTU, want)
		}
		const says = "map ports: fast path: port 192.0.2.1:8080 -> 10.88.1.7:80"
		if text := told(have); want[0] == "fast-mapped" && !strings.Contains(text, says) {
			t.Errorf("from %s it does not say %q:\n%s", from, says, text)
		}
	}
}

func TestTraceRefusesWhatHasNoAnswer(t *testing.T) {
	for name, c := range map[string]struct {
		from, to, port string
		is             error
		says           string
	}{
		"unknown name":    {"wbe", "db", "", agent.ErrNotFound, `SRC: ` + agent.ErrNotFound.Error() + `: no endpoint "wbe" here: fairlead endpoints lists them`},
		"unknown address": {"10.88.1.77", "db", "", agent.ErrNotFound, "this host's block 10.88.1.0/24"},
		"of the host":     {"web", "192.0.2.1", "", agent.ErrBadRequest, "to follow a published port, name it"},
		"loopback":        {"web", "127.0.0.1", "icmp", agent.ErrBadRequest, "this host's own address"},
		"no such port":    {"web", "192.0.2.1", "udp/8080", agent.ErrNotFound, "udp/8080 of it leads to no endpoint"},
		"bad protocol":    {"web", "db", "gre/1", agent.ErrBadRequest, `"gre" is none of tcp, udp, sctp, icmp`},
		"port of icmp":    {"web", "db", "icmp/8", agent.ErrBadRequest, "want for instance tcp/8"},
		"two families":    {"web", "six", "", agent.ErrBadRequest, "no addresses of one family"},
		"itself":          {"web", "10.88.1.7", "", agent.ErrBadRequest, "both ends"},
		"link-local":      {"web", "169.254.1.1", "", agent.ErrBadRequest, "no address that packets are routed to"},
		"everybody":       {"web", "224.0.0.1", "", agent.ErrBadRequest, "no address that packets are routed to"},
		"nobody's":        {"203.0.113.77", "10.88.2.9", "", agent.ErrBadRequest, "neither 203.0.113.77 nor 10.88.2.9 is of this host: ask a host that has one of them: 10.88.2.9 is of n2"},
		"nobody's at all": {"203.0.113.77", "203.0.113.78", "", agent.ErrBadRequest, "neither"},
	} {
		_, err := street().Foresee(ask(c.from, c.to, c.port))
		if !errors.Is(err, c.is) || !strings.Contains(fmt.Sprint(err), c.says) {
			t.Errorf("%s: %v, want %q", name, err, c.says)
		}
	}
}

// TestTraceOverTheAPI: the question is in the query, and a bad one is refused as such.
func TestTraceOverTheAPI(t *testing.T) {
	a := start(t, newWorld(), config("10.88.1.0/24"))
	eventually(t, "a pass", func() bool { return !a.Status().LastPass.IsZero() })
	for query, want := range map[string]struct {
		status int
		says   string
	}{
		"?from=203.0.113.7&to=10.88.1.9":                {http.StatusOK, `"way":"dropped: no-endpoint","mtu":0,"source":""`},
		"?from=203.0.113.7&to=web":                      {http.StatusNotFound, `no endpoint \"web\" here`},
		"?from=203.0.113.7&to=10.88.1.9&port=80":        {http.StatusBadRequest, "no protocol that has ports"},
		"?from=203.0.113.7&to=10.88.1.9&port=800000":    {http.StatusBadRequest, "port"},
		"?to=10.88.1.9":                                 {http.StatusBadRequest, "from"},
		"/live?from=203.0.113.7&to=10.88.1.9":           {http.StatusServiceUnavailable, "no packet can be followed: the fast path, whose programs would tell, is off"},
		"/live?from=203.0.113.7&to=web":                 {http.StatusNotFound, `no endpoint \"web\" here`},
		"/live?from=203.0.113.7&to=10.88.1.9&proto=gre": {http.StatusBadRequest, "none of tcp"},
	} {
		answer := httptest.NewRecorder()
		a.Handler().ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/v1/trace"+query, nil))
		if body := answer.Body.String(); answer.Code != want.status || !strings.Contains(body, want.says) {
			t.Errorf("%s: %d %s, want %d and %s", query, answer.Code, body, want.status, want.says)
		}
	}
}

func where(address string) netip.Addr { return netip.MustParseAddr(address) }
