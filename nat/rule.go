package nat

import (
	"fmt"
	"net/netip"
	"strings"
)

// Backend is what sends the packets for ports to endpoints.
type Backend string

const (
	Auto     Backend = "auto"
	EBPF     Backend = "ebpf" // the programs of the fast path, and for what they leave, iptables
	IPTables Backend = "iptables"
)

// Port is a port of this host: a protocol and an address of its own.
type Port struct {
	Proto  string     // "tcp", "udp", "sctp"
	IP     netip.Addr // unspecified: every address of the host of that family
	Number uint16
}

// String is like 192.0.2.1:8080/tcp.
func (p Port) String() string {
	return fmt.Sprintf("%s/%s", netip.AddrPortFrom(p.IP, p.Number), p.Proto)
}

// Protocol is the protocol as IP headers have it, 0 when it has no ports.
func (p Port) Protocol() uint8 {
	switch p.Proto { // the numbers are IANA's
	case "tcp":
		return 6
	case "udp":
		return 17
	case "sctp":
		return 132
	}
	return 0
}

// Compare orders ports by protocol, number and address.
func (p Port) Compare(o Port) int {
	if c := strings.Compare(p.Proto, o.Proto); c != 0 {
		return c
	}
	if p.Number != o.Number {
		return int(p.Number) - int(o.Number)
	}
	return p.IP.Compare(o.IP)
}

// Overlaps tells whether a packet could be for both: not both can be mapped.
func (p Port) Overlaps(o Port) bool {
	return p.Proto == o.Proto && p.Number == o.Number && p.IP.Is4() == o.IP.Is4() &&
		(p.IP == o.IP || p.IP.IsUnspecified() || o.IP.IsUnspecified())
}

// Rule is a mapping at work: what comes for a port of this host goes to an endpoint.
type Rule struct {
	To    netip.AddrPort // of the family of the port's address
	Fault Fault          // what is wrong with it as the kernel has it; never wanted
}

func (r Rule) String() string {
	if r.Fault == "" {
		return "to " + r.To.String()
	}
	return fmt.Sprintf("to %s (%s)", r.To, r.Fault)
}
