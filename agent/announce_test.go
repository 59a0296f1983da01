package agent_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/fairlead-net/fairlead/tunnel"
)

// GRE leads to IPv4 addresses alone: in its mode a host with both families has to announce an IPv6 block by its IPv4
// address, as a host without IPv6 does, or nobody reaches the block.
func TestInModeGREAnIPv6BlockIsAnnouncedByTheIPv4Address(t *testing.T) {
	w := newWorld()
	w.underlay.Address6 = netip.MustParseAddr("2001:db8:1::1")
	cfg := config("")
	cfg.Pools[0].CIDR = netip.MustParsePrefix("2001:db8:88::/64")
	cfg.Pools[0].Block = netip.MustParsePrefix("2001:db8:88::100/120")
	cfg.Tunnel.Mode = tunnel.ModeGRE
	start(t, w, cfg)
	eventually(t, "an announcement", func() bool { return strings.Contains(w.text(), "announce ") })
	if text := w.text(); !strings.Contains(text, "via ::ffff:192.0.2.1") {
		t.Errorf("announced by an address that GRE does not lead to:\n%s", text)
	}
}
