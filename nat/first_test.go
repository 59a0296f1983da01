package nat_test

import (
	"net/netip"
	"testing"

	"github.com/fairlead-net/fairlead/nat"
)

// TestFirstFollowsTheChains holds the rules of a plan against packets: who meets whom, and by whose address.
func TestFirstFollowsTheChains(t *testing.T) {
	ip := netip.MustParseAddr
	at := func(s string) []netip.Prefix { return []netip.Prefix{netip.MustParsePrefix(s)} }
	rows := nat.Plan(nat.Input{
		Pools:     []nat.Pool{{CIDR: netip.MustParsePrefix("10.88.0.0/16"), Outgoing: true}},
		Node:      []netip.Addr{ip("192.0.2.1")},
		Nodes:     []netip.Addr{ip("192.0.2.2")},
		Hairpin:   true,
		Mappings:  []nat.Mapping{{Port: nat.Port{Proto: "tcp", IP: ip("0.0.0.0"), Number: 8080}, Owner: "web", Target: 80}},
		Endpoints: map[string][]netip.Addr{"web": {ip("10.88.1.7")}, "db": {ip("10.88.4.2")}, "log": {ip("10.88.5.2")}},
		Networks: []nat.Network{
			{ID: "blueblueblue", Subnets: at("10.88.4.0/24"), Endpoints: []netip.Addr{ip("10.88.4.2")}, Isolated: true, Outgoing: nat.OutgoingSeen},
			{ID: "grayisinside", Subnets: at("10.88.5.0/24"), Endpoints: []netip.Addr{ip("10.88.5.2")}, Internal: true},
			{ID: "pinkpinkpink", Subnets: at("10.88.6.0/24"), Isolated: true},
		},
	})
	for _, c := range []struct {
		chain        map[nat.EntryKey]nat.Entry
		from, to     string
		out          string
		name, target string
	}{
		{rows.Outgoing, "10.88.1.7", "203.0.113.9", "eth0", "way out 10.88.0.0/16", "MASQUERADE"},
		{rows.Outgoing, "10.88.1.7", "192.0.2.2", "eth0", "to nodes", "RETURN"},
		{rows.Outgoing, "10.88.1.7", "10.88.9.9", "flvxlan", "to 10.88.0.0/16", "RETURN"},
		{rows.Outgoing, "10.88.1.7", "10.88.1.7", "fl0123456789", "hairpin", "SNAT"},
		{rows.Outgoing, "10.88.1.7", "10.88.1.7", "eth0", "to 10.88.0.0/16", "RETURN"},
		{rows.Outgoing, "127.0.0.1", "10.88.1.7", "fl0123456789", "local", "SNAT"},
		{rows.Outgoing, "10.88.4.2", "203.0.113.9", "eth0", "seen", "RETURN"},
		{rows.Outgoing, "192.0.2.1", "203.0.113.9", "eth0", "", ""},
		{rows.Apart, "10.88.1.7", "203.0.113.9", "eth0", "all others", "RETURN"},
		{rows.Apart, "10.88.4.2", "203.0.113.9", "eth0", "", ""},
		{rows.Apart, "10.88.4.2", "10.88.6.9", "flvxlan", "to 10.88.6.0/24", "DROP"},
		{rows.Apart, "10.88.4.2", "10.88.4.9", "flvxlan", "", ""},
		{rows.Apart, "10.88.5.2", "203.0.113.9", "eth0", "out of 10.88.5.0/24", "DROP"},
		{rows.Apart, "203.0.113.9", "10.88.5.2", "fl0123456789", "into 10.88.5.0/24", "DROP"},
		{rows.Apart, "10.88.5.2", "10.88.5.9", "flvxlan", "", ""},
		{rows.Apart, "2001:db8::1", "2001:db8::2", "eth0", "", ""},
	} {
		name, target, found := nat.First(c.chain, rows.Members, nat.Packet{From: ip(c.from), To: ip(c.to), Out: c.out})
		if name != c.name || target != c.target || found != (c.target != "") {
			t.Errorf("%s to %s by %s: %q %s %t, want %q %s", c.from, c.to, c.out, name, target, found, c.name, c.target)
		}
	}
	odd := map[nat.EntryKey]nat.Entry{{Name: "odd", Family: 4}: nat.EntryOf("-p tcp -j DROP"), {Name: "open", Family: 4}: nat.EntryOf("-d 10.0.0.1")}
	if name, _, found := nat.First(odd, nil, nat.Packet{From: ip("10.0.0.2"), To: ip("10.0.0.1")}); found {
		t.Errorf("rule %q takes a packet of which it is not known", name)
	}
}
