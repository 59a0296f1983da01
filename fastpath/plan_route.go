package fastpath

import (
	"cmp"
	"math"
	"net/netip"
	"slices"
)

// route is the row of a prefix. An empty one is left to the kernel, and the reason says why when that was not asked for.
func (in Input) route(p netip.Prefix, hops []Hop) (r Route, reason string) {
	if checkPrefix(p) != nil {
		return r, SkipForm
	}
	hops = slices.Clone(hops)
	for i := range hops {
		if reason = in.judge(p, &hops[i]); reason != "" {
			return r, reason
		}
	}
	slices.SortFunc(hops, func(a, b Hop) int {
		return cmp.Or(a.Next.Compare(b.Next), cmp.Compare(a.Link, b.Link), cmp.Compare(a.Encap, b.Encap), a.End.Compare(b.End))
	})
	if hops = slices.Compact(hops); len(hops) > MaxHops {
		return r, SkipHops
	}
	copy(r.Hops[:], hops)
	return r, ""
}

// judge brings a hop into the form that rows have, and says why it can not be used.
func (in Input) judge(p netip.Prefix, h *Hop) string {
	h.Next, h.Local, h.End, h.MTU = h.Next.Unmap(), h.Local.Unmap(), h.End.Unmap(), fit16(h.MTU)
	if _, err := h.Encap.number(); err != nil {
		return SkipEncap
	}
	if h.Encap == Direct {
		h.Local, h.End = netip.Addr{}, netip.Addr{}
	}
	if h.Encap != VXLAN {
		h.MAC = MAC{}
	}
	is4 := p.Addr().Is4()
	switch _, err := h.encode(0); {
	case err != nil, h.Link == "", h.Next.IsUnspecified():
		return SkipFamily
	case h.Encap == Direct && !is4 && h.Next.Is4(): // the reverse is RFC 8950
		return SkipFamily
	case h.Encap == IPIP && !(is4 && h.End.Is4()):
		return SkipFamily
	case h.Encap != Direct && is4 != h.End.Is4() && !in.Settings.Flags.Has(Crosses):
		return SkipCross
	}
	return ""
}

// lengthSet is the prefixes of a table by their lengths, so that a look takes one step for each length in use.
type lengthSet [2]map[int]map[netip.Prefix]bool

func lengths(all map[netip.Prefix]Route) (s lengthSet) {
	for p := range all {
		f := family(p.Addr())
		if s[f] == nil {
			s[f] = make(map[int]map[netip.Prefix]bool)
		}
		if s[f][p.Bits()] == nil {
			s[f][p.Bits()] = make(map[netip.Prefix]bool)
		}
		s[f][p.Bits()][p] = true
	}
	return s
}

// wider tells whether a shorter prefix covers this one.
func (s lengthSet) wider(p netip.Prefix) bool {
	for bits, set := range s[family(p.Addr())] {
		if w, err := p.Addr().Prefix(bits); err == nil && bits < p.Bits() && set[w] {
			return true
		}
	}
	return false
}

func family(a netip.Addr) int {
	if a.Is4() {
		return 0
	}
	return 1
}

// hostPrefix is the prefix of one address alone. It is not valid where the address is not.
func hostPrefix(a netip.Addr) netip.Prefix {
	return netip.PrefixFrom(a.WithZone(""), a.BitLen())
}

// fit16 is the nearest size that two bytes can say.
func fit16(n int) int { return min(max(n, 0), math.MaxUint16) }
