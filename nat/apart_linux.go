package nat

import "time"

const apartChain = "FAIRLEAD-APART"

// Apart is the chain that drops what goes between networks which want to be apart. What was read of it is believed for as
// long as age.
//
// It is in the table mangle, and not in filter, so that every forwarded packet meets it: the chains of one table end with
// the first rule that accepts, and in filter Docker and firewalls accept much before they come to others' rules, and put
// theirs to the front whenever they start. Of mangle's FORWARD they use nothing but what goes on, such as TCPMSS, and no
// table's verdict but a drop binds another. There packets have the addresses of both containers also when a port of a host
// was asked for: the destination was translated before, and the source is later.
func (k *Kernel) Apart(age time.Duration) *Section {
	return k.section(site{
		table: "mangle", chain: apartChain, modules: "iptable_mangle ip6table_mangle nft_compat xt_set xt_comment",
		hooks: []hook{{chain: "FORWARD", jump: "-j " + apartChain}},
	}, age)
}
