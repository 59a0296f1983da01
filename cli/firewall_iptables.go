package cli

import (
	"net/netip"
	"strings"
)

// parseIPTables reads the filter table of what iptables-save or ip6tables-save prints.
func parseIPTables(text string) ruleset {
	r := ruleset{chains: make(map[string]chain)}
	filter := false
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "*"):
			filter = line == "*filter"
		case !filter:
		case strings.HasPrefix(line, ":"):
			r.declare(strings.Fields(line[1:]))
		case strings.HasPrefix(line, "-A "):
			r.append(line)
		}
	}
	return r
}

// declare reads ":FORWARD DROP [0:0]".
func (r *ruleset) declare(words []string) {
	if len(words) < 2 {
		return
	}
	c := chain{policy: verdictAccept}
	if words[1] == "DROP" {
		c.policy = verdictDrop
	}
	r.chains[words[0]] = c
	if words[0] == "FORWARD" {
		r.base = []string{"FORWARD"}
	}
}

// append reads "-A FORWARD -s 10.88.0.0/16 ! -i lo -m comment --comment "web out" -j ACCEPT".
func (r *ruleset) append(line string) {
	words := quotedWords(line)
	name := words[1]
	c := r.chains[name]
	rule := filterRule{text: line, replies: strings.Contains(line, "ESTABLISHED")}
	not := false
	for i := 2; i < len(words); i++ {
		if words[i] == "!" {
			not = true
			continue
		}
		value := ""
		if i+1 < len(words) {
			value = words[i+1]
		}
		if r.option(&rule, words[i], value, not) {
			i++
		}
		not = false
	}
	c.rules = append(c.rules, rule)
	r.chains[name] = c
}

// option takes one option into the rule and tells whether it used the value too.
func (r *ruleset) option(rule *filterRule, option, value string, not bool) (used bool) {
	switch option {
	case "-s", "-d":
		p, err := netip.ParsePrefix(value)
		if err != nil {
			rule.partial = true
			return true
		}
		a := address{prefixes: []netip.Prefix{p}, not: not}
		if option == "-s" {
			rule.src = a
		} else {
			rule.dst = a
		}
	case "-i":
		rule.in = wildcard(value, not)
	case "-o":
		rule.out = wildcard(value, not)
	case "-j", "-g":
		rule.verdict, rule.target = r.target(option, value)
	case "-m":
		rule.partial = rule.partial || value != "comment"
	case "--comment", "--reject-with":
	default:
		rule.partial = true
		return false
	}
	return true
}

func wildcard(name string, not bool) iface {
	if stem, wild := strings.CutSuffix(name, "+"); wild {
		name = stem + "*"
	}
	return iface{names: []string{name}, not: not}
}

// target tells verdicts from chains; a target that is neither, such as LOG, lets the packet go on.
func (r *ruleset) target(option, name string) (verdict, string) {
	switch name {
	case "ACCEPT":
		return verdictAccept, ""
	case "DROP", "REJECT":
		return verdictDrop, ""
	case "RETURN":
		return verdictReturn, ""
	}
	if _, declared := r.chains[name]; !declared {
		return verdictNone, ""
	}
	if option == "-g" {
		return verdictGoto, name
	}
	return verdictJump, name
}

// quotedWords splits at spaces, but not within the double quotes that iptables-save puts around comments.
func quotedWords(line string) []string {
	var words []string
	var word strings.Builder
	quoted, any := false, false
	for i := 0; i < len(line); i++ {
		switch c := line[i]; {
		case c == '\\' && quoted && i+1 < len(line):
			i++
			word.WriteByte(line[i])
		case c == '"':
			quoted, any = !quoted, true
		case c == ' ' && !quoted:
			if any {
				words = append(words, word.String())
			}
			word.Reset()
			any = false
		default:
			word.WriteByte(c)
			any = true
		}
	}
	if any {
		words = append(words, word.String())
	}
	return words
}
