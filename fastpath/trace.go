package fastpath

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// ErrFollowed is that somebody follows packets already: the programs look for one pair of addresses at a time.
var ErrFollowed = errors.New("packets are being followed already")

// Sighting is one packet that a program saw, and what it did with it.
type Sighting struct {
	Time             time.Time
	From, To         netip.Addr
	FromPort, ToPort uint16 // 0 where it has none; of an echo its identifier
	Protocol, TTL    uint8
	Link             string // that it came in by
	Length           int    // in bytes, with the Ethernet header and what it was wrapped in
	Reason           Reason
	Lost             uint32 // packets of which nothing was told for want of room, since somebody began to follow
}

// pairValue is struct pair.
type pairValue struct {
	Family, Lost uint32
	A, B         addressBytes
}

// sightingValue is struct sighting.
type sightingValue struct {
	Time                       uint64
	From, To                   addressBytes
	Link, Length, Reason       uint32
	From_port, To_port         [2]byte
	Family, Protocol, TTL, Pad uint8
	Lost                       uint32
}

// pairOf is what the programs look for. Both are of one family.
func pairOf(a, b netip.Addr) (v pairValue, err error) {
	a, b = a.Unmap(), b.Unmap()
	if err := errors.Join(checkAddress(a), checkAddress(b)); err != nil {
		return v, err
	}
	if a.Is4() != b.Is4() {
		return v, fmt.Errorf("%v and %v are not of one family", a, b)
	}
	v.Family = 4
	if a.Is6() {
		v.Family = 6
	}
	copy(v.A[:], a.AsSlice())
	copy(v.B[:], b.AsSlice())
	return v, nil
}

// isOf tells whether it is of a pair: what was told for somebody before may still be there.
func (v sightingValue) isOf(p pairValue) bool {
	return uint32(v.Family) == p.Family && (v.From == p.A && v.To == p.B || v.From == p.B && v.To == p.A)
}

// decode is the sighting. Links are told by number, times since the start of the clock that the programs go by.
func (v sightingValue) decode(start time.Time, link func(index uint32) string) Sighting {
	return Sighting{
		Time: start.Add(time.Duration(v.Time)), From: v.From.of(v.Family), To: v.To.of(v.Family),
		FromPort: binary.BigEndian.Uint16(v.From_port[:]), ToPort: binary.BigEndian.Uint16(v.To_port[:]),
		Protocol: v.Protocol, TTL: v.TTL, Link: link(v.Link), Length: int(v.Length), Reason: Reason(v.Reason), Lost: v.Lost,
	}
}
