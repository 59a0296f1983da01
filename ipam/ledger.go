package ipam

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/fairlead-net/fairlead/store"
)

// Ledger knows who holds which address of this node, and hands out the others.
//
// Its index is in memory and is rebuilt from the store at start. A change is first planned in memory, which takes
// microseconds and a mutex, then made durable together with those of other callers, and only then answered. When the
// commit fails the plan is undone. Its methods can be called by many goroutines at once.
type Ledger struct {
	db  *store.DB
	now func() time.Time

	mu     sync.Mutex
	pools  map[string]*shelf // by name
	limbo  *shelf            // rests that no pool hands out any more
	blocks map[string]netip.Prefix
	holds  map[string]string // why a pool hands out nothing, by name
	leases map[netip.Addr]*entry
	owners map[string]map[string]*entry // by owner and pool
	rests  map[netip.Addr]*rest
	seq    uint64
	busy   map[string]chan struct{} // owners and pools of which a change is on its way to the disk
}

// state is how far the disk knows a lease.
type state uint8

const (
	held    state = iota
	pending       // on its way to the disk
	leaving       // its end is on its way to the disk
)

type entry struct {
	Lease
	state state
	prior *rest // what a pending lease was taken from; nil: nobody had the address
}

const (
	maxRests  = 1 << 16        // records of freed addresses per pool, so that a huge block can not fill the disk
	limboRest = 24 * time.Hour // how long an address without a pool is remembered; its pool may come back
)

// NewLedger reads the ledger that db keeps. It knows no pools before SetPools.
func NewLedger(db *store.DB, now func() time.Time) (*Ledger, error) {
	l := &Ledger{
		db:     db,
		now:    now,
		blocks: map[string]netip.Prefix{},
		holds:  map[string]string{},
		leases: map[netip.Addr]*entry{},
		owners: map[string]map[string]*entry{},
		rests:  map[netip.Addr]*rest{},
		busy:   map[string]chan struct{}{},
	}
	if err := db.View(l.load); err != nil {
		return nil, fmt.Errorf("read leases: %w", err)
	}
	l.shelve(nil)
	return l, nil
}

// SetPools replaces the pools. Leases outside of them all are kept and listed. A bad pool changes nothing.
func (l *Ledger) SetPools(pools []Pool) error {
	for i, p := range pools {
		if err := p.check(); err != nil {
			return fmt.Errorf("set pools: %w", err)
		}
		for _, other := range pools[:i] {
			if other.Name == p.Name {
				return fmt.Errorf("set pools: pool %s is there twice", p.Name)
			}
			if other.CIDR.Overlaps(p.CIDR) {
				return fmt.Errorf("set pools: pool %s (%s) overlaps pool %s (%s)", p.Name, p.CIDR, other.Name, other.CIDR)
			}
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.shelve(pools)
	return nil
}

// shelve sorts everything that can be handed out by pool.
func (l *Ledger) shelve(pools []Pool) {
	l.pools = make(map[string]*shelf, len(pools))
	for _, p := range pools {
		l.pools[p.Name] = newShelf(p, l.blockOf(p))
	}
	l.limbo = newShelf(Pool{ReuseDelay: limboRest}, netip.Prefix{})
	for _, r := range l.rests {
		l.shelfAt(r.Address).lay(r)
	}
}

func (l *Ledger) blockOf(p Pool) netip.Prefix {
	if p.Block.IsValid() {
		return p.Block
	}
	if picked := l.blocks[p.Name]; picked.IsValid() && within(picked, p.CIDR) {
		return picked
	}
	return netip.Prefix{}
}

// shelfAt is the shelf that hands out a.
func (l *Ledger) shelfAt(a netip.Addr) *shelf {
	for _, s := range l.pools {
		if s.has(a) {
			return s
		}
	}
	return l.limbo
}

// Claim makes a picked block this node's own, durably. It is refused when the configuration names another one, and
// when leases exist in the block that the node has.
func (l *Ledger) Claim(ctx context.Context, pool string, block netip.Prefix) error {
	if err := l.claim(ctx, pool, block); err != nil {
		return fmt.Errorf("claim block %s of pool %q: %w", block, pool, err)
	}
	return nil
}

func (l *Ledger) claim(ctx context.Context, pool string, block netip.Prefix) error {
	// While the pool is busy nobody picks from it, so no lease appears in the old block meanwhile.
	release, err := l.seize(ctx, []string{poolKey(pool)}, nil)
	if err != nil {
		return err
	}
	defer release()
	if done, err := l.mayClaim(pool, block); done || err != nil {
		return err
	}
	err = l.db.Update(ctx, func(tx *store.Tx) error { return blockBucket().Put(tx, pool, block) })
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.blocks[pool] = block
	l.shelve(l.configured())
	return nil
}

// mayClaim finds reasons against a claim, or that nothing is to be done.
func (l *Ledger) mayClaim(pool string, block netip.Prefix) (done bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s, ok := l.pools[pool]
	switch {
	case !ok:
		return false, l.noPool()
	case !block.IsValid() || !within(block, s.pool.CIDR):
		return false, fmt.Errorf("%w: it is not inside %s", ErrForeign, s.pool.CIDR)
	case s.pool.Block == block || !s.pool.Block.IsValid() && l.blocks[pool] == block:
		return true, nil
	case s.pool.Block.IsValid():
		return false, fmt.Errorf("%w: the configuration says block = %q", ErrForeign, s.pool.Block)
	}
	for _, e := range l.leases {
		if s.block.IsValid() && s.block.Contains(e.Address) {
			return false, fmt.Errorf("%w: %s of the present block %s is held by %q: detach it first",
				ErrTaken, e.Address, s.block, e.Owner)
		}
	}
	return false, nil
}

func (l *Ledger) configured() []Pool {
	pools := make([]Pool, 0, len(l.pools))
	for _, s := range l.pools {
		pools = append(pools, s.pool)
	}
	return pools
}

func (l *Ledger) noPool() error {
	names := slices.Sorted(maps.Keys(l.pools))
	if len(names) == 0 {
		return fmt.Errorf("%w: no [[pool]] is configured", ErrNoPool)
	}
	return fmt.Errorf("%w: the pools are %s", ErrNoPool, strings.Join(names, ", "))
}

// Hold stops handing out from a pool, for a reason that the refused are told; "" goes on. Leases that exist stay.
func (l *Ledger) Hold(pool, reason string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if reason == "" {
		delete(l.holds, pool)
	} else {
		l.holds[pool] = reason
	}
}

// Leases are all leases that the disk has, by address, also those outside of every pool.
func (l *Ledger) Leases() []Lease {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := make([]Lease, 0, len(l.leases))
	for _, e := range l.leases {
		if e.state != pending {
			all = append(all, e.Lease)
		}
	}
	slices.SortFunc(all, func(a, b Lease) int { return a.Address.Compare(b.Address) })
	return all
}

// Outside are the leases that lie in no block of this node when its pools are these, by address. Nobody announces them.
func (l *Ledger) Outside(pools []Pool) []Lease {
	l.mu.Lock()
	var blocks []netip.Prefix
	for _, p := range pools {
		if b := l.blockOf(p); b.IsValid() {
			blocks = append(blocks, b)
		}
	}
	l.mu.Unlock()
	return slices.DeleteFunc(l.Leases(), func(held Lease) bool {
		return slices.ContainsFunc(blocks, func(b netip.Prefix) bool { return b.Contains(held.Address) })
	})
}

// Usage is how much of this node's block of a pool is in use, in addresses.
type Usage struct {
	Pool     string
	Block    netip.Prefix // zero while there is none
	Size     int          // a block that has more counts as math.MaxInt
	Reserved int
	Leased   int
	Resting  int
	Held     string // why nothing is handed out; "" when all is well
}

// Usage tells it for every pool, by name.
func (l *Ledger) Usage() []Usage {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := make([]Usage, 0, len(l.pools))
	for name, s := range l.pools {
		all = append(all, l.usage(name, s))
	}
	slices.SortFunc(all, func(a, b Usage) int { return cmp.Compare(a.Pool, b.Pool) })
	return all
}

func (l *Ledger) usage(name string, s *shelf) Usage {
	u := Usage{Pool: name, Block: s.block, Held: l.holds[name]}
	if !s.block.IsValid() {
		return u
	}
	u.Size = size(s.block)
	for _, r := range s.reserved {
		u.Reserved += min(size(r), math.MaxInt-u.Reserved)
	}
	for a := range l.leases {
		if s.block.Contains(a) {
			u.Leased++
		}
	}
	now := l.now()
	for _, r := range s.rests {
		if s.left(r, now) > 0 {
			u.Resting++
		}
	}
	return u
}
