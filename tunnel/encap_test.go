package tunnel_test

import (
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/fairlead-net/fairlead/tunnel"
)

func modes() []tunnel.Mode {
	return []tunnel.Mode{tunnel.ModeAuto, tunnel.ModeHostGW, tunnel.ModeIPIP, tunnel.ModeVXLAN, tunnel.ModeGRE}
}

func TestChoose(t *testing.T) {
	onLink := tunnel.Hop{Reachable: true, OnLink: true, Dev: "uplink", MTU: 1500}
	routed := tunnel.Hop{Reachable: true, Dev: "uplink", MTU: 1500}
	gone := tunnel.Hop{}
	const four, six = "10.88.2.0/24", "2001:db8:88:2::/64"
	const nh4, nh6 = "192.0.2.2", "2001:db8:1::2"
	const all = "ipip,gre,vxlan"
	for _, c := range []struct {
		mode         tunnel.Mode
		prefix, next string
		hop          tunnel.Hop
		kernel, peer string
		want, reason string
	}{
		{"auto", four, nh4, onLink, all, all, "direct", ""},
		{"auto", four, nh4, onLink, "", "", "direct", ""},
		{"auto", four, nh4, routed, all, all, "ipip", ""},
		{"auto", four, nh4, routed, "vxlan", all, "vxlan", ""},
		{"auto", four, nh4, routed, all, "vxlan", "vxlan", ""},
		{"auto", four, nh4, routed, all, "gre,vxlan", "vxlan", ""},
		{"auto", four, nh4, routed, all, "ipip", "ipip", ""},
		{"auto", four, nh4, routed, "vxlan", "ipip", "", tunnel.ReasonUnsupported},
		{"auto", four, nh4, routed, "", all, "", tunnel.ReasonUnsupported},
		{"auto", four, nh4, routed, "", "", "", tunnel.ReasonUnsupported},
		{"auto", four, nh4, routed, all, "gre", "", tunnel.ReasonNoCommon},
		{"auto", four, nh4, routed, all, "", "", tunnel.ReasonNoCommon},
		{"auto", four, nh6, onLink, all, all, "direct", ""},
		{"auto", four, nh6, routed, all, all, "vxlan", ""},
		{"auto", six, nh6, onLink, all, all, "direct", ""},
		{"auto", six, nh6, routed, all, all, "vxlan", ""},
		{"auto", six, nh4, onLink, all, all, "vxlan", ""},
		{"auto", six, nh4, onLink, all, "ipip", "", tunnel.ReasonNoCommon},
		{"auto", six, "::ffff:192.0.2.2", onLink, all, all, "vxlan", ""},
		{"auto", four, nh4, gone, all, all, "", tunnel.ReasonUnreachable},
		{"auto", six, "fe80::2", onLink, all, all, "", tunnel.ReasonUnreachable},
		{"host-gw", four, nh4, onLink, all, all, "direct", ""},
		{"host-gw", four, nh4, routed, all, all, "", tunnel.ReasonNoCommon},
		{"host-gw", six, nh4, onLink, all, all, "", tunnel.ReasonNoCommon},
		{"host-gw", four, nh4, gone, all, all, "", tunnel.ReasonUnreachable},
		{"vxlan", four, nh4, onLink, all, all, "vxlan", ""},
		{"vxlan", four, nh4, routed, all, all, "vxlan", ""},
		{"vxlan", four, nh4, routed, all, "ipip", "", tunnel.ReasonNoCommon},
		{"vxlan", four, nh4, gone, all, all, "", tunnel.ReasonUnreachable},
		{"ipip", four, nh4, onLink, all, all, "ipip", ""},
		{"ipip", four, nh4, routed, all, all, "ipip", ""},
		{"ipip", four, nh4, routed, "vxlan", all, "", tunnel.ReasonUnsupported},
		{"ipip", four, nh4, routed, "vxlan", "", "", tunnel.ReasonUnsupported},
		{"ipip", four, nh4, routed, all, "", "", tunnel.ReasonNoCommon},
		{"ipip", six, nh4, routed, all, all, "", tunnel.ReasonNoCommon},
		{"ipip", four, nh6, routed, all, all, "", tunnel.ReasonNoCommon},
		{"gre", four, nh4, onLink, all, all, "gre", ""},
		{"gre", six, nh4, routed, all, all, "gre", ""},
		{"gre", six, nh6, routed, all, all, "", tunnel.ReasonNoCommon},
		{"gre", four, nh4, routed, "ipip,vxlan", all, "", tunnel.ReasonUnsupported},
	} {
		encap, reason := tunnel.Choose(tunnel.Case{
			Mode: c.mode, Prefix: prefix(c.prefix), NextHop: addr(c.next), Hop: c.hop,
			Kernel: encaps(c.kernel), Peer: encaps(c.peer),
		})
		if string(encap) != c.want || reason != c.reason {
			t.Errorf("%+v: %q %q, want %q %q", c, encap, reason, c.want, c.reason)
		}
	}
}

// drawCase makes up a next hop and what is known of it.
func drawCase(t *rapid.T) tunnel.Case {
	next := []netip.Addr{addr("192.0.2.2"), addr("::ffff:192.0.2.2"), addr("2001:db8:1::2"), addr("fe80::2")}
	return tunnel.Case{
		Mode:    rapid.SampledFrom(modes()).Draw(t, "mode"),
		Prefix:  rapid.SampledFrom([]netip.Prefix{prefix("10.88.2.0/24"), prefix("2001:db8:88:2::/64")}).Draw(t, "prefix"),
		NextHop: rapid.SampledFrom(next).Draw(t, "next hop"),
		Hop:     tunnel.Hop{Reachable: rapid.Bool().Draw(t, "reachable"), OnLink: rapid.Bool().Draw(t, "on-link")},
		Kernel:  tunnel.Encaps(rapid.IntRange(0, 7).Draw(t, "kernel")),
		Peer:    tunnel.Encaps(rapid.IntRange(0, 7).Draw(t, "peer")),
	}
}

// Whatever is chosen both ends have and the mode allows, nothing cheaper would have done, and a refusal has its reason.
func TestTheChoiceIsTheCheapestThatBothEndsHave(t *testing.T) {
	price := []tunnel.Encap{tunnel.Direct, tunnel.IPIP, tunnel.GRE, tunnel.VXLAN}
	rapid.Check(t, func(t *rapid.T) {
		c := drawCase(t)
		got, reason := tunnel.Choose(c)
		switch {
		case (got == "") == (reason == ""):
			t.Fatalf("%+v: %q with reason %q", c, got, reason)
		case got == tunnel.Direct && (!c.Hop.OnLink || c.Mode != tunnel.ModeAuto && c.Mode != tunnel.ModeHostGW):
			t.Fatalf("%+v: direct", c)
		case got != "" && got != tunnel.Direct && !(c.Kernel & c.Peer & c.Mode.Tunnels()).Has(got):
			t.Fatalf("%+v: %s is not what both ends have and the mode allows", c, got)
		case got != "" && !c.Hop.Reachable, reason == tunnel.ReasonUnreachable && c.Hop.Reachable && !c.NextHop.IsLinkLocalUnicast():
			t.Fatalf("%+v: %q %q", c, got, reason)
		}
		for _, cheaper := range price[:max(0, slices.Index(price, got))] {
			only := c
			only.Peer &= tunnel.SetOf(cheaper)
			if better, _ := tunnel.Choose(only); better == cheaper && c.Hop.OnLink == only.Hop.OnLink {
				t.Fatalf("%+v: %s, though %s would do", c, got, cheaper)
			}
		}
	})
}

// Two hosts that know the same of each other choose the same way: what one sends comes where the other sends it.
func TestBothEndsChooseAlike(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		there := drawCase(t)
		there.NextHop = rapid.SampledFrom([]netip.Addr{addr("192.0.2.2"), addr("2001:db8:1::2")}).Draw(t, "end")
		back := there
		own, peer := there.Mode.Tunnels()&there.Kernel, there.Mode.Tunnels()&there.Peer // what each tells the other
		there.Peer, back.Kernel, back.Peer = peer, there.Peer, own
		one, _ := tunnel.Choose(there)
		other, _ := tunnel.Choose(back)
		if one != other {
			t.Fatalf("%+v: %q, back %q", there, one, other)
		}
	})
}

// More abilities never take a way away.
func TestAnAbilityMoreNeverHurts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := drawCase(t)
		before, _ := tunnel.Choose(c)
		c.Kernel |= tunnel.Encaps(rapid.IntRange(0, 7).Draw(t, "more here"))
		c.Peer |= tunnel.Encaps(rapid.IntRange(0, 7).Draw(t, "more there"))
		if after, reason := tunnel.Choose(c); before != "" && after == "" {
			t.Fatalf("%+v: was %s, now none: %s", c, before, reason)
		}
	})
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
