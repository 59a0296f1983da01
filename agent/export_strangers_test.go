package agent

import (
	"net/netip"

	"github.com/fairlead-net/fairlead/nat"
	"github.com/fairlead-net/fairlead/tunnel"
)

// Strangers is what keeps the packets of the devices from all but the peers and partners.
func Strangers(devices map[string]tunnel.Device, peers []netip.Addr, partners map[tunnel.Source]struct{}) (map[nat.Member]nat.Fault, map[nat.EntryKey]nat.Entry) {
	return strangers(devices, peers, partners)
}
