package story_test

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/fairlead-net/fairlead/nettest"
)

// Ports of programs that listen on 127.0.0.1 alone, and so trust whoever reaches them; and ports of the host by which a
// container hears what comes to the second.
const (
	trustingTCP  = 7500
	trustingUDP  = 7501
	everywhere   = 7502
	loopbackOnly = 7503
)

func loopback(port uint16) netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port)
}

// breakIn makes a host send packets for 127.0.0.0/8 over a link, and take the answers.
func breakIn(h *nettest.Host, gateway string) {
	h.IP("addr flush dev lo")
	h.Sysctl("net/ipv4/conf/all/route_localnet", "1")
	h.Sysctl("net/ipv4/conf/all/rp_filter", "0")
	h.Sysctl("net/ipv4/conf/eth0/rp_filter", "0")
	h.IP("route replace 127.0.0.0/8 via " + gateway + " dev eth0")
}

// checkLoopback: what is for 127.0.0.1 comes from the host itself or not at all (CVE-2020-8558), also where mappings are.
func (h *harbour) checkLoopback(t *testing.T, c crowd) {
	h.n.Offer("tcp", loopback(trustingTCP), "trusting")
	trusting := h.n.Hear(loopback(trustingUDP))
	outside, inside := burglar(t, h), h.n.Attach("thief", "--publish", "7504:80") // its link takes answers to 127.0.0.1
	breakIn(outside, h.n.Address4.String())
	breakIn(inside.Host, "169.254.1.1")
	knockAll := func(tcp []uint16, udp ...uint16) {
		t.Helper()
		var g errgroup.Group // what is dropped in silence takes a second to be known for that
		for _, from := range []*nettest.Host{outside, inside.Host} {
			for _, port := range tcp {
				g.Go(func() error { return silent(from, "tcp", loopback(port)) })
			}
			for _, port := range udp {
				knock(t, from, port, shots)
			}
		}
		if err := g.Wait(); err != nil {
			t.Error(err)
		}
	}
	knockAll([]uint16{trustingTCP}, trustingUDP)
	mapped := c.own.Hear(netip.AddrPortFrom(c.own.IP4, trustingUDP))
	h.n.Fairlead("publish", c.own.Endpoint, fmt.Sprintf("%d:%d/udp", everywhere, trustingUDP))
	h.n.Fairlead("publish", c.own.Endpoint, fmt.Sprintf("127.0.0.1:%d:%d/udp", loopbackOnly, trustingUDP))
	knockAll([]uint16{trustingTCP, fixedPort, hostPort(t, h.n, c.own.Endpoint, "tcp", otherPort)}, trustingUDP, everywhere, loopbackOnly)
	// The host's own are heard, and come last.
	knock(t, h.n.Host, trustingUDP, 1)
	knock(t, h.n.Host, everywhere, 1)
	knock(t, h.n.Host, loopbackOnly, 1)
	time.Sleep(100 * time.Millisecond) // what should not come has the time to
	if got := [2]int{trusting.Heard(), mapped.Heard()}; got != [2]int{1, 2} {
		t.Errorf("heard on 127.0.0.1 and in the container: %v, want 1 and 2 from the host itself", got)
	}
	h.n.Fairlead("unpublish", c.own.Endpoint, fmt.Sprintf("%d:%d/udp", everywhere, trustingUDP))
	h.n.Fairlead("unpublish", c.own.Endpoint, fmt.Sprintf("127.0.0.1:%d:%d/udp", loopbackOnly, trustingUDP))
	h.n.Fairlead("detach", inside.Endpoint)
}

// burglar is a host on the cable of which it is known that it gets into a host that is open.
func burglar(t *testing.T, h *harbour) *nettest.Host {
	t.Helper()
	b, open := nettest.NewHost(t, "burglar"), nettest.NewHost(t, "open")
	for i, host := range []*nettest.Host{b, open} {
		nettest.Wire(t, host, "eth0", h.Switches[0], host.Name)
		h.Switches[0].IP("link set " + host.Name + " master br0")
		host.IP(fmt.Sprintf("addr add 192.0.2.%d/24 dev eth0", 67+i))
	}
	open.Sysctl("net/ipv4/conf/all/route_localnet", "1")
	open.Offer("tcp", loopback(trustingTCP), "trusting")
	ear := open.Hear(loopback(trustingUDP))
	breakIn(b, "192.0.2.68")
	nettest.Eventually(t, 5*time.Second, func() error {
		knock(t, b, trustingUDP, 1)
		if ear.Heard() == 0 {
			return fmt.Errorf("a host that is open hears nothing")
		}
		return answers(b, "tcp", loopback(trustingTCP), "trusting")
	})
	return b
}

func knock(t *testing.T, from *nettest.Host, port uint16, times int) {
	t.Helper()
	if err := from.Send(loopback(port), times); err != nil {
		t.Fatal(err)
	}
}
