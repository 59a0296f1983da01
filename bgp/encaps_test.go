package bgp_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	gobgp "github.com/osrg/gobgp/v3/pkg/packet/bgp"

	"github.com/fairlead-net/fairlead/bgp"
)

// accepts says that there is a route to the prefix whose next hops accept these tunnels, one by one.
func accepts(prefix string, encaps ...bgp.Encaps) func(event) bool {
	return func(e event) bool {
		i := slices.IndexFunc(e.Routes, func(r bgp.Route) bool { return r.Prefix.String() == prefix })
		return i >= 0 && slices.Equal(e.Routes[i].Encaps, encaps)
	}
}

func TestNodesTellWhichTunnelsTheyAccept(t *testing.T) {
	t.Parallel()
	_, a, b := pair(t, "lower")
	a.encaps = bgp.GRE | bgp.IPIP | bgp.VXLAN
	a.start(t)
	b.start(t)
	const six = "2001:db8:88:1::/64"
	b.until("hears a", 5*time.Second, func(e event) bool { return accepts(a.prefix, a.encaps)(e) && established(e) })
	a.until("hears b", time.Second, accepts(b.prefix, 0))
	for _, set := range []bgp.Encaps{bgp.VXLAN, bgp.IPIP, 0, bgp.GRE, bgp.IPIP | bgp.VXLAN} {
		mark := b.mark()
		a.announce(accepting(set, a.prefix, a.address), accepting(set, six, "2001:db8::1"))
		b.until(fmt.Sprintf("hears of set %d", set), time.Second, func(e event) bool {
			return accepts(a.prefix, set)(e) && accepts(six, set)(e)
		})
		b.poked(fmt.Sprintf("told of set %d", set), mark, func(e event) bool {
			return accepts(a.prefix, set)(e) && accepts(six, set)(e) && has(e.Routes, a.prefix, a.address)
		})
	}
	mark := b.mark()
	a.announce(accepting(bgp.IPIP|bgp.VXLAN, a.prefix, a.address), accepting(bgp.IPIP|bgp.VXLAN, six, "2001:db8::1"))
	a.announce(accepting(bgp.IPIP|bgp.VXLAN, six, "2001:db8::1"))
	b.until("hears the withdrawal", time.Second, func(e event) bool { return has(e.Routes, a.prefix) && accepts(six, bgp.IPIP|bgp.VXLAN)(e) })
	if got := b.changes(mark); len(got) != 1 {
		t.Errorf("the same again and a withdrawal were seen as %v", got)
	}
	a.announce()
	b.until("sees nothing", time.Second, func(e event) bool { return len(e.Routes) == 0 })
}

// TestOtherClaimTellsItsTunnelsToo: the best path is our own there, and GoBGP says nothing of the other.
func TestOtherClaimTellsItsTunnelsToo(t *testing.T) {
	t.Parallel()
	_, a, b := pair(t, "lower")
	b.prefix, b.encaps = a.prefix, bgp.VXLAN
	a.start(t)
	b.start(t)
	a.until("sees the claim", 5*time.Second, accepts(a.prefix, bgp.VXLAN))
	b.until("sees the claim", 2*time.Second, accepts(a.prefix, 0))
	mark := a.mark()
	b.announce(accepting(bgp.GRE, b.prefix, b.address))
	a.until("sees its tunnels change", 3*time.Second, accepts(a.prefix, bgp.GRE))
	a.poked("told of the claim's change", mark, accepts(a.prefix, bgp.GRE))
}

// attribute is the value of the path attribute in an UPDATE as it was on the wire, nil when it is not there. It reads
// RFC 4271 section 4.3 by itself, so that it does not depend on the library that wrote the message.
func attribute(t *testing.T, message []byte, kind byte) []byte {
	t.Helper()
	body := message[19:]
	body = body[2+binary.BigEndian.Uint16(body):] // withdrawn routes
	body = body[2 : 2+binary.BigEndian.Uint16(body)]
	for len(body) > 0 {
		const extended = 0x10
		size, rest := int(body[2]), body[3:]
		if body[0]&extended != 0 {
			size, rest = int(binary.BigEndian.Uint16(body[2:])), body[4:]
		}
		if body[1] == kind {
			const optionalTransitive = 0xc0
			if body[0]&0xe0 != optionalTransitive {
				t.Errorf("attribute %d has the flags %#x", kind, body[0])
			}
			return rest[:size]
		}
		body = rest[size:]
	}
	return nil
}

// TestEncapsulationCommunitiesOnTheWire holds them to the bytes of RFC 9012 section 4.1.
func TestEncapsulationCommunitiesOnTheWire(t *testing.T) {
	t.Parallel()
	_, a, b := pair(t, "lower")
	a.encaps = bgp.IPIP | bgp.VXLAN
	a.start(t)
	s := meet(t, b.host, b.address, a.address,
		gobgp.NewCapMultiProtocol(gobgp.RF_IPv4_UC), gobgp.NewCapMultiProtocol(gobgp.RF_IPv6_UC), restarting(20))
	four, six := "\x18\x0a\x58\x01", "\x40\x20\x01\x0d\xb8\x00\x88\x00\x01" // 10.88.1.0/24, 2001:db8:88:1::/64
	next := func(about string) []byte {
		t.Helper()
		const update = 2
		for deadline := time.Now().Add(3 * time.Second); time.Now().Before(deadline); { // keepalives come for ever
			if m := s.reads(); m != nil && m[18] == update && strings.Contains(string(m[19:]), about) {
				return m
			}
		}
		t.Fatal("no such update")
		return nil
	}
	check := func(m []byte, want ...string) {
		t.Helper()
		var got []string
		for c := range slices.Chunk(attribute(t, m, 16), 8) {
			got = append(got, fmt.Sprintf("% x", c))
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("extended communities %q, want %q", got, want)
		}
	}
	const gre, ipip, vxlan = "03 0c 00 00 00 00 00 02", "03 0c 00 00 00 00 00 07", "03 0c 00 00 00 00 00 08"
	check(next(four), ipip, vxlan)
	// Nothing but the tunnels change; then the other family has all of them; then there are none.
	a.announce(accepting(bgp.VXLAN, a.prefix, a.address))
	check(next(four), vxlan)
	a.announce(accepting(bgp.VXLAN, a.prefix, a.address), accepting(bgp.GRE|bgp.IPIP|bgp.VXLAN, "2001:db8:88:1::/64", "2001:db8::1"))
	check(next(six), gre, ipip, vxlan)
	a.announce(accepting(bgp.VXLAN, a.prefix, a.address))
	if m := next(six); attribute(t, m, 16) != nil {
		t.Errorf("extended communities in a withdrawal: % x", m)
	}
	a.announce(ann(a.prefix, a.address))
	if m := next(four); attribute(t, m, 16) != nil {
		t.Errorf("extended communities for no tunnels: % x", m)
	}
	a.announce()
	if m := next(four); !bytes.HasPrefix(m[19:], []byte("\x00\x04"+four)) {
		t.Errorf("the withdrawal is % x", m)
	}
}

// communities is the attribute that holds these bytes, whatever they are.
func communities(octets string) gobgp.PathAttributeInterface {
	return gobgp.NewPathAttributeUnknown(
		gobgp.BGP_ATTR_FLAG_OPTIONAL|gobgp.BGP_ATTR_FLAG_TRANSITIVE, gobgp.BGP_ATTR_TYPE_EXTENDED_COMMUNITIES, []byte(octets))
}

const (
	unknownTunnel = "\x03\x0c\x00\x00\x00\x00\x00\x63" // type 99
	routeTarget   = "\x00\x02\xfc\x00\x00\x00\x00\x08"
	ipipTunnel    = "\x03\x0c\x00\x00\x00\x00\x00\x07"
	vxlanTunnel   = "\x03\x0c\x00\x00\x00\x00\x00\x08"
)

// TestOddCommunities: nobody who speaks BGP with us is obliged to know us.
func TestOddCommunities(t *testing.T) {
	t.Parallel()
	_, a, b := pair(t, "lower")
	a.start(t)
	s := meet(t, b.host, b.address, a.address, gobgp.NewCapMultiProtocol(gobgp.RF_IPv4_UC), restarting(20))
	cases := []struct {
		name, octets string
		want         bgp.Encaps
	}{
		{"unknown, foreign, repeated", unknownTunnel + routeTarget + vxlanTunnel + vxlanTunnel, bgp.VXLAN},
		{"only unknown and foreign", unknownTunnel + routeTarget, 0},
		{"with reserved bytes", "\x03\x0c\xff\xff\xff\xff\x00\x07" + unknownTunnel, bgp.IPIP},
		{"not transitive", "\x43\x0c\x00\x00\x00\x00\x00\x07" + vxlanTunnel, bgp.VXLAN},
		{"beyond a byte", "\x03\x0c\x00\x00\x00\x00\x01\x07" + vxlanTunnel, bgp.VXLAN},
		{"of no known type", "\x9f\x9f\x9f\x9f\x9f\x9f\x9f\x9f" + ipipTunnel, bgp.IPIP},
		{"other opaque ones", "\x03\x0b\x00\x00\x00\x00\x00\x07" + "\x03\x7f\x00\x00\x00\x00\x00\x07" + "\x03\x0d\x00\x00\x00\x00\x00\x07", 0},
		{"very many", strings.Repeat(unknownTunnel+routeTarget, 100) + ipipTunnel + vxlanTunnel, bgp.IPIP | bgp.VXLAN},
	}
	for i, c := range cases {
		// Each comes with a next hop of its own, so that it is seen when the answer does not change.
		hop := fmt.Sprintf("192.0.2.%d", 101+i)
		s.tells("10.88.2.0", 24, hop, communities(c.octets))
		a.until(c.name+" is heard", time.Second, routed(b.prefix, hop))
		if e := a.now(); !accepts(b.prefix, c.want)(e) {
			t.Errorf("%s: %v, want %d", c.name, e.Routes, c.want)
		}
	}
}

// TestCommunitiesThatSpoilTheirRoute: the peer said something else than before, so what it said before is void (RFC 7606
// section 2, treat-as-withdraw). The session and the other routes stay.
func TestCommunitiesThatSpoilTheirRoute(t *testing.T) {
	t.Parallel()
	_, a, b := pair(t, "lower")
	a.start(t)
	s := meet(t, b.host, b.address, a.address, gobgp.NewCapMultiProtocol(gobgp.RF_IPv4_UC), restarting(20))
	s.tells("10.88.3.0", 24, b.address, communities(ipipTunnel))
	for name, octets := range map[string]string{
		"cut short":                    vxlanTunnel + "\x03\x0c\x00",
		"that GoBGP can not decode":    vxlanTunnel + "\x06\x7f\x00\x00\x00\x00\x00\x00",
		"that GoBGP's API can not say": vxlanTunnel + "\x06\x04\x00\x00\x05\xdc\x00\x00",
	} {
		s.tells("10.88.2.0", 24, b.address, communities(vxlanTunnel))
		a.until("hears it", time.Second, accepts(b.prefix, bgp.VXLAN))
		since := a.peer(b.address).Since
		s.tells("10.88.2.0", 24, "192.0.2.99", communities(octets))
		a.until("takes communities "+name+" for a withdrawal", time.Second, routed(b.prefix))
		e := a.now()
		if e.Peers[0].State != "established" || !e.Peers[0].Since.Equal(since) || !accepts("10.88.3.0/24", bgp.IPIP)(e) {
			t.Errorf("%s: %+v", name, e)
		}
	}
}

// TestReflectorsThatDiffer: between a node's update and the moment at which both reflectors have passed it on, they tell
// different sets of the same next hop.
func TestReflectorsThatDiffer(t *testing.T) {
	t.Parallel()
	nodes := trio(t)
	a, b, c := nodes[0], nodes[1], nodes[2]
	for i := range a.cfg.Peers {
		a.cfg.Peers[i].Role = bgp.Reflector
	}
	a.start(t)
	v4 := gobgp.NewCapMultiProtocol(gobgp.RF_IPv4_UC)
	first := meet(t, b.host, b.address, a.address, v4, restarting(20))
	second := meet(t, c.host, c.address, a.address, v4, restarting(20))
	const prefix, hop = "10.88.9.0/24", "192.0.2.9"
	tell := func(s *stranger, octets string) { s.tells("10.88.9.0", 24, hop, communities(octets)) }
	tell(first, ipipTunnel+vxlanTunnel)
	tell(second, ipipTunnel+vxlanTunnel)
	one := func(set bgp.Encaps) func(event) bool {
		return func(e event) bool { return has(e.Routes, prefix, hop) && accepts(prefix, set)(e) }
	}
	a.until("hears both", time.Second, func(e event) bool {
		return one(bgp.IPIP|bgp.VXLAN)(e) && e.Peers[0].Received == 1 && e.Peers[1].Received == 1
	})
	tell(second, vxlanTunnel)
	a.until("believes the second", time.Second, one(bgp.VXLAN))
	tell(first, vxlanTunnel)
	tell(second, ipipTunnel+vxlanTunnel)
	time.Sleep(200 * time.Millisecond)
	a.until("waits for the first", time.Second, one(bgp.VXLAN))
	tell(first, ipipTunnel+vxlanTunnel)
	a.until("hears it of both", time.Second, one(bgp.IPIP|bgp.VXLAN))
	tell(second, routeTarget) // a router that took them off
	time.Sleep(200 * time.Millisecond)
	a.until("believes the one who speaks", time.Second, one(bgp.IPIP|bgp.VXLAN))
	first.say(gobgp.NewBGPUpdateMessage([]*gobgp.IPAddrPrefix{gobgp.NewIPAddrPrefix(24, "10.88.9.0")}, nil, nil))
	a.until("has nobody left who says", time.Second, one(0))
}
