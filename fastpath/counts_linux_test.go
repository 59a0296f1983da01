package fastpath

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// ticked writes as if each processor had counted: n packets of 100 n bytes on the first, one more on each other.
func ticked(t *testing.T, tb *tables, slot uint32, n int) (sum Count) {
	t.Helper()
	each := make([]Count, ebpf.MustPossibleCPU())
	for i := range each {
		p := uint64(n + i)
		each[i] = Count{
			Out: Traffic{p, 100 * p}, In: Traffic{2 * p, 200 * p}, Kernel: Traffic{3 * p, 300 * p}, Drops: Traffic{4 * p, 400 * p},
		}
		sum.add(each[i])
	}
	mustBe(t, tb.all["fl_counts"].Put(slot, each))
	return sum
}

// TestCountsAreOfTheirRows, summed over the processors, and from zero for a row that is new.
func TestCountsAreOfTheirRows(t *testing.T) {
	r := newTableRig(t)
	r.endpoint("fla")
	r.endpoint("flb")
	tb := r.open(Sizes{})
	settle(t, tb.Endpoints(), map[netip.Addr]Endpoint{ip("10.88.0.1"): {Link: "fla"}, ip("10.88.0.2"): {Link: "flb"}})
	settle(t, tb.Routes(), map[netip.Prefix]Route{cidr("10.1.0.0/16"): {}, cidr("fd00::/8"): {}})
	slots := slotsIn(t, tb)
	want := Counts{
		Links:   map[string]Count{"fla": ticked(t, tb, slots["10.88.0.1"], 5), "flb": ticked(t, tb, slots["10.88.0.2"], 7)},
		Routes:  map[netip.Prefix]Count{cidr("10.1.0.0/16"): ticked(t, tb, slots["10.1.0.0/16"], 9), cidr("fd00::/8"): {}},
		Reasons: make(map[string]uint64),
	}
	for _, reason := range Reasons() {
		each := make([]uint64, ebpf.MustPossibleCPU())
		for i := range each {
			each[i] = uint64(10*int(reason) + i)
			want.Reasons[reason.String()] += each[i]
		}
		mustBe(t, tb.all["fl_reasons"].Put(uint32(reason), each))
	}
	counted(t, tb, want)
	counted(t, r.open(Sizes{}), want)
	settle(t, tb.Routes(), map[netip.Prefix]Route{cidr("fd00::/8"): {}})
	settle(t, tb.Routes(), map[netip.Prefix]Route{cidr("10.2.0.0/16"): {}, cidr("fd00::/8"): {}})
	if after := slotsIn(t, tb); after["10.2.0.0/16"] != slots["10.1.0.0/16"] {
		t.Fatalf("the slot is not given again, so nothing is shown: %v, %v", slots, after)
	}
	delete(want.Routes, cidr("10.1.0.0/16"))
	want.Routes[cidr("10.2.0.0/16")] = Count{}
	counted(t, tb, want)
}

func counted(t *testing.T, tb *tables, want Counts) {
	t.Helper()
	have, err := tb.Counts(t.Context())
	mustBe(t, err)
	if diff := cmp.Diff(want, have, cmpopts.EquateComparable(netip.Prefix{})); diff != "" {
		t.Errorf("counts (-want +have):\n%s", diff)
	}
}

// TestManyRowsAreZeroedTogether, more than one call takes.
func TestManyRowsAreZeroedTogether(t *testing.T) {
	r := newTableRig(t)
	tb := r.open(Sizes{Endpoints: 10, Routes: 3 * together, Flows: 10})
	rows := make(map[netip.Prefix]Route)
	for i := range 2*together + 10 {
		rows[netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i)}), 24)] = Route{}
		ticked(t, tb, uint32(i), i+1)
	}
	none(t, bulk(t, tb.Routes())(rows))
	have, err := tb.Counts(t.Context())
	mustBe(t, err)
	maps.DeleteFunc(have.Routes, func(_ netip.Prefix, c Count) bool { return c == Count{} })
	if len(have.Routes) != 0 {
		t.Errorf("%d routes have counted what others did", len(have.Routes))
	}
}

func TestMemoryIsWhatTheKernelAccounts(t *testing.T) {
	r := newTableRig(t)
	little, err := r.open(Sizes{Endpoints: 16, Routes: 16, Flows: 16, Connections: 16}).Memory()
	mustBe(t, err)
	much, err := newTableRig(t).open(Sizes{Endpoints: 4096, Routes: 8192, Flows: 65536}).Memory()
	mustBe(t, err)
	t.Logf("%d and %d bytes", little, much)
	// A flow's entry has 24 bytes at the least, and each processor counts 64 for each row.
	if least := uint64(65536*24*2 + 12288*64*ebpf.MustPossibleCPU()); much < least || little > much/4 {
		t.Errorf("%d bytes with few entries and %d with many, at least %d", little, much, least)
	}
}

// TestMapsWithoutBatches are read and written one by one: a hash of devices has none on any kernel.
func TestMapsWithoutBatches(t *testing.T) {
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.DevMapHash, KeySize: 4, ValueSize: 4, MaxEntries: 3})
	mustBe(t, err)
	defer m.Close()
	c := cells[uint32, uint32]{m}
	if _, err := m.BatchUpdate([]uint32{1}, []uint32{1}, nil); !errors.Is(err, ebpf.ErrNotSupported) {
		t.Fatalf("this map has batches: %v", err)
	}
	const lo = 1 // of every network namespace
	mustBe(t, c.write(t.Context(), []uint32{1, 2, 3}, []uint32{lo, lo, lo})...)
	have, err := c.read(t.Context())
	mustBe(t, err)
	if diff := cmp.Diff(map[uint32]uint32{1: lo, 2: lo, 3: lo}, have); diff != "" {
		t.Error(diff)
	}
	if errs := c.write(t.Context(), []uint32{3, 4}, []uint32{lo, lo}); errs[0] != nil || !errors.Is(errs[1], errFull) {
		t.Errorf("into a full one: %v", errs)
	}
	mustBe(t, c.erase(t.Context(), []uint32{1, 9, 3})...)
	have, err = c.read(t.Context())
	mustBe(t, err)
	if fmt.Sprint(have) != "map[2:1]" {
		t.Errorf("left: %v", have)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.read(ended); !errors.Is(err, context.Canceled) {
		t.Errorf("read: %v", err)
	}
	if errs := c.erase(ended, []uint32{2}); !errors.Is(errs[0], context.Canceled) {
		t.Errorf("erase: %v", errs)
	}
}
