package nat

import (
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// Packet is one as the rules about networks and about the way out see it.
type Packet struct {
	From, To netip.Addr
	Out      string // the link that it leaves by
}

// First is the rule of a chain that decides about a packet: the first that takes it, in the order in which they stand there,
// with its target. There is none when the packet passes. It knows the words that Plan writes into Rows.Outgoing and
// Rows.Apart; a rule with others takes nothing.
func First(chain map[EntryKey]Entry, members map[Member]Fault, p Packet) (name, target string, found bool) {
	p.From, p.To = p.From.Unmap(), p.To.Unmap()
	for _, k := range slices.SortedFunc(maps.Keys(chain), EntryKey.compare) {
		if k.Family != familyOf(p.To) {
			continue
		}
		if target, takes := p.meets(words(chain[k].Spec), members); takes {
			return k.Name, target, true
		}
	}
	return "", "", false
}

// meets tells whether the packet is all that a rule asks for, and the rule's target.
func (p Packet) meets(rule []string, members map[Member]Fault) (target string, all bool) {
	not := false
	for len(rule) > 0 {
		word, rest := rule[0], rule[1:]
		if word == "!" {
			not, rule = true, rest
			continue
		}
		if word == "-j" && len(rest) > 0 {
			return rest[0], true
		}
		used, is := p.is(word, rest, members)
		if used == 0 || is == not {
			return "", false
		}
		rule, not = rest[used-1:], false
	}
	return "", false
}

// is tells whether the packet is what one match asks for, and how many words that is; 0: it is not known.
func (p Packet) is(word string, rest []string, members map[Member]Fault) (used int, is bool) {
	if len(rest) == 0 {
		return 0, false
	}
	switch word {
	case "-m":
		return 2, true // says which match the next words are of
	case "-s":
		return 2, contains(rest[0], p.From)
	case "-d":
		return 2, contains(rest[0], p.To)
	case "-o":
		stem, any := strings.CutSuffix(rest[0], "+")
		return 2, p.Out == rest[0] || any && strings.HasPrefix(p.Out, stem)
	case "--bytecode":
		return 2, rest[0] == toItself(familyOf(p.To)) && p.From == p.To
	case "--match-set":
		if len(rest) < 2 {
			return 0, false
		}
		a := map[string]netip.Addr{"src": p.From, "dst": p.To}[rest[1]]
		_, in := members[Member{rest[0], a}]
		return 3, in
	}
	return 0, false
}

// contains tells whether an address is the one that the text says, or in the prefix.
func contains(text string, a netip.Addr) bool {
	if p, err := netip.ParsePrefix(text); err == nil {
		return p.Contains(a)
	}
	return text == a.String()
}
