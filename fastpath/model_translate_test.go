package fastpath_test

import (
	"encoding/binary"
	"net/netip"
)

// translate makes a packet of one side of a connection one of the other.
func (s sight) translate(b []byte, kind uint16, other modelTuple) {
	from, to := other.near, other.far
	if other.inside {
		from, to = to, from
	}
	network := 20
	if kind == etherIPv6 {
		network = 40
	}
	if s.piece == modelError {
		quoted := [2]netip.AddrPort{to, from}
		if other.inside { // whoever is on the way keeps its address
			from = netip.AddrPortFrom(s.from, 0)
		}
		less := readdress(b, network, from.Addr(), to.Addr())
		q := b[s.quotes:]
		within := readdress(q, network, quoted[0].Addr(), quoted[1].Addr())
		ports := report(q[network:], quoted[0].Port(), quoted[1].Port())
		if network == 20 {
			less, within = 0, 0
		}
		resum(b[network+2:], less, false)
		resum(b[network+2:], within+ports, false)
		return
	}
	less := readdress(b, network, from.Addr(), to.Addr())
	if s.piece == modelLater {
		return
	}
	if s.piece == modelFirst && kind == etherIPv6 {
		network += 8
	}
	ports := report(b[network:], from.Port(), to.Port())
	sum := b[network+6:]
	if s.protocol == protocolTCP {
		sum = b[network+16:]
	}
	resum(sum, less, s.protocol == protocolUDP)
	resum(sum, ports, s.protocol == protocolUDP)
}

// readdress writes addresses into a header, and returns by how much the sum of its words is less.
func readdress(b []byte, network int, from, to netip.Addr) int {
	at, size := 12, 8
	if network == 40 {
		at, size = 8, 32
	}
	before := sumWords(b[at : at+size])
	copy(b[at:], from.AsSlice())
	copy(b[at+size/2:], to.AsSlice())
	less := before - sumWords(b[at:at+size])
	if network == 20 {
		adjust(b, less)
	}
	return less
}

func report(b []byte, from, to uint16) int {
	before := sumWords(b[:4])
	binary.BigEndian.PutUint16(b, from)
	binary.BigEndian.PutUint16(b[2:], to)
	return before - sumWords(b[:4])
}

func sumWords(b []byte) (sum int) {
	for i := 0; i < len(b); i += 2 {
		sum += int(binary.BigEndian.Uint16(b[i:]))
	}
	return sum
}

// resum keeps a checksum as right or wrong as it was. One of UDP that is zero stays so, and becomes no other's zero.
func resum(b []byte, less int, udp bool) {
	was := binary.BigEndian.Uint16(b)
	if udp && was == 0 {
		return
	}
	sum := ((int(was)+less)%0xffff + 0xffff) % 0xffff
	if udp && sum == 0 {
		sum = 0xffff
	}
	binary.BigEndian.PutUint16(b, uint16(sum))
}
