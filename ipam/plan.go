package ipam

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// plan finds an address for each request and marks it pending. On an error nothing is marked.
func (l *Ledger) plan(requests []Request) (leases []Lease, added []*entry, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now().Round(0).UTC()
	for _, r := range requests {
		e, fresh, err := l.find(r, now)
		if err != nil {
			l.undo(added)
			what := "an address"
			if r.Address.IsValid() {
				what = r.Address.String()
			}
			return nil, nil, fmt.Errorf("lease %s of pool %q to %q: %w", what, r.Pool, cmp.Or(r.Owner, strings.TrimSuffix(r.Each, ":")), err)
		}
		if fresh {
			added = append(added, e)
		}
		leases = append(leases, e.Lease)
	}
	return leases, added, nil
}

// find returns the lease that the owner has already, or a new one that is pending.
func (l *Ledger) find(r Request, now time.Time) (e *entry, fresh bool, err error) {
	switch {
	case r.Owner == "" && r.Each == "":
		return nil, false, errors.New("a lease needs an owner")
	case r.Policy != PolicyEndpoint && r.Policy != PolicyOwner:
		return nil, false, fmt.Errorf("policy %q is neither %q nor %q", r.Policy, PolicyEndpoint, PolicyOwner)
	}
	if e := l.owners[r.Owner][r.Pool]; e != nil {
		if r.Address.IsValid() && r.Address != e.Address {
			return nil, false, fmt.Errorf("%w: %q holds %s of this pool already: give that back first",
				ErrTaken, r.Owner, e.Address)
		}
		return e, false, nil
	}
	s, err := l.open(r.Pool)
	if err != nil {
		return nil, false, err
	}
	a, err := l.choose(s, r, now)
	if err != nil {
		return nil, false, err
	}
	if r.Owner == "" {
		r.Owner = r.Each + a.String()
	}
	lease := Lease{Address: a, Owner: r.Owner, Pool: r.Pool, Policy: r.Policy, Since: now}
	return l.take(lease), true, nil
}

// poolOf is the pool that a belongs to.
func (l *Ledger) poolOf(a netip.Addr) string {
	for name, s := range l.pools {
		if s.pool.CIDR.Contains(a) {
			return name
		}
	}
	return ""
}

// open is the shelf of a pool that hands out.
func (l *Ledger) open(pool string) (*shelf, error) {
	s, ok := l.pools[pool]
	switch {
	case !ok:
		return nil, l.noPool()
	case l.holds[pool] != "":
		return nil, fmt.Errorf("%w: %s", ErrHeld, l.holds[pool])
	case !s.block.IsValid():
		return nil, fmt.Errorf("%w: it is picked once the BGP peers have told theirs; "+
			"to choose it yourself set block in this [[pool]]", ErrNoBlock)
	}
	return s, nil
}

// choose finds the address of a request: the one asked for, one that nobody had, or the one free for longest.
func (l *Ledger) choose(s *shelf, r Request, now time.Time) (netip.Addr, error) {
	if r.Address.IsValid() {
		return r.Address, l.grantable(s, r, now)
	}
	if r.Within.IsValid() && !within(s.block, r.Within) {
		return l.chooseWithin(s, r.Within, now)
	}
	if a, ok := s.never(l.known); ok {
		return a, nil
	}
	oldest, ok := s.rested(now)
	if ok {
		return oldest.Address, nil
	}
	u := l.usage(s.pool.Name, s)
	err := fmt.Errorf("%w: of the %d addresses of %s, %d are leased, %d rest and %d are reserved",
		ErrExhausted, u.Size, s.block, u.Leased, u.Resting, u.Reserved)
	if oldest != nil {
		return netip.Addr{}, fmt.Errorf("%w: the next is free in %s", err, s.left(oldest, now).Round(time.Second))
	}
	return netip.Addr{}, fmt.Errorf("%w: detach what is not needed, or give this node a larger block", err)
}

// chooseWithin is choose for a part of the block: it goes through all of it.
func (l *Ledger) chooseWithin(s *shelf, part netip.Prefix, now time.Time) (netip.Addr, error) {
	if !part.Overlaps(s.block) {
		return netip.Addr{}, fmt.Errorf("%w: this node hands out from %s, of which nothing is in %s", ErrForeign, s.block, part)
	}
	for a := part.Addr(); part.Contains(a); a = a.Next() {
		if r, no := s.reservation(a); no {
			a = last(r)
		} else if !l.known(a) {
			return a, nil
		}
	}
	var oldest *rest
	for _, r := range s.rests {
		if part.Contains(r.Address) && s.left(r, now) <= 0 && (oldest == nil || r.Seq < oldest.Seq) {
			oldest = r
		}
	}
	if oldest == nil {
		return netip.Addr{}, fmt.Errorf("%w: all of %s are leased, rest or are reserved", ErrExhausted, part)
	}
	return oldest.Address, nil
}

// known tells whether a is leased, or was.
func (l *Ledger) known(a netip.Addr) bool {
	return l.leases[a] != nil || l.rests[a] != nil
}

// grantable finds reasons against giving the address that r asks for.
func (l *Ledger) grantable(s *shelf, r Request, now time.Time) error {
	if !s.block.Contains(r.Address) {
		return fmt.Errorf("%w: it hands out from %s: choose one in there, or ask the node whose block has it",
			ErrForeign, s.block)
	}
	if p, no := s.reservation(r.Address); no {
		return fmt.Errorf("%w: %s", ErrReserved, reservedWhy(s, p))
	}
	if e := l.leases[r.Address]; e != nil {
		return fmt.Errorf("%w: %q holds it since %s: detach it, or choose another",
			ErrTaken, called(e.Owner, r.Address), e.Since.Format(time.RFC3339))
	}
	if old := l.rests[r.Address]; old != nil && old.Owner != r.Owner {
		if left := s.left(old, now); left > 0 {
			return fmt.Errorf("%w: %q gave it back a moment ago, and it is free in %s (reuse_delay %s): "+
				"wait, or choose another", ErrResting, called(old.Owner, r.Address), left.Round(time.Millisecond), s.pool.ReuseDelay)
		}
	}
	return nil
}

// called is how people know an owner: one that has each address for itself goes without it.
func called(owner string, a netip.Addr) string { return strings.TrimSuffix(owner, ":"+a.String()) }

func reservedWhy(s *shelf, p netip.Prefix) string {
	switch {
	case !p.IsSingleIP():
	case p.Addr() == s.block.Addr() && p.Addr().Is4():
		return fmt.Sprintf("it is the network address of %s", s.block)
	case p.Addr() == s.block.Addr():
		return fmt.Sprintf("it is the subnet-router anycast address of %s", s.block)
	case p.Addr() == last(s.block) && p.Addr().Is4():
		return fmt.Sprintf("it is the broadcast address of %s", s.block)
	}
	return fmt.Sprintf("reserve of pool %s lists %s", s.pool.Name, p)
}

// take makes a pending lease, off the shelf that its address lay on.
func (l *Ledger) take(lease Lease) *entry {
	e := &entry{Lease: lease, state: pending, prior: l.rests[lease.Address]}
	if e.prior != nil {
		e.prior.lift()
		delete(l.rests, lease.Address)
	}
	l.insert(e)
	return e
}

func (l *Ledger) insert(e *entry) {
	l.leases[e.Address] = e
	if l.owners[e.Owner] == nil {
		l.owners[e.Owner] = map[string]*entry{}
	}
	l.owners[e.Owner][e.Pool] = e
}

func (l *Ledger) remove(e *entry) {
	delete(l.leases, e.Address)
	delete(l.owners[e.Owner], e.Pool)
	if len(l.owners[e.Owner]) == 0 {
		delete(l.owners, e.Owner)
	}
}

// undo takes pending leases back and lays their addresses where they were.
func (l *Ledger) undo(added []*entry) {
	for _, e := range added {
		l.remove(e)
		if e.prior != nil {
			l.rests[e.Address] = e.prior
			l.shelfAt(e.Address).lay(e.prior)
		} else {
			l.shelfAt(e.Address).unmark(e.Address)
		}
	}
}

// planRestore marks leases that are taken over as pending. On an error nothing is marked.
func (l *Ledger) planRestore(leases []Lease) (added []*entry, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, lease := range leases {
		if lease.Pool == "" {
			lease.Pool = l.poolOf(lease.Address)
		}
		at, of := l.leases[lease.Address], l.owners[lease.Owner][lease.Pool]
		switch {
		case lease.Owner == "" || !lease.Address.IsValid():
			err = fmt.Errorf("lease %s to %q: it needs an owner and an address", lease.Address, lease.Owner)
		case at != nil && at == of:
			continue
		case at != nil:
			err = fmt.Errorf("lease %s to %q: %w: %q holds it", lease.Address, lease.Owner, ErrTaken, at.Owner)
		case of != nil:
			err = fmt.Errorf("lease %s to %q: %w: it holds %s already", lease.Address, lease.Owner, ErrTaken, of.Address)
		}
		if err != nil {
			l.undo(added)
			return nil, err
		}
		if lease.Policy == "" {
			lease.Policy = PolicyEndpoint
		}
		if lease.Since.IsZero() {
			lease.Since = l.now()
		}
		lease.Since = lease.Since.Round(0).UTC()
		added = append(added, l.take(lease))
	}
	return added, nil
}
