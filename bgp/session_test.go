package bgp_test

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/bgp"
	"github.com/fairlead-net/fairlead/nettest"
)

func TestPasswords(t *testing.T) {
	t.Parallel()
	_, a, b := pair(t, "lower")
	a.cfg.Peers[0].Password, b.cfg.Peers[0].Password = "correct horse", "wrong horse"
	a.start(t)
	b.start(t)
	b.until("is not answered", 5*time.Second, func(e event) bool { return strings.Contains(e.Peers[0].LastError, "no answer") })
	if b.sees(a) {
		t.Error("a wrong password opens the session")
	}
	b.cfg.Peers[0].Password = "correct horse"
	b.setPeers(b.cfg)
	b.until("hears the other", 5*time.Second, routed(a.prefix, a.address))
	if got := b.peer(a.address); got.LastError != "" {
		t.Errorf("the peer is %+v", got)
	}
	// Without a password on both sides: the old key must be off the listening socket.
	for _, n := range []*node{a, b} {
		n.cfg.Peers[0].Password = ""
		n.setPeers(n.cfg)
	}
	b.until("hears the other without password", 8*time.Second, routed(a.prefix, a.address))
}

// TestTTLSecurity has a session over a router, which takes one from the TTL, and one without.
func TestTTLSecurity(t *testing.T) {
	t.Parallel()
	t.Run("direct", func(t *testing.T) {
		t.Parallel()
		_, a, b := pair(t, "lower")
		a.cfg.Peers[0].TTLSecurity, b.cfg.Peers[0].TTLSecurity = true, true
		a.start(t)
		b.start(t)
		b.until("hears the other", 5*time.Second, routed(a.prefix, a.address))
	})
	t.Run("routed", func(t *testing.T) {
		t.Parallel()
		a, r, b := nettest.NewHost(t, "a"), nettest.NewHost(t, "r"), nettest.NewHost(t, "b")
		for _, w := range []struct {
			h         *nettest.Host
			port, net string
		}{{a, "a0", "192.0.2"}, {b, "b0", "198.51.100"}} {
			nettest.Wire(t, w.h, "eth0", r, w.port)
			w.h.IP("addr add " + w.net + ".1/24 dev eth0")
			r.IP("addr add " + w.net + ".254/24 dev " + w.port)
			w.h.IP("route add default via " + w.net + ".254")
		}
		r.Sysctl("net/ipv4/ip_forward", "1")
		ca, cb := mesh("192.0.2.1", "198.51.100.1"), mesh("198.51.100.1", "192.0.2.1")
		sa := start(t, a, ca, ann("10.88.1.0/24", "192.0.2.1"))
		sb := start(t, b, cb, ann("10.88.2.0/24", "198.51.100.1"))
		sb.until("hears the other", 5*time.Second, routed("10.88.1.0/24", "192.0.2.1"))
		ca.Peers[0].TTLSecurity, cb.Peers[0].TTLSecurity = true, true
		sa.setPeers(ca)
		sb.setPeers(cb)
		sb.until("is not answered", 6*time.Second, func(e event) bool { return strings.Contains(e.Peers[0].LastError, "no answer") })
		sb.until("forgot the other", time.Second, routed("10.88.1.0/24"))
	})
}

func TestTooManyPrefixesEndOneSessionOnly(t *testing.T) {
	t.Parallel()
	nodes := trio(t)
	a, b, c := nodes[0], nodes[1], nodes[2]
	c.cfg.MaxPrefixes = 4
	for _, n := range nodes {
		n.start(t)
	}
	c.until("has both", 6*time.Second, established)
	since := c.peer(b.address).Since
	var flood []bgp.Announcement
	for i := range 5 {
		flood = append(flood, ann(fmt.Sprintf("10.88.%d.0/24", 100+i), a.address))
	}
	a.announce(flood[:3]...)
	a.announce(flood[:4]...)
	c.until("takes what is allowed", time.Second, routed("10.88.103.0/24", a.address))
	a.announce(flood...)
	const limit = "more than 4 prefixes of ipv4-unicast: session stopped until its config changes"
	c.until("stops the session", 2*time.Second, func(e event) bool {
		return e.Peers[0].State == "idle" && e.Peers[0].LastError == limit && has(e.Routes, "10.88.103.0/24")
	})
	a.until("is told", time.Second, func(e event) bool {
		return strings.Contains(e.Peers[1].LastError, "maximum number of prefixes") || e.Peers[1].State != "established"
	})
	time.Sleep(3 * time.Second) // more than any retry takes
	got := c.now()
	if got.Peers[0].State != "idle" || got.Peers[0].LastError != limit || !has(got.Routes, b.prefix, b.address) ||
		!c.peer(b.address).Since.Equal(since) {
		t.Errorf("after the limit: %+v", got)
	}
	// A limit of its own for the peer lets it in again.
	c.cfg.Peers[0].MaxPrefixes = 5
	c.setPeers(c.cfg)
	c.until("takes all", 6*time.Second, routed("10.88.104.0/24", a.address))
	if !c.peer(b.address).Since.Equal(since) {
		t.Error("another session was made anew")
	}
}

func TestSetPeersTouchesOnlyWhatChanged(t *testing.T) {
	t.Parallel()
	nodes := trio(t)
	a, b, c := nodes[0], nodes[1], nodes[2]
	for _, n := range nodes {
		n.start(t)
	}
	c.until("has both", 6*time.Second, established)
	mark, since := c.mark(), c.peer(b.address).Since
	c.setPeers(c.cfg)
	if got := c.changes(mark); len(got) > 0 || !c.peer(b.address).Since.Equal(since) {
		t.Errorf("the same peers again changed %v, %+v", got, c.now().Peers)
	}
	all := c.cfg.Peers
	c.cfg.Peers = all[1:]
	c.setPeers(c.cfg)
	c.until("forgets the removed one", time.Second, func(e event) bool {
		return len(e.Peers) == 1 && has(e.Routes, a.prefix) && has(e.Routes, b.prefix, b.address) && e.Complete
	})
	a.until("forgets us", time.Second, routed(c.prefix))
	c.cfg.Peers = all
	c.setPeers(c.cfg)
	c.until("hears it again", 6*time.Second, func(e event) bool { return established(e) && c.sees(a) })
	c.cfg.Peers[0].HoldTime = 6 * time.Second
	c.setPeers(c.cfg)
	c.until("hears it with other terms", 8*time.Second, func(e event) bool { return established(e) && c.sees(a) })
	if got := c.peer(b.address); !got.Since.Equal(since) || got.LastError != "" {
		t.Errorf("the unchanged session is %+v", got)
	}
	c.cfg.ASN = 64999
	for i := range c.cfg.Peers {
		c.cfg.Peers[i].ASN = 64999
	}
	if e := c.do(command{SetPeers: &c.cfg}); !strings.Contains(e.Error, "need a restart") {
		t.Errorf("another AS: %q", e.Error)
	}
}

// TestPeersThatCanNotBeSetLeaveTheOldOnes has GoBGP refuse a neighbour whose link there is not, beside changes that it
// would take and, the second time, has taken by then.
func TestPeersThatCanNotBeSetLeaveTheOldOnes(t *testing.T) {
	t.Parallel()
	nodes := trio(t)
	a, b, c := nodes[0], nodes[1], nodes[2]
	for _, n := range nodes {
		n.start(t)
	}
	c.until("has both", 6*time.Second, established)
	since := map[string]time.Time{a.address: c.peer(a.address).Since, b.address: c.peer(b.address).Since}
	untouched := func(what string, addresses ...string) {
		t.Helper()
		if e := c.now(); len(e.Peers) != 2 {
			t.Errorf("%s: the peers are %+v", what, e.Peers)
		}
		for _, a := range addresses {
			if got := c.peer(a); got.State != "established" || !got.Since.Equal(since[a]) {
				t.Errorf("%s: the session is %+v", what, got)
			}
		}
	}
	refused := func(cfg bgp.Config) {
		t.Helper()
		for range 2 { // asked again, it fails again
			if e := c.do(command{SetPeers: &cfg}); !strings.Contains(e.Error, "open session with fe80::9%gone0") {
				t.Fatalf("error %q", e.Error)
			}
		}
	}
	old := c.cfg.Peers
	const stranger = "fe80::9%gone0"
	// Neither is the change of a made, nor the removal of b.
	cfg := c.cfg
	cfg.Peers = []bgp.PeerConfig{old[0], {Address: addr(stranger)}}
	cfg.Peers[0].HoldTime = 6 * time.Second
	refused(cfg)
	untouched("one too many", a.address, b.address)

	// A link that goes: the session over it can be removed, and not be opened again.
	c.host.IP("link add gone0 type veth peer name gone1")
	c.host.IP("link set gone0 up")
	c.host.Sysctl("net/ipv6/conf/gone0/disable_ipv6", "0")
	c.host.IP("addr add fe80::1/64 dev gone0 nodad")
	cfg.Peers = append(slices.Clone(old), bgp.PeerConfig{Address: addr(stranger)})
	c.setPeers(cfg)
	c.host.IP("link del gone0")
	cfg.Peers = slices.Clone(cfg.Peers)
	cfg.Peers[0].HoldTime = 6 * time.Second
	cfg.Peers[2].HoldTime = 6 * time.Second
	refused(cfg)
	if got := c.peer(b.address); got.State != "established" || !got.Since.Equal(since[b.address]) {
		t.Errorf("the session that was not to change is %+v", got)
	}
	c.cfg.Peers = old
	c.setPeers(c.cfg)
	c.until("is as it was", 8*time.Second, func(e event) bool { return established(e) && c.sees(a) && c.sees(b) })
	untouched("at the end", b.address)
}

func TestWrongASIsNamed(t *testing.T) {
	t.Parallel()
	_, a, b := pair(t, "lower")
	b.cfg.Peers[0].ASN, b.cfg.Peers[0].Role = 64999, bgp.Leaf
	a.start(t)
	b.start(t)
	b.until("names the reason", 5*time.Second, func(e event) bool {
		return strings.Contains(e.Peers[0].LastError, "as number mismatch expected 64999, received 64512")
	})
	a.until("is told", 5*time.Second, func(e event) bool { return e.Peers[0].LastError == "the peer refused to open the session" })
	// The mistake mended, the session does not wait long.
	b.cfg.Peers[0].ASN, b.cfg.Peers[0].Role = 64512, bgp.Mesh
	b.setPeers(b.cfg)
	b.until("hears the other", 5*time.Second, routed(a.prefix, a.address))
}

func TestUnreachablePeerIsNamed(t *testing.T) {
	t.Parallel()
	_, a, b := pair(t, "lower")
	b.start(t)
	b.until("is refused", 4*time.Second, func(e event) bool { return e.Peers[0].LastError == "connect: connection refused" })
	if e := b.now(); e.Complete {
		t.Error("complete without the peer")
	}
	a.start(t)
	b.until("hears it", 4*time.Second, routed(a.prefix, a.address))
	if got := b.peer(a.address).LastError; got != "" {
		t.Errorf("the error stays: %q", got)
	}
}

func TestPeerThatNeverComesIsNotAwaitedForEver(t *testing.T) {
	t.Parallel()
	_, _, b := pair(t, "lower")
	b.cfg.RestartTime = 2 * time.Second
	b.start(t)
	took := b.until("is complete", 4*time.Second, func(e event) bool { return e.Complete })
	if took < time.Second || b.mark().events == 0 {
		t.Errorf("complete after %v, and %d pokes", took, b.mark().events)
	}
}

func TestListensOnItsAddressOnly(t *testing.T) {
	t.Parallel()
	_, a, _ := pair(t, "lower")
	s, err := launch(t, a.host, a.cfg)
	if err != nil {
		t.Fatal(err)
	}
	dial := func(at string) error {
		return a.host.Do(func() error {
			c, err := net.DialTimeout("tcp", at, time.Second)
			if err == nil {
				_ = c.Close()
			}
			return err
		})
	}
	if dial("192.0.2.1:179") == nil {
		t.Error("answers before it has anything to tell")
	}
	s.announce()
	if _, err := launch(t, a.host, a.cfg); err == nil || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("a second one on the port: %v", err)
	}
	if err := dial("192.0.2.1:179"); err != nil {
		t.Error(err)
	}
	if dial("127.0.0.1:179") == nil {
		t.Error("listens on the loopback too")
	}
}

func TestMultipathTCPIsRefused(t *testing.T) {
	t.Parallel()
	_, a, _ := pair(t, "lower")
	_, err := launch(t, a.host, a.cfg, "GODEBUG=multipathtcp=2")
	if err == nil || !strings.Contains(err.Error(), "multipath TCP") {
		t.Errorf("started with it: %v", err)
	}
}

// TestSessionsThatComeAndGoPoke: those who watch the peers see each of it, although no route changes.
func TestSessionsThatComeAndGoPoke(t *testing.T) {
	t.Parallel()
	_, a, b := pair(t, "higher")
	a.start(t)
	b.start(t)
	b.until("hears the other", 5*time.Second, func(e event) bool { return routed(a.prefix, a.address)(e) && established(e) })
	poked := func(what string, since mark, ok func(event) bool) {
		t.Helper()
		b.poked(what, since, ok)
		if got := b.changes(since); len(got) > 0 {
			t.Errorf("%s, and the routes changed: %v", what, got)
		}
	}
	isUp := func(e event) bool {
		return len(e.Peers) == 1 && e.Peers[0].State == "established" && e.Peers[0].Name == "higher"
	}
	isDown := func(e event) bool { return len(e.Peers) == 1 && e.Peers[0].State != "established" }
	mark := b.mark()
	a.kill()
	poked("when the session ends", mark, isDown)
	mark = b.mark()
	a.cfg.Warm = true
	a.start(t)
	poked("when it is back", mark, isUp)
	// From here on there are no routes at all.
	b.announce()
	a.announce()
	b.until("has no routes", 2*time.Second, func(e event) bool { return len(e.Routes) == 0 && established(e) })
	mark = b.mark()
	peers := a.cfg.Peers
	a.cfg.Peers = nil
	a.setPeers(a.cfg)
	poked("when the peer says goodbye", mark, isDown)
	mark = b.mark()
	a.cfg.Peers = peers
	a.setPeers(a.cfg)
	poked("when they meet again", mark, isUp)
	mark = b.mark()
	b.cfg.Peers[0].HoldTime = 6 * time.Second
	b.setPeers(b.cfg)
	poked("when a session is made anew", mark, isDown)
	poked("when it is up with other terms", mark, isUp)
	mark = b.mark()
	b.cfg.Peers = nil
	b.setPeers(b.cfg)
	poked("when a session is taken away", mark, func(e event) bool { return len(e.Peers) == 0 })
}
