package nat

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"
)

func dnatSite() site { return new(Kernel).Ports(0).keep.at }

// packet is what comes to an address of the host.
type packet struct {
	proto string
	ip    netip.Addr
	port  uint16
}

// gate is a rule as the kernel sees it.
type gate struct {
	proto     string
	ip        netip.Prefix
	low, high int
	next, to  string
}

type maze map[string][]gate

func newMaze(chains map[string][]string) maze {
	m := make(maze)
	for chain, lines := range chains {
		for _, line := range lines {
			f := strings.Fields(line)
			g := gate{high: 1<<16 - 1}
			for n := 0; n+1 < len(f); n += 2 {
				switch value := f[n+1]; f[n] {
				case "-d":
					g.ip = netip.MustParsePrefix(value)
				case "-p":
					g.proto = value
				case "--dport":
					first, last, ranged := strings.Cut(value, ":")
					if !ranged {
						last = first
					}
					g.low, _ = strconv.Atoi(first)
					g.high, _ = strconv.Atoi(last)
				case "-g":
					g.next = value
				case "--to-destination":
					g.to = value
				}
			}
			m[chain] = append(m[chain], g)
		}
	}
	return m
}

// walk takes a packet through the chains as the kernel does, and counts the rules that it is held against.
func (m maze) walk(p packet) (to string, checks int) {
	proto := transports()[ranked(p.proto)][1]
	at := m[dnatChain]
	for i := 0; i < len(at); i++ {
		checks++
		g := at[i]
		switch {
		case g.proto != proto || int(p.port) < g.low || int(p.port) > g.high || g.ip.IsValid() && !g.ip.Contains(p.ip):
		case g.next != "": // and never back
			at, i = m[g.next], -1
		default:
			return g.to, checks
		}
	}
	return "", checks
}

func anyPort(n uint16) Port { return Port{"tcp", netip.IPv4Unspecified(), n} }

func target(i int) Rule {
	return Rule{To: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 88, byte(i >> 8), byte(i)}), 80)}
}

// crowded are 10,000 mappings, of random ports and of ports in a row.
func crowded() map[string]map[Port]Rule {
	random := rand.New(rand.NewPCG(1, 2))
	all := map[string]map[Port]Rule{"random": {}, "in a row": {}, "one": {anyPort(8080): target(0)}}
	for len(all["random"]) < 10000 {
		all["random"][anyPort(uint16(1024+random.IntN(1<<16-1024)))] = target(len(all["random"]))
	}
	for i := range 10000 {
		all["in a row"][anyPort(uint16(20000+i))] = target(i)
	}
	return all
}

// TestPacketsMeetFewRules holds the cost of a packet and of programming, however many mappings there are.
func TestPacketsMeetFewRules(t *testing.T) {
	most := map[string]struct{ found, mean, lost, chains int }{
		"one": {7, 7, 7, 7}, "random": {40, 22, 40, 2500}, "in a row": {57, 34, 57, 400},
	}
	for name, rows := range crowded() {
		chains := portForm{}.chains(rows)
		m := newMaze(chains)
		worst, sum, lost := 0, 0, 0
		for port, r := range rows {
			to, checks := m.walk(packet{"tcp", netip.MustParseAddr("192.0.2.1"), port.Number})
			if to != r.To.String() {
				t.Fatalf("%s: %s goes to %q, want %v", name, port, to, r)
			}
			worst, sum = max(worst, checks), sum+checks
		}
		for n := range 1 << 16 {
			if _, mapped := rows[anyPort(uint16(n))]; !mapped {
				to, checks := m.walk(packet{"tcp", netip.MustParseAddr("192.0.2.1"), uint16(n)})
				if to != "" {
					t.Fatalf("%s: unmapped port %d goes to %s", name, n, to)
				}
				lost = max(lost, checks)
			}
		}
		limit := most[name]
		t.Logf("%s: %d chains, found after %d checks at most, %d on the average, lost after %d at most", name, len(chains), worst, sum/len(rows), lost)
		if worst > limit.found || sum/len(rows) > limit.mean || lost > limit.lost || len(chains) > limit.chains {
			t.Errorf("%s: want at most %+v", name, limit)
		}
	}
}

func genPort(family int) *rapid.Generator[Port] {
	ips := map[int][]string{4: {"0.0.0.0", "192.0.2.1", "127.0.0.1"}, 6: {"::", "2001:db8::1", "::1"}}
	return rapid.Custom(func(t *rapid.T) Port {
		return Port{
			Proto:  rapid.SampledFrom([]string{"tcp", "udp", "sctp"}).Draw(t, "proto"),
			IP:     netip.MustParseAddr(rapid.SampledFrom(ips[family]).Draw(t, "ip")),
			Number: rapid.OneOf(rapid.Uint16Range(1, 65535), rapid.Uint16Range(8078, 8084)).Draw(t, "number"),
		}
	})
}

func genRule(family int) *rapid.Generator[Rule] {
	ips := map[int][]string{4: {"10.88.0.1", "10.88.255.254"}, 6: {"fd00:88::1", "2001:db8::ffff:1"}}
	return rapid.Custom(func(t *rapid.T) Rule {
		return Rule{To: netip.AddrPortFrom(netip.MustParseAddr(rapid.SampledFrom(ips[family]).Draw(t, "ip")), rapid.Uint16Min(1).Draw(t, "port"))}
	})
}

func equal() cmp.Option { return cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{}) }

// TestChangesLeadToTheSameAsWritingAtOnce takes mappings through many changes, each by its script.
func TestChangesLeadToTheSameAsWritingAtOnce(t *testing.T) {
	at := dnatSite()
	rapid.Check(t, func(t *rapid.T) {
		family := rapid.SampledFrom(families()).Draw(t, "family")
		p, rows := play(emptyRuleset(), at), make(map[Port]Rule)
		for range rapid.IntRange(1, 6).Draw(t, "changes") {
			puts := rapid.MapOfN(genPort(family), genRule(family), 0, 8).Draw(t, "puts")
			var deletes []Port
			if there := slices.SortedFunc(maps.Keys(rows), Port.Compare); len(there) > 0 {
				deletes = rapid.SliceOfDistinct(rapid.SampledFrom(there), rapid.ID).Draw(t, "deletes")
			}
			seen := recognise(portForm{}, at, p.read(at, rapid.Bool().Draw(t, "save")), family, "")
			if diff := cmp.Diff(rows, seen.listed, equal()); diff != "" {
				t.Fatalf("rows (-want +have)\n%s", diff)
			}
			after := changed(portForm{}, family, rows, puts, deletes)
			before := make(map[string]map[string]int)
			for chain := range p.chains {
				before[chain] = p.ids(chain)
			}
			script := seen.have.script(wanted(portForm{}, at, after), at)
			if err := p.run(script); err != nil {
				t.Fatalf("%v in\n%s", err, script)
			}
			for port, r := range after {
				path := portForm{}.path(port)
				leaf := path[len(path)-1]
				if was, there := before[leaf][port.line(r)]; there && p.ids(leaf)[port.line(r)] != was {
					t.Fatalf("the rule of %s is another one now", port)
				}
			}
			rows = after
		}
		sameRules(t, wanted(portForm{}, at, rows), p.read(at, true))
	})
}

// TestPacketsFindTheirMapping holds the chains against the mappings themselves.
func TestPacketsFindTheirMapping(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		family := rapid.SampledFrom(families()).Draw(t, "family")
		rows := rapid.MapOfN(genPort(family), genRule(family), 0, 30).Draw(t, "rows")
		m := newMaze(portForm{}.chains(rows))
		for range 20 {
			asked := genPort(family).Draw(t, "asked")
			want, mapped := rows[asked]
			if !mapped {
				want, mapped = rows[Port{asked.Proto, every(family), asked.Number}]
			}
			to, _ := m.walk(packet{asked.Proto, asked.IP, asked.Number})
			if mapped && to != want.To.String() || !mapped && to != "" {
				t.Fatalf("%s goes to %q, want %v", asked, to, want)
			}
		}
	})
}

// TestNamesOfChains: the kernel takes 28 bytes, and a rule is where it can be found again.
func TestNamesOfChains(t *testing.T) {
	for n := 1; n < 1<<16; n += 31 {
		for _, proto := range transports() {
			for _, name := range (portForm{}).path(Port{proto[0], netip.IPv4Unspecified(), uint16(n)}) {
				if len(name) > 28 || !dnatSite().ours(name) {
					t.Fatalf("bad name %s", name)
				}
			}
		}
	}
}

func TestLinesThatAreNoMappings(t *testing.T) {
	const good = "-d 192.0.2.1/32 -p 6 -m tcp --dport 80 -j DNAT --to-destination 10.0.0.1:80"
	if p, r, text, ours := (portForm{}).row(good, 4); !ours || text != good || p.String() != "192.0.2.1:80/tcp" || r.To.String() != "10.0.0.1:80" {
		t.Fatalf("%s: %v %v %q %t", good, p, r, text, ours)
	}
	for _, line := range []string{
		"", "-j DNAT --to-destination 10.0.0.1:80", "-p 6 -g FAIRLEAD-DNAT-t",
		strings.Replace(good, "192.0.2.1/32", "192.0.2.0/24", 1), strings.Replace(good, "192.0.2.1/32", "0.0.0.0/32", 1),
		strings.Replace(good, "192.0.2.1/32", "2001:db8::1/128", 1), strings.Replace(good, "-d", "-s", 1),
		strings.Replace(good, "-p 6", "-p 17", 1), strings.Replace(good, "-p 6", "! -p 6", 1), strings.Replace(good, "--dport 80", "--sport 80", 1),
		strings.Replace(good, "--dport 80", "--dport 80:81", 1), strings.Replace(good, "--dport 80", "--dport 0", 1),
		strings.Replace(good, "DNAT", "REDIRECT", 1), strings.Replace(good, "10.0.0.1:80", "10.0.0.1", 1),
		strings.Replace(good, "10.0.0.1:80", "10.0.0.1-10.0.0.9:80", 1), strings.Replace(good, "10.0.0.1:80", "[fd00::1]:80", 1),
		strings.Replace(good, "10.0.0.1:80", "10.0.0.1:80-90", 1), good + " --random", good + " --persistent --random",
		"-i eth0 " + good, strings.Replace(good, "-m tcp", "-m udp", 1),
	} {
		if p, r, _, ours := (portForm{}).row(normal(line), 4); ours {
			t.Errorf("%s is taken for %s %s", line, p, r)
		}
	}
}

func TestMappingsThatCanNotBe(t *testing.T) {
	good := target(1)
	for _, c := range []struct {
		p Port
		r Rule
	}{
		{Port{"icmp", netip.MustParseAddr("0.0.0.0"), 80}, good}, {Port{"", netip.MustParseAddr("0.0.0.0"), 80}, good}, {Port{"tcp", netip.Addr{}, 80}, good},
		{Port{"tcp", netip.MustParseAddr("0.0.0.0"), 0}, good}, {Port{"tcp", netip.MustParseAddr("::"), 80}, good}, {Port{"tcp", netip.MustParseAddr("::ffff:192.0.2.1"), 80}, good},
		{Port{"tcp", netip.MustParseAddr("fe80::1%eth0"), 80}, Rule{To: netip.MustParseAddrPort("[fd00::1]:80")}},
		{anyPort(80), Rule{}}, {anyPort(80), Rule{To: netip.MustParseAddrPort("[fd00::1]:80")}}, {anyPort(80), Rule{To: netip.MustParseAddrPort("10.0.0.1:0")}},
	} {
		if mappable(c.p, c.r) == nil {
			t.Errorf("%s %s can be", c.p, c.r)
		}
	}
	if err := mappable(anyPort(80), good); err != nil {
		t.Error(err)
	}
}

// TestFaultsOfMappings: what is wrong with a chain is told of those that are entered by it, and of no others.
func TestFaultsOfMappings(t *testing.T) {
	at := dnatSite()
	rows := map[Port]Rule{anyPort(80): target(1), anyPort(8080): target(2), {"udp", netip.IPv4Unspecified(), 80}: target(3)}
	leaf := func(p Port) string { path := portForm{}.path(p); return path[len(path)-1] }
	for what, c := range map[string]struct {
		spoil func(r ruleset)
		want  string
	}{
		"nothing":      {func(ruleset) {}, ""},
		"no jump":      {func(r ruleset) { r.jumps["OUTPUT"] = nil }, "80/tcp unused, 8080/tcp unused, 80/udp unused"},
		"jump twice":   {func(r ruleset) { r.jumps["OUTPUT"] = slices.Repeat(r.jumps["OUTPUT"], 2) }, "80/tcp used twice, 8080/tcp used twice, 80/udp used twice"},
		"another jump": {func(r ruleset) { r.jumps["OUTPUT"] = []string{"-j " + dnatChain} }, "80/tcp unused, 8080/tcp unused, 80/udp unused"},
		"foreign rule": {func(r ruleset) {
			r.chains[leaf(anyPort(80))] = append([]string{"-j ACCEPT"}, r.chains[leaf(anyPort(80))]...)
		}, "80/tcp foreign rules"},
		"rule twice":       {func(r ruleset) { r.chains[leaf(anyPort(80))] = slices.Repeat(r.chains[leaf(anyPort(80))], 2) }, "80/tcp foreign rules"},
		"protocol is lost": {func(r ruleset) { r.chains[dnatChain+"-t"] = nil }, "80/tcp unused, 8080/tcp unused"},
		"rule is elsewhere": {func(r ruleset) {
			r.chains[dnatChain+"-u"] = append(r.chains[dnatChain+"-u"], anyPort(81).line(target(4)))
		}, "80/udp foreign rules"},
		"another chain": {func(r ruleset) { r.chains[dnatChain+"-x"] = []string{"-j ACCEPT"} }, "0/leftover leftover"},
		"rule is lost":  {func(r ruleset) { r.chains[leaf(anyPort(80))] = nil }, "0/leftover leftover"},
	} {
		have := wanted(portForm{}, at, rows)
		c.spoil(have)
		s := recognise(portForm{}, at, have, 4, "")
		var got []string
		for _, p := range slices.SortedFunc(maps.Keys(s.listed), byPlace) {
			if fault := s.listed[p].Fault; fault != "" {
				got = append(got, fmt.Sprintf("%d/%s %s", p.Number, p.Proto, fault))
			}
		}
		if got := strings.Join(got, ", "); got != c.want {
			t.Errorf("%s: %s, want %s", what, got, c.want)
		}
	}
	stray := recognise(portForm{}, at, emptyRuleset(), 6, "ip6tables-legacy")
	if len(stray.listed) != 1 || stray.listed[Port{leftover, netip.IPv6Unspecified(), 0}].Fault != leftover {
		t.Errorf("left in another back end: %v", stray.listed)
	}
}

func TestEntriesInTheOrderOfTheirNames(t *testing.T) {
	at := testSite()
	f := entryForm{at.chain}
	rows := map[EntryKey]Entry{
		{"b", 4}: EntryOf("-s 10.0.0.0/8 -j MASQUERADE --random-fully"), {"a way", 4}: EntryOf("-d 10.0.0.0/8 -j RETURN"), {"c", 4}: EntryOf("-p tcp -j RETURN"),
	}
	want := wanted(f, at, rows)
	if got := strings.Join(want.chains["OURS"], "\n"); got != `-d 10.0.0.0/8 -m comment --comment "a way" -j RETURN
-s 10.0.0.0/8 -m comment --comment b -j MASQUERADE --random-fully
-p 6 -m comment --comment c -j RETURN` {
		t.Errorf("chain:\n%s", got)
	}
	p := play(want, at)
	if s := recognise(f, at, p.read(at, true), 4, ""); !maps.Equal(s.listed, rows) {
		t.Errorf("listed %v", s.listed)
	}
	// Some versions print the comment first.
	p.chains["OURS"][1].text = "-m comment --comment b -s 10.0.0.0/8 -j MASQUERADE --random-fully"
	if s := recognise(f, at, p.read(at, true), 4, ""); !maps.Equal(s.listed, rows) || s.have.script(want, at) != "" {
		t.Errorf("listed %v", s.listed)
	}
	slices.Reverse(p.chains["OURS"])
	s := recognise(f, at, p.read(at, true), 4, "")
	if fault := s.listed[EntryKey{"b", 4}].Fault; fault != "foreign rules" {
		t.Errorf("disorder is %q", fault)
	}
	must := func(err error) {
		if err != nil {
			t.Error(err)
		}
	}
	must(p.run(s.have.script(want, at)))
	if s := recognise(f, at, p.read(at, false), 4, ""); !maps.Equal(s.listed, rows) {
		t.Errorf("listed %v", s.listed)
	}
}
