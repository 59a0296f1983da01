package ipam

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/fairlead-net/fairlead/store"
)

// Release ends the owner's leases that live and die with it, in all pools, and returns them. Those with PolicyOwner
// stay until ReleaseAddress. That nothing is held is success.
func (l *Ledger) Release(ctx context.Context, owner string) ([]Lease, error) {
	return l.ReleaseWith(ctx, owner, nil)
}

// ReleaseWith is Release, and what fn writes goes into the same commit: both are on the disk, or neither. fn can run
// more than once, perhaps on another goroutine, and must not call the ledger; its error keeps the leases.
func (l *Ledger) ReleaseWith(ctx context.Context, owner string, fn func(*store.Tx) error) ([]Lease, error) {
	leases, err := l.release(ctx, []string{owner}, fn, ofEndpoint)
	if err != nil {
		return nil, fmt.Errorf("release the addresses of %q: %w", owner, err)
	}
	return leases, nil
}

// ReleaseAll is ReleaseWith for many owners in one commit.
func (l *Ledger) ReleaseAll(ctx context.Context, owners []string, fn func(*store.Tx) error) error {
	if _, err := l.release(ctx, owners, fn, ofEndpoint); err != nil {
		return fmt.Errorf("release the addresses of %d owners: %w", len(owners), err)
	}
	return nil
}

func ofEndpoint(e *entry) bool { return e.Policy == PolicyEndpoint }

// ReleaseAddress ends the owner's lease of one address, whatever its policy. That nobody holds it is success; that
// somebody else does is ErrTaken.
func (l *Ledger) ReleaseAddress(ctx context.Context, owner string, a netip.Addr) error {
	a = a.Unmap()
	leases, err := l.release(ctx, []string{owner}, nil, func(e *entry) bool { return e.Address == a })
	if err == nil && len(leases) == 0 {
		err = l.notTaken(a)
	}
	if err != nil {
		return fmt.Errorf("release %s of %q: %w", a, owner, err)
	}
	return nil
}

func (l *Ledger) notTaken(a netip.Addr) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e := l.leases[a]; e != nil {
		return fmt.Errorf("%w: it is held by %q", ErrTaken, e.Owner)
	}
	return nil
}

// parting is the end of some leases on its way to the disk.
type parting struct {
	entries []*entry
	rests   []*rest // what becomes of them
	forget  []*rest // old rests that make room
}

// release ends the leases of owners that end chooses. Until the disk knows, nobody else can have their addresses.
func (l *Ledger) release(ctx context.Context, owners []string, fn func(*store.Tx) error, end func(*entry) bool) ([]Lease, error) {
	keys := make([]string, len(owners))
	for i, owner := range owners {
		keys[i] = ownerKey(owner)
	}
	free, err := l.seize(ctx, keys, nil)
	if err != nil {
		return nil, err
	}
	defer free()
	p := l.part(owners, end)
	if len(p.entries) == 0 && fn == nil {
		return nil, nil
	}
	settled := false
	defer func() { l.parted(p, settled) }()
	err = l.db.Update(ctx, func(tx *store.Tx) error {
		if err := p.write(tx); err != nil || fn == nil {
			return err
		}
		return fn(tx)
	})
	if err != nil {
		return nil, err
	}
	settled = true
	leases := make([]Lease, 0, len(p.entries))
	for _, e := range p.entries {
		leases = append(leases, e.Lease)
	}
	return leases, nil
}

func (l *Ledger) part(owners []string, end func(*entry) bool) parting {
	l.mu.Lock()
	defer l.mu.Unlock()
	var p parting
	for _, owner := range owners {
		for _, e := range l.owners[owner] {
			if end(e) {
				p.entries = append(p.entries, e)
			}
		}
	}
	slices.SortFunc(p.entries, func(a, b *entry) int { return a.Address.Compare(b.Address) })
	now := l.now().Round(0).UTC()
	for _, e := range p.entries {
		l.seq++
		e.state = leaving
		p.rests = append(p.rests, &rest{Address: e.Address, Owner: e.Owner, Pool: e.Pool, Freed: now, Seq: l.seq})
		p.forget = append(p.forget, overdue(l.shelfAt(e.Address), maxRests, now)...)
		p.forget = append(p.forget, overdue(l.limbo, 0, now)...)
	}
	return p
}

// overdue takes the oldest rest off a shelf that has more of them than limit, when it is over.
func overdue(s *shelf, limit int, now time.Time) []*rest {
	oldest, over := s.rested(now)
	if !over || len(s.rests) <= limit {
		return nil
	}
	oldest.lift()
	return []*rest{oldest}
}

func (p parting) write(tx *store.Tx) error {
	var err error
	for _, r := range p.forget {
		// Its address may have been leased and given back since: that newer rest stays.
		old, _, getErr := restBucket().Get(tx, r.Address.String())
		if err = errors.Join(err, getErr); old.Seq == r.Seq {
			err = errors.Join(err, restBucket().Delete(tx, r.Address.String()))
		}
	}
	for _, r := range p.rests {
		err = errors.Join(err, leaseBucket().Delete(tx, r.Address.String()), restBucket().Put(tx, r.Address.String(), *r))
	}
	return err
}

// parted brings memory to what the disk has: the leases ended, or all as it was.
func (l *Ledger) parted(p parting, settled bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, e := range p.entries {
		if !settled {
			e.state = held
			continue
		}
		l.remove(e)
		l.rests[e.Address] = p.rests[i]
		l.shelfAt(e.Address).lay(p.rests[i])
	}
	for _, r := range p.forget {
		if l.rests[r.Address] != r {
			continue // leased meanwhile
		}
		r.lift()
		if settled {
			delete(l.rests, r.Address)
			l.shelfAt(r.Address).unmark(r.Address)
		} else {
			l.shelfAt(r.Address).lay(r)
		}
	}
}
