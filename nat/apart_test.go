package nat_test

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/fairlead-net/fairlead/nat"
)

// judge says what a packet of one family comes to in the chain: the target of the first rule that fits, "" of none. It
// knows the words that rules about networks are made of and no others.
func judge(t rapid.TB, rows nat.Rows, family int) func(src, dst netip.Addr) string {
	type rule struct {
		fits   []func(src, dst netip.Addr) bool
		target string
	}
	var rules []rule
	for _, k := range slices.SortedFunc(maps.Keys(rows.Apart), func(a, b nat.EntryKey) int { return strings.Compare(a.Name, b.Name) }) {
		var r rule
		want := true
		for words := strings.Fields(rows.Apart[k].Spec); k.Family == family && len(words) > 0; {
			var end string
			switch words[0] {
			case "!":
				want, words = false, words[1:]
				continue
			case "-m":
				words = words[2:]
				continue
			case "-j":
				r.target, words = words[1], words[2:]
				continue
			case "-s", "-d":
				end, words = map[string]string{"-s": "src", "-d": "dst"}[words[0]], words[1:]
				prefix, yes := netip.MustParsePrefix(words[0]), want
				r.fits = append(r.fits, func(src, dst netip.Addr) bool { return prefix.Contains(ended(end, src, dst)) == yes })
				words = words[1:]
			case "--match-set":
				set, yes := words[1], want
				end, words = words[2], words[3:]
				if _, there := rows.Members[nat.Member{Set: set, IP: unspecified(family)}]; !there {
					t.Errorf("no set %s", set)
				}
				r.fits = append(r.fits, func(src, dst netip.Addr) bool {
					_, in := rows.Members[nat.Member{Set: set, IP: ended(end, src, dst)}]
					return in == yes
				})
			default:
				t.Fatalf("%s has %s", rows.Apart[k], words[0])
			}
			want = true
		}
		if k.Family == family {
			rules = append(rules, r)
		}
	}
	return func(src, dst netip.Addr) string {
		for _, r := range rules {
			if !slices.ContainsFunc(r.fits, func(fits func(src, dst netip.Addr) bool) bool { return !fits(src, dst) }) {
				return r.target
			}
		}
		return ""
	}
}

func ended(end string, src, dst netip.Addr) netip.Addr {
	if end == "src" {
		return src
	}
	return dst
}

func unspecified(family int) netip.Addr {
	if family == 4 {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

// meant tells whether a fence stands between an endpoint here and another address, in the words in which it is promised.
func meant(networks []nat.Network, endpoints map[string][]netip.Addr, here, there netip.Addr) bool {
	overlap := func(a, b nat.Network) bool {
		return slices.ContainsFunc(a.Subnets, func(p netip.Prefix) bool { return slices.ContainsFunc(b.Subnets, p.Overlaps) })
	}
	of := func(a netip.Addr) int {
		return slices.IndexFunc(networks, func(n nat.Network) bool { return slices.Contains(n.Endpoints, a) })
	}
	inside := func(n nat.Network, a netip.Addr) bool {
		return slices.ContainsFunc(n.Subnets, func(p netip.Prefix) bool { return p.Contains(a) })
	}
	i, j := of(here), of(there)
	local := j >= 0 || slices.ContainsFunc(slices.Collect(maps.Values(endpoints)), func(a []netip.Addr) bool { return slices.Contains(a, there) })
	if i < 0 || i == j {
		return false
	}
	n := networks[i]
	rivals := func(rival func(nat.Network) bool) bool {
		for k, o := range networks {
			if k != i && rival(o) && overlap(n, o) {
				return true
			}
		}
		return false
	}
	if n.Internal && (local || !inside(n, there) || rivals(func(nat.Network) bool { return true })) {
		return true
	}
	if !n.Isolated || local && (j < 0 || !networks[j].Isolated) {
		return false
	}
	isolated := func(o nat.Network) bool { return o.Isolated }
	if !local && inside(n, there) && !rivals(isolated) {
		return false
	}
	return local || slices.ContainsFunc(networks, func(o nat.Network) bool { return o.Isolated && inside(o, there) })
}

// TestFencesAreAsPromised: whatever networks there are and wherever their endpoints, the rules drop what the promise says
// and nothing else.
func TestFencesAreAsPromised(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := nat.Input{Endpoints: make(map[string][]netip.Addr)}
		base := rapid.SampledFrom([]string{"10.88.0.0", "fd00:88::"}).Draw(t, "family")
		number := func(n int) netip.Addr { // the last byte alone
			b := netip.MustParseAddr(base).AsSlice()
			b[len(b)-1] = byte(n)
			a, _ := netip.AddrFromSlice(b)
			return a
		}
		width := number(0).BitLen()
		used := make(map[netip.Addr]bool)
		for i := range rapid.IntRange(0, 5).Draw(t, "networks") {
			n := nat.Network{
				ID:       fmt.Sprintf("%012d", i),
				Isolated: rapid.Bool().Draw(t, "isolated"), Internal: rapid.IntRange(0, 2).Draw(t, "internal") == 0,
			}
			subnet := netip.PrefixFrom(number(rapid.IntRange(0, 63).Draw(t, "subnet")), width-rapid.IntRange(2, 5).Draw(t, "bits")).Masked()
			n.Subnets = []netip.Prefix{subnet}
			last := subnet.Addr().AsSlice()[width/8-1]
			for _, at := range rapid.SliceOfN(rapid.IntRange(0, 1<<(width-subnet.Bits())-1), 0, 4).Draw(t, "endpoints") {
				if a := number(int(last) + at); !used[a] {
					used[a] = true
					n.Endpoints = append(n.Endpoints, a)
					in.Endpoints[a.String()] = []netip.Addr{a}
				}
			}
			in.Networks = append(in.Networks, n)
		}
		for _, at := range rapid.SliceOfN(rapid.IntRange(0, 70), 0, 4).Draw(t, "plain") {
			if a := number(at); !used[a] {
				used[a] = true
				in.Endpoints["plain "+a.String()] = []netip.Addr{a}
			}
		}
		comesTo := judge(t, nat.Plan(in), map[int]int{32: 4, 128: 6}[width])
		for here := range used {
			for at := range 72 {
				there := number(at)
				want := meant(in.Networks, in.Endpoints, here, there) || used[there] && meant(in.Networks, in.Endpoints, there, here)
				for _, ends := range [][2]netip.Addr{{here, there}, {there, here}} {
					if got := comesTo(ends[0], ends[1]) == "DROP"; got != want {
						t.Fatalf("dropped from %v to %v: %t", ends[0], ends[1], got)
					}
				}
			}
		}
	})
}

func subnets(all ...string) (prefixes []netip.Prefix) {
	for _, p := range all {
		prefixes = append(prefixes, netip.MustParsePrefix(p))
	}
	return prefixes
}

// networked is the input with networks that have endpoints.
func networked(networks ...nat.Network) nat.Input {
	in := input()
	in.Networks = networks
	for _, n := range networks {
		for _, a := range n.Endpoints {
			in.Endpoints[n.ID+a.String()] = []netip.Addr{a}
		}
	}
	return in
}

func beyond(t *testing.T, in nat.Input) string {
	t.Helper()
	base := strings.Split(render(nat.Plan(input())), "\n")
	more := slices.DeleteFunc(strings.Split(render(nat.Plan(in)), "\n"), func(line string) bool { return slices.Contains(base, line) })
	return strings.Join(more, "\n")
}

func TestPlanOfNetworks(t *testing.T) {
	addrs := func(all ...string) (as []netip.Addr) {
		for _, a := range all {
			as = append(as, netip.MustParseAddr(a))
		}
		return as
	}
	isolated := nat.Network{ID: "aaaabbbbccccdddd", Subnets: subnets("10.88.1.0/24", "2001:db8:88::/64"), Endpoints: addrs("10.88.1.9", "2001:db8:88::9"), Isolated: true}
	internal := nat.Network{ID: "eeee", Subnets: subnets("10.88.2.0/24"), Endpoints: addrs("10.88.2.9"), Internal: true}
	for _, c := range []struct {
		name     string
		networks []nat.Network
		want     string
	}{
		{"one that asks for nothing", []nat.Network{{ID: "o", Subnets: subnets("10.88.0.0/16"), Endpoints: addrs("10.88.1.9")}}, ""},
		{"isolated", []nat.Network{isolated}, `apart4 "all others": -m set ! --match-set fairlead-net-fenced4 src -m set ! --match-set fairlead-net-fenced4 dst -j RETURN
apart4 "from 10.88.1.0/24": -s 10.88.1.0/24 ! -d 10.88.1.0/24 -m set --match-set fairlead-net-fenced4 dst -m set ! --match-set fairlead-net-may-open4 src -j DROP
apart4 "to 10.88.1.0/24": ! -s 10.88.1.0/24 -d 10.88.1.0/24 -m set --match-set fairlead-net-fenced4 src -m set ! --match-set fairlead-net-may-open4 dst -j DROP
apart6 "all others": -m set ! --match-set fairlead-net-fenced6 src -m set ! --match-set fairlead-net-fenced6 dst -j RETURN
apart6 "from 2001:db8:88::/64": -s 2001:db8:88::/64 ! -d 2001:db8:88::/64 -m set --match-set fairlead-net-fenced6 dst -m set ! --match-set fairlead-net-may-open6 src -j DROP
apart6 "to 2001:db8:88::/64": ! -s 2001:db8:88::/64 -d 2001:db8:88::/64 -m set --match-set fairlead-net-fenced6 src -m set ! --match-set fairlead-net-may-open6 dst -j DROP
set 10.88.1.5 in fairlead-net-may-open4
set 10.88.1.6 in fairlead-net-may-open4
set 10.88.1.9 in fairlead-net-fenced4
set 2001:db8:88::5 in fairlead-net-may-open6
set 2001:db8:88::9 in fairlead-net-fenced6
set fairlead-net-astray4
set fairlead-net-astray6
set fairlead-net-fenced4
set fairlead-net-fenced6
set fairlead-net-inside4
set fairlead-net-inside6
set fairlead-net-may-open4
set fairlead-net-may-open6`},
		{"internal", []nat.Network{internal}, `apart4 "all others": -m set ! --match-set fairlead-net-fenced4 src -m set ! --match-set fairlead-net-fenced4 dst -j RETURN
apart4 "into 10.88.2.0/24 to others here": -d 10.88.2.0/24 -m set --match-set fairlead-net-fenced4 dst -m set --match-set fairlead-net-astray4 src -j DROP
apart4 "into 10.88.2.0/24": ! -s 10.88.2.0/24 -d 10.88.2.0/24 -m set --match-set fairlead-net-fenced4 dst -j DROP
apart4 "out of 10.88.2.0/24 to others here": -s 10.88.2.0/24 -m set --match-set fairlead-net-fenced4 src -m set --match-set fairlead-net-astray4 dst -j DROP
apart4 "out of 10.88.2.0/24": -s 10.88.2.0/24 ! -d 10.88.2.0/24 -m set --match-set fairlead-net-fenced4 src -j DROP
set 10.88.2.9 in fairlead-net-fenced4
set fairlead-net-astray4
set fairlead-net-fenced4
set fairlead-net-inside4
set fairlead-net-may-open4`},
		{"internal, in the subnet of another", []nat.Network{internal, {ID: "o", Subnets: subnets("10.88.0.0/16")}}, `apart4 "all others": -m set ! --match-set fairlead-net-fenced4 src -m set ! --match-set fairlead-net-fenced4 dst -j RETURN
apart4 "among eeee": -m set --match-set fairlead-net-may-eeee-4 src -m set --match-set fairlead-net-may-eeee-4 dst -j RETURN
apart4 "into all ambiguous": -m set --match-set fairlead-net-inside4 dst -j DROP
apart4 "out of all ambiguous": -m set --match-set fairlead-net-inside4 src -j DROP
set 10.88.2.9 in fairlead-net-fenced4
set 10.88.2.9 in fairlead-net-inside4
set 10.88.2.9 in fairlead-net-may-eeee-4
set fairlead-net-astray4
set fairlead-net-fenced4
set fairlead-net-inside4
set fairlead-net-may-eeee-4
set fairlead-net-may-open4`},
		{"seen", []nat.Network{{ID: "s", Subnets: subnets("10.88.1.0/24", "2001:db8:88::/64"), Endpoints: addrs("10.88.1.9"), Outgoing: nat.OutgoingSeen}}, `set 10.88.1.9 in fairlead-net-seen4
set fairlead-net-seen4
snat4 "seen": -m set --match-set fairlead-net-seen4 src -j RETURN`},
		{"hidden", []nat.Network{{ID: "h", Subnets: subnets("10.99.0.0/16", "2001:db8:88::/64"), Endpoints: addrs("10.99.0.9"), Outgoing: nat.OutgoingHidden}}, `set 10.99.0.9 in fairlead-net-hidden4
set 2001:db8:1::2 in fairlead-nodes6
set fairlead-net-hidden4
set fairlead-net-hidden6
set fairlead-nodes6
snat4 "way out of networks": -m set --match-set fairlead-net-hidden4 src -j MASQUERADE --random-fully
snat6 "to 2001:db8:88::/64": -d 2001:db8:88::/64 -j RETURN
snat6 "to nodes": -m set --match-set fairlead-nodes6 dst -j RETURN
snat6 "way out of networks": -m set --match-set fairlead-net-hidden6 src -j MASQUERADE --random-fully`},
	} {
		if diff := cmp.Diff(c.want, beyond(t, networked(c.networks...))); diff != "" {
			t.Errorf("%s:\n%s", c.name, diff)
		}
	}
	blurred := networked(nat.Network{ID: "h", Subnets: subnets("2001:db8:88::/64"), Endpoints: addrs("2001:db8:88::9"), Outgoing: nat.OutgoingHidden})
	blurred.Pools[2].Blurred = true
	if diff := cmp.Diff("", beyond(t, blurred)); diff != "" {
		t.Errorf("where nodes are not told from strangers:\n%s", diff)
	}
}

// TestInternalNetworksHaveNoPorts: a port that somebody has stays with him, and leads nowhere.
func TestInternalNetworksHaveNoPorts(t *testing.T) {
	in := input()
	in.Networks = []nat.Network{{ID: "i", Subnets: subnets("10.88.1.0/24"), Endpoints: in.Endpoints["web"][:1], Internal: true}}
	rows := nat.Plan(in)
	port := func(ip netip.Addr) nat.Port { return nat.Port{Proto: "tcp", IP: ip, Number: 8080} }
	if _, there := rows.Ports[port(netip.IPv4Unspecified())]; there || slices.Contains(rows.Loopback, "web") {
		t.Errorf("port of an internal network: %s", render(rows))
	}
	if _, held := rows.Holds[port(netip.IPv4Unspecified())]; !held {
		t.Error("the port is given to others")
	}
	if _, there := rows.Ports[port(netip.IPv6Unspecified())]; !there {
		t.Error("its other address, which is of no internal network, lost its port")
	}
}

func TestAmbiguous(t *testing.T) {
	network := func(id, subnet, wish string) nat.Network {
		return nat.Network{ID: id, Subnets: subnets(subnet), Isolated: wish == "isolated", Internal: wish == "internal"}
	}
	for want, networks := range map[string][]nat.Network{
		"[]":    {network("a", "10.88.0.0/16", "isolated"), network("b", "10.88.0.0/16", ""), network("c", "10.99.0.0/16", "internal")},
		"[a b]": {network("a", "10.88.0.0/16", "isolated"), network("b", "10.88.1.0/24", "isolated"), network("c", "10.89.0.0/24", "isolated")},
		"[c]":   {network("a", "10.88.0.0/16", "isolated"), network("b", "10.89.0.0/16", ""), network("c", "10.89.1.0/24", "internal")},
		"[v]":   {{ID: "v", Subnets: subnets("10.88.0.0/16", "fd00::/64"), Isolated: true, Internal: true}, network("o", "fd00::/56", "")},
	} {
		if got := fmt.Sprint(nat.Ambiguous(networks)); got != want {
			t.Errorf("ambiguous are %s, want %s", got, want)
		}
	}
}

// TestWhatLetsThroughExpires: of what is not wanted any more, that alone.
func TestWhatLetsThroughExpires(t *testing.T) {
	isolated := func(id, endpoint string) nat.Network {
		return nat.Network{ID: id, Subnets: subnets("10.88.0.0/16"), Endpoints: []netip.Addr{netip.MustParseAddr(endpoint)}, Isolated: true}
	}
	before := nat.Plan(networked(isolated("a", "10.88.0.1"), isolated("b", "10.88.0.2")))
	in := networked(isolated("a", "10.88.0.3"), isolated("b", "10.88.0.1"))
	delete(in.Endpoints, "web")
	var got []string
	for _, m := range nat.Expired(before.Members, nat.Plan(in).Members) {
		got = append(got, m.String())
		if !m.Local() {
			t.Errorf("%s is not of this host", m)
		}
	}
	slices.Sort(got)
	want := []string{"10.88.0.1 in fairlead-net-may-a-4", "10.88.0.2 in fairlead-net-may-b-4", "10.88.1.5 in fairlead-net-may-open4"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if (nat.Member{Set: "fairlead-nodes4"}).Local() {
		t.Error("the set of the other nodes counts as of this host alone")
	}
}
