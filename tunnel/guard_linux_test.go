package tunnel_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-net/fairlead/tunnel"
)

func TestPartnersAreTheFarEndsOfOthers(t *testing.T) {
	h := newHost(t)
	all := tunnel.SetOf(tunnel.IPIP, tunnel.GRE, tunnel.VXLAN)
	want := make(map[tunnel.Source]struct{})
	// VXLAN is told apart by its VNI, and knows no partners.
	h.IP("link add theirs type vxlan id 7 remote 203.0.113.7 dstport 4790 dev uplink")
	found, err := h.k.Supports(t.Context(), all)
	must(t, err)
	for _, c := range []struct {
		kind   string
		of     tunnel.Encap
		remote string
	}{
		{"ipip", tunnel.IPIP, "203.0.113.4"}, {"gre", tunnel.GRE, "203.0.113.47"}, {"gretap", tunnel.GRE, "203.0.113.48"},
	} {
		if !found.Has(c.of) {
			t.Logf("no %s here; the same test runs in a virtual machine whose kernel has it: make test-vm", c.kind)
			continue
		}
		h.IP("link add their" + c.kind + " type " + c.kind + " local 192.0.2.1 remote " + c.remote)
		want[tunnel.Source{Set: "fairlead-" + string(c.of) + "4", IP: addr(c.remote)}] = struct{}{}
		if c.kind != "gretap" { // open for all, as ours: no partner
			h.IP("link add open" + c.kind + " type " + c.kind + " local 192.0.2.1")
		}
	}
	got, err := h.k.Partners(t.Context(), all)
	must(t, err)
	if diff := cmp.Diff(want, got, compareValues); diff != "" {
		t.Errorf("partners (-want +got):\n%s", diff)
	}
	if got, err := h.k.Partners(t.Context(), tunnel.SetOf(tunnel.VXLAN)); err != nil || len(got) != 0 {
		t.Errorf("of VXLAN: %v, %v", got, err)
	}
}
