package tunnel_test

import (
	"errors"
	"net/netip"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-net/fairlead/tunnel"
)

func TestUnderlaySaysWhenTheAddressIsGoneAndWhichOneItsFamilyHas(t *testing.T) {
	h := newHost(t)
	source := func(of netip.Addr) netip.Addr {
		t.Helper()
		u, err := h.k.Underlay(t.Context(), of)
		must(t, err)
		return u.Address
	}
	four, six := netip.IPv4Unspecified(), netip.IPv6Unspecified()
	if a := source(four); a.IsValid() {
		t.Errorf("without a default route: %v", a)
	}
	h.IP("route add default via 192.0.2.254")
	h.IP("-6 route add default via 2001:db8:1::fe")
	if a, b := source(four), source(six); a != addr("192.0.2.1") || b != addr("2001:db8:1::1") {
		t.Errorf("the sources of the default routes: %v and %v", a, b)
	}
	h.IP("addr flush dev uplink")
	if _, err := h.k.Underlay(t.Context(), addr("192.0.2.1")); !errors.Is(err, tunnel.ErrAddressGone) {
		t.Errorf("the address is gone, and the error is: %v", err)
	}
	h.IP("addr add 192.0.2.9/24 dev uplink")
	h.IP("route add default via 192.0.2.254")
	if a, b := source(four), source(six); a != addr("192.0.2.9") || b.IsValid() {
		t.Errorf("the sources of the default routes: %v and %v", a, b)
	}
}

// What a tun device carries has no Ethernet header, what a tap device carries has one.
func TestUnderlayTellsLinksWithoutEthernet(t *testing.T) {
	h := newHost(t)
	tuntap(t, h, "point", "tun")
	tuntap(t, h, "frames", "tap")
	for _, command := range []string{
		"link set point up", "link set frames up", "addr add 203.0.113.1/28 dev point", "addr add 203.0.113.5/28 dev point",
		"addr add 203.0.113.17/28 dev frames", "addr add 203.0.113.33/32 dev lo", "link add lan link uplink type macvlan", "addr add 203.0.113.49/28 dev lan",
	} {
		h.IP(command)
	}
	for node, want := range map[string][2][]string{
		"192.0.2.1":    {{"lan", "lo", "uplink"}, {"lo"}},
		"203.0.113.1":  {{"lan", "lo", "point"}, {"lo", "point"}},
		"203.0.113.17": {{"frames", "lan", "lo"}, {"lo"}},
	} {
		u, err := h.k.Underlay(t.Context(), addr(node))
		must(t, err)
		if diff := cmp.Diff(want, [2][]string{u.Uplinks, u.Bare}); diff != "" {
			t.Errorf("node at %s: uplinks and those without Ethernet (-want +have):\n%s", node, diff)
		}
	}
}

// tuntap makes a device of a mode. Where the kernel has them as a module, the file that makes them comes with it.
func tuntap(t *testing.T, h host, name, mode string) {
	t.Helper()
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		h.Run("modprobe", "tun")
	}
	h.IP("tuntap add dev " + name + " mode " + mode)
}
