package nettest_test

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/nettest"
)

// cable is two hosts and the addresses of the second.
func cable(t *testing.T) (a, b *nettest.Host, to []netip.Addr) {
	t.Helper()
	a, b = nettest.NewHost(t, "a"), nettest.NewHost(t, "b")
	nettest.Wire(t, a, "eth0", b, "eth0")
	a.Batch("addr add 192.0.2.1/24 dev eth0", "-6 addr add 2001:db8:1::1/64 dev eth0 nodad")
	b.Batch("addr add 192.0.2.2/24 dev eth0", "-6 addr add 2001:db8:1::2/64 dev eth0 nodad")
	return a, b, []netip.Addr{netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("2001:db8:1::2")}
}

func TestAServiceTellsItsNameAndWhoAsks(t *testing.T) {
	a, b, to := cable(t)
	protos := []string{"tcp", "udp", "sctp"}
	if err := nettest.SCTP(); err != nil {
		t.Logf("no SCTP here: %v", err)
		protos = protos[:2]
	}
	from := []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8:1::1")}
	for i, address := range to {
		for _, proto := range protos {
			at := netip.AddrPortFrom(address, 80)
			if got, err := a.Call(proto, at); err == nil {
				t.Errorf("%s at %s: %v before anybody is there", proto, at, got)
			}
			b.Offer(proto, at, "b")
			got, err := a.Call(proto, at)
			if err != nil || got.Name != "b" || got.Source.Addr() != from[i] {
				t.Errorf("%s at %s: %v, %v", proto, at, got, err)
			}
		}
	}
	b.Echo(netip.AddrPortFrom(to[0], 90))
	if err := a.Large(netip.AddrPortFrom(to[0], 90), 8000); err != nil {
		t.Error(err)
	}
	if err := a.Large(netip.AddrPortFrom(to[0], 80), 8000); err == nil {
		t.Error("what comes back is not what was sent, and nobody says so")
	}
	if got, err := a.CallFrom("udp", 5000, netip.AddrPortFrom(to[0], 80)); err != nil || got.Source.Port() != 5000 {
		t.Errorf("from port 5000: %v, %v", got, err)
	}
}

func TestAThiefGetsWhatNobodyHas(t *testing.T) {
	a, b, to := cable(t)
	taken := netip.AddrPortFrom(to[0], 80)
	for _, proto := range []string{"tcp", "udp"} {
		for _, trick := range nettest.Tricks() {
			if err := b.Bind(proto, taken, trick); err != nil {
				t.Errorf("%s, %s: %v", proto, trick.Name, err)
			}
		}
		b.Offer(proto, taken, "b")
		if err := b.Bind(proto, netip.MustParseAddrPort("[::]:80"), nettest.Trick{}); !errors.Is(err, unix.EADDRINUSE) {
			t.Errorf("%s: %v", proto, err)
		}
	}
	b.Sysctl("net/ipv4/ip_local_port_range", "40000 40019")
	b.Sysctl("net/ipv4/ip_local_reserved_ports", "40005")
	service := netip.MustParseAddrPort("192.0.2.1:80")
	a.Offer("tcp", service, "a")
	for _, proto := range []string{"tcp", "udp"} {
		for _, bound := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified(), {}} {
			got, err := b.Drain(proto, bound, service)
			slices.Sort(got)
			if err != nil || len(slices.Compact(got)) != 19 || got[0] != 40000 || got[18] != 40019 || slices.Contains(got, 40005) {
				t.Errorf("%s, bound to %v: %v, %v", proto, bound, got, err)
			}
		}
	}
}

func TestATalkHearsWhoAnswersWhen(t *testing.T) {
	a, b, to := cable(t)
	at := netip.AddrPortFrom(to[0], 80)
	talk := a.Talk(at, time.Millisecond)
	time.Sleep(50 * time.Millisecond)
	before := time.Now()
	if got := talk.Since(time.Time{}); len(got) > 0 {
		t.Errorf("heard before anybody is there: %v", got)
	}
	b.Offer("udp", at, "b")
	nettest.Eventually(t, 5*time.Second, func() error {
		if got := talk.Since(before); len(got) < 10 || got[0].Name != "b" {
			return fmt.Errorf("heard %v", got)
		}
		return nil
	})
	talk.Stop()
	talk.Stop() // again is no harm
}
