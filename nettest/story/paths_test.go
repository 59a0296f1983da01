package story_test

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/fairlead-net/fairlead/agent"
	"github.com/fairlead-net/fairlead/nettest"
	"github.com/fairlead-net/fairlead/tunnel"
)

// moveTime is in how long every host has left the old address of another one. The host itself waits a second to be
// sure, and sessions need a second or two to come up.
const moveTime = 15 * time.Second

// six are hosts in three subnets, one container on each, with a service on every address.
type six struct {
	*nettest.Lab
	containers map[*nettest.Node]*nettest.Container
}

func newSix(t *testing.T, mode string) *six {
	t.Helper()
	l := running(t, nettest.LabOptions{
		Nodes: []string{"n1", "n2", "n3", "n4", "n5", "n6"}, Pools: []string{pool4, pool6}, RPFilter: 1, HoldTime: 9 * time.Second, Mode: mode,
	})
	s := &six{Lab: l, containers: make(map[*nettest.Node]*nettest.Container)}
	for _, c := range l.AttachAll(1) {
		s.containers[c.Node] = c
		for _, a := range c.Addresses() {
			c.Serve(a)
		}
	}
	s.WaitFast(10 * time.Second)
	return s
}

// change gives every host another mode while its daemon runs.
func (s *six) change(t *testing.T, mode string) {
	t.Helper()
	s.SetMode(mode)
	s.reload()
	s.converge(t, 10*time.Second)
}

// reload tells every daemon that runs to read its config again.
func (s *six) reload(but ...*nettest.Node) {
	for _, n := range s.Nodes {
		if !slices.Contains(but, n) {
			n.WriteConfig(n.Config())
			n.Fairlead("reload")
		}
	}
}

func (s *six) converge(t *testing.T, patience time.Duration) {
	t.Helper()
	begun := time.Now()
	for _, n := range s.Nodes {
		n.WaitConverged(patience - time.Since(begun))
	}
	s.WaitFast(patience)
}

// ways has every daemon say how it reaches every other host.
func (s *six) ways(t *testing.T) {
	t.Helper()
	for _, from := range s.Nodes {
		said := make(map[netip.Prefix]agent.Route)
		for _, r := range decode[[]agent.Route](t, from.Fairlead("routes", "-o", "json")) {
			said[r.Prefix] = r
		}
		for _, to := range others(s.Lab, from) {
			for _, pool := range []string{pool4, pool6} {
				r, known := said[block(t, to, pool)]
				want := from.EncapTo(to, pool == pool4)
				reason := ""
				if want == "" {
					reason = "no-common-encap"
				}
				via, _ := sameFamily(hostAddresses(to), r.Prefix.Addr())
				if !known || r.Encap != want || r.Installed != (want != "") || r.Reason != reason || !slices.Equal(r.Via, []netip.Addr{via}) {
					t.Errorf("%s to %s: %+v, want %q by %v and the reason %q", from.Name, to.Name, r, want, via, reason)
				}
			}
		}
	}
}

// walk sends packets from container to container and holds the taps on all cables against the way that the pair has.
func (s *six) walk(t *testing.T) {
	t.Helper()
	taps := make(map[*nettest.Node]*nettest.Tap)
	for _, n := range s.Nodes {
		taps[n] = n.Tap("eth0")
	}
	var silence errgroup.Group // questions without an answer take a second each
	for _, from := range s.Nodes {
		for _, to := range others(s.Lab, from) {
			for _, a := range s.containers[to].Addresses() {
				if from.EncapTo(to, a.Is4()) != "" {
					if err := reaches(s.containers[from], a); err != nil {
						t.Error(err)
					}
					continue
				}
				silence.Go(func() error {
					if saw, err := s.containers[from].Ask(a); err == nil {
						return fmt.Errorf("%s reaches %s of %s, and is seen as %s", from.Name, a, to.Name, saw.Source)
					}
					return nil
				})
			}
		}
	}
	if err := silence.Wait(); err != nil {
		t.Error(err)
	}
	heard := make(map[*nettest.Node]map[nettest.Packet]int)
	for n, tap := range taps {
		heard[n] = tap.Stop()
	}
	for _, from := range s.Nodes {
		for _, to := range others(s.Lab, from) {
			for i, src := range s.containers[from].Addresses() {
				s.follow(t, heard, from, to, src, s.containers[to].Addresses()[i])
			}
		}
	}
}

// follow holds the packets of one pair of addresses, in one direction, against the way they should have taken: they were
// on both cables, in that shape and no other.
func (s *six) follow(t *testing.T, heard map[*nettest.Node]map[nettest.Packet]int, from, to *nettest.Node, src, dst netip.Addr) {
	t.Helper()
	want := nettest.Packet{Src: src, Dst: dst}
	encap := from.WireTo(to, src.Is4())
	if encap != "" && encap != "direct" {
		outer, _ := sameFamily(hostAddresses(from), src)
		far, _ := sameFamily(hostAddresses(to), src)
		want = nettest.Packet{Src: outer, Dst: far, Encap: encap, InnerSrc: src, InnerDst: dst}
	}
	for n, packets := range heard {
		for p := range packets {
			a, b := p.Ends()
			stray := p != want || n != from && n != to || encap == "" && n == to
			if a == src && b == dst && stray {
				t.Errorf("from %s to %s, on the cable of %s: %s, want %q: %s", from.Name, to.Name, n.Name, p, cmp.Or(encap, "nothing at all"), want)
			}
		}
		if encap != "" && (n == from || n == to) && packets[want] == 0 {
			t.Errorf("from %s to %s, on the cable of %s: no %s", from.Name, to.Name, n.Name, want)
		}
	}
}

// check asserts the path of all 30 pairs, as the daemons tell it and as the cables show it.
func (s *six) check(t *testing.T, mode string) {
	t.Helper()
	s.ways(t)
	s.walk(t)
	for _, n := range s.Nodes {
		if have := tunnels(n); (mode == "host-gw") != (len(have) == 0) {
			t.Errorf("in mode %s, %s has the tunnels %q", mode, n.Name, have)
		}
	}
}

// move carries a host to another subnet. Its peers are told its new address; itself it finds out.
func (s *six) move(t *testing.T, n *nettest.Node, subnet int) {
	t.Helper()
	before, pid, begun := hostAddresses(n), n.Pid(), time.Now()
	n.Move(subnet)
	s.reload(n)
	s.converge(t, moveTime)
	for _, other := range s.Nodes {
		nettest.Eventually(t, moveTime-time.Since(begun), func() error { return forgotten(other, before) })
	}
	t.Logf("%s moved, known to all after %v", n.Name, time.Since(begun))
	if !n.Running() || n.Pid() != pid {
		t.Errorf("the daemon of %s is another process", n.Name)
	}
}

// forgotten is an error while anything of ours in a host's kernel leads to one of the addresses, or is from there.
func forgotten(n *nettest.Node, addresses []netip.Addr) error {
	var words []string
	for _, a := range addresses {
		words = append(words, a.String(), tunnel.LinkLocal(a).String(), tunnel.VTEPMAC(a).String())
	}
	view := append(routes(n), lines(n.IP("neighbour show nud permanent"))...)
	for _, dev := range tunnels(n) {
		view = append(append(view, forwarding(n, dev)...), lines(n.IP("-details -oneline link show dev "+dev))...)
	}
	for _, line := range view {
		if slices.ContainsFunc(strings.Fields(line), func(word string) bool { return slices.Contains(words, word) }) {
			return fmt.Errorf("%s still knows %v: %s", n.Name, addresses, line)
		}
	}
	return nil
}

func TestEachPairOfSixHostsTakesItsPathInEachModeAlsoAfterAMove(t *testing.T) {
	t.Parallel()
	s := newSix(t, "vxlan")
	for _, c := range []struct {
		mode, moves string
		to          int
	}{
		{"vxlan", "n1", 2},   // a host at the edge goes to the other edge
		{"auto", "n4", 0},    // one in the middle to the edge
		{"host-gw", "n6", 1}, // and one of the edge to the middle
	} {
		t.Run(c.mode, func(t *testing.T) {
			s.change(t, c.mode)
			s.check(t, c.mode)
			s.move(t, s.Node(c.moves), c.to)
			s.check(t, c.mode)
		})
	}
}
