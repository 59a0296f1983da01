package fastpath_test

import (
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// tally is all that is counted: of reasons, of slots.
type tally struct {
	reasons []uint64
	counts  []modelCount
}

// run gives a frame to a program, whose end it returns, and fills in the frame's hash. What the run notes of flows is
// taken back.
func (r *rig) run(t testing.TB, program string, f *modelFrame) *modelEnd {
	t.Helper()
	var end *modelEnd
	var err error
	r.do(func() { end, err = r.try(program, f) })
	if err != nil {
		t.Fatalf("run %s on %x: %v", program, f.bytes, err)
	}
	return end
}

func (r *rig) try(program string, f *modelFrame) (*modelEnd, error) {
	if err := r.maps[seenMap].Put(uint32(0), seen{}); err != nil {
		return nil, err
	}
	in := skbuff{Ifindex: f.link, GSOSize: uint32(f.segment)}
	in.CB[cbMark], in.CB[cbTag] = f.mark, uint32(f.tag)
	if len(f.bytes) < rigWhole {
		in.CB[cbLength] = uint32(len(f.bytes))
	}
	var out skbuff
	opts := ebpf.RunOptions{Data: pad(f.bytes), DataOut: make([]byte, len(f.bytes)+256), Context: in, ContextOut: &out}
	verdict, err := r.programs[program].Run(&opts)
	if err != nil {
		return nil, err
	}
	f.hash = out.CB[cbHash]
	end := &modelEnd{
		verdict: int(int32(verdict)), bytes: opts.DataOut,
		mark: out.CB[cbMark], carrier: uint16(out.CB[cbProtocol])>>8 | uint16(out.CB[cbProtocol])<<8, tagged: out.CB[cbTagged] != 0,
	}
	after, err := r.tally()
	if err != nil {
		return nil, err
	}
	end.reasons, end.counts = after.since(r.counted)
	r.counted = after
	if end.sent, err = r.sent(); err != nil {
		return nil, err
	}
	if end.conns, end.pieces, err = r.connected(); err != nil {
		return nil, err
	}
	end.flows, err = r.noted()
	return end, err
}

// connected is what the tables of connections and of fragments have.
func (r *rig) connected() (map[modelTuple]modelConn, map[modelDatagram]modelTuple, error) {
	conns, pieces := map[modelTuple]modelConn{}, map[modelDatagram]modelTuple{}
	read := func(name string, note func(key, value []byte)) error {
		all := r.maps[name].Iterate()
		var key, value []byte
		for all.Next(&key, &value) {
			note(key, value)
		}
		if err := all.Err(); err != nil {
			return fmt.Errorf("read %s: %w", name, err)
		}
		return nil
	}
	err := read("fl_tuples", func(key, value []byte) { conns[decodeTuple(key)] = decodeConn(value) })
	return conns, pieces, errors.Join(err, read("fl_pieces", func(key, value []byte) { pieces[decodeDatagram(key)] = decodeTuple(value) }))
}

// pad makes a frame as long as a test run wants it, which is to be cut again.
func pad(b []byte) []byte { return append(slices.Clone(b), make([]byte, max(0, rigWhole-len(b)))...) }

// tally sums over the processors.
func (r *rig) tally() (all tally, err error) {
	each, err := batch[uint64](r.maps["fl_reasons"])
	if err != nil {
		return all, fmt.Errorf("read reasons: %w", err)
	}
	for _, on := range each {
		sum := uint64(0)
		for _, n := range on {
			sum += n
		}
		all.reasons = append(all.reasons, sum)
	}
	slots, err := batch[[8]uint64](r.maps["fl_counts"])
	if err != nil {
		return all, fmt.Errorf("read counts: %w", err)
	}
	for _, on := range slots {
		var sum [8]uint64
		for _, n := range on {
			for i := range n {
				sum[i] += n[i]
			}
		}
		all.counts = append(all.counts, modelCount{
			out: [2]uint64(sum[:2]), in: [2]uint64(sum[2:4]), kernel: [2]uint64(sum[4:6]), drops: [2]uint64(sum[6:]),
		})
	}
	return all, nil
}

// batch reads a table whose every entry has a value for each processor.
func batch[V any](m *ebpf.Map) (all [][]V, err error) {
	processors, err := ebpf.PossibleCPU()
	if err != nil {
		return nil, err
	}
	entries := int(m.MaxEntries())
	keys, values := make([]uint32, entries), make([]V, entries*processors)
	var cursor ebpf.MapBatchCursor
	n, err := m.BatchLookup(&cursor, keys, values, nil)
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) { // which says that there are no more
		return nil, err
	}
	if n != entries {
		return nil, fmt.Errorf("%d entries of %d", n, entries)
	}
	for i := range entries {
		all = append(all, values[i*processors:(i+1)*processors])
	}
	return all, nil
}

func (now tally) since(before tally) (reasons map[string]int, counts map[uint32]modelCount) {
	reasons, counts = map[string]int{}, map[uint32]modelCount{}
	words := modelReasons()
	for i, n := range now.reasons {
		if n != before.reasons[i] {
			reasons[words[i]] = int(n - before.reasons[i])
		}
	}
	less := func(a, b [2]uint64) [2]uint64 { return [2]uint64{a[0] - b[0], a[1] - b[1]} }
	for i, n := range now.counts {
		if b := before.counts[i]; n != b {
			counts[uint32(i)] = modelCount{
				out: less(n.out, b.out), in: less(n.in, b.in), kernel: less(n.kernel, b.kernel), drops: less(n.drops, b.drops),
			}
		}
	}
	return reasons, counts
}

func (r *rig) sent() (to modelSent, err error) {
	var s seen
	if err := r.maps[seenMap].Lookup(uint32(0), &s); err != nil {
		return to, fmt.Errorf("read to whom: %w", err)
	}
	switch s.Kind {
	case handedPeer:
		to.peer = s.Link
	case handedIn:
		if s.Flag != 1 { // BPF_F_INGRESS
			return to, fmt.Errorf("redirected with flags %#x", s.Flag)
		}
		to.into = s.Link
	case handedNeighbour:
		to.over = s.Link
		next := words(s.Next[1:]...)
		switch s.Next[0] {
		case unix.AF_INET:
			to.next = netip.AddrFrom4([4]byte(next[:4]))
		case unix.AF_INET6:
			to.next = netip.AddrFrom16([16]byte(next))
		}
	}
	return to, nil
}

// noted is which flows have a time that is none of the world's, which begins with zero. Their time becomes that again.
func (r *rig) noted() (map[modelFlow]bool, error) {
	flows := map[modelFlow]bool{}
	for _, name := range []string{"fl_flows4", "fl_flows6"} {
		m := r.maps[name]
		key, err := m.NextKeyBytes(nil)
		for ; key != nil && err == nil; key, err = m.NextKeyBytes(key) {
			var at uint64
			if err := m.Lookup(key, &at); err != nil {
				return nil, fmt.Errorf("read flow: %w", err)
			}
			if at != 0 {
				flows[decodeFlow(key)] = true
			}
		}
		if err != nil {
			return nil, fmt.Errorf("list %s: %w", name, err)
		}
	}
	return flows, nil
}

// check runs a program on a frame and compares with what the model says. It returns what came of it.
func (r *rig) check(t testing.TB, w *modelWorld, program string, f modelFrame) *modelEnd {
	t.Helper()
	have := r.run(t, program, &f)
	var want []*modelEnd
	switch program {
	case "fl_from_container":
		want = w.fromContainer(f)
	case "fl_from_wire":
		want = []*modelEnd{w.fromWire(f)}
	case "fl_to_container":
		want = []*modelEnd{w.leaving(f, etherSize, false)}
	case "fl_to_wire":
		want = []*modelEnd{w.leaving(f, etherSize, true)}
	case "fl_to_tunnel":
		want = []*modelEnd{w.leaving(f, 0, true)}
	}
	r.forget(t, w, have.flows)
	if !maps.Equal(have.conns, w.ports.conns) {
		r.connect(t, w.ports.conns)
	}
	for d := range have.pieces {
		if err := r.maps["fl_pieces"].Delete(d.encode()); err != nil {
			t.Fatalf("forget fragments: %v", err)
		}
	}
	for d, other := range w.ports.pieces {
		if err := r.maps["fl_pieces"].Put(d.encode(), other.encode()); err != nil {
			t.Fatalf("put fragments: %v", err)
		}
	}
	for _, one := range want {
		if one.String() == have.String() {
			return have
		}
	}
	t.Errorf("%s of link %d, mark %#x, segment %d, tag %#x:\n%s\n(- the program, + the model's, of %d)\n%s",
		program, f.link, f.mark, f.segment, f.tag, hex.Dump(f.bytes[:min(len(f.bytes), 192)]), len(want), cmp.Diff(strings.Split(have.String(), "\n"), strings.Split(want[0].String(), "\n")))
	return have
}

// forget makes the tables of flows what they were.
func (r *rig) forget(t testing.TB, w *modelWorld, flows map[modelFlow]bool) {
	t.Helper()
	for f := range flows {
		m := r.ofFamily("fl_flows", f.near)
		err := m.Delete(f.encode())
		if err == nil && w.flows[f] {
			err = m.Put(f.encode(), make([]byte, 8))
		}
		if err != nil {
			t.Fatalf("forget flow: %v", err)
		}
	}
}

// String has a line for each thing that can differ.
func (e *modelEnd) String() string {
	b := fmt.Appendf(nil, "verdict %d\nreasons %v\nmark %#x\ncarrier %#04x tagged %v\nsent %+v\ncounts %+v\nflows %v\nconns %v\npieces %v\n",
		e.verdict, e.reasons, e.mark, e.carrier, e.tagged, e.sent, e.counts, e.flows, e.conns, e.pieces)
	for i := 0; i < len(e.bytes); i += 16 {
		b = fmt.Appendf(b, "%04x %x\n", i, e.bytes[i:min(i+16, len(e.bytes))])
	}
	return string(b)
}
