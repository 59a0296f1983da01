package tunnel_test

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-net/fairlead/tunnel"
)

// seen is an input of which everything beneath is what the kernel says.
func seen(t *testing.T, h host, node string, remotes map[string]string) tunnel.Input {
	t.Helper()
	in := tunnel.Input{Config: tunnel.Config{Mode: tunnel.ModeAuto, VNI: 88, Port: 4789}, Pools: pools(), Beside: tunnel.SetOf(tunnel.IPIP)}
	var next []netip.Addr
	for p, nh := range remotes {
		end := tunnel.End{Addr: addr(nh), Accepts: tunnel.SetOf(tunnel.IPIP, tunnel.VXLAN)}
		in.Remotes = append(in.Remotes, tunnel.Remote{Prefix: prefix(p), Ends: []tunnel.End{end}})
		next = append(next, end.Addr)
	}
	var err error
	in.Underlay, err = h.k.Underlay(t.Context(), addr(node))
	must(t, err)
	in.Underlay.Tunnels, err = h.k.Supports(t.Context(), in.Config.Mode.Tunnels())
	must(t, err)
	in.Underlay.Foreign, err = h.k.Foreign(t.Context(), in.Pools)
	must(t, err)
	in.Hops, err = h.k.Hops(t.Context(), next)
	must(t, err)
	return in
}

func TestLegsOfAHost(t *testing.T) {
	h := newHost(t)
	h.IP("route add default via 192.0.2.254 mtu 1400")
	h.IP("-6 route add default via fe80::fe dev uplink")
	h.IP("route add 10.88.4.0/25 via 192.0.2.7")
	in := seen(t, h, "192.0.2.1", map[string]string{
		"10.88.2.0/24": "192.0.2.2", "10.88.3.0/24": "198.51.100.3", "10.88.4.0/24": "192.0.2.2",
		"2001:db8:88:2::/64": "2001:db8:1::2", "2001:db8:88:3::/64": "2001:db8:2::3", "2001:db8:88:4::/64": "198.51.100.3",
	})
	four, six := addr("198.51.100.3"), addr("2001:db8:2::3")
	want := map[string]tunnel.Leg{
		"10.88.2.0/24":       {Dev: "uplink", Next: addr("192.0.2.2"), Encap: tunnel.Direct, MTU: 1500},
		"10.88.3.0/24":       {Dev: "uplink", Next: addr("192.0.2.254"), Encap: tunnel.IPIP, Local: addr("192.0.2.1"), End: four, MTU: 1380},
		"2001:db8:88:2::/64": {Dev: "uplink", Next: addr("2001:db8:1::2"), Encap: tunnel.Direct, MTU: 1500},
		"2001:db8:88:3::/64": {
			Dev: "uplink", Next: addr("fe80::fe"), Encap: tunnel.VXLAN, Local: addr("2001:db8:1::1"), End: six, MAC: tunnel.VTEPMAC(six), MTU: 1430,
		},
		"2001:db8:88:4::/64": {
			Dev: "uplink", Next: addr("192.0.2.254"), Encap: tunnel.VXLAN, Local: addr("192.0.2.1"), End: four, MAC: tunnel.VTEPMAC(four), MTU: 1350,
		},
	}
	have := make(map[string]tunnel.Leg)
	for _, p := range tunnel.Plan(in).Paths {
		for _, l := range p.Legs {
			have[p.Prefix.String()] = l
		}
		if p.Prefix == prefix("10.88.4.0/24") && p.Slow != tunnel.SlowForeign {
			t.Errorf("the operator's route is passed by: %+v", p)
		}
	}
	if diff := cmp.Diff(want, have, compareValues); diff != "" {
		t.Errorf("legs (-want +have):\n%s", diff)
	}
}

// A host whose way out is a tun device, as that of a private network, has routes and no legs.
func TestLegsNeedEthernet(t *testing.T) {
	h := newHost(t)
	for mode, slow := range map[string]string{"tun": tunnel.SlowLink, "tap": ""} {
		tuntap(t, h, "out", mode)
		h.IP("link set out up")
		h.IP("addr add 203.0.113.1/28 dev out")
		in := seen(t, h, "203.0.113.1", map[string]string{"10.88.2.0/24": "203.0.113.2"})
		p := tunnel.Plan(in).Paths[0]
		if p.Encap != tunnel.Direct || p.Slow != slow || (len(p.Legs) == 0) != (slow != "") {
			t.Errorf("by a %s device: %+v", mode, p)
		}
		h.IP("tuntap del dev out mode " + mode)
	}
}
