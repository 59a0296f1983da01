package ipam

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/fairlead-net/fairlead/store"
)

// Request asks for one address.
type Request struct {
	Owner   string
	Each    string       // instead of Owner: the address is of an owner of its own, which is called so with the address behind
	Pool    string       // "" when Address says it
	Address netip.Addr   // zero: any
	Within  netip.Prefix // where Address is zero: any of these; zero: any of the block
	Policy  Policy       // "": PolicyEndpoint
}

// Lease gives one address for each request, all or none, and answers when the disk knows them. An owner that holds an
// address of the pool already gets that one again.
func (l *Ledger) Lease(ctx context.Context, requests ...Request) ([]Lease, error) {
	return l.LeaseWith(ctx, nil, requests...)
}

// LeaseWith is Lease, and what fn writes goes into the same commit: both are on the disk, or neither. fn can run more
// than once, perhaps on another goroutine, and must not call the ledger; its error undoes the leases and is returned.
func (l *Ledger) LeaseWith(ctx context.Context, fn func(*store.Tx, []Lease) error, requests ...Request) ([]Lease, error) {
	requests = l.resolve(requests)
	owners, pools := keys(requests)
	release, err := l.seize(ctx, owners, pools)
	if err != nil {
		return nil, fmt.Errorf("lease: %w", err)
	}
	defer release()
	leases, added, err := l.plan(requests)
	if err != nil {
		return nil, err
	}
	if len(added) == 0 && fn == nil {
		return leases, nil
	}
	err = l.commit(ctx, added, func(tx *store.Tx) error {
		if fn == nil {
			return nil
		}
		return fn(tx, slices.Clone(leases))
	})
	if err != nil {
		return nil, err
	}
	return leases, nil
}

// RestoreWith takes over leases that were found alive after the store was lost, all or none. They need not lie in a
// block: what is in use is in use. What fn writes goes into the same commit; it follows the rules of LeaseWith.
func (l *Ledger) RestoreWith(ctx context.Context, leases []Lease, fn func(*store.Tx) error) error {
	requests := make([]Request, len(leases))
	for i, lease := range leases {
		requests[i] = Request{Owner: lease.Owner}
	}
	owners, _ := keys(requests)
	release, err := l.seize(ctx, owners, nil)
	if err != nil {
		return fmt.Errorf("restore leases: %w", err)
	}
	defer release()
	added, err := l.planRestore(leases)
	if fn == nil {
		fn = func(*store.Tx) error { return nil }
	}
	if err == nil {
		err = l.commit(ctx, added, fn)
	}
	if err != nil {
		return fmt.Errorf("restore leases: %w", err)
	}
	return nil
}

// commit writes the added leases, and what fn writes, to the disk. When that fails they are taken back.
func (l *Ledger) commit(ctx context.Context, added []*entry, fn func(*store.Tx) error) (err error) {
	settled := false
	defer func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if !settled { // an error, or a panic of fn
			l.undo(added)
			return
		}
		for _, e := range added {
			e.state, e.prior = held, nil
		}
	}()
	err = l.db.Update(ctx, func(tx *store.Tx) error {
		for _, e := range added {
			err := errors.Join(
				restBucket().Delete(tx, e.Address.String()),
				leaseBucket().Put(tx, e.Address.String(), e.Lease),
			)
			if err != nil {
				return fmt.Errorf("lease %s: %w", e.Address, err)
			}
		}
		return fn(tx)
	})
	settled = err == nil
	return err
}

// resolve fills in what requests leave open.
func (l *Ledger) resolve(requests []Request) []Request {
	l.mu.Lock()
	defer l.mu.Unlock()
	requests = slices.Clone(requests)
	for i, r := range requests {
		requests[i].Address = r.Address.Unmap()
		if r.Pool == "" && r.Address.IsValid() {
			requests[i].Pool = l.poolOf(requests[i].Address)
		}
		if r.Policy == "" {
			requests[i].Policy = PolicyEndpoint
		}
		if r.Each != "" && r.Address.IsValid() {
			requests[i].Owner = r.Each + requests[i].Address.String()
		}
	}
	return requests
}

// keys are the owners and pools of requests, as seize wants them.
func keys(requests []Request) (owners, pools []string) {
	for _, r := range requests {
		if r.Owner != "" { // else it is one that has nothing yet
			owners = append(owners, ownerKey(r.Owner))
		}
		pools = append(pools, poolKey(r.Pool))
	}
	slices.Sort(owners)
	return slices.Compact(owners), pools
}

func ownerKey(owner string) string { return "owner " + owner }
func poolKey(pool string) string   { return "pool " + pool }

// seize waits until no change of what own and mind name is on its way to the disk, and keeps others from beginning one
// on own until it is released.
func (l *Ledger) seize(ctx context.Context, own, mind []string) (release func(), err error) {
	mine := make(chan struct{})
	for {
		theirs := l.trySeize(mine, own, mind)
		if theirs == nil {
			return func() { l.unseize(mine, own) }, nil
		}
		select {
		case <-theirs:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (l *Ledger) trySeize(mine chan struct{}, own, mind []string) (theirs chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, keys := range [][]string{own, mind} {
		for _, key := range keys {
			if theirs := l.busy[key]; theirs != nil {
				return theirs
			}
		}
	}
	for _, key := range own {
		l.busy[key] = mine
	}
	return nil
}

func (l *Ledger) unseize(mine chan struct{}, own []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, key := range own {
		delete(l.busy, key)
	}
	close(mine)
}
