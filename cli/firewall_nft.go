package cli

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// nftTool prints rules of its own kind, and in its own way those of iptables-nft too.
const nftTool = "nft"

// nftObject is one entry of `nft -j list ruleset`, described in libnftables-json(5).
type nftObject struct {
	Chain *nftChain `json:"chain"`
	Rule  *nftRule  `json:"rule"`
}

type nftChain struct {
	Family string `json:"family"`
	Table  string `json:"table"`
	Name   string `json:"name"`
	Hook   string `json:"hook"`
	Policy string `json:"policy"`
}

type nftRule struct {
	Family string                       `json:"family"`
	Table  string                       `json:"table"`
	Chain  string                       `json:"chain"`
	Handle int                          `json:"handle"`
	Expr   []map[string]json.RawMessage `json:"expr"`
}

// nftMatch is a comparison; the sides are objects or plain words.
type nftMatch struct {
	Op   string `json:"op"`
	Left struct {
		Meta    struct{ Key string } `json:"meta"`
		Payload struct {
			Protocol, Field string
		} `json:"payload"`
	} `json:"left"`
	Right json.RawMessage `json:"right"`
}

// parseNft reads what `nft -j list ruleset` prints, but for the filter tables of iptables-nft when others speaks for them.
func parseNft(text []byte, others bool) (ruleset, error) {
	var doc struct {
		Objects []nftObject `json:"nftables"`
	}
	r := ruleset{chains: make(map[string]chain)}
	if err := json.Unmarshal(text, &doc); err != nil {
		return r, fmt.Errorf("understand nft: %w", err)
	}
	for _, o := range doc.Objects {
		switch {
		case o.Chain != nil && !(others && ofIPTables(o.Chain.Family, o.Chain.Table)):
			r.declareNft(*o.Chain)
		case o.Rule != nil && !(others && ofIPTables(o.Rule.Family, o.Rule.Table)):
			r.appendNft(*o.Rule)
		}
	}
	return r, nil
}

func ofIPTables(family, table string) bool {
	return (family == "ip" || family == "ip6") &&
		slices.Contains([]string{"filter", "nat", "mangle", "raw", "security"}, table)
}

func (r *ruleset) declareNft(c nftChain) {
	if !slices.Contains([]string{"ip", "ip6", "inet"}, c.Family) {
		return
	}
	name := c.Family + " " + c.Table + " " + c.Name
	policy := verdictAccept
	if c.Policy == "drop" {
		policy = verdictDrop
	}
	r.chains[name] = chain{policy: policy}
	if c.Hook == "forward" {
		r.base = append(r.base, name)
	}
}

func (r *ruleset) appendNft(n nftRule) {
	table := n.Family + " " + n.Table + " "
	c, known := r.chains[table+n.Chain]
	if !known {
		return
	}
	rule := filterRule{text: fmt.Sprintf("rule of %s%s with handle %d", table, n.Chain, n.Handle)}
	if n.Family != "inet" {
		rule.src = everywhere(n.Family) // a table of one family sees no packet of the other
	}
	for _, e := range n.Expr {
		for key, value := range e {
			rule.express(key, value, table)
		}
	}
	c.rules = append(c.rules, rule)
	r.chains[table+n.Chain] = c
}

func everywhere(family string) address {
	if family == "ip" {
		return address{prefixes: []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0)}}
	}
	return address{prefixes: []netip.Prefix{netip.PrefixFrom(netip.IPv6Unspecified(), 0)}}
}

// express takes one statement into the rule.
func (rule *filterRule) express(key string, value json.RawMessage, table string) {
	var to struct{ Target string }
	switch key {
	case "match":
		rule.match(value)
	case "accept":
		rule.verdict = verdictAccept
	case "drop", "reject":
		rule.verdict = verdictDrop
	case "return":
		rule.verdict = verdictReturn
	case "jump", "goto":
		rule.verdict = verdict(key)
		if json.Unmarshal(value, &to) == nil {
			rule.target = table + to.Target
		}
	case "vmap":
		rule.partial, rule.verdict = true, verdictAccept
		rule.replies = rule.replies || strings.Contains(string(value), `"established"`)
	case "xt", "limit", "ct count", "queue":
		rule.partial = true
	}
}

func (rule *filterRule) match(value json.RawMessage) {
	rule.replies = rule.replies || strings.Contains(string(value), `"established"`)
	var m nftMatch
	if json.Unmarshal(value, &m) != nil {
		rule.partial = true // the left side is no object of these two kinds
		return
	}
	not := m.Op == "!="
	values, ok := nftValues(m.Right)
	switch {
	case !ok || m.Op != "==" && !not:
		rule.partial = true
	case m.Left.Meta.Key == "iifname":
		rule.in = iface{names: values, not: not}
	case m.Left.Meta.Key == "oifname":
		rule.out = iface{names: values, not: not}
	case m.Left.Meta.Key == "nfproto" && len(values) == 1 && !not:
		rule.src = everywhere(strings.Replace(strings.Replace(values[0], "ipv4", "ip", 1), "ipv6", "ip6", 1))
	case m.Left.Payload.Field == "saddr" || m.Left.Payload.Field == "daddr":
		rule.address(m.Left.Payload.Field, values, not)
	default:
		rule.partial = true
	}
}

func (rule *filterRule) address(field string, values []string, not bool) {
	a := address{not: not}
	for _, v := range values {
		p, err := parsePrefixOrAddr(v)
		if err != nil {
			rule.partial = true
			return
		}
		a.prefixes = append(a.prefixes, p)
	}
	if field == "saddr" {
		rule.src = a
	} else {
		rule.dst = a
	}
}

func parsePrefixOrAddr(s string) (netip.Prefix, error) {
	if strings.Contains(s, "/") {
		return netip.ParsePrefix(s)
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Prefix{}, err
	}
	return netip.PrefixFrom(a, a.BitLen()), nil
}

// nftValues is the right side of a comparison as words: a word, a prefix, or a set of both.
func nftValues(raw json.RawMessage) (values []string, ok bool) {
	var word string
	if json.Unmarshal(raw, &word) == nil {
		return []string{word}, !strings.HasPrefix(word, "@") // a named set is not looked into
	}
	var object struct {
		Prefix *struct {
			Addr string
			Len  int
		}
		Set []json.RawMessage
	}
	if json.Unmarshal(raw, &object) != nil {
		return nil, false
	}
	if object.Prefix != nil {
		return []string{fmt.Sprintf("%s/%d", object.Prefix.Addr, object.Prefix.Len)}, true
	}
	for _, element := range object.Set {
		more, ok := nftValues(element)
		if !ok {
			return nil, false
		}
		values = append(values, more...)
	}
	return values, len(values) > 0
}
