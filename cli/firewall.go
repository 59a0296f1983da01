package cli

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// A ruleset is the filter rules of one firewall, with as much of each rule as says whether it meets a packet between a
// container and the world. What a rule asks beyond that makes it a rule that meets some packets only.
type ruleset struct {
	base   []string // chains that every forwarded packet enters, one after the other
	chains map[string]chain
}

type chain struct {
	policy verdict // of a base chain
	rules  []filterRule
}

// filterRule meets packets by address and interface.
type filterRule struct {
	src, dst address
	in, out  iface
	partial  bool // it asks for more: a protocol, a mark
	replies  bool // it asks for connections that exist already
	verdict  verdict
	target   string // chain to go on with, for verdictJump and verdictGoto
	text     string
}

// verdict is what a rule does with a packet.
type verdict string

const (
	verdictNone   verdict = "" // goes on with the next rule
	verdictAccept verdict = "accept"
	verdictDrop   verdict = "drop" // or reject
	verdictReturn verdict = "return"
	verdictJump   verdict = "jump"
	verdictGoto   verdict = "goto"
)

// address is a condition on an address; the zero value meets all.
type address struct {
	prefixes []netip.Prefix
	not      bool
}

// meets tells whether every address of p meets the condition.
func (a address) meets(p netip.Prefix) bool {
	if len(a.prefixes) == 0 {
		return true
	}
	if family(a.prefixes[0]) != family(p) {
		return false // also what asks for "not this one" asks within a family
	}
	within, touches := false, false
	for _, q := range a.prefixes {
		within = within || q.Bits() <= p.Bits() && q.Contains(p.Addr())
		touches = touches || q.Overlaps(p)
	}
	if a.not {
		return !touches
	}
	return within
}

// iface is a condition on the name of an interface; a trailing * meets every continuation, the zero value all.
type iface struct {
	names []string
	not   bool
}

func (i iface) meets(name string) bool {
	if len(i.names) == 0 {
		return true
	}
	for _, n := range i.names {
		stem, wild := strings.CutSuffix(n, "*")
		if n == name || wild && strings.HasPrefix(name, stem) {
			return !i.not
		}
	}
	return i.not
}

// flow is the first packet of a connection, on its way through the host.
type flow struct {
	what     string
	src, dst netip.Prefix
	in, out  string
}

// containerLink stands for the host side of any container's link.
const containerLink = "fl0123456789"

// flows are the ways that packets of a pool take: out of a container to another host, in from there, and between two
// containers of this host.
func flows(pool netip.Prefix, underlay string) []flow {
	return []flow{
		{"from other hosts to containers", pool, pool, underlay, containerLink},
		{"from containers to other hosts", pool, pool, containerLink, underlay},
		{"between containers of this host", pool, pool, containerLink, containerLink},
	}
}

// outcome is what becomes of a flow.
type outcome struct {
	dropped bool
	chain   string // the base chain that it does not leave
	by      string // the rule or policy that drops it
	unsure  bool   // a rule on the way accepts some packets, and which could not be told
}

const policyOf = "policy of "

// maxRules is how many rules are looked at for one flow: what no kernel would load may loop, or grow without bound.
const maxRules = 100_000

// judge walks f through all base chains: each must let it pass.
func (r ruleset) judge(f flow) outcome {
	for _, name := range r.base {
		w := walk{ruleset: r, flow: f}
		v, by := w.chain(name)
		if v == verdictNone || v == verdictReturn {
			v, by = r.chains[name].policy, policyOf+name
		}
		if v == verdictDrop {
			return outcome{dropped: true, chain: name, by: by, unsure: w.unsure}
		}
	}
	return outcome{}
}

// walk is the way of one flow through one base chain.
type walk struct {
	ruleset
	flow
	unsure bool
	rules  int // looked at so far
}

func (w *walk) chain(name string) (verdict, string) {
	for _, rule := range w.chains[name].rules {
		if w.rules++; w.rules > maxRules {
			w.unsure = true
			return verdictNone, ""
		}
		if !w.meets(rule) {
			continue
		}
		v, by := rule.verdict, rule.text
		if v == verdictJump || v == verdictGoto {
			v, by = w.chain(rule.target)
		}
		switch {
		case v == verdictDrop && rule.partial, v == verdictReturn && rule.partial:
			// Some packets only: an ordinary one is taken to pass.
		case v == verdictAccept && rule.partial:
			w.unsure = w.unsure || !rule.replies
		case v == verdictAccept, v == verdictDrop:
			return v, by
		case rule.partial:
		case rule.verdict == verdictReturn, rule.verdict == verdictGoto:
			return verdictReturn, ""
		}
	}
	return verdictNone, ""
}

func (w *walk) meets(r filterRule) bool {
	return r.src.meets(w.src) && r.dst.meets(w.dst) && r.in.meets(w.in) && r.out.meets(w.flow.out)
}

// judgeFirewall walks the flows of each pool through every firewall of the host.
func judgeFirewall(f *hostFacts) []finding {
	if !f.kernel.root {
		return nil
	}
	underlay := f.network.underlay
	var found []finding
	tools := 0
	for _, fw := range f.firewall {
		if fw.err != nil {
			found = append(found, warning(fw.tool, "%s could not be read: %v", fw.tool, fw.err))
			continue
		}
		tools++
		found = append(found, judgeRules(fw, f, underlay)...)
	}
	if tools == 0 && len(found) == 0 {
		return []finding{fine("no rules: neither iptables nor nft is installed")}
	}
	if len(found) == 0 {
		found = append(found, fine("%s, none drops what containers send or get", count(tools, "rule set")))
		for _, fw := range f.firewall {
			found = append(found, strictness(fw, f.daemon.up())...)
		}
	}
	return found
}

func judgeRules(fw firewallFacts, f *hostFacts, underlay string) []finding {
	var found []finding
	for _, pool := range f.config.Pools {
		if family(pool) != fw.family && fw.family != 0 {
			continue
		}
		for _, fl := range flows(pool, underlay) {
			o := fw.rules.judge(fl)
			if !o.dropped || fw.accepted(o) && !f.daemon.up() {
				continue
			}
			fix := fw.rules.mend(fw.tool, o.chain, pool)
			say := fmt.Sprintf("%s drops packets of %s %s: %s", fw.tool, pool, fl.what, o.by)
			if fw.entered() && !strings.HasPrefix(o.by, policyOf) {
				say += ", which comes before our chain " + ourChain
			}
			if o.unsure {
				found = append(found, warning(fix, "%s, unless a rule before it accepts them", say))
			} else {
				found = append(found, failure(fix, "%s", say))
			}
			break // one command mends all three
		}
	}
	return found
}

// strictness tells what a policy of DROP means, which Docker sets: nothing, as our own chain accepts what is ours.
func strictness(fw firewallFacts, up bool) []finding {
	const policy = "FORWARD of %s drops what no rule accepts, as Docker has it: "
	switch {
	case !fw.plain() || fw.rules.chains["FORWARD"].policy != verdictDrop:
		return nil
	case fw.entered():
		return []finding{fine(policy+"our chain %s accepts what containers send and get", fw.tool, ourChain)}
	case !up:
		return []finding{fine(policy+"the daemon's chain %s will accept what containers send and get", fw.tool, ourChain)}
	}
	return nil
}

// ourChain is where the daemon's rules accept what containers send and get.
const ourChain = "FAIRLEAD-FORWARD"

// plain tells whether the daemon writes to this rule set: it takes the one that the plain name leads to.
func (fw firewallFacts) plain() bool {
	return fw.tool == "iptables-save" || fw.tool == "ip6tables-save"
}

// entered tells whether the daemon's rules are there.
func (fw firewallFacts) entered() bool {
	return slices.ContainsFunc(fw.rules.chains["FORWARD"].rules, func(r filterRule) bool { return r.target == ourChain })
}

// accepted tells whether the daemon's rules will accept what is dropped without them: what no rule is about.
func (fw firewallFacts) accepted(o outcome) bool {
	return fw.plain() && strings.HasPrefix(o.by, policyOf) && !fw.entered()
}

// mend is the command that lets the packets of a pool through a base chain. DOCKER-USER is the one chain that Docker
// leaves alone when it starts again.
func (r ruleset) mend(tool, base string, pool netip.Prefix) string {
	if tool == nftTool {
		word := "ip"
		if family(pool) == 6 {
			word = "ip6"
		}
		return fmt.Sprintf("nft insert rule %s iifname 'fl*' %s saddr %s accept; nft insert rule %s oifname 'fl*' %s daddr %s accept",
			base, word, pool, base, word, pool)
	}
	if _, docker := r.chains["DOCKER-USER"]; docker {
		base = "DOCKER-USER"
	}
	cmd := strings.TrimSuffix(tool, "-save")
	return fmt.Sprintf("%s -I %s -i fl+ -s %s -j ACCEPT; %s -I %s -o fl+ -d %s -j ACCEPT", cmd, base, pool, cmd, base, pool)
}

func family(p netip.Prefix) int {
	if p.Addr().Is4() {
		return 4
	}
	return 6
}
