package nat

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/fairlead-net/fairlead/store"
)

// Errors of orders; each is wrapped with the facts.
var (
	ErrNoPort     = errors.New("no port is free")
	ErrNotMapped  = errors.New("port is not published")
	ErrConfigured = errors.New("port belongs to the config")
)

// Holder keeps other programs from binding ports.
type Holder interface {
	Claim(ctx context.Context, ports ...Port) error // all or none
	Settle(ports ...Port)                           // the claimed ports are kept
	Release(ports ...Port)                          // they are not, and are free again
}

// Book knows who has which port of this host. What it has is on the disk; what is being decided is in drafts. Its methods
// can be called by many goroutines at once, but two drafts of one owner exclude each other.
type Book struct {
	db    *store.DB
	holds Holder
	now   func() time.Time
	draw  func(below int) int // a number at random

	mu   sync.Mutex
	kept map[Port]Mapping
	near map[spot][]Port // the keys of kept that could be for the same packet
	busy map[Port]string // ports of drafts, with whose they will be
}

// spot is where ports overlap or not by their addresses alone.
type spot struct {
	proto  string
	number uint16
	is4    bool
}

func (p Port) spot() spot { return spot{p.Proto, p.Number, p.IP.Is4()} }

// NewBook reads the book that db keeps. Ports that nobody names are drawn by draw, such as rand.IntN.
func NewBook(db *store.DB, holds Holder, now func() time.Time, draw func(below int) int) (*Book, error) {
	b := &Book{
		db: db, holds: holds, now: now, draw: draw,
		kept: make(map[Port]Mapping), near: make(map[spot][]Port), busy: make(map[Port]string),
	}
	err := db.View(func(tx *store.Tx) error {
		for key, m := range mappings().All(tx) {
			if key != m.Port.String() || m.Owner == "" || m.Target == 0 {
				return fmt.Errorf("port %s is of %s, owner %q: %w", key, m.Port, m.Owner, store.ErrCorrupt)
			}
			b.keep(m)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read ports: %w", err)
	}
	return b, nil
}

func (b *Book) keep(m Mapping) {
	if _, there := b.kept[m.Port]; !there {
		b.near[m.Port.spot()] = append(b.near[m.Port.spot()], m.Port)
	}
	b.kept[m.Port] = m
}

func (b *Book) lose(p Port) {
	delete(b.kept, p)
	at := slices.DeleteFunc(b.near[p.spot()], func(o Port) bool { return o == p })
	if b.near[p.spot()] = at; len(at) == 0 {
		delete(b.near, p.spot())
	}
}

// All is every mapping that the disk has, by port.
func (b *Book) All() []Mapping { return b.those(func(Mapping) bool { return true }) }

// Of is an owner's mappings, by port.
func (b *Book) Of(owner string) []Mapping {
	return b.those(func(m Mapping) bool { return m.Owner == owner })
}

func (b *Book) those(wanted func(Mapping) bool) (all []Mapping) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, m := range b.kept {
		if wanted(m) {
			all = append(all, m)
		}
	}
	slices.SortFunc(all, func(x, y Mapping) int { return x.Port.Compare(y.Port) })
	return all
}

// Restore takes over mappings that were found at work after the store was lost. A pass holds their ports.
func (b *Book) Restore(all []Mapping) *Draft {
	d := b.draft()
	d.puts = all
	return d
}

// Draft is a change of the book that is not decided yet. The ports that it is to get are held already.
type Draft struct {
	b       *Book
	puts    []Mapping
	drops   []Port
	marked  []Port    // in busy
	claimed []Port    // held for the first time
	before  []Mapping // what puts and drops were, once they are decided
}

func (b *Book) draft() *Draft { return &Draft{b: b} }

// Empty tells whether the draft changes nothing.
func (d *Draft) Empty() bool { return len(d.puts)+len(d.drops) == 0 }

// Write makes the change part of a transaction. It may be called more than once.
func (d *Draft) Write(tx *store.Tx) error {
	for _, p := range d.drops {
		if err := mappings().Delete(tx, p.String()); err != nil {
			return fmt.Errorf("drop port %s: %w", p, err)
		}
	}
	for _, m := range d.puts {
		if err := mappings().Put(tx, m.Port.String(), m); err != nil {
			return fmt.Errorf("keep port %s: %w", m.Port, err)
		}
	}
	return nil
}

// End decides the draft: err is what the commit of Write gave. A draft that is not written must be ended too.
func (d *Draft) End(err error) {
	d.b.mu.Lock()
	if err == nil {
		for _, p := range d.drops {
			d.remember(p)
			d.b.lose(p)
		}
		for _, m := range d.puts {
			d.remember(m.Port)
			d.b.keep(m)
		}
	}
	for _, p := range d.marked {
		delete(d.b.busy, p)
	}
	d.b.mu.Unlock()
	if err == nil {
		d.b.holds.Settle(d.claimed...)
	} else {
		d.b.holds.Release(d.claimed...)
	}
	d.marked, d.claimed = nil, nil
}

func (d *Draft) remember(p Port) {
	if m, there := d.b.kept[p]; there {
		d.before = append(d.before, m)
	}
}

// Reverse is the draft that takes back one that was committed, as far as nobody has changed since what it did.
func (d *Draft) Reverse() *Draft {
	back := d.b.draft()
	d.b.mu.Lock()
	defer d.b.mu.Unlock()
	for _, m := range d.puts {
		old := slices.IndexFunc(d.before, func(was Mapping) bool { return was.Port == m.Port })
		switch {
		case d.b.kept[m.Port] != m || !back.markLocked(m.Port, m.Owner):
		case old >= 0:
			back.puts = append(back.puts, d.before[old])
		default:
			back.drops = append(back.drops, m.Port)
		}
	}
	for _, was := range d.before {
		if slices.Contains(d.drops, was.Port) && !d.b.inTheWay(was.Port, back.drops) && back.markLocked(was.Port, was.Owner) {
			back.puts = append(back.puts, was)
		}
	}
	return back
}

// inTheWay tells whether the book has a port for the same packets, besides those that go.
func (b *Book) inTheWay(p Port, going []Port) bool {
	return slices.ContainsFunc(b.near[p.spot()], func(o Port) bool { return o.Overlaps(p) && !slices.Contains(going, o) })
}

// Dispossessed are the mappings of others that a committed draft has put its own in the place of.
func (d *Draft) Dispossessed() (all []Mapping) {
	for _, was := range d.before {
		if len(d.puts) > 0 && was.Owner != d.puts[0].Owner {
			all = append(all, was)
		}
	}
	return all
}

// Adds tells whether a port is new by the draft.
func (d *Draft) Adds(p Port) bool {
	return slices.ContainsFunc(d.puts, func(m Mapping) bool { return m.Port == p }) &&
		!slices.ContainsFunc(d.before, func(was Mapping) bool { return was.Port == p })
}

// Commit writes the draft in a transaction of its own and ends it.
func (d *Draft) Commit(ctx context.Context) error {
	if d.Empty() {
		d.End(nil)
		return nil
	}
	err := d.b.db.Update(ctx, d.Write)
	d.End(err)
	return err
}

// Rest lets an owner's mappings wait for its endpoint to come back; those of the config wait without end.
func (b *Book) Rest(owner string) *Draft {
	d, now := b.draft(), b.now().Round(0).UTC()
	for _, m := range b.Of(owner) {
		if !m.Resting() && m.Origin != OriginConfig && d.mark(m) {
			m.Rests = now
			d.puts = append(d.puts, m)
		}
	}
	return d
}

// Drop ends what an endpoint was given as it came: it will not come back under this name.
func (b *Book) Drop(owner string) *Draft {
	d := b.draft()
	for _, m := range b.Of(owner) {
		if m.Origin == OriginAttach && d.mark(m) {
			d.drops = append(d.drops, m.Port)
		}
	}
	return d
}

// Forget drops everything from the disk, whoever asked for it. Clear follows when that is decided.
func (b *Book) Forget(tx *store.Tx) error {
	var keys []string
	for key := range mappings().All(tx) {
		keys = append(keys, key)
	}
	for _, key := range keys {
		if err := mappings().Delete(tx, key); err != nil {
			return fmt.Errorf("forget port %s: %w", key, err)
		}
	}
	return nil
}

// Clear drops everything from memory.
func (b *Book) Clear() {
	b.mu.Lock()
	defer b.mu.Unlock()
	clear(b.kept)
	clear(b.near)
}

// Expire drops what has rested for RestTime.
func (b *Book) Expire() *Draft {
	d, now := b.draft(), b.now()
	for _, m := range b.All() {
		if m.Resting() && now.Sub(m.Rests) >= RestTime && d.mark(m) {
			d.drops = append(d.drops, m.Port)
		}
	}
	return d
}

// mark keeps other drafts from a mapping, unless one has its port, or it is not any more what it was when it was read.
func (d *Draft) mark(m Mapping) bool {
	d.b.mu.Lock()
	defer d.b.mu.Unlock()
	return d.b.kept[m.Port] == m && d.markLocked(m.Port, m.Owner)
}

func (d *Draft) markLocked(p Port, owner string) bool {
	if _, taken := d.b.busy[p]; taken {
		return false
	}
	d.b.busy[p] = owner
	d.marked = append(d.marked, p)
	return true
}

// Cancel ends those of an owner's mappings that a spec names: by the host port, or all of a port of the endpoint.
// The error wraps ErrNotMapped when there is none.
func (b *Book) Cancel(owner string, specs []Spec) (*Draft, error) {
	d := b.draft()
	own := b.Of(owner)
	for _, s := range specs {
		found := false
		for _, m := range own {
			w := wish{Spec: s, ports: []Port{{Proto: s.Proto, IP: m.Port.IP}}}
			if s.HostIP.IsValid() && s.HostIP != m.Port.IP || m.Port.Proto != s.Proto || !w.fits(m) {
				continue
			}
			if m.Origin == OriginConfig {
				d.End(ErrNotMapped)
				return nil, fmt.Errorf("%w: %s of %s is in the config: take it out of its [[endpoint]] and reload", ErrConfigured, m.Port, owner)
			}
			if slices.Contains(d.drops, m.Port) {
				found = true
			} else if d.mark(m) {
				found = true
				d.drops = append(d.drops, m.Port)
			}
		}
		if !found {
			d.End(ErrNotMapped)
			return nil, fmt.Errorf("%w: %s has no mapping of %s: fairlead ports lists them", ErrNotMapped, owner, s)
		}
	}
	return d, nil
}
