package fastpath

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"
)

// Port is a port of this host.
type Port struct {
	Address netip.Addr // unspecified: every address of the host of that family
	Number  uint16
	Proto   uint8 // as in the IP header
}

func (p Port) String() string {
	return fmt.Sprintf("%v proto %d", netip.AddrPortFrom(p.Address, p.Number), p.Proto)
}

// Mapping is where a port of this host leads. The key is the port.
type Mapping struct {
	To    netip.AddrPort // of an endpoint, and of the port's family
	Fault string         // what is wrong with it, one word; never wanted
}

func (m Mapping) String() string { return faulty("to "+m.To.String(), m.Fault) }

// Own is an address of this host. The key is the address.
type Own struct {
	Fault string // what is wrong with it, one word; never wanted
}

func (o Own) String() string { return faulty("here", o.Fault) }

// The following are structs of layout.h, as those in layout.go are.

type hostKey struct {
	Address addressBytes
	Family  uint32
}

type portKey struct {
	Address          addressBytes
	Port             [2]byte
	Protocol, Family uint8
}

type targetValue struct {
	To   addressBytes
	Port [2]byte
	Pad  [2]byte
}

// tuple is struct tuple.
type tuple struct {
	Near, Far           addressBytes
	NearPort, FarPort   [2]byte
	Protocol            uint8
	Family, Inside, Pad uint8
}

func (t tuple) near() netip.AddrPort {
	return netip.AddrPortFrom(t.Near.of(t.Family), portNumber(t.NearPort))
}

func (t tuple) far() netip.AddrPort {
	return netip.AddrPortFrom(t.Far.of(t.Family), portNumber(t.FarPort))
}

// connectionValue is struct connection.
type connectionValue struct {
	Other       tuple
	Link, State uint32
	Seen        uint64
}

// Bits of struct connection's state.
const (
	seenAny = 1 << iota
	seenFIN
	seenRST
)

func bytesOf(a netip.Addr) (b addressBytes, family uint8) {
	copy(b[:], a.AsSlice())
	if a.Is4() {
		return b, 4
	}
	return b, 6
}

func (p Port) encode() (k portKey) {
	k.Address, k.Family = bytesOf(p.Address)
	k.Port, k.Protocol = portBytes(p.Number), p.Proto
	return k
}

func (k portKey) decode() Port {
	return Port{Address: k.Address.of(k.Family), Number: portNumber(k.Port), Proto: k.Protocol}
}

func (m Mapping) encode() (v targetValue) {
	v.To, _ = bytesOf(m.To.Addr())
	v.Port = portBytes(m.To.Port())
	return v
}

func (v targetValue) decode(family uint8) Mapping {
	m := Mapping{To: netip.AddrPortFrom(v.To.of(family), portNumber(v.Port))}
	if m.encode() != v {
		m.Fault = FaultForm
	}
	return m
}

func portBytes(n uint16) [2]byte { return [2]byte{byte(n >> 8), byte(n)} }

func portNumber(b [2]byte) uint16 { return uint16(b[0])<<8 | uint16(b[1]) }

// IANA's protocol numbers of those that are mapped.
const (
	protoTCP = 6
	protoUDP = 17
)

// checkMapping refuses what would be another one when it is listed, or what the programs have no table for.
func checkMapping(p Port, m Mapping) error {
	switch {
	case checkAddress(p.Address) != nil || checkAddress(m.To.Addr()) != nil || p.Address.Is4() != m.To.Addr().Is4():
		return fmt.Errorf("port %v can not lead to %v", p, m.To)
	case p.Proto != protoTCP && p.Proto != protoUDP:
		return fmt.Errorf("the fast path maps no ports of protocol %d", p.Proto)
	}
	return nil
}

// ports takes those that lead to endpoints that are not kept apart. All others are the kernel's.
func (r *Rows) ports(in Input) {
	if in.Ports == nil {
		return
	}
	for p, to := range in.Ports {
		p.Address, to = p.Address.Unmap(), netip.AddrPortFrom(to.Addr().Unmap(), to.Port())
		e, here := r.Endpoints[to.Addr()]
		if here && e.Realm == 0 && checkMapping(p, Mapping{To: to}) == nil {
			r.Ports[p] = Mapping{To: to}
		}
	}
	if len(r.Ports) > MaxPorts {
		for _, p := range slices.SortedFunc(maps.Keys(r.Ports), Port.compare)[MaxPorts:] {
			delete(r.Ports, p)
		}
	}
	if len(r.Ports) == 0 {
		return
	}
	for _, a := range in.Own {
		if a = a.Unmap(); checkAddress(a) == nil {
			r.Own[a] = Own{}
		}
	}
}

// MaxPorts is how many ports of the host there is room for.
const MaxPorts = 1 << 16

func (p Port) compare(o Port) int {
	if c := netip.AddrPortFrom(p.Address, p.Number).Compare(netip.AddrPortFrom(o.Address, o.Number)); c != 0 {
		return c
	}
	return int(p.Proto) - int(o.Proto)
}

// How long a connection lasts after its last packet: as the kernel's own tracking has it by default, in
// net/netfilter/nf_conntrack_proto_tcp.c and nf_conntrack_proto_udp.c.
const (
	lastsOpen     = 5 * 24 * time.Hour
	lastsAsked    = 2 * time.Minute // nobody has answered
	lastsClosing  = 2 * time.Minute
	lastsReset    = 10 * time.Second
	lastsDatagram = 2 * time.Minute
	lastsLone     = 30 * time.Second // a datagram that nobody has answered
)

// lasts is how long, by what was seen from outside and from inside.
func lasts(proto uint8, outside, inside uint32) time.Duration {
	if proto == protoUDP {
		if inside&seenAny == 0 {
			return lastsLone
		}
		return lastsDatagram
	}
	switch {
	case (outside|inside)&seenRST != 0:
		return lastsReset
	case (outside|inside)&seenFIN != 0:
		return lastsClosing
	case inside&seenAny == 0:
		return lastsAsked
	}
	return lastsOpen
}
