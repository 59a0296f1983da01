package bgp_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/bgp"
	"github.com/fairlead-net/fairlead/nettest"
)

// lan is a switch that hosts hang on, and that can cut them off.
type lan struct {
	t     testing.TB
	sw    *nettest.Host
	ports int
}

func newLAN(t testing.TB) *lan {
	sw := nettest.NewHost(t, "switch")
	sw.IP("link add br0 type bridge")
	sw.IP("link set br0 up")
	return &lan{t: t, sw: sw}
}

// host joins a new host to the switch with the addresses, each with its prefix length.
func (l *lan) host(name string, addresses ...string) (h *nettest.Host, port string) {
	h = nettest.NewHost(l.t, name)
	l.ports++
	port = fmt.Sprintf("p%d", l.ports)
	nettest.Wire(l.t, h, "eth0", l.sw, port)
	l.plug(port)
	for _, a := range addresses {
		nodad := ""
		if strings.Contains(a, ":") {
			nodad = " nodad"
		}
		h.IP("addr add " + a + " dev eth0" + nodad)
	}
	return h, port
}

// unplug cuts a host off silently: its link stays up.
func (l *lan) unplug(port string) { l.sw.IP("link set " + port + " nomaster") }
func (l *lan) plug(port string)   { l.sw.IP("link set " + port + " master br0") }

// mesh is the config of a node that has all the others as mesh peers.
func mesh(listen string, others ...string) bgp.Config {
	c := bgp.Config{
		ASN: 64512, Listen: addr(listen), HoldTime: 3 * time.Second, GracefulRestart: true, RestartTime: 20 * time.Second,
	}
	for _, o := range others {
		c.Peers = append(c.Peers, bgp.PeerConfig{Address: addr(o)})
	}
	return c
}

// node is a host of a test's network: where it is, what it announces, and the speaker that runs on it now.
type node struct {
	host            *nettest.Host
	port            string
	address, prefix string
	encaps          bgp.Encaps // what it announces to accept
	cfg             bgp.Config
	*speaker
}

func (n *node) start(t testing.TB) {
	t.Helper()
	n.speaker = start(t, n.host, n.cfg, accepting(n.encaps, n.prefix, n.address))
}

// sees says whether the node has exactly the other's route to the other's prefix.
func (n *node) sees(other *node) bool { return has(n.now().Routes, other.prefix, other.address) }

// trio is three nodes, each with a session to the two others.
func trio(t testing.TB) (nodes []*node) {
	net := newLAN(t)
	addresses := []string{"192.0.2.1", "192.0.2.2", "192.0.2.3"}
	for i, name := range []string{"a", "b", "c"} {
		n := &node{address: addresses[i], prefix: fmt.Sprintf("10.88.%d.0/24", i+1)}
		n.host, n.port = net.host(name, n.address+"/24")
		n.cfg = mesh(n.address, slices.Delete(slices.Clone(addresses), i, i+1)...)
		nodes = append(nodes, n)
	}
	return nodes
}
