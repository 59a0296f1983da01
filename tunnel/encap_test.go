package tunnel_test

import (
	"testing"

	"github.com/fairlead-net/fairlead/tunnel"
)

func TestChoose(t *testing.T) {
	onLink := tunnel.Hop{Reachable: true, OnLink: true, Dev: "uplink", MTU: 1500}
	routed := tunnel.Hop{Reachable: true, Dev: "uplink", MTU: 1500}
	const four, six = "10.88.2.0/24", "2001:db8:88:2::/64"
	const nh4, nh6 = "192.0.2.2", "2001:db8:1::2"
	for _, c := range []struct {
		mode         tunnel.Mode
		prefix, next string
		hop          tunnel.Hop
		want, reason string
	}{
		{"auto", four, nh4, onLink, "direct", ""},
		{"auto", four, nh4, routed, "vxlan", ""},
		{"auto", four, nh6, onLink, "direct", ""},
		{"auto", six, nh6, onLink, "direct", ""},
		{"auto", six, nh4, onLink, "vxlan", ""},
		{"auto", six, "::ffff:192.0.2.2", onLink, "vxlan", ""},
		{"auto", four, nh4, tunnel.Hop{}, "", tunnel.ReasonUnreachable},
		{"auto", six, "fe80::2", onLink, "", tunnel.ReasonUnreachable},
		{"host-gw", four, nh4, onLink, "direct", ""},
		{"host-gw", four, nh4, routed, "", tunnel.ReasonNoCommon},
		{"host-gw", six, nh4, onLink, "", tunnel.ReasonNoCommon},
		{"host-gw", four, nh4, tunnel.Hop{}, "", tunnel.ReasonUnreachable},
		{"vxlan", four, nh4, onLink, "vxlan", ""},
		{"vxlan", four, nh4, routed, "vxlan", ""},
		{"vxlan", four, nh4, tunnel.Hop{}, "", tunnel.ReasonUnreachable},
		{"ipip", four, nh4, onLink, "", tunnel.ReasonUnsupported},
		{"ipip", four, nh4, routed, "", tunnel.ReasonUnsupported},
	} {
		encap, reason := tunnel.Choose(c.mode, prefix(c.prefix), addr(c.next), c.hop)
		if string(encap) != c.want || reason != c.reason {
			t.Errorf("mode %s, %s behind %s, %+v: %q %q, want %q %q", c.mode, c.prefix, c.next, c.hop, encap, reason, c.want, c.reason)
		}
	}
}

func TestNamesOfVTEPs(t *testing.T) {
	for vtep, want := range map[string][2]string{
		"198.51.100.3":        {"02:46:c6:33:64:03", "fe80::5efe:c633:6403"},
		"::ffff:198.51.100.3": {"02:46:c6:33:64:03", "fe80::5efe:c633:6403"},
		"2001:db8:2::3":       {"06:a3:1b:77:fc:a6", "fe80::a31b:77fc:a62c:150f"},
	} {
		if mac, via := tunnel.VTEPMAC(addr(vtep)).String(), tunnel.LinkLocal(addr(vtep)).String(); mac != want[0] || via != want[1] {
			t.Errorf("%s: %s %s, want %v: every node of every version must derive the same", vtep, mac, via, want)
		}
	}
}
