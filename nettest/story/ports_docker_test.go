package story_test

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/fairlead-net/fairlead/nettest"
)

// dockerRules are what a Docker daemon has in the packet filter of a host with a bridge and one container, of which one
// port is published. Current ones have a chain DOCKER-FORWARD, older ones the same rules in FORWARD.
const dockerRules = `*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
-A DOCKER ! -i docker0 -p tcp -m tcp --dport 9090 -j DNAT --to-destination 172.17.0.2:80
COMMIT
*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:DOCKER - [0:0]
:DOCKER-BRIDGE - [0:0]
:DOCKER-CT - [0:0]
:DOCKER-FORWARD - [0:0]
:DOCKER-ISOLATION-STAGE-1 - [0:0]
:DOCKER-ISOLATION-STAGE-2 - [0:0]
:DOCKER-USER - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-FORWARD
-A DOCKER -d 172.17.0.2/32 ! -i docker0 -o docker0 -p tcp -m tcp --dport 80 -j ACCEPT
-A DOCKER ! -i docker0 -o docker0 -j DROP
-A DOCKER-BRIDGE -o docker0 -j DOCKER
-A DOCKER-CT -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A DOCKER-FORWARD -j DOCKER-CT
-A DOCKER-FORWARD -j DOCKER-ISOLATION-STAGE-1
-A DOCKER-FORWARD -j DOCKER-BRIDGE
-A DOCKER-FORWARD -i docker0 -j ACCEPT
-A DOCKER-ISOLATION-STAGE-1 -i docker0 ! -o docker0 -j DOCKER-ISOLATION-STAGE-2
-A DOCKER-ISOLATION-STAGE-2 -o docker0 -j DROP
-A DOCKER-USER -s 172.17.0.2/32 -p tcp -m tcp --dport 79 -j DROP
COMMIT
`

// checkDocker: beside Docker, whose policy is to drop, ours goes through, and what Docker keeps apart stays apart.
func (h *harbour) checkDocker(t *testing.T, c, near *nettest.Container) {
	box := h.dock(t)
	before := foreign(h.n)
	for _, d := range []string{"iptables -F FAIRLEAD-FORWARD", "iptables -t nat -F FAIRLEAD-DNAT", "iptables -t nat -F FAIRLEAD-SNAT"} {
		h.n.Run(strings.Fields(d)...)
	}
	h.n.Fairlead("publish", c.Endpoint, "8091:80")
	mine := func() error {
		for _, from := range []*nettest.Host{h.stranger, h.n.Host, near.Host, c.Host} {
			for _, a := range addressesOf(h.n) {
				if err := answers(from, "tcp", netip.AddrPortFrom(a, 8091), "web"); err != nil {
					return err
				}
			}
		}
		for _, a := range c.Addresses() { // from one to the other
			if err := answers(near.Host, "tcp", netip.AddrPortFrom(a, plainPort), "web"); err != nil {
				return err
			}
		}
		return answers(near.Host, "tcp", netip.AddrPortFrom(h.stranger4, outPort), "stranger")
	}
	nettest.Eventually(t, 5*time.Second, mine)
	h.checkApart(t, box, c, near)
	h.n.Fairlead("unpublish", c.Endpoint, "8091:80")
	if err := order(before, foreign(h.n)); err != nil {
		t.Error(err)
	}
}

// checkApart: what Docker lets through goes through, and nothing else.
func (h *harbour) checkApart(t *testing.T, box *nettest.Host, c, near *nettest.Container) {
	t.Helper()
	inside := netip.MustParseAddr("172.17.0.2")
	h.stranger.IP("route replace 172.17.0.0/16 via " + h.n.Address4.String())
	c.Offer("tcp", netip.AddrPortFrom(c.IP4, 79), "web")
	var g errgroup.Group // what is dropped in silence takes a second to be known for that
	for _, from := range []*nettest.Host{h.stranger, near.Host, c.Host} {
		g.Go(func() error { return answers(from, "tcp", netip.AddrPortFrom(h.n.Address4, 9090), "box") })
		g.Go(func() error { return silent(from, "tcp", netip.AddrPortFrom(inside, 81)) })
	}
	// Docker lets its containers out to all but other networks of its own, and administrators keep some in.
	g.Go(func() error { return answers(box, "tcp", netip.AddrPortFrom(c.IP4, plainPort), "web") })
	g.Go(func() error { return silent(box, "tcp", netip.AddrPortFrom(c.IP4, 79)) })
	if err := g.Wait(); err != nil {
		t.Errorf("beside Docker: %v", err)
	}
}

// dock makes what a Docker daemon would: its bridge, a container, and its rules.
func (h *harbour) dock(t *testing.T) *nettest.Host {
	t.Helper()
	box := nettest.NewHost(t, "box")
	nettest.Wire(t, box, "eth0", h.n.Host, "vethbox")
	h.n.Batch("link add docker0 type bridge", "addr add 172.17.0.1/16 dev docker0", "link set docker0 up", "link set vethbox master docker0")
	box.Batch("addr add 172.17.0.2/16 dev eth0", "route add default via 172.17.0.1")
	for _, port := range []uint16{80, 81} {
		box.Offer("tcp", netip.AddrPortFrom(netip.MustParseAddr("172.17.0.2"), port), "box")
	}
	rules := filepath.Join(h.n.Dir, "docker")
	if err := os.WriteFile(rules, []byte(dockerRules), 0o600); err != nil {
		t.Fatal(err)
	}
	h.n.Run("iptables-restore", "--noflush", rules)
	h.n.Run("ip6tables", "-P", "FORWARD", "DROP")
	return box
}
