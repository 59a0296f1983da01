package ipam

import (
	"container/heap"
	"net/netip"
	"time"
)

// shelf is what one pool can hand out on this node: addresses that nobody had, and those that rest.
type shelf struct {
	pool     Pool
	block    netip.Prefix // zero while there is none
	reserved []netip.Prefix
	fresh    netip.Addr // below it, every address of the block is leased, resting or reserved; zero: up to the end
	rests    restHeap
}

func newShelf(p Pool, block netip.Prefix) *shelf {
	s := &shelf{pool: p, block: block}
	if block.IsValid() {
		s.reserved = reserved(block, p.Reserve)
		s.fresh = block.Addr()
	}
	return s
}

// has tells whether a is one of the addresses that this shelf can ever hand out.
func (s *shelf) has(a netip.Addr) bool {
	if !s.block.IsValid() || !s.block.Contains(a) {
		return false
	}
	_, no := s.reservation(a)
	return !no
}

func (s *shelf) reservation(a netip.Addr) (netip.Prefix, bool) {
	for _, r := range s.reserved {
		if r.Contains(a) {
			return r, true
		}
	}
	return netip.Prefix{}, false
}

// never finds the lowest address that nobody had. Addresses that it passes are not looked at again before one of them
// is put back by unmark.
func (s *shelf) never(known func(netip.Addr) bool) (netip.Addr, bool) {
	for s.fresh.IsValid() && s.block.Contains(s.fresh) {
		if r, no := s.reservation(s.fresh); no {
			s.fresh = last(r).Next()
		} else if known(s.fresh) {
			s.fresh = s.fresh.Next()
		} else {
			return s.fresh, true
		}
	}
	s.fresh = netip.Addr{}
	return netip.Addr{}, false
}

// unmark tells the shelf that a is again an address that nobody had.
func (s *shelf) unmark(a netip.Addr) {
	if !s.fresh.IsValid() || a.Less(s.fresh) {
		s.fresh = a
	}
}

// rested is the address that was given back first, when its rest is over.
func (s *shelf) rested(now time.Time) (*rest, bool) {
	if len(s.rests) == 0 {
		return nil, false
	}
	r := s.rests[0]
	return r, s.left(r, now) <= 0
}

// left is how long r still has to rest.
func (s *shelf) left(r *rest, now time.Time) time.Duration {
	if now.Before(r.Freed) { // the clock was set back: the rest begins again, rather than last until it catches up
		r.Freed = now
	}
	return r.Freed.Add(s.pool.ReuseDelay).Sub(now)
}

func (s *shelf) lay(r *rest) {
	r.home = s
	heap.Push(&s.rests, r)
}

// lift takes r off the shelf that it lies on, if it lies on one.
func (r *rest) lift() {
	if r.home != nil {
		heap.Remove(&r.home.rests, r.index)
		r.home = nil
	}
}

// restHeap has the rest that began first on top.
type restHeap []*rest

func (h restHeap) Len() int           { return len(h) }
func (h restHeap) Less(i, j int) bool { return h[i].Seq < h[j].Seq }
func (h restHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

// Push and Pop are heap.Interface's.
func (h *restHeap) Push(x any) {
	r := x.(*rest)
	r.index = len(*h)
	*h = append(*h, r)
}

func (h *restHeap) Pop() any {
	n := len(*h) - 1
	r := (*h)[n]
	(*h)[n] = nil
	*h = (*h)[:n]
	return r
}
