package nat_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/fairlead-net/fairlead/nat"
)

func input() nat.Input {
	return nat.Input{
		Pools: []nat.Pool{
			{CIDR: netip.MustParsePrefix("10.88.0.0/16"), Outgoing: true},
			{CIDR: netip.MustParsePrefix("10.99.0.0/16")},
			{CIDR: netip.MustParsePrefix("2001:db8:88::/64")},
		},
		Node:     []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8:1::1")},
		Nodes:    []netip.Addr{netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("2001:db8:1::2")},
		Uplinks:  []string{"eth0"},
		Gateways: []netip.Addr{netip.MustParseAddr("169.254.1.1"), netip.MustParseAddr("fe80::1")},
		Hairpin:  true,
		Mappings: []nat.Mapping{
			{Port: nat.Port{Proto: "tcp", IP: netip.IPv4Unspecified(), Number: 8080}, Owner: "web", Target: 80},
			{Port: nat.Port{Proto: "tcp", IP: netip.IPv6Unspecified(), Number: 8080}, Owner: "web", Target: 80},
			{Port: nat.Port{Proto: "udp", IP: netip.MustParseAddr("192.0.2.1"), Number: 53}, Owner: "dns", Target: 5353},
			{Port: nat.Port{Proto: "tcp", IP: netip.IPv4Unspecified(), Number: 9090}, Owner: "gone", Target: 90},
		},
		Endpoints: map[string][]netip.Addr{
			"web": {netip.MustParseAddr("10.88.1.5"), netip.MustParseAddr("2001:db8:88::5")},
			"dns": {netip.MustParseAddr("10.88.1.6")},
		},
	}
}

// render is the rows as lines, sorted.
func render(r nat.Rows) string {
	var all []string
	for p, f := range r.Holds {
		all = append(all, fmt.Sprintf("hold %s%s", p, f))
	}
	for p, rule := range r.Ports {
		all = append(all, fmt.Sprintf("port %s %s", p, rule))
	}
	for m := range r.Members {
		all = append(all, fmt.Sprintf("set %s", m))
	}
	for _, chain := range []struct {
		name    string
		entries map[nat.EntryKey]nat.Entry
	}{{"snat", r.Outgoing}, {"forward", r.Forward}, {"input", r.Input}, {"apart", r.Apart}} {
		for k, e := range chain.entries {
			all = append(all, fmt.Sprintf("%s%d %q: %s", chain.name, k.Family, k.Name, e))
		}
	}
	for _, name := range r.Loopback {
		all = append(all, "loopback "+name)
	}
	slices.Sort(all)
	return strings.Join(all, "\n") + "\n"
}

func TestPlan(t *testing.T) {
	const want = `forward4 "from eth0": -i eth0 -o fl+ -j ACCEPT
forward4 "to eth0": -i fl+ -o eth0 -j ACCEPT
forward4 "within": -i fl+ -o fl+ -j ACCEPT
forward6 "from eth0": -i eth0 -o fl+ -j ACCEPT
forward6 "to eth0": -i fl+ -o eth0 -j ACCEPT
forward6 "within": -i fl+ -o fl+ -j ACCEPT
hold 0.0.0.0:8080/tcp
hold 0.0.0.0:9090/tcp
hold 192.0.2.1:53/udp
hold [::]:8080/tcp
input4 "loopback": -d 127.0.0.0/8 -i fl+ -m conntrack ! --ctstate RELATED,ESTABLISHED -j DROP
input4 "metadata": -d 169.254.0.0/16 -i fl+ -p 6 -m tcp --dport 8088 -j ACCEPT
input6 "metadata": -d fe80::/64 -i fl+ -p 6 -m tcp --dport 8088 -j ACCEPT
loopback web
port 0.0.0.0:8080/tcp to 10.88.1.5:80
port 192.0.2.1:53/udp to 10.88.1.6:5353
port [::]:8080/tcp to [2001:db8:88::5]:80
set 192.0.2.2 in fairlead-nodes4
set fairlead-nodes4
snat4 "hairpin": -o fl+ -m bpf --bytecode "6,32 0 0 12,7 0 0 0,32 0 0 16,29 0 1 0,6 0 0 1,6 0 0 0" -j SNAT --to-source 192.0.2.1
snat4 "local": -s 127.0.0.0/8 -o fl+ -j SNAT --to-source 192.0.2.1
snat4 "to 10.88.0.0/16": -d 10.88.0.0/16 -j RETURN
snat4 "to 10.99.0.0/16": -d 10.99.0.0/16 -j RETURN
snat4 "to nodes": -m set --match-set fairlead-nodes4 dst -j RETURN
snat4 "way out 10.88.0.0/16": -s 10.88.0.0/16 -j MASQUERADE --random-fully
snat6 "hairpin": -o fl+ -m bpf --bytecode "18,32 0 0 8,7 0 0 0,32 0 0 24,29 0 13 0,32 0 0 12,7 0 0 0,32 0 0 28,29 0 9 0,32 0 0 16,7 0 0 0,32 0 0 32,29 0 5 0,32 0 0 20,7 0 0 0,32 0 0 36,29 0 1 0,6 0 0 1,6 0 0 0" -j SNAT --to-source 2001:db8:1::1
`
	if got := render(nat.Plan(input())); got != want {
		t.Errorf("have:\n%s\nwant:\n%s", got, want)
	}
}

// Each input alone decides what is its.
func TestPlanOfLess(t *testing.T) {
	cases := []struct {
		name   string
		change func(*nat.Input)
		lacks  []string
	}{
		{"nothing is published", func(in *nat.Input) { in.Mappings = nil }, []string{"hold ", "\nport ", "loopback web", "hairpin", `"local"`}},
		{"no hairpin", func(in *nat.Input) { in.Hairpin = false }, []string{"hairpin"}},
		{"nothing is hidden", func(in *nat.Input) { in.Pools[0].Outgoing = false }, []string{"way out", `"to 10.`, "nodes"}},
		{"no other node", func(in *nat.Input) { in.Nodes = nil }, []string{"nodes"}},
		{"no endpoint", func(in *nat.Input) { in.Endpoints = nil }, []string{"\nport ", "loopback web", "hairpin"}},
		{"one family", func(in *nat.Input) { in.Pools = in.Pools[:2]; in.Gateways = in.Gateways[:1] }, []string{"snat6", "forward6", "input6"}},
		{"only an address of the host", func(in *nat.Input) { in.Mappings = in.Mappings[2:3] }, []string{"loopback web", `"local"`}},
	}
	for _, c := range cases {
		in := input()
		c.change(&in)
		got := render(nat.Plan(in))
		for _, word := range c.lacks {
			if strings.Contains(got, word) {
				t.Errorf("%s: found %q in\n%s", c.name, word, got)
			}
			if !strings.Contains(render(nat.Plan(input())), word) {
				t.Errorf("%s: %q is never there", c.name, word)
			}
		}
	}
}
