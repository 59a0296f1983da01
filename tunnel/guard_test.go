package tunnel_test

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-net/fairlead/tunnel"
)

// ends are one device of each kind that a host can have.
func ends() map[string]tunnel.Device {
	four, six := addr("192.0.2.1"), addr("2001:db8:1::1")
	return map[string]tunnel.Device{
		"flvxlan":  {Kind: tunnel.VXLAN, VNI: 88, Port: 4789, Local: four, MTU: 1450, MAC: tunnel.VTEPMAC(four)},
		"flvxlan6": {Kind: tunnel.VXLAN, VNI: 88, Port: 4789, Local: six, MTU: 1430, MAC: tunnel.VTEPMAC(six)},
		"flipip":   {Kind: tunnel.IPIP, Local: four, MTU: 1480},
		"flgre":    {Kind: tunnel.GRE, Local: four, MTU: 1476},
	}
}

func TestEachDeviceHasItsGuard(t *testing.T) {
	want := map[tunnel.GuardKey]string{
		{Encap: tunnel.VXLAN, Family: 4}: `-p 17 -m udp --dport 4789 -m bpf --bytecode "6,177 0 0 0,64 0 0 12,116 0 0 8,21 0 1 88,6 0 0 65535,6 0 0 0" -m set ! --match-set fairlead-peers4 src`,
		{Encap: tunnel.VXLAN, Family: 6}: `-p 17 -m udp --dport 4789 -m bpf --bytecode "7,48 0 0 6,21 0 3 17,32 0 0 52,116 0 0 8,21 0 1 88,6 0 0 65535,6 0 0 0" -m set ! --match-set fairlead-peers6 src`,
		{Encap: tunnel.IPIP, Family: 4}:  `-d 192.0.2.1/32 -p 4 -m set ! --match-set fairlead-peers4 src -m set ! --match-set fairlead-ipip4 src`,
		{Encap: tunnel.GRE, Family: 4}:   `-d 192.0.2.1/32 -p 47 -m set ! --match-set fairlead-peers4 src -m set ! --match-set fairlead-gre4 src`,
	}
	got := make(map[tunnel.GuardKey]string)
	for k, g := range tunnel.Guards(ends()) {
		got[k] = g.Spec(k)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if none := tunnel.Guards(nil); len(none) != 0 {
		t.Errorf("guards of nothing: %v", none)
	}
}

// TestSetsHoldWhatTheGuardsAskFor: every set that a rule names is there, empty or not, and nobody is in it who need not be.
func TestSetsHoldWhatTheGuardsAskFor(t *testing.T) {
	peers := []netip.Addr{addr("192.0.2.2"), addr("::ffff:192.0.2.3"), addr("2001:db8:1::2"), addr("fe80::1%eth0"), {}, addr("0.0.0.0")}
	partners := map[tunnel.Source]struct{}{
		{Set: "fairlead-ipip4", IP: addr("203.0.113.4")}: {}, {Set: "fairlead-gre4", IP: addr("203.0.113.47")}: {},
	}
	source := func(set string, ips ...string) (all []tunnel.Source) {
		for _, ip := range ips {
			all = append(all, tunnel.Source{Set: set, IP: addr(ip)})
		}
		return all
	}
	for _, c := range []struct {
		devices []string
		want    [][]tunnel.Source
	}{
		{nil, nil},
		{[]string{"flvxlan"}, [][]tunnel.Source{source("fairlead-peers4", "0.0.0.0", "192.0.2.2", "192.0.2.3")}},
		{[]string{"flvxlan6"}, [][]tunnel.Source{source("fairlead-peers6", "::", "2001:db8:1::2", "fe80::1")}},
		{[]string{"flvxlan", "flipip"}, [][]tunnel.Source{
			source("fairlead-peers4", "0.0.0.0", "192.0.2.2", "192.0.2.3"), source("fairlead-ipip4", "0.0.0.0", "203.0.113.4"),
		}},
		{[]string{"flgre"}, [][]tunnel.Source{
			source("fairlead-peers4", "0.0.0.0", "192.0.2.2", "192.0.2.3"), source("fairlead-gre4", "0.0.0.0", "203.0.113.47"),
		}},
	} {
		devices := make(map[string]tunnel.Device)
		for _, name := range c.devices {
			devices[name] = ends()[name]
		}
		want := make(map[tunnel.Source]struct{})
		for _, set := range c.want {
			for _, s := range set {
				want[s] = struct{}{}
			}
		}
		if diff := cmp.Diff(want, tunnel.Sources(devices, peers, partners), compareValues); diff != "" {
			t.Errorf("%v: %s", c.devices, diff)
		}
	}
}
