package nat

import "time"

const (
	snatChain    = "FAIRLEAD-SNAT"
	forwardChain = "FAIRLEAD-FORWARD"
)

// Section is the table of the rules in a chain of ours, for both families, in the order of their names: a packet meets
// them in this order. Rules that stay keep their counters, whatever is put or removed beside them.
type Section struct{ *keeper[EntryKey, Entry] }

// Outgoing is the chain that gives packets another source on their way out, asked before all other rules of its kind.
// What was read of it is believed for as long as age.
func (k *Kernel) Outgoing(age time.Duration) *Section {
	return k.section(site{
		table: "nat", chain: snatChain, modules: "iptable_nat ip6table_nat nft_compat xt_nat xt_MASQUERADE xt_set xt_comment",
		hooks: []hook{{chain: "POSTROUTING", jump: "-j " + snatChain}},
	}, age)
}

// Forward is the chain that accepts packets which nobody has dropped or accepted. It is asked last, so that it overcomes
// the policy of FORWARD and nothing else. What was read of it is believed for as long as age.
func (k *Kernel) Forward(age time.Duration) *Section {
	return k.section(site{
		table: "filter", chain: forwardChain, modules: "iptable_filter ip6table_filter nft_compat xt_conntrack xt_set xt_comment",
		hooks: []hook{{chain: "FORWARD", jump: "-j " + forwardChain, rank: back}},
	}, age)
}

func (k *Kernel) section(at site, age time.Duration) *Section {
	return &Section{newKeeper(k.hand(at), entryForm{at.chain}, age)}
}
