package nat

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestWordsAndBack(t *testing.T) {
	for text, want := range map[string][]string{
		`-p udp  -m bpf --bytecode "2,6 0 0 1,6 0 0 0"`: {"-p", "udp", "-m", "bpf", "--bytecode", "2,6 0 0 1,6 0 0 0"},
		`--comment "a \"b\" \\ c" -j X`:                 {"--comment", `a "b" \ c`, "-j", "X"},
		`-m comment --comment ""`:                       {"-m", "comment", "--comment", ""},
		"":                                              nil,
	} {
		got := words(text)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", text, diff)
		}
		if diff := cmp.Diff(want, words(join(got))); diff != "" {
			t.Errorf("%s, there and back: %s", text, diff)
		}
	}
}

// TestRulesReadAlike: the same rule in the words of several versions of iptables.
func TestRulesReadAlike(t *testing.T) {
	want := Drop(`-d 192.0.2.1/32 -p ipip -m set ! --match-set fairlead-peers4 src`)
	for _, printed := range []string{
		`-d 192.0.2.1/32 -p ipencap -m set ! --match-set fairlead-peers4 src -m comment --comment ipip -j DROP`,
		`-d 192.0.2.1/32 -p 4 -m comment --comment ipip -m set ! --match-set fairlead-peers4 src -j DROP`,
		`-d 192.0.2.1/32 -p 4 -m set ! --match-set fairlead-peers4 src -m comment --comment "ipip" -j DROP`,
	} {
		name, r, ours := line(words(printed)).rule()
		if name != "ipip" || r != want || !ours {
			t.Errorf("%s: %q %q %t", printed, name, r, ours)
		}
	}
	// With another target it has the name, and is another rule.
	if name, r, ours := line(words(`-d 192.0.2.1/32 -p 4 -m set ! --match-set fairlead-peers4 src -m comment --comment ipip -j ACCEPT`)).rule(); name != "ipip" || r == want || !ours {
		t.Errorf("accepting: %q %q %t", name, r, ours)
	}
	for _, printed := range []string{
		`-p udp -j DROP`, `-m comment --comment "" -j DROP`, `-j DROP`, `-m comment --comment ipip`, "",
	} {
		if name, r, ours := line(words(printed)).rule(); ours {
			t.Errorf("%s is taken for %q %q", printed, name, r)
		}
	}
}

func TestFaultsOfAChain(t *testing.T) {
	const jump, second = "-j C", "-m comment --comment first -j C"
	const a, b = "-p 4 -m comment --comment a -j DROP", "-p 47 -m comment --comment b -j DROP"
	for _, c := range []struct{ rules, hook, stray, want string }{
		{a + "|" + b, jump, "", "a b"},
		{a + "|" + b, second + "|-p 4 -j ACCEPT", "", "a b"},
		{a, "", "", "a unused"},
		{a, "-j X", "", "a unused"},
		{a, "-i lo -j ACCEPT|" + jump, "", "a not first"},
		{a, jump + "|" + second, "", "a used twice"},
		{a, jump + "|" + jump, "", "a used twice"},
		{a + "|" + a, jump, "", "a foreign rules"},
		{a + "|-j ACCEPT", jump, "", "a foreign rules"},
		{a, jump, "iptables-legacy", "a also in iptables-legacy"},
		{"-j ACCEPT", jump, "", "leftover leftover"},
		{"", "", "", "leftover leftover"},
		{a, "?", "", "a unused"},
		{a, "?|" + jump + "|" + second, "", "a"},
		{a + "|-j ACCEPT", "?|" + jump, "", "a foreign rules"},
		{a, "?|" + jump, "iptables-legacy", "a also in iptables-legacy"},
	} {
		s := state{there: present, family: 4, stray: c.stray}
		for _, text := range strings.Split(c.rules, "|") {
			if text != "" {
				s.rules = append(s.rules, words(text))
			}
		}
		for _, text := range strings.Split(c.hook, "|") {
			switch text {
			case "":
			case "?": // and what was found when asked for
				s.sight = probed
			default:
				s.hook = append(s.hook, words(text))
			}
		}
		var got []string
		for _, name := range []string{"a", "b", leftover} {
			if r, there := s.rows("C")[EntryKey{name, 4}]; there {
				got = append(got, strings.TrimSpace(name+" "+string(r.Fault)))
			}
		}
		if got := strings.Join(got, " "); got != c.want {
			t.Errorf("%+v: %s", c, got)
		}
	}
	if rows := (state{}).rows("C"); len(rows) != 0 {
		t.Errorf("nothing there: %v", rows)
	}
}

func TestCounters(t *testing.T) {
	for printed, want := range map[string]uint64{
		`-A C -p udp -m comment --comment vxlan -c 12 1176 -j DROP`: 12,
		`-A C -p udp -m comment --comment vxlan -j DROP -c 12 1176`: 12,
		`[12:1176] -A C -p udp -m comment --comment vxlan -j DROP`:  12,
		`-A C -p udp -m comment --comment vxlan -c 0 0 -j DROP`:     0,
	} {
		read := lines([]string{"-N C -c 1 2", printed}, "C")
		if len(read) != 1 {
			t.Fatalf("%s: %q", printed, read)
		}
		name, n, ours := read[0].counted()
		if name != "vxlan" || n != want || !ours {
			t.Errorf("%s: %q %d %t", printed, name, n, ours)
		}
	}
	for _, printed := range []string{"-p udp -j DROP", "-c", "-c 1 2 -j ACCEPT", "-c x 2 -m comment --comment vxlan -j DROP"} {
		if _, _, ours := line(words(printed)).counted(); ours {
			t.Errorf("%s is taken for a rule of ours", printed)
		}
	}
}
