package fastpath

import (
	"encoding/binary"
	"fmt"
	"math"
	"net/netip"
)

// The following are the structs of layout.h, field for field. Numbers are in the byte order of the machine, what is in
// network byte order there is bytes here. Every gap has a field, so that the kernel is given no byte by chance.

// addressBytes is union address: IPv4 is in the first four, and the others are zero.
type addressBytes [16]byte

// endpointValue is struct endpoint.
type endpointValue struct {
	Link, Home, Realm, Slot uint32
	MTU                     uint16
	MAC                     MAC
}

// sideValue is struct side.
type sideValue struct {
	Home, Slot uint32
	MAC        MAC
	Pad        [2]byte
}

// hopValue is struct hop.
type hopValue struct {
	Link             uint32
	MTU              uint16
	Encap, Family    uint8
	Next, Local, End addressBytes
	MAC              MAC
	Pad              [2]byte
}

// routeValue is struct route.
type routeValue struct {
	Slot, Hops uint32
	Hop        [MaxHops]hopValue
}

// prefix4 is struct prefix4, prefix6 the other.
type prefix4 struct {
	Bits    uint32
	Address [4]byte
}

type prefix6 struct {
	Bits    uint32
	Address addressBytes
}

// settingsValue is struct settings.
type settingsValue struct {
	Flags, VNI uint32
	Local4     [4]byte
	Local6     addressBytes
	MAC4, MAC6 MAC
	Port       [2]byte
	Pad        [2]byte
	Device     uint32
}

// Traffic is struct traffic: packets and what they had in bytes, the header of the container's link included.
type Traffic struct {
	Packets, Bytes uint64
}

// Count is struct counts: what was counted for an endpoint's link or for a prefix.
type Count struct {
	Out    Traffic // from the endpoint, or to the prefix, by the fast path
	In     Traffic // the other way
	Kernel Traffic // from the endpoint, left to the kernel
	Drops  Traffic // from the endpoint
}

// encaps are the words of enum encap, by their number. None is 0.
func encaps() []Encap { return []Encap{1: Direct, 2: IPIP, 3: VXLAN} }

func (e Encap) number() (uint8, error) {
	for i, word := range encaps() {
		if i > 0 && word == e {
			return uint8(i), nil
		}
	}
	return 0, fmt.Errorf("the fast path has no encapsulation %q", e)
}

// encode is the value of an endpoint, given the numbers of its link, of the namespace of the inside, and of its counts.
func (e Endpoint) encode(link, home, slot uint32) (endpointValue, error) {
	mtu, err := size16("mtu", e.MTU)
	return endpointValue{Link: link, Home: home, Realm: e.Realm, Slot: slot, MTU: mtu, MAC: e.MAC}, err
}

func (v endpointValue) decode(name string) Endpoint {
	return Endpoint{Link: name, MAC: v.MAC, MTU: int(v.MTU), Realm: v.Realm}
}

func (s Side) encode(home, slot uint32) sideValue {
	return sideValue{Home: home, Slot: slot, MAC: s.MAC}
}

// encode is the value of a hop that leads to the link of that number.
func (h Hop) encode(index uint32) (v hopValue, err error) {
	v = hopValue{Link: index, MAC: h.MAC, Family: 4}
	if h.Next.Is6() {
		v.Family = 6
	}
	if v.Encap, err = h.Encap.number(); err != nil {
		return v, err
	}
	if v.MTU, err = size16("mtu", h.MTU); err != nil {
		return v, err
	}
	if !h.Next.IsValid() {
		return v, fmt.Errorf("a hop by %s has no next hop", h.Link)
	}
	if wraps := h.Encap != Direct; isSet(h.Local) != wraps || isSet(h.End) != wraps {
		return v, fmt.Errorf("an outer header from %v to %v is not what %s needs", h.Local, h.End, h.Encap)
	}
	for _, a := range []struct {
		from netip.Addr
		to   *addressBytes
	}{{h.Next, &v.Next}, {h.Local, &v.Local}, {h.End, &v.End}} {
		if a.from.IsValid() && (a.from.Is4() != h.Next.Is4() || a.from.Zone() != "") {
			return v, fmt.Errorf("%v is of another family than the next hop %v, or has a zone", a.from, h.Next)
		}
		copy(a.to[:], a.from.AsSlice())
	}
	return v, nil
}

// decode is the hop that leads to the link of that name. Addresses that are not set are zero in the kernel.
func (v hopValue) decode(name string) Hop {
	h := Hop{Link: name, MTU: int(v.MTU), MAC: v.MAC, Next: v.Next.of(v.Family)}
	if all := encaps(); int(v.Encap) < len(all) {
		h.Encap = all[v.Encap]
	}
	if v.Local != (addressBytes{}) || v.End != (addressBytes{}) {
		h.Local, h.End = v.Local.of(v.Family), v.End.of(v.Family)
	}
	return h
}

// isSet tells whether the address is one that a packet can have.
func isSet(a netip.Addr) bool { return a.IsValid() && !a.IsUnspecified() }

func (a addressBytes) of(family uint8) netip.Addr {
	if family == 4 {
		return netip.AddrFrom4([4]byte(a[:]))
	}
	return netip.AddrFrom16(a)
}

// encode is the value of a route whose hops lead to links of those numbers.
func (r Route) encode(index func(name string) (uint32, error), slot uint32) (routeValue, error) {
	v := routeValue{Slot: slot}
	for i, h := range r.Used() {
		n, err := index(h.Link)
		if err != nil {
			return v, err
		}
		if v.Hop[i], err = h.encode(n); err != nil {
			return v, err
		}
		v.Hops++
	}
	return v, nil
}

// decode is the route, with names for the numbers of links. A name of none means that there is no such link.
func (v routeValue) decode(name func(index uint32) (string, bool)) (r Route) {
	for i, h := range v.Hop[:min(v.Hops, MaxHops)] {
		link, found := name(h.Link)
		if !found {
			r.Fault = FaultLink
		}
		r.Hops[i] = h.decode(link)
	}
	// What would be written for it is compared without the names, which are good for one way only.
	again, err := Route{Hops: r.Hops}.encode(func(string) (uint32, error) { return 0, nil }, v.Slot)
	for i := range again.Hop[:min(again.Hops, v.Hops, MaxHops)] {
		again.Hop[i].Link = v.Hop[i].Link
	}
	if err != nil || again != v {
		r.Fault = FaultForm
	}
	return r
}

func (s Settings) encode(device uint32) (v settingsValue, err error) {
	v = settingsValue{Device: device, Flags: uint32(s.Flags), VNI: uint32(s.VNI), MAC4: s.MAC4, MAC6: s.MAC6}
	port, err := size16("port", s.Port)
	switch {
	case err != nil:
		return v, err
	case s.VNI < 0 || s.VNI >= 1<<24:
		return v, fmt.Errorf("vni %d has more than 24 bits", s.VNI)
	case s.Local4.IsValid() && !s.Local4.Is4() || s.Local6.IsValid() && (!s.Local6.Is6() || s.Local6.Zone() != ""):
		return v, fmt.Errorf("%v and %v are no addresses of IPv4 and IPv6", s.Local4, s.Local6)
	}
	binary.BigEndian.PutUint16(v.Port[:], port)
	copy(v.Local4[:], s.Local4.AsSlice())
	copy(v.Local6[:], s.Local6.AsSlice())
	return v, nil
}

// over is settings that were deleted: the programs take nothing any more, and can still send.
func (v settingsValue) over() settingsValue {
	v.Flags, v.Pad = 0, [2]byte{deleted}
	return v
}

// deleted, as padding, tells settings that are over from those of a host with no flag set.
const deleted = 0xff

func (v settingsValue) decode(device string) Settings {
	s := Settings{
		Device: device,
		Flags:  Flags(v.Flags), VNI: int(v.VNI), Port: int(binary.BigEndian.Uint16(v.Port[:])), MAC4: v.MAC4, MAC6: v.MAC6,
	}
	if v.Local4 != ([4]byte{}) {
		s.Local4 = netip.AddrFrom4(v.Local4)
	}
	if v.Local6 != (addressBytes{}) {
		s.Local6 = netip.AddrFrom16(v.Local6)
	}
	if again, err := s.encode(v.Device); err != nil || again != v {
		s.Fault = FaultForm
	}
	return s
}

func size16(what string, n int) (uint16, error) {
	if n < 0 || n > math.MaxUint16 {
		return 0, fmt.Errorf("%s %d does not fit into two bytes", what, n)
	}
	return uint16(n), nil
}

// checkAddress refuses an address that would be another one when it is listed.
func checkAddress(a netip.Addr) error {
	if !a.IsValid() || a.Zone() != "" || a.Is4In6() {
		return fmt.Errorf("%v is no address that a packet has", a)
	}
	return nil
}

func checkPrefix(p netip.Prefix) error {
	if !p.IsValid() || p != p.Masked() || p.Addr().Is4In6() {
		return fmt.Errorf("%v is no prefix of packets' addresses", p)
	}
	return nil
}
