package fastpath_test

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// FuzzFromWire gives any frame to the uplink's program, and wants what the model wants.
func FuzzFromWire(f *testing.F) { fuzzProgram(f, "fl_from_wire", "w0", maker.incoming) }

// FuzzFromContainer gives any frame to the program of a container's host side.
func FuzzFromContainer(f *testing.F) { fuzzProgram(f, "fl_from_container", "c0", maker.outgoing) }

// fuzzProgram begins with frames as hosts see them. An input is a frame, the size of its segments, and bits: those of the
// settings, and of whether the frame is to another hardware address, tagged, or has a mark.
func fuzzProgram(f *testing.F, program, link string, frame func(maker) modelFrame) {
	const seed, begin = 8, 200
	r := newRig(f)
	s := r.site()
	m := maker{s, rand.New(rand.NewPCG(seed, 0))}
	s.flows[m.known()] = true
	r.set(f, s.modelWorld)
	for n := range begin {
		b := frame(m)
		f.Add(b.bytes, uint16(b.segment), uint16(n))
	}
	d := r.devices[link]
	f.Fuzz(func(t *testing.T, b []byte, segment, bits uint16) {
		b = append(slices.Clone(b[:min(len(b), rigFrames)]), make([]byte, max(0, etherSize-len(b)))...) // what a test run takes
		s.here.takesIPIP, s.here.takesVXLAN, s.here.takesAll = bits&1 == 0, bits&2 == 0, bits&4 != 0
		s.here.lacksIPIP, s.here.crosses = bits&8 != 0, bits&16 == 0 && r.crosses
		s.here.device = []uint32{0, r.devices["x1"].link}[bits>>12&1]
		if err := r.maps["fl_settings"].Put(uint32(0), s.here.encode()); err != nil {
			t.Fatal(err)
		}
		in := modelFrame{bytes: b, link: d.link, mac: d.mac}
		if bits&32 == 0 {
			copy(in.bytes, d.mac[:])
			if program == "fl_from_container" {
				sender := mac(0)
				copy(in.bytes[6:], sender[:])
			}
		}
		if len(b) >= rigWhole {
			in.segment = int(segment)
		}
		if bits&64 != 0 {
			in.mark = modelFast
		}
		if bits&0xf80 == 0xf80 {
			in.tag = 7
		}
		e := r.check(t, s.modelWorld, program, in)
		if e.verdict != modelPass && e.verdict != modelSend && (e.verdict != modelDrop || program == "fl_from_wire") {
			t.Errorf("verdict %d is none of the program's", e.verdict)
		}
	})
}
