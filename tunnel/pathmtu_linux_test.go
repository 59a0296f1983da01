package tunnel_test

import (
	"net/netip"
	"testing"

	"github.com/fairlead-net/fairlead/nettest"
)

// What a router said of a path is what the next look finds, and the look is asked for.
func TestAPathThatCarriesLessIsLearned(t *testing.T) {
	h := newHost(t)
	beyond := nettest.NewHost(t, "beyond")
	nettest.Wire(t, h.far, "narrow", beyond, "uplink")
	for _, end := range []*nettest.Host{h.far, beyond} {
		dev, own4, own6 := "narrow", "198.51.100.254", "2001:db8:2::fe"
		if end == beyond {
			dev, own4, own6 = "uplink", "198.51.100.2", "2001:db8:2::2"
		}
		end.IP("link set " + dev + " mtu 1400")
		end.IP("addr add " + own4 + "/24 dev " + dev)
		end.IP("-6 addr add " + own6 + "/64 dev " + dev + " nodad")
	}
	h.far.IP("addr add 192.0.2.254/24 dev cable")
	h.far.IP("-6 addr add 2001:db8:1::fe/64 dev cable nodad")
	h.far.Sysctl("net/ipv4/ip_forward", "1")
	h.far.Sysctl("net/ipv6/conf/all/forwarding", "1")
	for _, n := range []*nettest.Host{h.Host, beyond} {
		gw4, gw6 := "192.0.2.254", "2001:db8:1::fe"
		if n == beyond {
			gw4, gw6 = "198.51.100.254", "2001:db8:2::fe"
		}
		n.IP("route add default via " + gw4)
		n.IP("-6 route add default via " + gw6)
	}
	far := []netip.Addr{addr("198.51.100.2"), addr("2001:db8:2::2")}
	for i, size := range []string{"1472", "1452"} { // with their headers 1500 bytes
		if mtu := pathMTU(t, h, far[i]); mtu != 0 {
			t.Errorf("before: %v has a path of %d", far[i], mtu)
		}
		pokes := watch(t, h)
		if out, err := h.Try("ping", "-M", "do", "-c", "1", "-W", "1", "-s", size, far[i].String()); err == nil {
			t.Errorf("a packet of 1500 bytes went through a link of 1400: %s", out)
		}
		if !poked(pokes) {
			t.Errorf("%v: the router's word did not poke", far[i])
		}
		if mtu := pathMTU(t, h, far[i]); mtu != 1400 {
			t.Errorf("after the router's word: %v has a path of %d", far[i], mtu)
		}
	}
}

func pathMTU(t *testing.T, h host, next netip.Addr) int {
	t.Helper()
	hops, err := h.k.Hops(t.Context(), []netip.Addr{next})
	must(t, err)
	if hop := hops[next]; !hop.Reachable || hop.OnLink {
		t.Fatalf("%v: %+v", next, hop)
	}
	return hops[next].PathMTU
}
