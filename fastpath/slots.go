package fastpath

import (
	"fmt"
	"net/netip"

	"github.com/fairlead-net/fairlead/reconcile"
)

// errFull is a table or the counts without room. What is not wanted any more is pruned later in the same pass, so a row
// waits for that.
var errFull = fmt.Errorf("no room is left: %w", reconcile.ErrWaits)

// A row of the maps that counts: one of the fields is set.
type row struct {
	address netip.Addr
	side    uint32 // the link's number
	prefix  netip.Prefix
}

// kind is which of the fields is set.
func (r row) kind() int {
	switch {
	case r.address.IsValid():
		return 1
	case r.side != 0:
		return 2
	default:
		return 3
	}
}

// owner is who has a slot: a link, for its side and all addresses behind it, or a prefix.
type owner struct {
	link   uint32
	prefix netip.Prefix
}

// A claim is what a row in a map says: which slot it counts in, for whom.
type claim struct {
	owner owner
	slot  uint32
}

// slots gives every owner a number of its own in fl_counts, as long as a row of it is there.
//
// It knows nothing that the maps do not say: what was listed last counts, and what was written since.
type slots struct {
	size  uint32
	low   uint32           // none below is free
	owner map[uint32]owner // of each slot that is taken
	slot  map[owner]uint32
	held  map[owner]int // how many rows, written or about to be
	rows  map[row]owner
}

func newSlots(size uint32) *slots {
	return &slots{
		size: size, owner: make(map[uint32]owner), slot: make(map[owner]uint32), held: make(map[owner]int), rows: make(map[row]owner),
	}
}

// seen takes note of all rows of a kind, and tells which of them count where others do, or nowhere.
func (s *slots) seen(kind int, rows map[row]claim) (odd map[row]bool) {
	for r, o := range s.rows {
		if c, there := rows[r]; r.kind() == kind && (!there || c != claim{o, s.slot[o]}) {
			s.forget(r)
		}
	}
	odd = make(map[row]bool)
	for r, c := range rows {
		if _, known := s.rows[r]; known {
			continue
		}
		if !s.adopt(c) {
			odd[r] = true
			continue
		}
		s.held[c.owner]++
		s.rows[r] = c.owner
	}
	return odd
}

// adopt gives the owner the slot that it says it has. False: it can not have it.
func (s *slots) adopt(c claim) bool {
	has, owns := s.slot[c.owner]
	who, taken := s.owner[c.slot]
	if c.slot >= s.size || owns && has != c.slot || taken && who != c.owner {
		return false
	}
	s.slot[c.owner], s.owner[c.slot] = c.slot, c.owner
	return true
}

// hold is the slot of an owner, for a row that is about to be written: after that follows wrote, or drop when it could not
// be. A fresh one has counted for another before.
func (s *slots) hold(o owner) (slot uint32, fresh bool, err error) {
	slot, owns := s.slot[o]
	if !owns {
		if slot, err = s.free(); err != nil {
			return 0, false, err
		}
		s.slot[o], s.owner[slot] = slot, o
	}
	s.held[o]++
	return slot, !owns, nil
}

func (s *slots) free() (uint32, error) {
	for ; s.low < s.size; s.low++ {
		if _, taken := s.owner[s.low]; !taken {
			return s.low, nil
		}
	}
	return 0, fmt.Errorf("count a row: %w", errFull)
}

// wrote says that the row is in the map with the slot that was held for the owner.
func (s *slots) wrote(r row, o owner) {
	s.forget(r)
	s.rows[r] = o
}

// forget says that the row is in its map no more.
func (s *slots) forget(r row) {
	if o, known := s.rows[r]; known {
		delete(s.rows, r)
		s.drop(o)
	}
}

// drop ends one hold.
func (s *slots) drop(o owner) {
	if s.held[o]--; s.held[o] > 0 {
		return
	}
	slot := s.slot[o]
	delete(s.held, o)
	delete(s.slot, o)
	delete(s.owner, slot)
	s.low = min(s.low, slot)
}

// top is the number above the highest slot that is taken.
func (s *slots) top() (n uint32) {
	for slot := range s.owner {
		n = max(n, slot+1)
	}
	return n
}
