package agent

import (
	"net/netip"

	"github.com/fairlead-net/fairlead/nat"
	"github.com/fairlead-net/fairlead/tunnel"
)

// strangers is what the packet filter needs to drop the tunnels' packets from others than the peers: the sets that the
// rules ask for, with those in them who may send, and the rules.
func strangers(devices map[string]tunnel.Device, peers []netip.Addr, partners map[tunnel.Source]struct{}) (map[nat.Member]nat.Fault, map[nat.EntryKey]nat.Entry) {
	members := make(map[nat.Member]nat.Fault)
	for s := range tunnel.Sources(devices, peers, partners) {
		members[nat.Member(s)] = ""
	}
	rules := make(map[nat.EntryKey]nat.Entry)
	for k, g := range tunnel.Guards(devices) {
		rules[nat.EntryKey{Name: string(k.Encap), Family: k.Family}] = nat.Drop(g.Spec(k))
	}
	return members, rules
}
