package nat

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// EntryKey names a rule of ours: a word for what it is about, which it bears as its comment, and the family of packets.
type EntryKey struct {
	Name   string
	Family int // 4 or 6
}

func (k EntryKey) String() string { return fmt.Sprintf("%s of IPv%d", k.Name, k.Family) }

func (k EntryKey) compare(o EntryKey) int {
	return cmp.Or(strings.Compare(k.Name, o.Name), k.Family-o.Family)
}

func families() []int { return []int{4, 6} }

// Entry is a rule of the packet filter that has a name.
type Entry struct {
	Spec  string // which packets and what becomes of them, in the words of iptables(8), as EntryOf leaves them
	Fault Fault  // what else is wrong with it
}

func (r Entry) String() string {
	if r.Fault == "" {
		return r.Spec
	}
	return fmt.Sprintf("%s (%s)", r.Spec, r.Fault)
}

// EntryOf is the rule of a spec, such as `-p 4 -d 192.0.2.1/32 -m set ! --match-set a src -j DROP`. A spec must be written
// as iptables itself prints it, but for the numbers of protocols, or the rule is never found as it was put.
func EntryOf(spec string) Entry { return Entry{Spec: join(number(words(spec)))} }

// Drop is the rule that drops the packets of a spec that names no target.
func Drop(spec string) Entry { return EntryOf(spec + " -j DROP") }

// leftover is the name of the row that stands for what is in a chain of ours and can not be a rule of ours.
const leftover = "leftover"

// line is a rule as iptables prints it, but for the chain that it is in.
type line []string

// named are the words that make a rule with a name, which stands before the target.
func (r Entry) named(name string) line {
	spec := words(r.Spec)
	at := max(0, slices.Index(spec, "-j"))
	return slices.Insert(line(spec), at, "-m", "comment", "--comment", name)
}

// rule reads a line of a chain of ours. What has no target or no name is none of our rules.
func (l line) rule() (name string, r Entry, ours bool) {
	target := slices.Index(l, "-j")
	for i := 0; i+4 <= target; i++ {
		if slices.Equal(l[i:i+3], []string{"-m", "comment", "--comment"}) {
			rest := slices.Delete(slices.Clone(l), i, i+4)
			return l[i+3], Entry{Spec: join(number(rest))}, l[i+3] != ""
		}
	}
	return "", Entry{}, false
}

// counted reads a rule of ours that was printed with its counters, `-c PACKETS BYTES`.
func (l line) counted() (name string, packets uint64, ours bool) {
	at := slices.Index(l, "-c")
	if at < 0 || at+2 >= len(l) {
		return "", 0, false
	}
	packets, err := strconv.ParseUint(l[at+1], 10, 64)
	name, _, ours = slices.Delete(slices.Clone(l), at, at+3).rule()
	return name, packets, ours && err == nil
}

// number puts numbers in the place of the names of protocols: which of them iptables prints depends on its version and
// on /etc/protocols.
func number(spec []string) []string {
	numbers := map[string]string{"tcp": "6", "udp": "17", "sctp": "132", "ipencap": "4", "ipip": "4", "ipv4": "4", "gre": "47"}
	for i := range spec {
		if n, known := numbers[spec[i]]; known && i > 0 && spec[i-1] == "-p" {
			spec[i] = n
		}
	}
	return spec
}

// lines reads what iptables -S prints of a chain, without the line that declares it. Some versions print the counters in
// front, as [PACKETS:BYTES].
func lines(printed []string, chain string) (all []line) {
	for _, text := range printed {
		counters, rule, ahead := strings.Cut(text, "] -A "+chain+" ")
		if ahead && strings.HasPrefix(counters, "[") {
			packets, bytes, _ := strings.Cut(counters[1:], ":")
			all = append(all, append(words(rule), "-c", packets, bytes))
			continue
		}
		if rest, isRule := strings.CutPrefix(text, "-A "+chain+" "); isRule {
			all = append(all, words(rest))
		}
	}
	return all
}

// words splits at spaces, but not within the double quotes that iptables puts around what has spaces in it.
func words(text string) (all []string) {
	var word strings.Builder
	quoted, begun := false, false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '\\' && quoted && i+1 < len(text):
			i++
			word.WriteByte(text[i])
		case c == '"':
			quoted, begun = !quoted, true
		case c == ' ' && !quoted:
			if begun {
				all = append(all, word.String())
			}
			word.Reset()
			begun = false
		default:
			word.WriteByte(c)
			begun = true
		}
	}
	if begun {
		all = append(all, word.String())
	}
	return all
}

// join is the reverse of words.
func join(words []string) string {
	quoted := make([]string, len(words))
	for i, w := range words {
		if w == "" || strings.ContainsAny(w, ` "\`) {
			w = `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(w) + `"`
		}
		quoted[i] = w
	}
	return strings.Join(quoted, " ")
}

// state is what one family's packet filter has of a chain of ours.
type state struct {
	there  presence
	rules  []line // in the chain
	shown  sight  // of the chain
	hook   []line // of the chain that packets come in by; what of it can be seen
	sight  sight  // of the hook
	stray  string // the tool of another back end that has a chain of ours too, "" when none has
	family int
}

// presence tells whether the chain is there.
type presence int

const (
	missing presence = iota
	present
)

// sight is how much iptables shows of a chain.
type sight int

const (
	whole  sight = iota // every rule, in order
	probed              // only what is asked for: of our jump, whether it is there, but neither where nor how often
)

// jumps are the two forms of the rule that leads to our chain. There are two so that one can be set before the other goes.
func jumps(chain string) [2]line {
	return [2]line{{"-j", chain}, {"-m", "comment", "--comment", "first", "-j", chain}}
}

// jump tells whether l leads to our chain.
func (l line) jump(chain string) bool {
	forms := jumps(chain)
	return slices.Equal(l, forms[0]) || slices.Equal(l, forms[1])
}

// fault is what is wrong with the chain as a whole, so that none of its rules can be relied on. Where the hook can only be
// probed, that our chain is entered is all that can be known: a foreign rule before the jump goes unnoticed there.
func (s state) fault(chain string) Fault {
	n := 0
	for _, l := range s.hook {
		if l.jump(chain) {
			n++
		}
	}
	switch {
	case n == 0:
		return "unused"
	case s.sight == whole && !s.hook[0].jump(chain):
		return "not first"
	case s.sight == whole && n > 1:
		return "used twice"
	case s.shown == probed:
		return "foreign rules"
	case s.stray != "":
		return Fault("also in " + s.stray)
	}
	names := make(map[string]bool)
	for _, l := range s.rules {
		name, _, ours := l.rule()
		if !ours || names[name] {
			return "foreign rules"
		}
		names[name] = true
	}
	return ""
}

// rows are the rules of ours, or the one row of what is left over.
func (s state) rows(chain string) map[EntryKey]Entry {
	rows := make(map[EntryKey]Entry)
	if s.there == missing && s.stray == "" {
		return rows
	}
	fault := s.fault(chain)
	for _, l := range s.rules {
		if name, r, ours := l.rule(); ours {
			r.Fault = fault
			rows[EntryKey{name, s.family}] = r
		}
	}
	if len(rows) == 0 {
		rows[EntryKey{leftover, s.family}] = Entry{Fault: "leftover"}
	}
	return rows
}
