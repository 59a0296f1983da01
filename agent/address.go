package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/fairlead-net/fairlead/ipam"
	"github.com/fairlead-net/fairlead/store"
)

// AddressRequest asks for an address whose owner is not known yet.
type AddressRequest struct {
	CIDR    netip.Prefix // the network's subnet
	Range   netip.Prefix // the part of it that addresses are picked from
	Address netip.Addr   // zero: any
}

// guestOwner and an address is who a lease belongs to whose endpoint is not known yet. No other owner has a ':' in its name.
const guestOwner = "docker:"

func addressLock(ip netip.Addr) string { return "\x00address " + ip.String() }

// gateways keeps which link-local addresses are given to networks, those to come included, with the time.
func gateways() store.Bucket[time.Time] { return store.Bucket[time.Time]{Name: "gateways"} }

// Where gateways are picked from. 169.254.169.254 and the like belong to clouds, the first and last 256 of 169.254.0.0/16 to
// nobody (RFC 3927 section 2.1), and 169.254.1.1 to containers that Docker has no part in.
func gatewayRange(family int) netip.Prefix {
	if family == 4 {
		return netip.MustParsePrefix("169.254.88.0/22")
	}
	return netip.MustParsePrefix("fe80::58:0/118")
}

// Gateway gives a link-local address that no other network of this host has: want, or any of the family when that is zero.
// Whether another network has want, creating the network tells.
func (a *Agent) Gateway(ctx context.Context, family int, want netip.Addr) (gateway netip.Addr, err error) {
	if want == netip.AddrFrom4([4]byte{169, 254, 169, 254}) {
		return gateway, fmt.Errorf("choose a gateway: %w: at %s clouds tell hosts about themselves", ErrBadRequest, want)
	}
	err = a.room.DB.Update(ctx, func(tx *store.Tx) error {
		taken := make(map[netip.Addr]bool)
		for _, n := range networks().All(tx) {
			for _, s := range n.Subnets {
				taken[s.Gateway] = true
			}
		}
		for key := range gateways().All(tx) {
			ip, _ := netip.ParseAddr(key)
			taken[ip] = true
		}
		gateway = want
		if !want.IsValid() {
			all := gatewayRange(family)
			for gateway = all.Addr().Next(); taken[gateway]; gateway = gateway.Next() {
			}
			if !all.Contains(gateway) {
				return fmt.Errorf("%w: all of %s are gateways of networks", ipam.ErrExhausted, all)
			}
		}
		return errors.Join(a.staying(tx), gateways().Put(tx, gateway.String(), a.room.Now().UTC()))
	})
	if err != nil {
		return netip.Addr{}, fmt.Errorf("choose a gateway: %w", err)
	}
	return gateway, nil
}

// Address leases an address, durably. One that is asked for by name is given again when a guest has it, or when it was leased
// for one; whether it is free, Admit tells. One of the subnet outside of this host's block is given without a lease: no guest
// can have it, but Docker may keep it from being used.
func (a *Agent) Address(ctx context.Context, req AddressRequest) (netip.Addr, error) {
	pool := a.poolAround(req.CIDR)
	switch {
	case pool == "":
		return netip.Addr{}, fmt.Errorf("lease: %w: %s is in none of %s", ErrBadRequest, req.CIDR, a.poolWords())
	case req.Address.IsValid() && !req.CIDR.Contains(req.Address):
		return netip.Addr{}, fmt.Errorf("lease: %w: %s is not in %s", ErrBadRequest, req.Address, req.CIDR)
	}
	if req.Address.IsValid() {
		unlock, err := a.locks.lock(ctx, addressLock(req.Address))
		if err != nil {
			return netip.Addr{}, fmt.Errorf("lease: %w", err)
		}
		defer unlock()
	}
	if err := a.open(); err != nil {
		return netip.Addr{}, err
	}
	want := ipam.Request{Each: guestOwner, Pool: pool, Address: req.Address, Within: req.Range}
	var leases []Lease
	err := a.whenBlock(ctx, func() (err error) {
		leases, err = a.room.Ledger.LeaseWith(ctx, func(tx *store.Tx, _ []Lease) error { return a.staying(tx) }, want)
		return err
	})
	switch {
	case errors.Is(err, ipam.ErrForeign) && req.Address.IsValid():
		return req.Address, nil
	case err != nil:
		return netip.Addr{}, err
	}
	return leases[0].Address, nil
}

// whenBlock tries until there is a block to lease from.
func (a *Agent) whenBlock(ctx context.Context, try func() error) error {
	for {
		a.mu.Lock()
		next := a.state.passed
		a.mu.Unlock()
		err := try()
		if !errors.Is(err, ipam.ErrNoBlock) {
			return err
		}
		select {
		case <-next:
		case <-a.stopped:
			return errors.Join(ErrStopped, err)
		case <-ctx.Done():
			return err
		}
	}
}

// leased refuses an address that somebody else has. One that nobody has is leased: what Address has given may have been
// given back meanwhile, by who asked for the same.
func (a *Agent) leased(ctx context.Context, ip netip.Addr) error {
	all := a.room.Ledger.Leases()
	i, found := slices.BinarySearchFunc(all, ip, func(l Lease, ip netip.Addr) int { return l.Address.Compare(ip) })
	switch {
	case found && all[i].Owner == guestOwner+ip.String():
		return nil
	case found:
		return fmt.Errorf("%w: %s is held by %q", ipam.ErrTaken, ip, all[i].Owner)
	}
	var blocks []string
	for _, u := range a.room.Ledger.Usage() {
		if u.Block.IsValid() && u.Block.Contains(ip) {
			want := ipam.Request{Each: guestOwner, Pool: u.Pool, Address: ip}
			_, err := a.room.Ledger.LeaseWith(ctx, func(tx *store.Tx, _ []Lease) error { return a.staying(tx) }, want)
			return err
		}
		if u.Block.IsValid() && u.Block.Addr().Is4() == ip.Is4() {
			blocks = append(blocks, u.Block.String())
		}
	}
	return fmt.Errorf("%w: %s: this host hands out from %v: choose one in there", ipam.ErrForeign, ip, blocks)
}

// Return gives an address back, or a gateway. One that nobody has, or that an endpoint still has, is success.
func (a *Agent) Return(ctx context.Context, ip netip.Addr) error {
	if ip.IsLinkLocalUnicast() {
		err := a.room.DB.Update(ctx, func(tx *store.Tx) error { return gateways().Delete(tx, ip.String()) })
		if err != nil {
			return fmt.Errorf("return gateway %s: %w", ip, err)
		}
		return nil
	}
	unlock, err := a.locks.lock(ctx, addressLock(ip))
	if err != nil {
		return fmt.Errorf("return %s: %w", ip, err)
	}
	defer unlock()
	records, err := a.recorded()
	if err != nil || slices.ContainsFunc(records, func(r record) bool { return slices.Contains(r.Addresses, ip) }) {
		return err
	}
	err = a.room.Ledger.ReleaseAddress(ctx, guestOwner+ip.String(), ip)
	if errors.Is(err, ipam.ErrTaken) {
		return nil
	}
	return err
}

// Unbound lists the addresses and gateways that were given and that no guest and no network has.
func (a *Agent) Unbound() (all []netip.Addr, err error) {
	bound := make(map[netip.Addr]bool)
	err = a.room.DB.View(func(tx *store.Tx) error {
		for _, r := range endpoints().All(tx) {
			for _, ip := range r.Addresses {
				bound[ip] = true
			}
		}
		for _, n := range networks().All(tx) {
			for _, s := range n.Subnets {
				bound[s.Gateway] = true
			}
		}
		for key := range gateways().All(tx) {
			if ip, err := netip.ParseAddr(key); err == nil && !bound[ip] {
				all = append(all, ip)
			}
		}
		return nil
	})
	for _, l := range a.room.Ledger.Leases() {
		if l.Owner == guestOwner+l.Address.String() && !bound[l.Address] {
			all = append(all, l.Address)
		}
	}
	return all, err
}
