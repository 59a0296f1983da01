package bgp_test

import (
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/bgp"
)

func TestTwoNodesExchangeBothFamilies(t *testing.T) {
	t.Parallel()
	net := newLAN(t)
	a, _ := net.host("a", "192.0.2.1/24")
	b, _ := net.host("b", "192.0.2.2/24")
	sa := start(t, a, mesh("192.0.2.1", "192.0.2.2"),
		ann("10.88.1.0/24", "192.0.2.1"), ann("2001:db8:88:1::/64", "::ffff:192.0.2.1"))
	if e := sa.now(); e.Complete || e.Peers[0].State == "established" {
		t.Errorf("before the other is there: %+v", e)
	}
	sb := start(t, b, mesh("192.0.2.2", "192.0.2.1"),
		ann("10.88.2.0/24", "192.0.2.2"), ann("2001:db8:88:2::/64", "2001:db8::2"))
	sa.until("is complete", 5*time.Second, func(e event) bool { return e.Complete })
	sb.until("is complete", 5*time.Second, func(e event) bool { return e.Complete })
	want := "[{10.88.1.0/24 [192.0.2.1] [192.0.2.1] [0] a} {2001:db8:88:1::/64 [192.0.2.1] [192.0.2.1] [0] a}]"
	sb.until("knows a's name", time.Second, func(e event) bool { return fmt.Sprint(e.Routes) == want })
	want = "[{10.88.2.0/24 [192.0.2.2] [192.0.2.2] [0] b} {2001:db8:88:2::/64 [2001:db8::2] [192.0.2.2] [0] b}]"
	sa.until("knows b's name", time.Second, func(e event) bool { return fmt.Sprint(e.Routes) == want })
	got := sa.peer("192.0.2.2")
	if got.State != "established" || got.Received != 2 || got.Advertised != 2 || got.LastError != "" || got.ASN != 64512 ||
		got.Name != "b" || got.Role != bgp.Mesh || !got.EndOfRIB || time.Since(got.Since) > time.Minute {
		t.Errorf("peer b is %+v", got)
	}
	quiet := sa.logs.String()
	time.Sleep(4 * time.Second) // more than a hold time
	if later := sa.logs.String(); later != quiet && os.Getenv(debugFlag) == "" {
		t.Errorf("a converged node logs:\n%s", later)
	}

	sa.announce(ann("10.88.1.0/24", "192.0.2.1"), ann("10.88.7.7/32", "192.0.2.1"))
	sb.until("sees the change", time.Second, func(e event) bool {
		return len(e.Routes) == 2 && has(e.Routes, "10.88.1.0/24", "192.0.2.1") && has(e.Routes, "10.88.7.7/32", "192.0.2.1")
	})
	sa.announce(ann("10.88.1.0/24", "192.0.2.9"))
	sb.until("sees another next hop", time.Second, func(e event) bool {
		return len(e.Routes) == 1 && has(e.Routes, "10.88.1.0/24", "192.0.2.9")
	})
	sa.announce() // the drain
	sb.until("sees nothing", time.Second, func(e event) bool { return len(e.Routes) == 0 && e.Complete })
}

// TestUnderlayWithIPv6Only carries IPv4 prefixes with IPv6 next hops: RFC 8950.
func TestUnderlayWithIPv6Only(t *testing.T) {
	t.Parallel()
	net := newLAN(t)
	a, _ := net.host("a", "2001:db8::1/64")
	b, _ := net.host("b", "2001:db8::2/64")
	sa := start(t, a, mesh("2001:db8::1", "2001:db8::2"), ann("10.88.1.0/24", "2001:db8::1"), ann("2001:db8:88:1::/64", "2001:db8::1"))
	sb := start(t, b, mesh("2001:db8::2", "2001:db8::1"), ann("10.88.2.0/24", "2001:db8::2"), ann("2001:db8:88:2::/64", "2001:db8::2"))
	sb.until("hears a", 5*time.Second, func(e event) bool {
		return e.Complete && has(e.Routes, "10.88.1.0/24", "2001:db8::1") && has(e.Routes, "2001:db8:88:1::/64", "2001:db8::1")
	})
	sa.until("hears b", time.Second, func(e event) bool {
		return e.Complete && has(e.Routes, "10.88.2.0/24", "2001:db8::2") && has(e.Routes, "2001:db8:88:2::/64", "2001:db8::2")
	})
	sa.announce()
	sb.until("sees nothing", time.Second, func(e event) bool { return len(e.Routes) == 0 && established(e) })
}

func TestOnePrefixFromTwoNodesIsOneRoute(t *testing.T) {
	t.Parallel()
	nodes := trio(t)
	a, b, c := nodes[0], nodes[1], nodes[2]
	for _, n := range nodes {
		n.start(t)
	}
	for _, n := range nodes {
		n.until("has both", 6*time.Second, established)
	}
	const shared = "10.88.9.0/24"
	a.announce(ann(a.prefix, a.address), ann(shared, a.address))
	b.announce(ann(b.prefix, b.address), ann(shared, b.address))
	c.until("sees both", time.Second, routed(shared, a.address, b.address))
	for _, r := range c.now().Routes {
		if r.Prefix.String() == shared && (fmt.Sprint(r.Peers) != "[192.0.2.1 192.0.2.2]" || r.Node != "a,b") {
			t.Errorf("shared route is %+v", r)
		}
	}
	mark := c.mark()
	a.kill()
	a.cfg.Warm = true
	a.speaker = start(t, a.host, a.cfg, ann(a.prefix, a.address), ann(shared, a.address))
	c.until("has both again", 6*time.Second, established)
	b.until("has both again", 6*time.Second, established)
	if got := c.changes(mark); len(got) > 0 {
		t.Errorf("a restart was seen: %v", got)
	}
	b.announce(ann(b.prefix, b.address))
	c.until("sees the one", time.Second, routed(shared, a.address))
	a.announce(ann(a.prefix, a.address))
	c.until("sees none", time.Second, routed(shared))
	// Nobody passes on what it learned, and everybody hears everybody.
	for _, n := range nodes {
		n.until("has one prefix of each", time.Second, func(e event) bool {
			return !slices.ContainsFunc(e.Peers, func(p bgp.PeerStatus) bool { return p.Received != 1 || p.Advertised != 1 })
		})
	}
}

// TestOtherClaimToOurPrefixIsSeen: GoBGP prefers what we announce and says nothing of others who do, and the owner of a
// block must know of them.
func TestOtherClaimToOurPrefixIsSeen(t *testing.T) {
	t.Parallel()
	_, a, b := pair(t, "lower")
	b.prefix = a.prefix
	a.start(t)
	b.start(t)
	a.until("sees the claim", 5*time.Second, routed(a.prefix, b.address))
	b.until("sees the claim", 2*time.Second, routed(a.prefix, a.address))
	mark := a.mark()
	b.announce()
	a.until("sees it gone", 2*time.Second, routed(a.prefix))
	b.until("sees the route", time.Second, routed(a.prefix, a.address))
	if len(a.changes(mark)) == 0 {
		t.Error("the end of the claim is no change")
	}
}

func TestPeersOfOtherRolesGetOurPrefixesOnly(t *testing.T) {
	t.Parallel()
	nodes := trio(t)
	a, leaf, c := nodes[0], nodes[1], nodes[2]
	// a is in the middle: c is its mesh, the leaf in another AS. The leaf and c have no session.
	a.cfg.Peers[0].Role, a.cfg.Peers[0].ASN = bgp.Leaf, 64513
	leaf.cfg.ASN = 64513
	leaf.cfg.Peers = []bgp.PeerConfig{{Address: addr(a.address), Role: bgp.Leaf, ASN: 64512}}
	c.cfg = mesh(c.address, a.address)
	for _, n := range nodes {
		n.start(t)
	}
	a.until("hears both", 8*time.Second, func(e event) bool {
		return established(e) && has(e.Routes, leaf.prefix, leaf.address) && has(e.Routes, c.prefix, c.address)
	})
	for _, n := range []*node{leaf, c} {
		n.until("hears a", time.Second, func(e event) bool { return established(e) && len(e.Routes) == 1 && n.sees(a) })
	}
	for _, r := range a.now().Routes {
		if r.Prefix.String() == leaf.prefix && r.Node != "" {
			t.Errorf("a router's name passes for a node's: %+v", r)
		}
	}
}
