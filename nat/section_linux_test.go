package nat_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-net/fairlead/nat"
	"github.com/fairlead-net/fairlead/reconcile"
)

func outgoing() map[nat.EntryKey]nat.Entry {
	return map[nat.EntryKey]nat.Entry{
		{Name: "to 10.88.0.0/16", Family: 4}:      nat.EntryOf("-d 10.88.0.0/16 -j RETURN"),
		{Name: "way out 10.88.0.0/16", Family: 4}: nat.EntryOf("-s 10.88.0.0/16 -j MASQUERADE --random-fully"),
		{Name: "hairpin", Family: 4}:              nat.EntryOf("-o fl+ -m mark --mark 0x1 -j SNAT --to-source 192.0.2.1"),
		{Name: "way out fd00:88::/64", Family: 6}: nat.EntryOf("-s fd00:88::/64 -j MASQUERADE --random-fully"),
	}
}

func passing() map[nat.EntryKey]nat.Entry {
	return map[nat.EntryKey]nat.Entry{
		{Name: "within", Family: 4}:  nat.EntryOf("-i fl+ -o fl+ -j ACCEPT"),
		{Name: "to eth0", Family: 4}: nat.EntryOf("-i fl+ -o eth0 -j ACCEPT"),
		{Name: "within", Family: 6}:  nat.EntryOf("-i fl+ -o fl+ -j ACCEPT"),
	}
}

// pair is the two sections with what may be wanted of them.
type pair struct {
	name, chain, hook, table string
	open                     func(*nat.Kernel, time.Duration) *nat.Section
	want                     map[nat.EntryKey]nat.Entry
}

func pairs() []pair {
	return []pair{
		{"outgoing", "FAIRLEAD-SNAT", "POSTROUTING", "nat", (*nat.Kernel).Outgoing, outgoing()},
		{"forward", "FAIRLEAD-FORWARD", "FORWARD", "filter", (*nat.Kernel).Forward, passing()},
	}
}

func TestSectionsAsRules(t *testing.T) {
	backends(t, func(t *testing.T, h host) {
		for _, hook := range []string{"-t nat -A POSTROUTING", "-A FORWARD"} {
			h.iptables(hook + " -p udp -j ACCEPT")
			h.ip6tables(hook + " -p udp -j ACCEPT")
		}
		foreign := h.world()
		for _, p := range pairs() {
			table := reconcile.NewTable(p.name, p.open(h.k, time.Hour))
			settle(t, table, p.want)
			if r := settle(t, reconcile.NewTable(p.name, p.open(h.k, time.Hour)), p.want); r.Total() != 0 {
				t.Errorf("wrote %v", r.Writes)
			}
		}
		for args, want := range map[string]string{
			"-t nat -S POSTROUTING": "-P POSTROUTING ACCEPT\n-A POSTROUTING -j FAIRLEAD-SNAT\n-A POSTROUTING -p udp -j ACCEPT\n",
			"-S FORWARD":            "-P FORWARD ACCEPT\n-A FORWARD -p udp -j ACCEPT\n-A FORWARD -j FAIRLEAD-FORWARD\n",
			"-S FAIRLEAD-FORWARD": `-N FAIRLEAD-FORWARD
-A FAIRLEAD-FORWARD -i fl+ -o eth0 -m comment --comment "to eth0" -j ACCEPT
-A FAIRLEAD-FORWARD -i fl+ -o fl+ -m comment --comment within -j ACCEPT
`,
			"-t nat -S FAIRLEAD-SNAT": `-N FAIRLEAD-SNAT
-A FAIRLEAD-SNAT -o fl+ -m mark --mark 0x1 -m comment --comment hairpin -j SNAT --to-source 192.0.2.1
-A FAIRLEAD-SNAT -d 10.88.0.0/16 -m comment --comment "to 10.88.0.0/16" -j RETURN
-A FAIRLEAD-SNAT -s 10.88.0.0/16 -m comment --comment "way out 10.88.0.0/16" -j MASQUERADE --random-fully
`,
		} {
			if diff := cmp.Diff(want, h.iptables(args)); diff != "" {
				t.Errorf("%s:\n%s", args, diff)
			}
		}
		for _, p := range pairs() {
			settle(t, reconcile.NewTable(p.name, p.open(h.k, time.Hour)), none())
		}
		if diff := cmp.Diff(foreign, h.world()); diff != "" {
			t.Errorf("not as before:\n%s", diff)
		}
	})
}

func TestSectionsAreMended(t *testing.T) {
	backends(t, func(t *testing.T, h host) {
		for _, p := range pairs() {
			section := p.open(h.k, time.Hour)
			table := reconcile.NewTable(p.name, section)
			settle(t, table, p.want)
			before := h.world()
			hands := []string{"ip6tables -t TABLE -F", "iptables -t TABLE -I CHAIN 2 -j ACCEPT"}
			if strings.Contains(h.iptables("--version"), "nf_tables") { // which tells at once
				hands = append(hands, "iptables -t TABLE -F CHAIN", "iptables -t TABLE -D CHAIN 1", "iptables -t TABLE -D HOOK -j CHAIN",
					"iptables -t TABLE -A HOOK -j CHAIN", "ip6tables -t TABLE -A HOOK -g CHAIN")
			}
			for _, hand := range hands {
				hand = strings.NewReplacer("TABLE", p.table, "CHAIN", p.chain, "HOOK", p.hook).Replace(hand)
				h.Run(strings.Fields(hand)...)
				if !heard(section) {
					t.Errorf("no poke for %s", hand)
				}
				if r := settle(t, table, p.want); r.Total() == 0 {
					t.Errorf("nothing written after %s", hand)
				}
				if diff := cmp.Diff(before, unordered(before, h.world())); diff != "" {
					t.Fatalf("not as before after %s:\n%s", hand, diff)
				}
				select {
				case <-section.Changed():
				default:
				}
			}
			// What others put before our rule, or behind it, is no fault.
			h.iptables("-t " + p.table + " -I " + p.hook + " -p udp -j ACCEPT")
			h.iptables("-t " + p.table + " -A " + p.hook + " -p udp -j ACCEPT")
			if r := settle(t, table, p.want); r.Total() != 0 {
				t.Errorf("wrote %v", r.Writes)
			}
		}
	})
}

// TestEntriesKeepTheirCounters: what comes, goes and changes between them leaves them as they are.
func TestEntriesKeepTheirCounters(t *testing.T) {
	backends(t, func(t *testing.T, h host) {
		h.IP("link set lo up")
		key := func(name string) nat.EntryKey { return nat.EntryKey{Name: name, Family: 4} }
		want := map[nat.EntryKey]nat.Entry{
			key("m"): nat.EntryOf("-d 127.0.0.1/32 -p tcp -m tcp --dport 9 -j RETURN"),
			key("y"): nat.EntryOf("-d 203.0.113.0/24 -j MASQUERADE"), // without one like this no connection is tracked
		}
		section := h.k.Outgoing(time.Hour)
		table := reconcile.NewTable("outgoing", section)
		settle(t, table, want)
		for range 3 {
			_, _ = ask(t, h.Host, netip.MustParseAddrPort("127.0.0.1:9"))
		}
		for i, change := range []func(){
			func() {},
			func() { want[key("a")] = nat.EntryOf("-p udp -j RETURN") },
			func() { want[key("z")] = nat.EntryOf("-p udp -j RETURN") },
			func() {
				want[key("a")] = nat.EntryOf("-p gre -j RETURN")
				want[key("b")] = nat.EntryOf("-p udp -j RETURN")
			},
			func() { delete(want, key("a")) },
			func() { h.iptables("-t nat -I FAIRLEAD-SNAT -p tcp --dport 99 -j ACCEPT") },
		} {
			change()
			table := reconcile.NewTable("outgoing", h.k.Outgoing(0))
			settle(t, table, want)
			var m []string
			for line := range strings.Lines(h.iptables("-t nat -nvL FAIRLEAD-SNAT")) {
				if strings.Contains(line, "/* m */") {
					m = strings.Fields(line)
				}
			}
			if len(m) == 0 || m[0] != "3" {
				t.Errorf("change %d: counted %v", i, m)
			}
		}
	})
}

// TestPlannedEntriesComeBackAsTheyWerePut: in the words in which they are planned, with every choice taken.
func TestPlannedEntriesComeBackAsTheyWerePut(t *testing.T) {
	backends(t, func(t *testing.T, h host) {
		prefix := netip.MustParsePrefix
		rows := nat.Plan(nat.Input{
			Pools:   []nat.Pool{{CIDR: prefix("10.88.0.0/16"), Outgoing: true}, {CIDR: prefix("10.89.0.0/16")}, {CIDR: prefix("fd00:88::/64"), Outgoing: true}},
			Node:    []netip.Addr{addr("192.0.2.1"), addr("2001:db8:1::1")},
			Nodes:   []netip.Addr{addr("192.0.2.2"), addr("2001:db8:1::2")},
			Uplinks: []string{"eth0", "eth1"}, Gateways: []netip.Addr{addr("169.254.1.1"), addr("fe80::1")}, Hairpin: true,
			Mappings: []nat.Mapping{
				{Port: mapped("tcp", "0.0.0.0", 8080), Owner: "web", Target: 80}, {Port: mapped("udp", "::", 53), Owner: "web", Target: 53},
			},
			Endpoints: map[string][]netip.Addr{"web": {addr("10.88.0.2"), addr("fd00:88::2")}},
		})
		settle(t, reconcile.NewTable("members", h.k.Sets()), rows.Members)
		settle(t, reconcile.NewTable("ports", h.k.Ports(0)), rows.Ports)
		settle(t, reconcile.NewTable("outgoing", h.k.Outgoing(0)), rows.Outgoing)
		settle(t, reconcile.NewTable("forward", h.k.Forward(0)), rows.Forward)
		settle(t, reconcile.NewTable("input", h.k.Input(0)), rows.Input)
		if len(rows.Ports) != 2 || len(rows.Outgoing) < 7 || len(rows.Forward) != 10 {
			t.Errorf("planned %s", fmt.Sprint(len(rows.Ports), slices.Collect(func(yield func(nat.EntryKey) bool) {
				for k := range rows.Outgoing {
					if !yield(k) {
						return
					}
				}
			})))
		}
	})
}
