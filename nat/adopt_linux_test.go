package nat_test

import (
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/nat"
)

// TestAdoptedConnectionsAreTheKernels: the tracking table has them from then on with their translation, each once, and those that
// it has already stay as they are.
func TestAdoptedConnectionsAreTheKernels(t *testing.T) {
	s := newStreet(t)
	s.rules("nat", "-A PREROUTING -p udp -d HOST --dport 8080 -j DNAT --to-destination OLD")
	var all []nat.Connection
	var want []nat.Flow
	for _, f := range sides() {
		for i, proto := range []uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
			from := netip.AddrPortFrom(f.foreign, uint16(40000+i))
			plain := nat.Connection{From: from, To: netip.AddrPortFrom(f.host, 8090), As: from, Into: f.old, Proto: proto}
			moved := plain
			moved.To, moved.As = netip.AddrPortFrom(f.second, 8091), netip.AddrPortFrom(f.foreign, uint16(50000+i))
			all = append(all, plain, moved)
		}
	}
	for _, c := range all {
		want = append(want, nat.Flow{Near: c.From, Far: c.To, Proto: c.Proto}, nat.Flow{Near: c.Into, Far: c.As, Proto: c.Proto})
	}
	for range 2 {
		must(t, s.k.Adopt(t.Context(), all))
		have, err := s.k.Translated(t.Context())
		must(t, err)
		for _, f := range want {
			if !slices.Contains(have, f) {
				t.Errorf("not there: %+v", f)
			}
		}
		if len(have) != len(want) {
			t.Errorf("%d flows, want %d: %+v", len(have), len(want), have)
		}
	}
}
