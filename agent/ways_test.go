package agent_test

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/fairlead-net/fairlead/agent"
)

// TestAContainerOnSeveralNetworks: a link leads to nothing that another one's address may be, unless its network keeps to
// itself; and what can not be together is refused.
func TestAContainerOnSeveralNetworks(t *testing.T) {
	kinds := map[string]agent.Network{"open": {}, "isolated": {Isolated: true}, "internal": {Internal: true}}
	for _, c := range []struct {
		first, second string
		elsewhere     string // of the second; "" when it is refused
	}{
		{"open", "open", "[10.88.1.0/24 10.88.0.0/16]"},
		{"open", "isolated", "[10.88.1.0/24 10.88.0.0/16]"},
		{"isolated", "open", "[10.88.1.0/24 10.88.0.0/16]"},
		{"isolated", "isolated", ""},
		{"internal", "open", ""},
		{"isolated", "internal", ""},
	} {
		a := start(t, newWorld(), config("10.88.1.0/24"))
		hand := func(guest, network, gateway string, kind agent.Network, sandbox string) (agent.Handed, error) {
			t.Helper()
			cidr := netip.MustParsePrefix("10.88.0.0/16")
			kind.ID = network
			kind.Subnets = []agent.Subnet{{CIDR: cidr, Range: cidr, Gateway: netip.MustParseAddr(gateway)}}
			if err := a.CreateNetwork(t.Context(), kind); err != nil {
				t.Fatal(err)
			}
			req := agent.GuestRequest{ID: guest, Network: network, Addresses: []netip.Addr{address(t, a, "")}}
			if _, err := a.Admit(t.Context(), req); err != nil {
				t.Fatal(err)
			}
			return a.HandOver(t.Context(), guest, sandbox)
		}
		other := "ffff" + apps[4:]
		h, err := hand(guest1, apps, "169.254.88.1", kinds[c.first], "/sandbox")
		if got := fmt.Sprint(h.Elsewhere); err != nil || got != "[]" { // nobody else has the range yet
			t.Errorf("%s alone: %s, %v", c.first, got, err)
		}
		h, err = hand(guest2, other, "169.254.88.2", kinds[c.second], "/sandbox")
		if c.elsewhere == "" {
			want(t, c.first+" and "+c.second, err, agent.ErrConflict, "on network a1b2c3d4e5f6 too", "different [[pool]]s")
		} else if got := fmt.Sprint(h.Elsewhere); err != nil || got != c.elsewhere {
			t.Errorf("%s and %s: %s, want %s, %v", c.first, c.second, got, c.elsewhere, err)
		}
		if _, err := a.HandOver(t.Context(), guest2, "/another"); err != nil {
			t.Errorf("%s and %s in containers of their own: %v", c.first, c.second, err)
		}
	}
}
