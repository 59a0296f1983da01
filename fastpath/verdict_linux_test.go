package fastpath_test

import (
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
)

// programs is a way to make frames for each of them.
func programs() map[string]func(maker) modelFrame {
	return map[string]func(maker) modelFrame{
		"fl_from_container": maker.outgoing,
		"fl_from_wire":      maker.incoming,
		"fl_to_container":   maker.passing,
		"fl_to_wire":        maker.passing,
		"fl_to_tunnel":      maker.passingBare,
	}
}

// TestEveryVerdict gives each program frames that were made at random, at sites that were, and wants each reason to have
// been the cause of one.
func TestEveryVerdict(t *testing.T) {
	const seed, sites, frames = 6, 30, 80
	const elsewhere = "comes in by another link"
	r := newRig(t)
	met := map[string]int{}
	for n := range uint64(sites) {
		rnd := rand.New(rand.NewPCG(seed, n))
		s := r.site()
		if n > 0 {
			s.vary(rnd)
		}
		m := maker{s, rnd}
		if n > 0 {
			m.varyPorts()
		}
		for range rnd.IntN(60) { // flows that are already the kernel's
			s.flows[m.known()] = true
		}
		r.set(t, s.modelWorld)
		for _, program := range slices.Sorted(maps.Keys(programs())) {
			frame := programs()[program]
			for range frames {
				e := r.check(t, s.modelWorld, program, frame(m))
				for reason, count := range e.reasons {
					met[reason] += count
				}
				if e.sent.into != 0 {
					met[elsewhere]++
				}
			}
		}
		if t.Failed() {
			t.Fatalf("seed %d, site %d", seed, n)
		}
	}
	for _, reason := range append(modelReasons(), elsewhere) {
		if met[reason] == 0 {
			t.Errorf("no frame was %q", reason)
		}
	}
	t.Logf("seed %d: %v", seed, met)
}
