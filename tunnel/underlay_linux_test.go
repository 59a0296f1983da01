package tunnel_test

import (
	"errors"
	"net/netip"
	"testing"

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
