package nettest_test

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/nettest"
)

// The ends of the packets that the tests make by hand.
var (
	outer4 = [2]netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("198.51.100.3")}
	outer6 = [2]netip.Addr{netip.MustParseAddr("2001:db8:1::1"), netip.MustParseAddr("2001:db8:2::3")}
	inner4 = [2]netip.Addr{netip.MustParseAddr("10.88.1.2"), netip.MustParseAddr("10.88.3.2")}
	inner6 = [2]netip.Addr{netip.MustParseAddr("2001:db8:88::1:2"), netip.MustParseAddr("2001:db8:88::3:2")}
)

// ethernet puts a frame together out of its parts.
func ethernet(parts ...[]byte) []byte {
	return slices.Concat(append([][]byte{make([]byte, 14)}, parts...)...)
}

// ip is the header of a packet, of the family of its ends.
func ip(ends [2]netip.Addr, protocol byte) []byte {
	if ends[0].Is4() {
		return slices.Concat([]byte{0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0}, ends[0].AsSlice(), ends[1].AsSlice())
	}
	return slices.Concat([]byte{0x60, 0, 0, 0, 0, 0, protocol, 64}, ends[0].AsSlice(), ends[1].AsSlice())
}

// fragment is ip for a part of a packet that is not its first.
func fragment(ends [2]netip.Addr, protocol byte) []byte {
	b := ip(ends, protocol)
	binary.BigEndian.PutUint16(b[6:], 185)
	return b
}

// options is ip with four bytes of options behind.
func options(ends [2]netip.Addr, protocol byte) []byte {
	b := append(ip(ends, protocol), 1, 1, 1, 0)
	b[0]++
	return b
}

func udp(port uint16) []byte {
	return binary.BigEndian.AppendUint16([]byte{0x80, 0}, port)
}

func vxlan(port uint16) []byte {
	return slices.Concat(udp(port), make([]byte, 4), []byte{8, 0, 0, 0, 0, 0, 88, 0}, make([]byte, 14))
}

func gre(flags byte, protocol uint16) []byte {
	return binary.BigEndian.AppendUint16([]byte{flags, 0}, protocol)
}

func TestATapTellsTheTunnelByTheFrame(t *testing.T) {
	const tcp, udpProtocol = unix.IPPROTO_TCP, unix.IPPROTO_UDP
	in4, in6 := ip(inner4, tcp), ip(inner6, tcp)
	for _, c := range []struct {
		name  string
		frame []byte
		want  string // "" when it is no IP at all
	}{
		{"nothing", nil, ""},
		{"no IP", ethernet([]byte{0, 1, 8, 0, 6, 4}), ""},
		{"half a header", ethernet(in4[:19]), ""},
		{"IPv4 in the open", ethernet(in4), "10.88.1.2 > 10.88.3.2"},
		{"IPv6 in the open", ethernet(in6), "2001:db8:88::1:2 > 2001:db8:88::3:2"},
		{"UDP to another port", ethernet(ip(outer4, udpProtocol), vxlan(4788), in4), "192.0.2.1 > 198.51.100.3"},
		{"IPv4 in VXLAN", ethernet(ip(outer4, udpProtocol), vxlan(4789), in4),
			"vxlan 192.0.2.1 > 198.51.100.3 ( 10.88.1.2 > 10.88.3.2 )"},
		{"IPv6 in VXLAN over IPv6", ethernet(ip(outer6, udpProtocol), vxlan(4789), in6),
			"vxlan 2001:db8:1::1 > 2001:db8:2::3 ( 2001:db8:88::1:2 > 2001:db8:88::3:2 )"},
		{"VXLAN behind IP options", ethernet(options(outer4, udpProtocol), vxlan(4789), in4),
			"vxlan 192.0.2.1 > 198.51.100.3 ( 10.88.1.2 > 10.88.3.2 )"},
		{"VXLAN with no IP in it", ethernet(ip(outer4, udpProtocol), vxlan(4789), []byte{0, 1, 8, 0}),
			"vxlan 192.0.2.1 > 198.51.100.3 ( invalid IP > invalid IP )"},
		{"UDP that is too short for VXLAN", ethernet(ip(outer4, udpProtocol), vxlan(4789)[:15]), "192.0.2.1 > 198.51.100.3"},
		{"IPv4 in IPv4", ethernet(ip(outer4, unix.IPPROTO_IPIP), in4),
			"ipip 192.0.2.1 > 198.51.100.3 ( 10.88.1.2 > 10.88.3.2 )"},
		{"no IPv4 in protocol 4", ethernet(ip(outer4, unix.IPPROTO_IPIP), in6),
			"ipip 192.0.2.1 > 198.51.100.3 ( invalid IP > invalid IP )"},
		{"a later fragment of IPIP", ethernet(fragment(outer4, unix.IPPROTO_IPIP), in4),
			"ipip 192.0.2.1 > 198.51.100.3 ( invalid IP > invalid IP )"},
		{"IPv4 in IPv6 is not ours", ethernet(ip(outer6, unix.IPPROTO_IPIP), in4), "2001:db8:1::1 > 2001:db8:2::3"},
		{"IPv4 in GRE", ethernet(ip(outer4, unix.IPPROTO_GRE), gre(0, unix.ETH_P_IP), in4),
			"gre 192.0.2.1 > 198.51.100.3 ( 10.88.1.2 > 10.88.3.2 )"},
		{"IPv6 in GRE", ethernet(ip(outer4, unix.IPPROTO_GRE), gre(0, unix.ETH_P_IPV6), in6),
			"gre 192.0.2.1 > 198.51.100.3 ( 2001:db8:88::1:2 > 2001:db8:88::3:2 )"},
		{"GRE with a key", ethernet(ip(outer4, unix.IPPROTO_GRE), gre(0x20, unix.ETH_P_IP), in4),
			"gre 192.0.2.1 > 198.51.100.3 ( invalid IP > invalid IP )"},
		{"Ethernet in GRE", ethernet(ip(outer4, unix.IPPROTO_GRE), gre(0, 0x6558), in4),
			"gre 192.0.2.1 > 198.51.100.3 ( invalid IP > invalid IP )"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, ok := nettest.ParseFrame(c.frame)
			if ok != (c.want != "") || ok && p.String() != c.want {
				t.Errorf("%v, %v, want %q", p, ok, c.want)
			}
			for n := range c.frame {
				nettest.ParseFrame(c.frame[:n]) // a frame may end anywhere
			}
		})
	}
}
