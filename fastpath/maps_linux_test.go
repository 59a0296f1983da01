package fastpath

import (
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"
)

// populated puts rows of each kind, and flows, and returns what a daemon that comes later must find.
func populated(t *testing.T, r tableRig, tb *tables) (check func(t *testing.T, tb *tables)) {
	t.Helper()
	r.endpoint("fla")
	r.uplink()
	endpoints := map[netip.Addr]Endpoint{ip("10.88.0.1"): {Link: "fla", MTU: 1500}, ip("fd00::1"): {Link: "fla", MTU: 1500}}
	sides := map[string]Side{"fla": {}}
	routes := map[netip.Prefix]Route{cidr("10.1.0.0/16"): direct("192.0.2.2"), cidr("fd00:1::/64"): direct("fe80::1")}
	nodes := map[netip.Addr]Node{ip("192.0.2.2"): {}}
	settings := map[string]Settings{SettingsKey: {Flags: TakesIPIP}}
	settle(t, tb.Endpoints(), endpoints)
	settle(t, tb.Sides(), sides)
	settle(t, tb.Routes(), routes)
	settle(t, tb.Nodes(), nodes)
	settle(t, tb.Settings(), settings)
	want := flows(t, tb, 20)
	slots := slotsIn(t, tb)
	ticked(t, tb, slots["10.88.0.1"], 5)
	counts, err := tb.Counts(t.Context())
	mustBe(t, err)
	return func(t *testing.T, tb *tables) {
		t.Helper()
		holds(t, tb.Endpoints(), endpoints)
		holds(t, tb.Sides(), sides)
		holds(t, tb.Routes(), routes)
		holds(t, tb.Nodes(), nodes)
		holds(t, tb.Settings(), settings)
		if have := flowsIn(t, tb); !maps.Equal(want, have) {
			t.Errorf("flows %v, want %v", have, want)
		}
		if diff := cmp.Diff(slots, slotsIn(t, tb)); diff != "" {
			t.Errorf("slots (-want +have):\n%s", diff)
		}
		counted(t, tb, counts)
	}
}

// flows notes so many flows.
func flows(t *testing.T, tb *tables, n int) map[[16]byte]uint64 {
	t.Helper()
	want := make(map[[16]byte]uint64)
	for i := range n {
		key := [16]byte{10, 88, 0, 1, 192, 0, 2, byte(i)}
		want[key] = uint64(1000 + i)
		mustBe(t, tb.all["fl_flows4"].Put(key, want[key]))
	}
	return want
}

func flowsIn(t *testing.T, tb *tables) map[[16]byte]uint64 {
	t.Helper()
	have, err := cells[[16]byte, uint64]{tb.all["fl_flows4"]}.read(t.Context())
	mustBe(t, err)
	return have
}

// pinned is the ids of the maps by their pins.
func (r tableRig) pinned() map[string]ebpf.MapID {
	r.t.Helper()
	entries, err := os.ReadDir(r.dir())
	mustBe(r.t, err)
	ids := make(map[string]ebpf.MapID)
	for _, e := range entries {
		m, err := ebpf.LoadPinnedMap(filepath.Join(r.dir(), e.Name()), nil)
		mustBe(r.t, err)
		info, err := m.Info()
		mustBe(r.t, err)
		ids[e.Name()], _ = info.ID()
		mustBe(r.t, m.Close())
	}
	return ids
}

func TestMapsAreAdopted(t *testing.T) {
	r := newTableRig(t)
	tb := r.open(Sizes{})
	check := populated(t, r, tb)
	before := r.pinned()
	mustBe(t, tb.close())
	for range 3 {
		tb := r.open(Sizes{})
		check(t, tb)
		if len(tb.moved) != 0 {
			t.Errorf("moved: %v", tb.moved)
		}
		settle(t, tb.Routes(), map[netip.Prefix]Route{cidr("10.1.0.0/16"): direct("192.0.2.2"), cidr("fd00:1::/64"): direct("fe80::1")})
		mustBe(t, tb.close())
	}
	if diff := cmp.Diff(before, r.pinned()); diff != "" {
		t.Errorf("pins (-before +after):\n%s", diff)
	}
	if len(before) != len(tb.all) && len(before) < 12 {
		t.Errorf("pinned: %v", before)
	}
}

// TestMapsOfAnotherSizeAreMadeAnew with what was in them, and without what does not fit any more.
func TestMapsOfAnotherSizeAreMadeAnew(t *testing.T) {
	r := newTableRig(t)
	first := r.open(Sizes{Endpoints: 16, Routes: 16, Flows: 1024})
	check := populated(t, r, first)
	second := r.open(Sizes{Endpoints: 32, Routes: 8, Flows: 2048})
	check(t, second)
	if len(second.moved) != 10 || len(second.old) != 10 {
		t.Errorf("moved: %v", second.moved)
	}
	for _, m := range second.moved {
		if m.Map != "fl_counts" && m.Lost != 0 || !strings.Contains(m.String(), "MaxEntries: ") {
			t.Error(m)
		}
	}
	noted := [16]byte{10, 88, 0, 9}
	mustBe(t, first.all["fl_flows4"].Put(noted, uint64(7))) // by a program that is not replaced yet
	mustBe(t, second.catchUp())
	if have := flowsIn(t, second); have[noted] != 7 || len(have) != 21 || len(second.old) != 0 {
		t.Errorf("%d flows, with the late one at %d", len(have), have[noted])
	}
	mustBe(t, second.catchUp())
	few := r.open(Sizes{Endpoints: 1, Routes: 1, Flows: 2048})
	lost := make(map[string]int)
	for _, m := range few.moved {
		lost[m.Map] = m.Lost
	}
	if want := map[string]int{"fl_sides": 0, "fl_endpoints4": 0, "fl_endpoints6": 0, "fl_routes4": 0, "fl_routes6": 0, "fl_nodes4": 0, "fl_nodes6": 0, "fl_counts": 38}; !maps.Equal(lost, want) {
		t.Errorf("lost %v, want %v", lost, want)
	}
	// There is room for two owners of slots, and three rows: the third waits, and no two share a slot.
	have, err := few.Routes().List(t.Context())
	mustBe(t, err)
	odd := 0
	for _, route := range have {
		if route.Fault == FaultSlot {
			odd++
		}
	}
	if odd != 1 || len(have) != 2 {
		t.Errorf("routes with two slots for one more: %v", have)
	}
}

// TestRowsThatHaveNoRoomAreLost and said to be.
func TestRowsThatHaveNoRoomAreLost(t *testing.T) {
	r := newTableRig(t)
	tb := r.open(Sizes{Endpoints: 8, Routes: 64, Flows: 1024})
	rows := make(map[netip.Addr]Node)
	for i := range 40 {
		rows[netip.AddrFrom4([4]byte{192, 0, 2, byte(i)})] = Node{}
	}
	settle(t, tb.Nodes(), rows)
	less := r.open(Sizes{Endpoints: 8, Routes: 10, Flows: 1024})
	i := slices.IndexFunc(less.moved, func(m Moved) bool { return m.Map == "fl_nodes4" })
	if i < 0 || less.moved[i].Kept != 10 || less.moved[i].Lost != 30 {
		t.Errorf("moved: %v", less.moved)
	}
	have, err := less.Nodes().List(t.Context())
	mustBe(t, err)
	if len(have) != 10 {
		t.Errorf("%d nodes", len(have))
	}
}

// TestMapsOfAnotherLayoutAreMadeAnew: whatever is different, also where the sizes are the same.
func TestMapsOfAnotherLayoutAreMadeAnew(t *testing.T) {
	for name, change := range map[string]func(spec *ebpf.MapSpec){
		"larger values":  func(spec *ebpf.MapSpec) { spec.ValueSize, spec.Value = 64, nil },
		"smaller keys":   func(spec *ebpf.MapSpec) { spec.KeySize, spec.Key = 4, nil },
		"another kind":   func(spec *ebpf.MapSpec) { spec.Type = ebpf.LRUHash; spec.Flags = 0 },
		"nobody can say": func(spec *ebpf.MapSpec) { spec.Key, spec.Value = nil, nil },
		"a field moved":  func(spec *ebpf.MapSpec) { swap(t, spec) },
	} {
		t.Run(name, func(t *testing.T) {
			r := newTableRig(t)
			tb := r.open(Sizes{})
			spec, err := loadDatapath()
			mustBe(t, err)
			want := spec.Maps["fl_endpoints6"].Copy()
			other := want.Copy()
			change(other)
			m, err := ebpf.NewMap(other)
			mustBe(t, err)
			defer m.Close()
			mustBe(t, m.Put(make([]byte, m.KeySize()), make([]byte, m.ValueSize())))
			path := filepath.Join(r.dir(), "fl_endpoints6")
			mustBe(t, tb.close(), os.Remove(path), m.Pin(path))
			next := r.open(Sizes{})
			if len(next.moved) != 1 || next.moved[0].Lost != 1 || next.moved[0].Kept != 0 || next.moved[0].Why == "" {
				t.Errorf("moved: %v", next.moved)
			}
			t.Log(next.moved)
			if diff := differs(next.all["fl_endpoints6"], want); diff != "" {
				t.Error(diff)
			}
			holds(t, next.Endpoints(), nil)
			if again := r.open(Sizes{}); len(again.moved) != 0 {
				t.Errorf("moved again: %v", again.moved)
			}
		})
	}
}

// swap gives the first two fields of the value each other's name.
func swap(t *testing.T, spec *ebpf.MapSpec) {
	t.Helper()
	members := structOf(t, spec.Value).Members
	members[0].Name, members[1].Name = members[1].Name, members[0].Name
}

// TestPinsThatAreNoMapsAreReplaced, and what somebody who was killed left beside them goes.
func TestPinsThatAreNoMapsAreReplaced(t *testing.T) {
	r := newTableRig(t)
	tb := r.open(Sizes{})
	before := r.pinned()
	path := filepath.Join(r.dir(), "fl_nodes4")
	stale, err := tb.all["fl_sides"].Clone()
	mustBe(t, err)
	mustBe(t, stale.Pin(path+beside), os.Remove(path), os.Mkdir(path, 0o700), stale.Close())
	tb, err = r.tryOpen(Sizes{})
	mustBe(t, err)
	t.Cleanup(func() { mustBe(t, tb.close()) })
	after := r.pinned()
	if before["fl_nodes4"] == after["fl_nodes4"] || len(before) != len(after) {
		t.Errorf("pins before %v, after %v", before, after)
	}
	settle(t, tb.Nodes(), map[netip.Addr]Node{ip("192.0.2.2"): {}})
}

// TestPinsThatAreTakenAwayComeBack with the next pass, so that the next daemon finds all.
func TestPinsThatAreTakenAwayComeBack(t *testing.T) {
	for name, take := range map[string]func(dir string) error{
		"all": os.RemoveAll,
		"one": func(dir string) error { return os.Remove(filepath.Join(dir, "fl_flows4")) },
		"one's name": func(dir string) error {
			return os.Rename(filepath.Join(dir, "fl_nodes6"), filepath.Join(dir, "fl_nodes4"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newTableRig(t)
			tb := r.open(Sizes{})
			check := populated(t, r, tb)
			before := r.pinned()
			mustBe(t, take(r.dir()))
			have, err := tb.Settings().List(t.Context())
			mustBe(t, err)
			if have[SettingsKey].Fault != FaultPins {
				t.Errorf("settings: %v", have)
			}
			settle(t, tb.Settings(), map[string]Settings{SettingsKey: {Flags: TakesIPIP}})
			if diff := cmp.Diff(before, r.pinned()); diff != "" {
				t.Errorf("pins (-before +after):\n%s", diff)
			}
			mustBe(t, tb.close())
			check(t, r.open(Sizes{}))
		})
	}
}
