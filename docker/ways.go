package docker

import (
	"net/netip"
	"slices"
)

// waysDepth is how many halvings of a subnet a route tells apart: each may cost one more. What is closer to elsewhere than
// that is left to the default route.
const waysDepth = 16

// waysTo are the fewest prefixes that hold a subnet but for what must lead elsewhere, in order.
func waysTo(subnet netip.Prefix, elsewhere []netip.Prefix) []netip.Prefix {
	holes := make([]netip.Prefix, 0, len(elsewhere))
	for _, h := range elsewhere {
		if most := subnet.Bits() + waysDepth; h.Bits() > most {
			h = netip.PrefixFrom(h.Addr(), most).Masked()
		}
		holes = append(holes, h)
	}
	return waysAround(subnet.Masked(), holes)
}

func waysAround(p netip.Prefix, holes []netip.Prefix) []netip.Prefix {
	switch {
	case slices.ContainsFunc(holes, func(h netip.Prefix) bool { return within(p, h) }):
		return nil
	case !slices.ContainsFunc(holes, p.Overlaps):
		return []netip.Prefix{p}
	}
	low, high := halves(p)
	return append(waysAround(low, holes), waysAround(high, holes)...)
}

// halves are those of a prefix of more than one address.
func halves(p netip.Prefix) (low, high netip.Prefix) {
	bytes := p.Addr().AsSlice()
	bytes[p.Bits()/8] |= 0x80 >> (p.Bits() % 8)
	middle, _ := netip.AddrFromSlice(bytes) // of the length that it had
	return netip.PrefixFrom(p.Addr(), p.Bits()+1), netip.PrefixFrom(middle, p.Bits()+1)
}
