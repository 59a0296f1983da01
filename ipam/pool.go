// Package ipam hands out addresses: it keeps the pools that all nodes share, this node's block of each, and the leases.
package ipam

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"time"
)

// Why an address is not given. Each is wrapped with the facts and, where there is one, the cure.
var (
	ErrNoPool    = errors.New("no such pool")
	ErrNoBlock   = errors.New("no block yet")
	ErrHeld      = errors.New("the pool is on hold")
	ErrExhausted = errors.New("no address is free")
	ErrForeign   = errors.New("the address is not in this node's block")
	ErrReserved  = errors.New("the address is reserved")
	ErrTaken     = errors.New("the address is taken")
	ErrResting   = errors.New("the address is resting")
)

// Pool is an address range that all nodes share.
type Pool struct {
	Name       string
	CIDR       netip.Prefix
	Block      netip.Prefix   // the part that this node hands out from; zero: one is picked
	Reserve    []netip.Prefix // never handed out
	ReuseDelay time.Duration  // how long a freed address rests
}

// Bits is the length of the prefix that a node takes of p: /24 or /120, or the pool itself when that is smaller.
func Bits(p Pool) int {
	bits := 24
	if p.CIDR.Addr().Is6() {
		bits = 120
	}
	return max(bits, p.CIDR.Bits())
}

// check finds what would make the ledger misbehave. The config room reports the same with positions.
func (p Pool) check() error {
	switch {
	case p.Name == "":
		return fmt.Errorf("pool %s has no name", p.CIDR)
	case !p.CIDR.IsValid() || p.CIDR != p.CIDR.Masked() || p.CIDR.Addr().Is4In6():
		return fmt.Errorf("pool %s: %s is not a network", p.Name, p.CIDR)
	case p.Block.IsValid() && !within(p.Block, p.CIDR):
		return fmt.Errorf("pool %s: block %s is not inside %s", p.Name, p.Block, p.CIDR)
	case p.ReuseDelay < 0:
		return fmt.Errorf("pool %s: reuse delay %s is negative", p.Name, p.ReuseDelay)
	}
	return nil
}

// within tells whether inner is a part of outer, or all of it.
func within(inner, outer netip.Prefix) bool {
	return inner == inner.Masked() && inner.Bits() >= outer.Bits() && outer.Contains(inner.Addr())
}

// reserved are the addresses of a block that are never handed out: sorted, disjoint, and inside the block.
//
// IPv4: network and broadcast address, save in a /31 (RFC 3021) and a /32. IPv6: the subnet-router anycast address
// (RFC 4291, 2.6.1), save in a /127 (RFC 6164) and a /128.
func reserved(block netip.Prefix, reserve []netip.Prefix) []netip.Prefix {
	all := make([]netip.Prefix, 0, len(reserve)+2)
	whole := block.Addr().BitLen()
	if block.Bits() < whole-1 {
		all = append(all, netip.PrefixFrom(block.Addr(), whole))
		if block.Addr().Is4() {
			all = append(all, netip.PrefixFrom(last(block), whole))
		}
	}
	for _, r := range reserve {
		switch r = r.Masked(); {
		case within(r, block):
			all = append(all, r)
		case r.Overlaps(block):
			return []netip.Prefix{block}
		}
	}
	// Of two prefixes that overlap, one contains the other: with the larger first, the smaller adds nothing.
	slices.SortFunc(all, func(a, b netip.Prefix) int {
		if c := a.Addr().Compare(b.Addr()); c != 0 {
			return c
		}
		return a.Bits() - b.Bits()
	})
	disjoint := all[:0]
	for _, r := range all {
		if n := len(disjoint); n == 0 || !disjoint[n-1].Overlaps(r) {
			disjoint = append(disjoint, r)
		}
	}
	return disjoint
}

// last is the highest address of p.
func last(p netip.Prefix) netip.Addr {
	bytes := p.Masked().Addr().AsSlice()
	for bit := p.Bits(); bit < len(bytes)*8; bit++ {
		bytes[bit/8] |= 0x80 >> (bit % 8)
	}
	a, _ := netip.AddrFromSlice(bytes)
	return a
}

// size is how many addresses p has, at most math.MaxInt.
func size(p netip.Prefix) int {
	host := p.Addr().BitLen() - p.Bits()
	if host > 62 {
		return math.MaxInt
	}
	return 1 << host
}
