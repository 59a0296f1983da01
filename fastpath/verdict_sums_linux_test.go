package fastpath_test

import (
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// TestSumsOfCardsStayRight gives the uplink's program frames of which a card has told the sum of all bytes, and has the
// kernel compare afterwards. IPv6 has no checksum of its header that would make up for what is changed in it.
func TestSumsOfCardsStayRight(t *testing.T) {
	const seed, frames = 10, 1200
	r := newRig(t)
	s := r.site()
	m := maker{s, rand.New(rand.NewPCG(seed, 0))}
	m.varyPorts()
	s.ports.on = true
	r.set(t, s.modelWorld)
	taken := map[string]int{}
	for range frames {
		f := m.incoming()
		if len(f.bytes) < rigWhole || f.tag != 0 {
			continue // what the test does to these is told to no sum
		}
		reasons, err := r.summed(t, f)
		if errors.Is(err, unix.EINVAL) && len(taken) == 0 {
			t.Skipf("the kernel does not compare such sums (Linux 6.11): %v", err)
		}
		if err != nil {
			t.Fatalf("seed %d: %x: %v", seed, f.bytes[:min(len(f.bytes), 160)], err)
		}
		for reason := range reasons {
			taken[reason]++
		}
	}
	for _, reason := range []string{"fast from direct", "fast from ipip", "fast from vxlan", "fast mapped"} {
		if taken[reason] == 0 {
			t.Errorf("no frame was %q", reason)
		}
	}
}

// summed runs the program on a frame whose sum is known. An error says that it was not that of what came out.
func (r *rig) summed(t *testing.T, f modelFrame) (reasons map[string]int, err error) {
	t.Helper()
	const compare = 4 // BPF_F_TEST_SKB_CHECKSUM_COMPLETE
	before, err := r.tally()
	if err != nil {
		t.Fatal(err)
	}
	r.do(func() {
		_, err = r.programs["fl_from_wire"].Run(&ebpf.RunOptions{
			Data: f.bytes, Context: skbuff{Ifindex: f.link, GSOSize: uint32(f.segment)}, Flags: compare,
		})
	})
	if err != nil {
		return nil, err
	}
	now, err := r.tally()
	if err != nil {
		t.Fatal(err)
	}
	reasons, _ = now.since(before)
	return reasons, nil
}
