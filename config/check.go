package config

import (
	"cmp"
	"errors"
	"fmt"
	"hash/fnv"
	"net/netip"
	"slices"
)

// inside notes a range that is not part of its pool. Ranges that were refused already are passed over.
func inside(s section, p Pool, key string, r netip.Prefix) {
	switch {
	case !r.IsValid() || !p.CIDR.IsValid():
	case r.Addr().Is4() != p.CIDR.Addr().Is4():
		s.add(s.at(key), "pool.%s: %s is %s, but the pool %s is %s", key, r, family(r.Addr()), p.CIDR, family(p.CIDR.Addr()))
	case r.Bits() < p.CIDR.Bits() || !p.CIDR.Contains(r.Addr()):
		s.add(s.at(key), "pool.%s: %s is outside the pool %s", key, r, p.CIDR)
	}
}

// checkPools notes pools of the same name, and pools that share addresses.
func (l *loader) checkPools(pools []Pool, elements []*element) {
	at := func(i int, key string) position { return section{l, "pool", elements[i]}.at(key) }
	first := map[string]int{}
	var order []int
	for i, p := range pools {
		if p.CIDR.IsValid() {
			order = append(order, i)
		}
		if p.Name == "" {
			continue
		}
		if j, again := first[p.Name]; again {
			l.add(at(i, "name"), "pool.name: there is a pool %q already, at %s", p.Name, at(j, "name"))
			continue
		}
		first[p.Name] = i
	}
	for _, pair := range overlaps(pools, order) {
		i, j := max(pair[0], pair[1]), min(pair[0], pair[1])
		l.add(at(i, "cidr"), "pool.cidr: %s overlaps %s of pool %q, at %s", pools[i].CIDR, pools[j].CIDR, pools[j].Name, at(j, "cidr"))
	}
}

// overlaps are the pairs of pools of which one contains the other. Two prefixes either nest or have nothing in common,
// so that sorted by address and length each one lies in the last that was not itself inside another, or in none.
func overlaps(pools []Pool, order []int) (pairs [][2]int) {
	slices.SortStableFunc(order, func(a, b int) int {
		p, q := pools[a].CIDR, pools[b].CIDR
		return cmp.Or(p.Addr().Compare(q.Addr()), cmp.Compare(p.Bits(), q.Bits()))
	})
	outer := -1
	for _, i := range order {
		if outer >= 0 && pools[outer].CIDR.Overlaps(pools[i].CIDR) {
			pairs = append(pairs, [2]int{outer, i})
			continue
		}
		outer = i
	}
	return pairs
}

// checkPeers notes neighbours that are there twice, and those that this node can have no session with.
func (l *loader) checkPeers(c Config) {
	first := map[netip.Addr]position{}
	for i, p := range c.BGP.Peers {
		s := section{l, "bgp.peer", l.elements["bgp.peer"][i]}
		if !p.Address.IsValid() {
			continue
		}
		if at, again := first[p.Address]; again {
			l.add(s.at("address"), "bgp.peer.address: there is a peer %s already, at %s", p.Address, at)
			continue
		}
		first[p.Address] = s.at("address")
		if err := c.refusal(p); err != nil {
			l.add(s.at("address"), "bgp.peer.address: %v", err)
		}
		if ok := p.ASN == c.BGP.ASN || c.BGP.ASN == 0; !ok && (p.Role == RoleMesh || p.Role == RoleReflector) {
			l.add(s.at("asn"), "bgp.peer.asn: a %s peer is in this node's AS %d, not in %d; did you mean role = %q?", p.Role, c.BGP.ASN, p.ASN, RoleLeaf)
		}
	}
}

// refusal says why this node can not have a session with a neighbour.
func (c Config) refusal(p Peer) error {
	if p.Address == c.Node.Address || p.Address == c.BGP.Listen {
		return fmt.Errorf("%s is this node's own address", p.Address)
	}
	// Two nodes that listen in one family only never hear each other in the other. A router may well take our call.
	listen := c.BGP.Listen
	deaf := listen.IsValid() && listen != netip.IPv6Unspecified() && listen.Is4() != p.Address.Is4()
	if deaf && p.Role == RoleMesh {
		return fmt.Errorf("%s is %s, but this node listens on %s only (bgp.listen)", p.Address, family(p.Address), listen)
	}
	return nil
}

// checkMTU notes a size that IPv6 can not live with: below 1280 Linux takes IPv6 off a link (RFC 8200 section 5).
func (l *loader) checkMTU(c Config) {
	v6 := func(p Pool) bool { return p.CIDR.IsValid() && p.CIDR.Addr().Is6() }
	if c.Node.MTU > 0 && c.Node.MTU < 1280 && slices.ContainsFunc(c.Pools, v6) {
		l.add(l.table("node").at("mtu"), "node.mtu: %d is too small for the IPv6 pools; allowed: 1280 to 65535, or 0", c.Node.MTU)
	}
}

// WithAddress completes a config whose node.address was left to the host, with the address that the host turned out to
// have. What the file sets stays. CheckPeers can say more afterwards than Load could.
func (c Config) WithAddress(a netip.Addr) Config {
	c.Node.Address = either(c.Node.Address, a)
	c.BGP.Listen = either(c.BGP.Listen, c.Node.Address)
	c.BGP.RouterID = either(c.BGP.RouterID, identifier(c.Node.Address))
	return c
}

// CheckPeers names the peers that a node at this address can not have.
func (c Config) CheckPeers() error {
	var wrong []error
	for _, p := range c.BGP.Peers {
		if err := c.refusal(p); err != nil {
			wrong = append(wrong, fmt.Errorf("bgp.peer.address: %w", err))
		}
	}
	return errors.Join(wrong...)
}

func either(a, b netip.Addr) netip.Addr {
	if a.IsValid() {
		return a
	}
	return b
}

// identifier is the BGP identifier of a node: its IPv4 address. On a host that has IPv6 only it is a digest of that
// address; RFC 6286 asks no more of an identifier than to differ from the others of the AS, and not to be zero.
func identifier(a netip.Addr) netip.Addr {
	if !a.IsValid() || a.Is4() {
		return a
	}
	h := fnv.New32a()
	b := a.As16()
	_, _ = h.Write(b[:])
	sum := h.Sum(nil)
	sum[3] |= 1 // never zero
	id, _ := netip.AddrFromSlice(sum)
	return id
}
