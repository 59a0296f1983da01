package story_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/nettest"
)

const (
	shots      = 100 // forged packets at a time
	forgedPort = 7700
	unheard    = 2 * time.Second // in which a set that others changed, of which the kernel tells nobody, must be back
)

// siege is a lab with a container to be protected and a third host on the cable, which is no node.
type siege struct {
	*nettest.Lab
	node     *nettest.Node
	target   *nettest.Container
	ear      *nettest.Ear
	stranger *nettest.Host
	source   netip.Addr // that the forged packets within bear
	encaps   []string   // the tunnels that the node has a device for
}

func newSiege(t *testing.T) *siege {
	t.Helper()
	s := &siege{Lab: running(t, nettest.LabOptions{Nodes: []string{"n1", "n2", "n3"}, Pools: pools()})}
	s.node = s.Node("n1")
	s.target = s.node.Attach("n1a")
	s.source = block(t, s.Node("n3"), pool4).Addr().Next()
	s.ear = s.target.Hear(netip.AddrPortFrom(s.target.IP4, forgedPort))
	s.stranger = nettest.NewHost(t, "stranger")
	nettest.Wire(t, s.stranger, "eth0", s.Switches[0], "stranger")
	s.Switches[0].IP("link set stranger master br0")
	s.stranger.IP("addr add 192.0.2.66/24 dev eth0")
	s.stranger.IP("-6 addr add 2001:db8:1::66/64 dev eth0 nodad")
	for _, encap := range []string{"vxlan", "ipip", "gre"} {
		if _, err := s.node.Try("ip", "link", "show", "fl"+encap); err == nil {
			s.encaps = append(s.encaps, encap)
		}
	}
	if len(s.encaps) == 0 {
		t.Fatal("the node has no tunnel device")
	}
	return s
}

// forgery is a packet to the container on the node, as if a container of n3 had sent it.
func (s *siege) forgery(encap string) nettest.Forgery {
	return nettest.Forgery{Encap: encap, To: s.node.Address4, Src: s.source, Dst: s.target.IP4, Port: forgedPort}
}

// attack forges packets and returns how many the container got, once the node has counted the rest.
func (s *siege) attack(t *testing.T, from *nettest.Host, encap string) (delivered int) {
	t.Helper()
	heard, dropped, counted := s.ear.Heard(), s.dropped(encap), 0
	from.Forge(s.forgery(encap), shots)
	for deadline := time.Now().Add(nettest.Patience(10 * time.Second)); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if delivered, counted = s.ear.Heard()-heard, s.dropped(encap)-dropped; delivered+counted >= shots {
			break
		}
	}
	if delivered+counted != shots {
		t.Errorf("%s from %s: %d delivered and %d counted as dropped, of %d", encap, from.Name, delivered, counted, shots)
	}
	return delivered
}

// dropped is the daemon's own count.
func (s *siege) dropped(encap string) int {
	return int(s.node.Metric(fmt.Sprintf("fairlead_tunnel_strangers_dropped_total{encap=%q}", encap)))
}

// guard is our part of the packet filter: the chains, and the rule that leads there where it is the first.
func guard(n *nettest.Node) []string {
	var all []string
	for _, tool := range []string{"iptables", "ip6tables"} {
		if chain, err := n.Try(tool, "-S", "FAIRLEAD-INPUT"); err == nil {
			all = append(all, lines(chain)...)
		}
		hook, err := n.Try(tool, "-S", "INPUT")
		if rules := strings.Split(hook, "\n"); err == nil && len(rules) > 1 {
			all = append(all, tool+": "+strings.ReplaceAll(rules[1], "-m comment --comment first ", ""))
		}
	}
	return all
}

// TestStrangersDoNotGetIntoTheTunnels tells one story; its parts build on each other.
func TestStrangersDoNotGetIntoTheTunnels(t *testing.T) {
	s := newSiege(t)
	s.checkShut(t)
	if out := s.node.Run("iptables", "-nvL", "FAIRLEAD-INPUT"); !strings.Contains(out, "/* "+s.encaps[0]+" */") {
		t.Errorf("people see:\n%s", out)
	}
	t.Run("while no daemon runs", s.checkOrphaned)
	t.Run("when the firewall is changed by hand", s.checkDrift)
	t.Run("when the sets are changed by hand", s.checkSetDrift)
	t.Run("unless everybody is let in", s.checkOpen)
	t.Run("until it is uninstalled", func(t *testing.T) {
		s.node.Fairlead("uninstall")
		if got := strings.Join(guard(s.node), " "); strings.Contains(got, "FAIRLEAD") {
			t.Errorf("left behind: %s", got)
		}
		if got := s.node.Run("ipset", "list", "-n"); got != "" {
			t.Errorf("left behind: %s", got)
		}
	})
}

// checkShut sees to it that a node gets in by every tunnel, and a stranger by none.
func (s *siege) checkShut(t *testing.T) {
	t.Helper()
	for _, encap := range s.encaps {
		if n := s.attack(t, s.Node("n3").Host, encap); n != shots {
			t.Errorf("%s from a node: %d of %d delivered", encap, n, shots)
		}
		if n := s.attack(t, s.stranger, encap); n != 0 {
			t.Errorf("%s from a stranger: %d delivered", encap, n)
		}
	}
}

// checkOrphaned: what the kernel holds keeps strangers out without a daemon, and a new daemon leaves it as it is. The
// packets of a node that come last show that those before them are through.
func (s *siege) checkOrphaned(t *testing.T) {
	s.node.Kill()
	heard := s.ear.Heard()
	for _, encap := range s.encaps {
		s.stranger.Forge(s.forgery(encap), shots)
	}
	s.Node("n3").Forge(s.forgery(s.encaps[0]), shots)
	s.awaitHeard(t, heard+shots)
	before := guard(s.node)
	s.node.Start()
	s.node.WaitConverged(30 * time.Second)
	if after := guard(s.node); !slices.Equal(before, after) {
		t.Errorf("a new daemon made of %q %q", before, after)
	}
}

// checkOpen has the administrator let everybody in, and then think better of it.
func (s *siege) checkOpen(t *testing.T) {
	s.accept(t, "any")
	got := strings.Join(guard(s.node), " ") // other rules than the tunnels' stay
	for _, encap := range s.encaps {
		if strings.Contains(got, "--comment "+encap+" ") || strings.Contains(got, "--match-set") {
			t.Errorf("%s: still there: %s", encap, got)
		}
	}
	heard := s.ear.Heard()
	s.stranger.Forge(s.forgery(s.encaps[0]), shots)
	s.awaitHeard(t, heard+shots)
	s.accept(t, "peers")
	s.checkShut(t)
}

func (s *siege) awaitHeard(t *testing.T, want int) {
	t.Helper()
	nettest.Eventually(t, 10*time.Second, func() error {
		if n := s.ear.Heard(); n != want {
			return fmt.Errorf("%d delivered, not %d", n, want)
		}
		return nil
	})
}

// accept changes the config of the running daemon.
func (s *siege) accept(t *testing.T, who string) {
	t.Helper()
	text := s.node.Config()
	if !strings.Contains(text, "[tunnel]") {
		text += "\n[tunnel]\n"
	}
	s.node.WriteConfig(text + fmt.Sprintf("accept = %q\n", who))
	s.node.Fairlead("reload")
}

// checkDrift has the firewall flushed and changed, and holds the daemon to a second.
func (s *siege) checkDrift(t *testing.T) {
	s.node.Run("iptables", "-A", "INPUT", "-p", "icmp", "-j", "ACCEPT")
	view := func() []string { return guard(s.node) }
	hands := []string{
		"iptables -F", "iptables -F FAIRLEAD-INPUT", "iptables -D INPUT -j FAIRLEAD-INPUT",
		"iptables -I INPUT -p udp -j ACCEPT", "iptables -I FAIRLEAD-INPUT -j ACCEPT",
	}
	if strings.Contains(s.node.Run("iptables", "--version"), "nf_tables") {
		hands = append([]string{"nft flush ruleset"}, hands...)
	}
	for _, hand := range hands {
		argv := strings.Fields(hand)
		lasted := suffer(t, s.node, drift{what: hand, view: view, back: soon, harm: func() { s.node.Run(argv...) }})
		t.Logf("%s: mended in %v", hand, lasted)
	}
	s.checkShut(t)
}

// checkSetDrift has the sets emptied and changed, of which the kernel tells nobody. The daemon looks every second.
func (s *siege) checkSetDrift(t *testing.T) {
	const set4, set6 = "fairlead-peers4", "fairlead-peers6"
	view := func() []string { return append(s.senders(set4), s.senders(set6)...) }
	for _, hand := range []string{
		"ipset flush", "ipset flush " + set6, "ipset del " + set4 + " " + s.Node("n3").Address4.String(),
	} {
		argv := strings.Fields(hand)
		lasted := suffer(t, s.node, drift{what: hand, view: view, back: unheard, harm: func() { s.node.Run(argv...) }})
		t.Logf("%s: mended in %v", hand, lasted)
	}
	before := view()
	s.node.Run("ipset", "add", set4, "192.0.2.66")
	nettest.Eventually(t, unheard, func() error {
		if now := view(); !slices.Equal(before, now) {
			return fmt.Errorf("the sets have %q, not %q", now, before)
		}
		return nil
	})
	s.checkShut(t)
}

// senders are the members of a set, in order.
func (s *siege) senders(set string) []string {
	_, list, _ := strings.Cut(s.node.Run("ipset", "list", set), "Members:\n")
	return slices.Sorted(strings.Lines(list))
}
