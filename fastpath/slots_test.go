package fastpath

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"testing"

	"pgregory.net/rapid"

	"github.com/fairlead-net/fairlead/reconcile"
)

// kernelRows is a model of the maps: what each row says.
type kernelRows map[row]claim

// of is the rows of a kind, as they are listed.
func (k kernelRows) of(kind int) map[row]claim {
	part := maps.Clone(k)
	maps.DeleteFunc(part, func(r row, _ claim) bool { return r.kind() != kind })
	return part
}

// check says what is wrong: an owner with two slots, or a slot with two owners.
func (k kernelRows) check(t *rapid.T) {
	owners, slots := make(map[uint32]owner), make(map[owner]uint32)
	for r, c := range k {
		if o, taken := owners[c.slot]; taken && o != c.owner {
			t.Fatalf("%v: slot %d is of %v and of %v", r, c.slot, o, c.owner)
		}
		if s, has := slots[c.owner]; has && s != c.slot {
			t.Fatalf("%v: %v has the slots %d and %d", r, c.owner, s, c.slot)
		}
		owners[c.slot], slots[c.owner] = c.owner, c.slot
	}
}

func drawRow(t *rapid.T) (row, owner) {
	n := rapid.Uint32Range(1, 6).Draw(t, "row")
	link := rapid.Uint32Range(1, 4).Draw(t, "link")
	switch rapid.IntRange(1, 3).Draw(t, "kind") {
	case 1:
		return row{address: netip.AddrFrom4([4]byte{10, 0, 0, byte(n)})}, owner{link: link}
	case 2:
		return row{side: link}, owner{link: link}
	default:
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(n), 0, 0}), 16)
		return row{prefix: p}, owner{prefix: p}
	}
}

// TestSlotsAreNeverDoubled writes, loses and lists rows in any order, with writes that fail and daemons that start anew.
func TestSlotsAreNeverDoubled(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.Uint32Range(1, 12).Draw(t, "size")
		kernel, s := make(kernelRows), newSlots(size)
		zeroed := make(map[uint32]owner) // whose counts are in a slot
		t.Repeat(map[string]func(*rapid.T){
			"put": func(t *rapid.T) {
				r, o := drawRow(t)
				slot, fresh, err := s.hold(o)
				if err != nil {
					if !errors.Is(err, reconcile.ErrWaits) || len(s.owner) < int(size) {
						t.Fatalf("%d of %d: %v", len(s.owner), size, err)
					}
					return
				}
				if fresh {
					zeroed[slot] = o
				}
				if rapid.Bool().Draw(t, "fails") {
					s.drop(o)
					return
				}
				kernel[r] = claim{o, slot}
				s.wrote(r, o)
			},
			"delete": func(t *rapid.T) {
				r, _ := drawRow(t)
				delete(kernel, r)
				s.forget(r)
			},
			"others delete": func(t *rapid.T) {
				r, _ := drawRow(t)
				delete(kernel, r)
			},
			"list": func(t *rapid.T) {
				kind := rapid.IntRange(1, 3).Draw(t, "kind")
				if odd := s.seen(kind, kernel.of(kind)); len(odd) > 0 {
					t.Fatalf("odd: %v", odd)
				}
			},
			"restart": func(t *rapid.T) {
				s = newSlots(size)
				for kind := 1; kind <= 3; kind++ {
					if odd := s.seen(kind, kernel.of(kind)); len(odd) > 0 {
						t.Fatalf("odd after a start: %v", odd)
					}
				}
			},
			"": func(t *rapid.T) {
				kernel.check(t)
				for r, c := range kernel {
					if c.slot >= size || zeroed[c.slot] != c.owner {
						t.Fatalf("%v counts in slot %d, which has what %v counted", r, c.slot, zeroed[c.slot])
					}
				}
			},
		})
	})
}

// TestOddSlotsAreFound: rows that somebody else wrote, or that are of a time when there was more room.
func TestOddSlotsAreFound(t *testing.T) {
	link := func(n uint32) owner { return owner{link: n} }
	address := func(n byte) row { return row{address: netip.AddrFrom4([4]byte{10, 0, 0, n})} }
	s := newSlots(4)
	if odd := s.seen(2, map[row]claim{{side: 1}: {link(1), 0}, {side: 2}: {link(2), 4}}); fmt.Sprint(odd) != fmt.Sprint(map[row]bool{{side: 2}: true}) {
		t.Errorf("beyond the room: %v", odd)
	}
	if odd := s.seen(1, map[row]claim{address(1): {link(1), 3}, address(2): {link(1), 0}, address(3): {link(3), 0}}); len(odd) != 2 || odd[address(2)] {
		t.Errorf("not that of the link, and that of another: %v", odd)
	}
	slot, fresh, err := s.hold(link(3))
	if slot != 1 || !fresh || err != nil {
		t.Errorf("mended with %d, %v, %v", slot, fresh, err)
	}
}
