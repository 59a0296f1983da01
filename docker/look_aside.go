package docker

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/fairlead-net/fairlead/agent"
	"github.com/fairlead-net/fairlead/ipam"
)

// lookPatience is how long a look waits for one address to be leased: when there is no block yet, the next look tries again.
const lookPatience = 2 * time.Second

// lookAside is an address that the user keeps from containers by --aux-address.
type lookAside struct {
	subnet  netip.Prefix
	address netip.Addr
}

// setAside leases again what is to be kept from containers and that nobody holds. Docker asks for it when a network is made and
// when Docker starts, and not again when a container that had it ends, when another network that named it too is removed,
// or when our memory was lost. It says whether to try again soon.
//
// What lies outside of this host's block is asked for in each look: no container can have it, and it is never leased.
func (l *Looker) setAside(ctx context.Context, held lookHeld, seen lookSeen) (again bool, failures []error) {
	var blockless netip.Prefix
	for _, s := range l.asides(held, seen) {
		if s.subnet == blockless {
			continue
		}
		err := l.lease(ctx, s)
		switch {
		case err == nil, errors.Is(err, ipam.ErrTaken), errors.Is(err, ipam.ErrReserved): // nobody is given it
		case errors.Is(err, ipam.ErrNoBlock), errors.Is(err, ipam.ErrHeld):
			again, blockless = true, s.subnet // so far nobody is given anything
		case errors.Is(err, ipam.ErrResting):
			again = true
		default:
			again, failures = true, append(failures, fmt.Errorf("keep %s from containers: %w", s.address, err))
		}
	}
	return again, failures
}

func (l *Looker) lease(ctx context.Context, s lookAside) error {
	ctx, cancel := context.WithTimeout(ctx, min(lookPatience, l.driver.timeout))
	defer cancel()
	_, err := l.driver.host.Addresses.Address(ctx, agent.AddressRequest{CIDR: s.subnet, Range: s.subnet, Address: s.address})
	return err
}

// asides are the addresses that networks of ours keep from containers and that are not leased as far as one sees.
func (l *Looker) asides(held lookHeld, seen lookSeen) (all []lookAside) {
	done := make(map[netip.Addr]bool)
	for _, a := range held.unbound {
		done[a] = true
	}
	for _, g := range held.guests {
		for _, a := range g.Addresses {
			done[a] = true
		}
	}
	pools := l.driver.host.Addresses.Pools()
	for _, n := range seen.networks {
		ours := slices.ContainsFunc(held.networks, func(h agent.Network) bool { return h.ID == n.ID })
		if !ours && n.IPAM.Driver != l.name {
			continue
		}
		for _, p := range n.IPAM.Config {
			subnet, err := netip.ParsePrefix(p.Subnet)
			if err != nil || len(poolsAround(pools, subnet.Masked())) == 0 {
				continue // such a network is not restored, which is said there
			}
			for _, a := range p.AuxiliaryAddresses {
				if subnet.Contains(a.Addr) && !done[a.Addr] {
					done[a.Addr] = true
					all = append(all, lookAside{subnet.Masked(), a.Addr})
				}
			}
		}
	}
	return all
}
