package story_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/fairlead-net/fairlead/nettest"
)

const outPort = 7600 // of whoever is asked from a container

// checkWayOut: containers are seen as their host by who can not know their addresses, and as themselves by nodes.
func (h *harbour) checkWayOut(t *testing.T, c crowd) {
	offers := map[*nettest.Host][]netip.Addr{
		h.stranger: {h.stranger4, h.stranger6}, h.Node("n2").Host: addressesOf(h.Node("n2")), h.Node("n3").Host: addressesOf(h.Node("n3")),
	}
	for host, addresses := range offers {
		for _, a := range addresses {
			host.Offer("tcp", netip.AddrPortFrom(a, outPort), host.Name)
			host.Offer("udp", netip.AddrPortFrom(a, outPort), host.Name)
		}
	}
	own, hosts := []netip.Addr{c.own.IP4, c.own.IP6}, addressesOf(h.n)
	h.checkSeen(t, c.own, map[*nettest.Host][]netip.Addr{h.stranger: hosts, h.Node("n2").Host: own, h.Node("n3").Host: own}, offers)
	h.checkSourcePorts(t, c.own)

	h.stranger.Batch("route add 10.88.0.0/16 via "+h.n.Address4.String(), "-6 route add "+pool6+" via "+h.n.Address6.String())
	config := withBlocks(h.n.Config(), 1)
	h.n.WriteConfig(strings.ReplaceAll(config, "cidr = ", "nat_outgoing = false\ncidr = ") + "\n[nat]\nhairpin = false\n")
	h.n.Fairlead("reload")
	h.checkSeen(t, c.own, map[*nettest.Host][]netip.Addr{h.stranger: own, h.Node("n2").Host: own}, offers)
	if err := silent(c.own.Host, "tcp", netip.AddrPortFrom(h.n.Address4, fixedPort)); err != nil {
		t.Errorf("without hairpin: %v", err)
	}
	h.n.WriteConfig(config)
	h.n.Fairlead("reload")
	h.checkSeen(t, c.own, map[*nettest.Host][]netip.Addr{h.stranger: hosts}, offers)
	if err := answers(c.own.Host, "tcp", netip.AddrPortFrom(h.n.Address4, fixedPort), c.own.Endpoint); err != nil {
		t.Errorf("with hairpin again: %v", err)
	}
	h.stranger.Batch("route del 10.88.0.0/16", "-6 route del "+pool6)
}

// checkSeen has a container ask hosts, by which it must be seen with these addresses.
func (h *harbour) checkSeen(t *testing.T, c *nettest.Container, seen, at map[*nettest.Host][]netip.Addr) {
	t.Helper()
	for host, want := range seen {
		for i, proto := range []string{"tcp", "udp", "tcp", "udp"} {
			w := way{"way out", c.Host, at[host][i/2], want[i/2]}
			if err := w.works(proto, outPort, host.Name); err != nil {
				t.Errorf("%s to %s/%s: %v", c.Name, host.Name, proto, err)
			}
		}
	}
}

// checkSourcePorts: a flow from the very number that is mapped goes out from another one, so that nothing that comes for
// the mapped port can be taken for an answer to it.
func (h *harbour) checkSourcePorts(t *testing.T, c *nettest.Container) {
	const flows = 20
	clashes := 0
	for i := range flows {
		to := netip.AddrPortFrom(h.stranger4, uint16(outPort+1+i))
		h.stranger.Offer("udp", to, "stranger")
		got, err := c.CallFrom("udp", fixedPort, to)
		if err != nil {
			t.Fatal(err)
		}
		if got.Source.Port() == fixedPort {
			clashes++
		}
	}
	if clashes > 1 { // one in 64,512 is chance
		t.Errorf("%d of %d flows go out from a port that is mapped", clashes, flows)
	}
	for _, tool := range []string{"iptables", "ip6tables"} {
		for _, line := range lines(h.n.Run(tool, "-t", "nat", "-S", "FAIRLEAD-SNAT")) {
			if strings.Contains(line, "MASQUERADE") && !strings.Contains(line, "--random-fully") {
				t.Errorf("%s: %s", tool, line)
			}
		}
	}
}
