package nat_test

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/nettest"
)

// street is a client, a host and a container on it. Behind the client is a whole foreign net.
type street struct {
	host
	client, box *nettest.Host
}

// side is the addresses of one family.
type side struct {
	host, second netip.Addr // of the host
	old, new     netip.AddrPort
	foreign, vip netip.Addr // foreign is the first of many
}

func sides() []side {
	return []side{
		{addr("192.0.2.1"), addr("192.0.2.9"), to("10.88.0.2:80"), to("10.88.0.3:80"), addr("198.51.100.1"), addr("203.0.113.7")},
		{addr("2001:db8:1::1"), addr("2001:db8:1::9"), to("[fd00:88::2]:80"), to("[fd00:88::3]:80"), addr("2001:db8:ff::1"), addr("2001:db8:7::7")},
	}
}

func to(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

func newStreet(t *testing.T) *street {
	t.Helper()
	use(t, "nft")
	s := &street{host: newHost(t), client: nettest.NewHost(t, "client"), box: nettest.NewHost(t, "box")}
	for _, h := range []*nettest.Host{s.Host, s.client, s.box} {
		h.Sysctl("net/ipv6/conf/default/accept_dad", "0") // or the first packets would wait for it
	}
	nettest.Wire(t, s.client, "eth0", s.Host, "eth0")
	nettest.Wire(t, s.Host, "box", s.box, "eth0")
	s.client.Batch("addr add 192.0.2.2/24 dev eth0", "addr add 2001:db8:1::2/64 dev eth0 nodad",
		"route add local 198.51.100.0/24 dev lo", "-6 route add local 2001:db8:ff::/64 dev lo",
		"route add default via 192.0.2.1", "-6 route add default via 2001:db8:1::1")
	s.Batch("addr add 192.0.2.1/24 dev eth0", "addr add 192.0.2.9/24 dev eth0", "addr add 10.88.0.1/24 dev box",
		"addr add 2001:db8:1::1/64 dev eth0 nodad", "addr add 2001:db8:1::9/64 dev eth0 nodad", "addr add fd00:88::1/64 dev box nodad",
		"route add 198.51.100.0/24 via 192.0.2.2", "-6 route add 2001:db8:ff::/64 via 2001:db8:1::2")
	s.box.Batch("addr add 10.88.0.2/24 dev eth0", "addr add 10.88.0.3/24 dev eth0", "addr add fd00:88::2/64 dev eth0 nodad",
		"addr add fd00:88::3/64 dev eth0 nodad", "route add default via 10.88.0.1", "-6 route add default via fd00:88::1")
	for path, value := range map[string]string{
		"net/ipv4/ip_forward": "1", "net/ipv6/conf/all/forwarding": "1", "net/ipv4/conf/all/rp_filter": "0", "net/ipv4/conf/box/route_localnet": "1",
	} {
		s.Sysctl(path, value)
	}
	return s
}

// rules writes rules of the table nat into both families. HOST, SECOND, VIP, OLD and NEW are the addresses of each.
func (s *street) rules(table string, lines ...string) {
	for i, tool := range []string{"iptables", "ip6tables"} {
		f := sides()[i]
		names := strings.NewReplacer("HOST", f.host.String(), "SECOND", f.second.String(), "VIP", f.vip.String(), "OLD", f.old.String(), "NEW", f.new.String())
		text := "*" + table + "\n" + names.Replace(strings.Join(lines, "\n")) + "\nCOMMIT\n"
		s.Run("sh", "-c", tool+"-restore --noflush <<'EOF'\n"+text+"EOF\n")
	}
}

// track is what a connection is known by.
type track struct {
	proto    uint8
	src, dst netip.AddrPort
}

func (o track) String() string { return fmt.Sprintf("%d from %v to %v", o.proto, o.src, o.dst) }

// tracked is the kernel's table as it prints it, with the source of the answers.
func (s *street) tracked() map[track]netip.AddrPort {
	all := make(map[track]netip.AddrPort)
	for line := range strings.Lines(s.Run("cat", "/proc/net/nf_conntrack")) {
		fields := strings.Fields(line)
		proto, _ := strconv.ParseUint(fields[3], 10, 8)
		var ends []netip.AddrPort // of the first direction, then of the other
		var ips []netip.Addr
		for _, f := range fields {
			name, value, _ := strings.Cut(f, "=")
			switch name {
			case "src", "dst":
				ips = append(ips, addr(value))
			case "sport", "dport":
				number, _ := strconv.ParseUint(value, 10, 16)
				ends = append(ends, netip.AddrPortFrom(ips[len(ends)], uint16(number)))
			}
		}
		if len(ends) == 4 { // others than these have no ports
			all[track{uint8(proto), ends[0], ends[1]}] = ends[2]
		}
	}
	return all
}

// listen takes TCP connections until the test ends.
func (s *street) listen(t *testing.T, h *nettest.Host, port uint16) {
	t.Helper()
	must(t, h.Do(func() error {
		l, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
		if err == nil {
			t.Cleanup(func() { _ = l.Close() }) // with all that nobody has accepted
		}
		return err
	}))
}

// talk begins n connections, each from a port of its own, and says how the host knows them. They stay open.
func talk(t *testing.T, h *nettest.Host, network string, dst netip.AddrPort, n int) (all []track) {
	t.Helper()
	for range n {
		if network == "sctp" {
			all = append(all, initiate(t, h, dst))
			continue
		}
		var c net.Conn
		must(t, h.Do(func() (err error) {
			c, err = (&net.Dialer{Timeout: 5 * time.Second}).Dial(network, dst.String())
			return err
		}))
		t.Cleanup(func() { _ = c.Close() })
		proto := uint8(unix.IPPROTO_TCP)
		if network == "udp" {
			proto = unix.IPPROTO_UDP
			_, err := c.Write([]byte("hello"))
			must(t, err)
		}
		src := netip.MustParseAddrPort(c.LocalAddr().String())
		all = append(all, track{proto, src, dst})
	}
	return all
}

// initiate sends the first packet of an SCTP association (RFC 9260, 3.3.2), by hand: this kernel has no such sockets.
func initiate(t *testing.T, h *nettest.Host, dst netip.AddrPort) track {
	t.Helper()
	src := netip.AddrPortFrom(addr("192.0.2.2"), 7000)
	var sa unix.Sockaddr = &unix.SockaddrInet6{Addr: dst.Addr().As16()}
	domain := unix.AF_INET6
	if dst.Addr().Is4() {
		sa, domain = &unix.SockaddrInet4{Addr: dst.Addr().As4()}, unix.AF_INET
	} else {
		src = netip.AddrPortFrom(addr("2001:db8:1::2"), 7000)
	}
	p := binary.BigEndian.AppendUint16(nil, src.Port())
	p = binary.BigEndian.AppendUint16(p, dst.Port())
	p = append(p, 0, 0, 0, 0, 0, 0, 0, 0)                                      // no tag yet, and the checksum
	p = append(p, 1, 0, 0, 20, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1) // INIT: tag, window, streams, number
	binary.LittleEndian.PutUint32(p[8:], crc32.Checksum(p, crc32.MakeTable(crc32.Castagnoli)))
	must(t, h.Do(func() error {
		fd, err := unix.Socket(domain, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_SCTP)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.Sendto(fd, p, 0, sa)
	}))
	return track{unix.IPPROTO_SCTP, src, dst}
}
