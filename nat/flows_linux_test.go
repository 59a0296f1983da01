package nat_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/nat"
	"github.com/fairlead-net/fairlead/nettest"
)

// crowd is connections of which all go, or none.
type crowd struct {
	name  string
	from  *nettest.Host
	proto string
	to    netip.AddrPort
	count int
	next  bool // each to another address
}

func (c crowd) gather(t *testing.T) (all []track) {
	t.Helper()
	if !c.next {
		return talk(t, c.from, c.proto, c.to, c.count)
	}
	ip := c.to.Addr()
	for range c.count {
		all = append(all, talk(t, c.from, c.proto, netip.AddrPortFrom(ip, c.to.Port()), 1)...)
		ip = ip.Next()
	}
	return all
}

// ours go: they are of the mappings in mappings.
func (s *street) ours(f side) []crowd {
	at := netip.AddrPortFrom
	all := []crowd{
		{"from a client", s.client, "tcp", at(f.host, 8080), 10, false},
		{"from a client", s.client, "udp", at(f.host, 8080), 20, false},
		{"from a client", s.client, "sctp", at(f.host, 8080), 1, false},
		{"to the second address", s.client, "tcp", at(f.second, 8080), 5, false},
		{"to the second address", s.client, "udp", at(f.second, 8080), 5, false},
		{"from the host", s.Host, "tcp", at(f.host, 8080), 5, false},
		{"from the host", s.Host, "udp", at(f.second, 8080), 5, false},
		{"from a container", s.box, "udp", at(f.host, 8080), 5, false},
		{"of one protocol", s.client, "udp", at(f.host, 8081), 10, false},
		{"of one address", s.client, "tcp", at(f.second, 8083), 5, false},
		{"of one address", s.client, "udp", at(f.second, 8083), 5, false},
		{"before the move", s.client, "tcp", at(f.host, 8084), 5, false},
		{"before the move", s.client, "udp", at(f.host, 8084), 10, false},
		{"in a zone, one way", s.client, "udp", at(f.host, 8085), 5, false},
		{"in a zone", s.client, "udp", at(f.host, 8086), 5, false},
	}
	if f.host.Is4() {
		all = append(all, crowd{"by the loopback", s.Host, "tcp", to("127.0.0.1:8080"), 3, false}, crowd{"by the loopback", s.Host, "udp", to("127.7.7.7:8080"), 3, true})
	}
	return all
}

// others stay.
func (s *street) others(f side) []crowd {
	at := netip.AddrPortFrom
	all := []crowd{
		{"through the host to the same port elsewhere", s.box, "tcp", at(f.foreign, 8080), 40, true},
		{"through the host to the same port elsewhere", s.box, "udp", at(f.foreign, 8080), 120, true},
		{"from the host to the same port elsewhere", s.Host, "udp", at(f.foreign, 8080), 20, true},
		{"to the same target by another's rule", s.client, "tcp", at(f.host, 9090), 40, false},
		{"to the same target by another's rule", s.client, "udp", at(f.host, 9090), 80, false},
		{"to the same target by another's address", s.client, "tcp", at(f.vip, 8080), 10, false},
		{"to the same target by another's address", s.client, "udp", at(f.vip, 8080), 60, false},
		{"to the same target, not translated", s.client, "udp", f.old, 40, false},
		{"to the host, another protocol", s.client, "tcp", at(f.host, 8081), 30, false},
		{"to the host, another port", s.client, "udp", at(f.host, 8082), 60, false},
		{"to the host's other address", s.client, "udp", at(f.host, 8083), 40, false},
	}
	if f.host.Is4() {
		all = append(all, crowd{"to everybody on the link", s.client, "udp", to("192.0.2.255:8084"), 3, false},
			crowd{"to everybody by the loopback", s.Host, "udp", to("127.255.255.255:8084"), 3, false})
	}
	return all
}

// mappings are those that go, and one that moved.
func mappings() (gone, added map[nat.Port]netip.AddrPort) {
	gone, added = make(map[nat.Port]netip.AddrPort), make(map[nat.Port]netip.AddrPort)
	for i, f := range sides() {
		every := []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}[i]
		for _, proto := range []string{"tcp", "udp", "sctp"} {
			gone[nat.Port{Proto: proto, IP: every, Number: 8080}] = f.old
			gone[nat.Port{Proto: proto, IP: f.second, Number: 8083}] = f.old
			gone[nat.Port{Proto: proto, IP: every, Number: 8084}] = f.old
			added[nat.Port{Proto: proto, IP: every, Number: 8084}] = f.new
		}
		for _, number := range []uint16{8081, 8085, 8086} {
			gone[nat.Port{Proto: "udp", IP: every, Number: number}] = f.old
		}
	}
	return gone, added
}

// TestForgetExactly: of more than a thousand connections those of the mappings that went go, and no other.
func TestForgetExactly(t *testing.T) {
	s := newStreet(t)
	s.rules("raw", "-A PREROUTING -p udp --dport 8085 -j CT --zone-orig 7", "-A PREROUTING -p udp --dport 8086 -j CT --zone 7")
	dnat := []string{"-A POSTROUTING -o box -j MASQUERADE"}
	for _, chain := range []string{"PREROUTING", "OUTPUT"} {
		for _, proto := range []string{"tcp", "udp"} {
			for _, match := range []string{
				"--dport 8080 -m addrtype --dst-type LOCAL", "--dport 8084 -m addrtype --dst-type LOCAL", "--dport 9090", "-d SECOND --dport 8083", "-d VIP --dport 8080",
			} {
				dnat = append(dnat, fmt.Sprintf("-A %s -p %s %s -j DNAT --to-destination OLD", chain, proto, match))
			}
		}
		dnat = append(dnat, "-A "+chain+" -p udp -m multiport --dports 8081,8085,8086 -j DNAT --to-destination OLD",
			"-A "+chain+" -p sctp -j DNAT --to-destination OLD")
	}
	s.rules("nat", dnat...)
	s.listen(t, s.box, 80)
	s.listen(t, s.client, 8080)
	s.listen(t, s.Host, 8081)

	drop, stay := make(map[track]string), make(map[track]string)
	gather := func(all []crowd, into map[track]string) {
		for _, c := range all {
			for _, one := range c.gather(t) {
				into[one] = c.name
			}
		}
	}
	for _, f := range sides() {
		gather(s.ours(f), drop)
		gather(s.others(f), stay)
	}
	s.rules("nat", "-I PREROUTING -p udp --dport 8084 -j DNAT --to-destination NEW", "-I PREROUTING -p udp --dport 8081 -j DNAT --to-destination NEW")
	for _, f := range sides() {
		gather([]crowd{
			{"after the move", s.client, "udp", netip.AddrPortFrom(f.host, 8084), 20, false},
			{"of who took the port since", s.client, "udp", netip.AddrPortFrom(f.host, 8081), 20, false},
		}, stay)
	}

	before := s.tracked()
	for one, name := range merged(drop, stay) {
		if _, there := before[one]; !there {
			t.Fatalf("not tracked: %s %v", name, one)
		}
	}
	if len(stay) < 1000 {
		t.Fatalf("only %d others", len(stay))
	}
	gone, added := mappings()
	begun := time.Now()
	must(t, s.k.Forget(t.Context(), gone, added))
	t.Logf("%d of %d forgotten in %v", len(drop), len(before), time.Since(begun))
	after := s.tracked()
	for one, from := range before {
		_, left := after[one]
		switch {
		case drop[one] != "" && left:
			t.Errorf("still there: %s: %v, answered by %v", drop[one], one, from)
		case drop[one] == "" && !left:
			t.Errorf("lost: %s: %v, answered by %v", stay[one], one, from)
		}
	}
	must(t, s.k.Forget(t.Context(), gone, added)) // what is gone already is no error
}

func merged(a, b map[track]string) map[track]string {
	all := maps.Clone(a)
	maps.Copy(all, b)
	return all
}

// TestForgetOnAdd: whoever sent to a port before it was mapped is heard by the container afterwards.
func TestForgetOnAdd(t *testing.T) {
	s := newStreet(t)
	s.rules("nat", "-A PREROUTING -p udp --dport 9 -j DNAT --to-destination OLD") // the kernel tracks for the sake of rules
	for i, f := range sides() {
		port := nat.Port{Proto: "udp", IP: f.host, Number: uint16(8080 + i)}
		source := netip.AddrPortFrom([]netip.Addr{addr("192.0.2.2"), addr("2001:db8:1::2")}[i], 7000)
		box, client := bind(t, s.box, f.old), bind(t, s.client, source)
		ask := func(word string) {
			t.Helper()
			_, err := client.WriteToUDPAddrPort([]byte(word), netip.AddrPortFrom(f.host, port.Number))
			must(t, err)
		}
		one := track{unix.IPPROTO_UDP, source, netip.AddrPortFrom(f.host, port.Number)}
		ask("before")
		s.rules("nat", fmt.Sprintf("-A PREROUTING -d HOST -p udp --dport %d -j DNAT --to-destination OLD", port.Number))
		ask("with the rule alone")
		if from := s.tracked()[one]; from != one.dst {
			t.Fatalf("%v is answered by %v, not by the host", one, from)
		}
		must(t, s.k.Forget(t.Context(), nil, map[nat.Port]netip.AddrPort{port: f.old}))
		ask("after")
		if word, from := hear(t, box); word != "after" {
			t.Fatalf("the container heard %q", word)
		} else {
			_, err := box.WriteToUDPAddrPort([]byte("yes"), from)
			must(t, err)
		}
		if word, from := hear(t, client); word != "yes" || from != one.dst {
			t.Errorf("the client heard %q from %v", word, from)
		}
		must(t, s.k.Forget(t.Context(), nil, map[nat.Port]netip.AddrPort{port: f.old}))
		if from := s.tracked()[one]; from != f.old {
			t.Errorf("the mapping's own connection was forgotten: %v is answered by %v", one, from)
		}
	}
}

func bind(t *testing.T, h *nettest.Host, at netip.AddrPort) (c *net.UDPConn) {
	t.Helper()
	must(t, h.Do(func() (err error) {
		c, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
		return err
	}))
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// hear waits for a datagram. What an earlier one met on its way is passed over.
func hear(t *testing.T, c *net.UDPConn) (word string, from netip.AddrPort) {
	t.Helper()
	must(t, c.SetReadDeadline(time.Now().Add(5*time.Second)))
	buf := make([]byte, 64)
	for {
		n, from, err := c.ReadFromUDPAddrPort(buf)
		if errors.Is(err, unix.ECONNREFUSED) {
			continue
		}
		must(t, err)
		return string(buf[:n]), netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
	}
}

// TestForgetNarrower: a connection to the target of a mapping at work stays, whatever else went.
func TestForgetNarrower(t *testing.T) {
	s := newStreet(t)
	s.rules("nat", "-A PREROUTING -p udp --dport 8080 -j DNAT --to-destination OLD")
	every, gone, added := netip.IPv4Unspecified(), make(map[nat.Port]netip.AddrPort), make(map[nat.Port]netip.AddrPort)
	f := sides()[0]
	gone[nat.Port{Proto: "udp", IP: every, Number: 8080}] = f.old
	added[nat.Port{Proto: "udp", IP: f.second, Number: 8080}] = f.old
	goes := talk(t, s.client, "udp", netip.AddrPortFrom(f.host, 8080), 1)[0]
	stays := talk(t, s.client, "udp", netip.AddrPortFrom(f.second, 8080), 1)[0]
	must(t, s.k.Forget(t.Context(), gone, added))
	if left := slices.Collect(maps.Keys(s.tracked())); !slices.Contains(left, stays) || slices.Contains(left, goes) {
		t.Errorf("left: %v", left)
	}
}

// TestForgetGivenUp: without time nothing is asked of the kernel, and without mappings not either.
func TestForgetGivenUp(t *testing.T) {
	s := newStreet(t)
	s.rules("nat", "-A PREROUTING -p udp --dport 8080 -j DNAT --to-destination OLD")
	f := sides()[0]
	gone := map[nat.Port]netip.AddrPort{{Proto: "udp", IP: f.host, Number: 8080}: f.old}
	one := talk(t, s.client, "udp", netip.AddrPortFrom(f.host, 8080), 1)[0]
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.k.Forget(ctx, gone, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("forget without time: %v", err)
	}
	must(t, s.k.Forget(ctx, nil, nil))
	if _, there := s.tracked()[one]; !there {
		t.Errorf("%v was forgotten", one)
	}
	if err := s.k.Forget(t.Context(), map[nat.Port]netip.AddrPort{{Proto: "icmp", IP: f.host}: f.old}, nil); err == nil {
		t.Error("no error for a protocol without ports")
	}
}
