package ipam

import (
	"crypto/sha256"
	"fmt"
	"net/netip"

	"github.com/google/uuid"
)

// PickBlock chooses the block of p for the node with this UUID: the one that a hash of both points at, or the next one
// after it that overlaps nothing of heard, the prefixes that are taken: by other nodes, or by the network beneath. The
// same arguments give the same block on every node and in every version.
func PickBlock(id uuid.UUID, p Pool, heard []netip.Prefix) (netip.Prefix, error) {
	bits := Bits(p)
	start := hashed(id, p.CIDR, bits)
	block, wrapped := start, false
	for {
		end := block
		if other, hit := overlapping(block, heard); !hit {
			return block, nil
		} else if other.Bits() < bits {
			end = other
		}
		next := last(end).Next()
		if !next.IsValid() || !p.CIDR.Contains(next) {
			next = p.CIDR.Addr()
			if wrapped {
				break
			}
			wrapped = true
		}
		block = netip.PrefixFrom(next, bits)
		if wrapped && !block.Addr().Less(start.Addr()) {
			break
		}
	}
	return netip.Prefix{}, fmt.Errorf("pick a /%d of pool %s (%s): every one is announced by another node "+
		"or part of a network of this host: widen cidr, or give this node a block that is free: %w", bits, p.Name, p.CIDR, ErrExhausted)
}

func overlapping(block netip.Prefix, heard []netip.Prefix) (netip.Prefix, bool) {
	var widest netip.Prefix
	hit := false
	for _, h := range heard {
		if h.Overlaps(block) && (!hit || h.Bits() < widest.Bits()) {
			widest, hit = h, true
		}
	}
	return widest, hit
}

// hashed is the block whose number the hash of node and pool is.
func hashed(id uuid.UUID, cidr netip.Prefix, bits int) netip.Prefix {
	sum := sha256.Sum256(append(id[:], cidr.String()...))
	bytes := cidr.Addr().AsSlice()
	for bit := cidr.Bits(); bit < bits; bit++ {
		n := bit - cidr.Bits()
		if sum[n/8]&(0x80>>(n%8)) != 0 {
			bytes[bit/8] |= 0x80 >> (bit % 8)
		}
	}
	a, _ := netip.AddrFromSlice(bytes)
	return netip.PrefixFrom(a, bits)
}
