package nat_test

import (
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/nat"
)

// TestTranslatedTellsBothEnds: of each connection that is translated, and of no other, one learns how either end sees it.
func TestTranslatedTellsBothEnds(t *testing.T) {
	s := newStreet(t)
	s.rules("nat",
		"-A PREROUTING -p udp -d HOST --dport 8080 -j DNAT --to-destination OLD",
		"-A POSTROUTING -p udp --dport 9090 -j MASQUERADE")
	var want, hidden []nat.Flow
	var plain []netip.AddrPort
	for _, f := range sides() {
		to := netip.AddrPortFrom(f.host, 8080)
		for _, c := range talk(t, s.client, "udp", to, 3) {
			want = append(want, nat.Flow{Near: c.src, Far: to, Proto: unix.IPPROTO_UDP}, nat.Flow{Near: f.old, Far: c.src, Proto: unix.IPPROTO_UDP})
		}
		out := netip.AddrPortFrom(f.foreign, 9090)
		for _, c := range talk(t, s.box, "udp", out, 3) {
			// The source port is the same as long as nobody else has it.
			// Which of its addresses hides it the host chooses.
			want = append(want, nat.Flow{Near: c.src, Far: out, Proto: unix.IPPROTO_UDP})
			hidden = append(hidden, nat.Flow{Near: out, Far: netip.AddrPortFrom(f.host, c.src.Port()), Proto: unix.IPPROTO_UDP})
		}
		for _, c := range talk(t, s.box, "udp", netip.AddrPortFrom(f.foreign, 8081), 3) {
			plain = append(plain, c.src)
		}
	}
	have, err := s.k.Translated(t.Context())
	must(t, err)
	for _, f := range want {
		if !slices.Contains(have, f) {
			t.Errorf("not told: %+v", f)
		}
	}
	for _, f := range hidden {
		if !slices.ContainsFunc(have, func(h nat.Flow) bool { return h.Near == f.Near && h.Far.Port() == f.Far.Port() && h.Proto == f.Proto }) {
			t.Errorf("not told: %+v", f)
		}
	}
	if len(have) != len(want)+len(hidden) {
		t.Errorf("%d flows told, want %d", len(have), len(want)+len(hidden))
	}
	for _, f := range have {
		if slices.Contains(plain, f.Near) {
			t.Errorf("told though nothing translates it: %+v", f)
		}
	}
}
