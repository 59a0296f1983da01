package nat

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// site is where chains of ours are: one that hooks of the kernel lead to, and others, whose names begin with its name,
// that are entered from there.
type site struct {
	table   string // of iptables
	chain   string // the one that the hooks lead to
	hooks   []hook
	means   means
	modules string // what the kernel needs for our rules
}

// hook is a chain of the kernel and the rule in it that leads to ours.
type hook struct {
	chain string
	jump  string // where it says loopback, each family has its own addresses of that
	rank  rank
}

// rank is where the rule of a hook is put. That others put theirs before or behind it later is no fault.
type rank int

const (
	front rank = iota
	back
)

// means is how the chains of a site are read, and with that how far what we wrote is believed.
type means int

const (
	chainwise means = iota // each by itself: a few rules in any words, which are read again after they were written
	tablewise              // all at once: so many that they are not read again when nobody else wrote meanwhile
)

// loopback stands in a jump for the addresses by which a host reaches itself.
const loopback = "LOOPBACK"

// in is the site in the words of one family.
func (at site) in(family int) site {
	own := map[int]string{4: "127.0.0.0/8", 6: "::1/128"}[family]
	at.hooks = slices.Clone(at.hooks)
	for i := range at.hooks {
		at.hooks[i].jump = strings.ReplaceAll(at.hooks[i].jump, loopback, own)
	}
	return at
}

// ours tells whether a chain has a name of this site.
func (at site) ours(chain string) bool {
	return chain == at.chain || strings.HasPrefix(chain, at.chain+"-")
}

// jumps are the rules of the hooks that lead to chains which are there.
func (at site) jumps() map[string][]string {
	all := make(map[string][]string, len(at.hooks))
	for _, h := range at.hooks {
		all[h.chain] = []string{h.jump}
	}
	return all
}

// ruleset is what a table of one family has, or shall have, at a site.
type ruleset struct {
	chains map[string][]string // the rules of each chain of ours, in order
	jumps  map[string][]string // of each hook, the rules that lead there
}

func emptyRuleset() ruleset {
	return ruleset{chains: make(map[string][]string), jumps: make(map[string][]string)}
}

// unknown stands for all that is in a chain that iptables can not print.
const unknown = "?"

// normal is a rule in the one form in which rules are compared.
func normal(text string) string {
	if strings.Contains(text, `"`) {
		return join(number(words(text)))
	}
	return strings.Join(number(strings.Fields(text)), " ")
}

// learn adds what iptables-save, or iptables -S, prints of a site.
func (r ruleset) learn(printed []string, at site) {
	for _, text := range printed {
		switch kind, rest, _ := strings.Cut(text, " "); {
		case kind == "-A":
			chain, rule, _ := strings.Cut(rest, " ")
			if at.ours(chain) {
				r.chains[chain] = append(r.chains[chain], normal(rule))
			} else if rule = normal(rule); leads(rule) == at.chain {
				r.jumps[chain] = append(r.jumps[chain], rule)
			}
		case kind == "-N":
			r.declare(rest, at)
		case strings.HasPrefix(kind, ":"):
			r.declare(kind[1:], at)
		}
	}
}

func (r ruleset) declare(chain string, at site) {
	if _, there := r.chains[chain]; !there && at.ours(chain) {
		r.chains[chain] = nil
	}
}

// leads is the chain that a rule leads to, if it has no other target.
func leads(line string) string {
	f := strings.Fields(line)
	if n := len(f); n >= 2 && (f[n-2] == "-j" || f[n-2] == "-g") {
		return f[n-1]
	}
	return ""
}

// script is what iptables-restore --noflush must be told to make want out of have: nothing when all is as wanted. What is
// the same in both is not touched and keeps its counters.
func (r ruleset) script(want ruleset, at site) string {
	var declared, edited, removed []string
	for _, chain := range slices.Backward(sortedKeys(r.chains, want.chains)) { // iptables sorts new ones, and is quick at this order
		have, there := r.chains[chain]
		lines, wanted := want.chains[chain]
		switch {
		case !wanted:
			declared = append(declared, ":"+chain+" - [0:0]") // which empties it
			removed = append(removed, "-X "+chain)
		case !there || slices.Contains(have, unknown):
			declared = append(declared, ":"+chain+" - [0:0]")
			edited = append(edited, edits(chain, nil, lines)...)
		case !slices.Equal(have, lines):
			edited = append(edited, edits(chain, have, lines)...)
		}
	}
	for _, name := range sortedKeys(r.jumps, want.jumps) {
		edited = append(edited, at.entry(name, r.jumps[name], want.jumps[name])...)
	}
	all := slices.Concat(declared, edited, removed)
	if len(all) == 0 {
		return ""
	}
	return "*" + at.table + "\n" + strings.Join(all, "\n") + "\nCOMMIT\n"
}

func sortedKeys(a, b map[string][]string) []string {
	all := slices.AppendSeq(slices.Collect(maps.Keys(a)), maps.Keys(b))
	slices.Sort(all)
	return slices.Compact(all)
}

// edits turn the rules of a chain into others. First goes what goes, from behind, so that the places of what is before it
// hold; then comes what comes, from the front, always before a rule that was there: old versions of iptables find the
// place of no other.
func edits(chain string, have, want []string) (commands []string) {
	places := make(map[string]int, len(want))
	for i, line := range want {
		places[line] = i
	}
	stay := make(map[int]bool)
	next := 0
	for i, line := range have {
		if at, wanted := places[line]; wanted && at >= next {
			stay[at], next = true, at+1
			continue
		}
		commands = append(commands, fmt.Sprintf("-D %s %d", chain, i+1))
	}
	slices.Reverse(commands)
	for i, line := range want {
		switch {
		case stay[i]:
		case i >= next: // all that stays is before it
			commands = append(commands, "-A "+chain+" "+line)
		default:
			commands = append(commands, fmt.Sprintf("-I %s %d %s", chain, i+1, line))
		}
	}
	return commands
}

// entry makes the rules of a hook that lead to us the wanted ones. They are deleted by their words and not by their
// places, which others may change any time.
func (at site) entry(name string, have, want []string) (commands []string) {
	kept := 0
	for _, line := range have {
		if kept < len(want) && line == want[kept] {
			kept++
			continue
		}
		commands = append(commands, "-D "+name+" "+line)
	}
	for _, line := range want[kept:] {
		verb := "-I " + name + " 1 "
		if slices.ContainsFunc(at.hooks, func(h hook) bool { return h.chain == name && h.rank == back }) {
			verb = "-A " + name + " "
		}
		commands = append(commands, verb+line)
	}
	return commands
}

// loose is the fault of a chain that leads where nothing is wanted, besides where it shall: packets still find what is.
const loose Fault = "loose"

// broken names the chains that are not as wanted, with what is wrong. Of a hook that is the chain it leads to.
func (r ruleset) broken(want ruleset, at site) map[string]Fault {
	faults := make(map[string]Fault)
	for _, chain := range sortedKeys(r.chains, want.chains) {
		_, there := r.chains[chain]
		_, wanted := want.chains[chain]
		if fault := differ(r.chains[chain], want.chains[chain], at); fault != "" || there != wanted {
			faults[chain] = cmp.Or(fault, loose)
		}
	}
	for _, name := range sortedKeys(r.jumps, want.jumps) {
		switch differ(r.jumps[name], want.jumps[name], at) {
		case "":
		case "unused":
			faults[at.chain] = "unused"
		default:
			faults[at.chain] = cmp.Or(faults[at.chain], "used twice")
		}
	}
	return faults
}

// differ says what is wrong with the rules of a chain.
func differ(have, want []string, at site) Fault {
	if slices.Equal(have, want) {
		return ""
	}
	within := slices.DeleteFunc(slices.Clone(have), func(line string) bool {
		return !slices.Contains(want, line) && at.ours(leads(line))
	})
	switch {
	case slices.Equal(within, want):
		return loose
	case slices.ContainsFunc(want, func(line string) bool { return !slices.Contains(have, line) }):
		return "unused"
	}
	return "foreign rules"
}
