package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/fairlead-net/fairlead/ipam"
	"github.com/fairlead-net/fairlead/nat"
	"github.com/fairlead-net/fairlead/store"
)

// Network is a named choice of address ranges and of an attachment, which endpoints join.
type Network struct {
	ID       string    `json:"id"`       // that the program gave it which made it
	Name     string    `json:"name"`     // "" while that program has not told it
	Subnets  []Subnet  `json:"subnets"`  // at most one of each family
	MTU      int       `json:"mtu"`      // of its links in bytes, 0 = the node's
	Outgoing Outgoing  `json:"outgoing"` // by which address it is seen beyond the pools
	Isolated bool      `json:"isolated"` // from other networks that are isolated too
	Internal bool      `json:"internal"` // from everything but itself
	Created  time.Time `json:"created"`
}

// Subnet is the addresses of one family that the containers of a network have, on all hosts.
type Subnet struct {
	CIDR    netip.Prefix `json:"cidr"`
	Range   netip.Prefix `json:"range"`   // the part that addresses are picked from, on this host only within its block
	Gateway netip.Addr   `json:"gateway"` // link-local, and of no other network of this host
}

// Outgoing is by which address containers are seen beyond the pools.
type Outgoing = nat.Outgoing

// The choices of a network.
const (
	OutgoingPool   = nat.OutgoingPool
	OutgoingHidden = nat.OutgoingHidden
	OutgoingSeen   = nat.OutgoingSeen
)

// networks keeps them by ID.
func networks() store.Bucket[Network] { return store.Bucket[Network]{Name: "networks"} }

// Pools are the ranges that all nodes share.
func (a *Agent) Pools() []ipam.Pool { return slices.Clone(a.pools()) }

// Networks lists them by ID.
func (a *Agent) Networks() (all []Network, err error) {
	err = a.room.DB.View(func(tx *store.Tx) error {
		for _, n := range networks().All(tx) {
			all = append(all, n)
		}
		return nil
	})
	return all, err
}

// CreateNetwork makes a network durable. The same again is success; another one under the ID, and a gateway that another
// network has, wrap ErrConflict.
func (a *Agent) CreateNetwork(ctx context.Context, n Network) error {
	if err := a.createNetwork(ctx, n); err != nil {
		return fmt.Errorf("create network %s: %w", short(n.ID), err)
	}
	a.ask()
	return nil
}

func (a *Agent) createNetwork(ctx context.Context, n Network) error {
	if err := errors.Join(a.open(), a.checkNetwork(n)); err != nil {
		return err
	}
	n.Created = a.room.Now().UTC()
	return a.room.DB.Update(ctx, func(tx *store.Tx) error {
		for _, other := range networks().All(tx) {
			if other.ID == n.ID {
				n.Name, n.Created = other.Name, other.Created
				if !sameNetwork(n, other) {
					return fmt.Errorf("%w: there is one of this ID that is otherwise", ErrConflict)
				}
				continue
			}
			for _, s := range other.Subnets {
				if slices.ContainsFunc(n.Subnets, func(own Subnet) bool { return own.Gateway == s.Gateway }) {
					return fmt.Errorf("%w: the gateway %s is that of network %s: choose another, or leave --gateway out", ErrConflict, s.Gateway, other.title())
				}
			}
		}
		return errors.Join(a.staying(tx), networks().Put(tx, n.ID, n))
	})
}

func sameNetwork(a, b Network) bool {
	return slices.Equal(a.Subnets, b.Subnets) && a.MTU == b.MTU && a.Outgoing == b.Outgoing && a.Isolated == b.Isolated && a.Internal == b.Internal
}

// checkNetwork finds what would keep its endpoints from working.
func (a *Agent) checkNetwork(n Network) error {
	if len(n.ID) < guestID || !PlainName(n.ID) || len(n.Subnets) == 0 || len(n.Subnets) > 2 {
		return fmt.Errorf("%w: a network has an ID of at least %d letters and digits, and a subnet of one or two families", ErrBadRequest, guestID)
	}
	for i, s := range n.Subnets {
		is4 := s.CIDR.Addr().Is4()
		switch {
		case i > 0 && is4 == n.Subnets[0].CIDR.Addr().Is4():
			return fmt.Errorf("%w: %s and %s are of one family: give a network one subnet of each", ErrBadRequest, n.Subnets[0].CIDR, s.CIDR)
		case a.poolAround(s.CIDR) == "":
			return fmt.Errorf("%w: subnet %s is in none of %s", ErrBadRequest, s.CIDR, a.poolWords())
		case !s.Gateway.IsLinkLocalUnicast() || s.Gateway.Is4() != is4 || s.Gateway.Zone() != "":
			return fmt.Errorf("%w: gateway %s of %s: containers send to a link-local address", ErrBadRequest, s.Gateway, s.CIDR)
		case !s.Range.IsValid() || !s.CIDR.Overlaps(s.Range) || s.Range.Bits() < s.CIDR.Bits():
			return fmt.Errorf("%w: range %s is not a part of %s", ErrBadRequest, s.Range, s.CIDR)
		}
	}
	o, _, _ := a.seen()
	if most := o.desired.mtu; n.MTU > most && most > 0 {
		return fmt.Errorf("%w: MTU %d: this host's containers have at most %d bytes", ErrBadRequest, n.MTU, most)
	}
	return nil
}

// poolAround names the pool that holds all of a prefix, "" when none does.
func (a *Agent) poolAround(p netip.Prefix) string {
	for _, pool := range a.pools() {
		if pool.CIDR.Bits() <= p.Bits() && pool.CIDR.Contains(p.Addr()) {
			return pool.Name
		}
	}
	return ""
}

func (a *Agent) poolWords() string {
	words := "the pools of this host:"
	for _, p := range a.pools() {
		words += fmt.Sprintf(" %s (%s)", p.CIDR, p.Name)
	}
	return words
}

// DeleteNetwork forgets a network. Absent is success; one that has guests wraps ErrConflict.
func (a *Agent) DeleteNetwork(ctx context.Context, id string) error {
	err := a.room.DB.Update(ctx, func(tx *store.Tx) error {
		for _, r := range endpoints().All(tx) {
			if r.Guest.Stage != "" && r.Network == id {
				return fmt.Errorf("%w: endpoint %s is on it", ErrConflict, r.title())
			}
		}
		return networks().Delete(tx, id)
	})
	if err != nil {
		return fmt.Errorf("delete network %s: %w", short(id), err)
	}
	a.ask()
	return nil
}

func (a *Agent) learnNames(ctx context.Context, names map[string]string) error {
	all, err := a.Networks()
	changed := false
	for _, n := range all {
		changed = changed || names[n.ID] != "" && names[n.ID] != n.Name
	}
	if err != nil || !changed {
		return err
	}
	defer a.ask()
	return a.room.DB.Update(ctx, func(tx *store.Tx) error {
		for _, n := range all {
			now, found, err := networks().Get(tx, n.ID)
			if name := names[n.ID]; err == nil && found && PlainName(name) {
				now.Name = name
				err = networks().Put(tx, n.ID, now)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// title is what people call a network.
func (n Network) title() string {
	if n.Name != "" {
		return n.Name
	}
	return short(n.ID)
}

// Uncalled tells people why Docker can not call this daemon, nil when it can.
func (a *Agent) Uncalled(why error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.state.uncalled = why
}

func (a *Agent) callsLack() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.state.uncalled
}

func titleOf(all []Network, id string) string {
	if i := slices.IndexFunc(all, func(n Network) bool { return n.ID == id }); i >= 0 {
		return all[i].title()
	}
	return short(id)
}

// short is as much of an ID as people look at.
func short(id string) string { return id[:min(len(id), 12)] }

// fenceTrouble is what the pass could not do to keep a network apart. An endpoint of it must not have a link before.
func (o *outcome) fenceTrouble(n Network) error {
	if o.err != nil || !n.Isolated && !n.Internal {
		return o.err
	}
	var errs []error
	for _, f := range slices.Concat(o.report.Failures, o.report.Waiting) {
		if f.Table == tableFence || f.Table == tableSet {
			errs = append(errs, fmt.Errorf("keep network %s apart: %w", n.title(), f.Err))
		}
	}
	return errors.Join(errs...)
}
