package bgp_test

import (
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/nettest"
	gobgp "github.com/osrg/gobgp/v3/pkg/packet/bgp"
)

// stranger is a peer that is not one of us: it opens a session with the capabilities it is given and then says only
// what it is told to.
type stranger struct {
	t    *testing.T
	conn net.Conn
}

// meet connects from the host to the speaker there, and returns when the session is up.
func meet(t *testing.T, h *nettest.Host, from, to string, capabilities ...gobgp.ParameterCapabilityInterface) *stranger {
	t.Helper()
	var conn net.Conn
	deadline := time.Now().Add(5 * time.Second)
	for {
		err := h.Do(func() (err error) {
			d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: time.Second}
			conn, err = d.Dial("tcp", to+":179")
			return err
		})
		if err != nil && time.Now().After(deadline) {
			t.Fatal(err)
		}
		if err == nil {
			s := &stranger{t: t, conn: conn}
			s.say(gobgp.NewBGPOpenMessage(64512, 30, from, []gobgp.OptionParameterInterface{
				gobgp.NewOptionParameterCapability(append(capabilities, gobgp.NewCapFourOctetASNumber(64512))),
			}))
			if s.hears(gobgp.BGP_MSG_OPEN) && s.hears(gobgp.BGP_MSG_KEEPALIVE) {
				t.Cleanup(func() { _ = conn.Close() })
				s.say(gobgp.NewBGPKeepAliveMessage())
				go s.stay()
				return s
			}
			_ = conn.Close() // it was not ready
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// stay keeps the session alive until the connection is closed.
func (s *stranger) stay() {
	b, _ := gobgp.NewBGPKeepAliveMessage().Serialize()
	for {
		time.Sleep(500 * time.Millisecond)
		if _, err := s.conn.Write(b); err != nil {
			return
		}
	}
}

func (s *stranger) say(m *gobgp.BGPMessage) {
	s.t.Helper()
	b, err := m.Serialize()
	if err != nil {
		s.t.Fatal(err)
	}
	if _, err := s.conn.Write(b); err != nil {
		s.t.Logf("stranger: %v", err)
	}
}

func (s *stranger) hears(kind uint8) bool {
	_ = s.conn.SetReadDeadline(time.Now().Add(2 * time.Second))
	head := make([]byte, gobgp.BGP_HEADER_LENGTH)
	if _, err := io.ReadFull(s.conn, head); err != nil {
		return false
	}
	_, err := io.ReadFull(s.conn, make([]byte, int(head[16])<<8+int(head[17])-len(head)))
	return err == nil && head[18] == kind
}

func (s *stranger) tells(prefix string, bits uint8, hop string) {
	s.t.Helper()
	s.say(gobgp.NewBGPUpdateMessage(nil, []gobgp.PathAttributeInterface{
		gobgp.NewPathAttributeOrigin(0), gobgp.NewPathAttributeAsPath(nil), gobgp.NewPathAttributeNextHop(hop),
		gobgp.NewPathAttributeLocalPref(100),
	}, []*gobgp.IPAddrPrefix{gobgp.NewIPAddrPrefix(bits, prefix)}))
}

func restarting(seconds uint16) *gobgp.CapGracefulRestart {
	return gobgp.NewCapGracefulRestart(false, false, seconds, []*gobgp.CapGracefulRestartTuple{
		gobgp.NewCapGracefulRestartTuple(gobgp.RF_IPv4_UC, true),
	})
}

// TestPeerWithoutEndOfRIBIsNotAwaitedForEver: some routers send the mark only with graceful restart.
func TestPeerWithoutEndOfRIBIsNotAwaitedForEver(t *testing.T) {
	t.Parallel()
	_, a, b := pair(t, "lower")
	a.start(t)
	s := meet(t, b.host, b.address, a.address, gobgp.NewCapMultiProtocol(gobgp.RF_IPv4_UC))
	s.tells("10.88.2.0", 24, b.address)
	a.until("hears it", time.Second, routed(b.prefix, b.address))
	if a.now().Complete {
		t.Error("complete at once, and more may come")
	}
	took := a.until("is complete", 6*time.Second, func(e event) bool { return e.Complete })
	if took < 2*time.Second {
		t.Errorf("complete after %v", took)
	}
}

// TestEndOfRIBIsAwaitedForNegotiatedFamiliesOnly: this one has no IPv6.
func TestEndOfRIBIsAwaitedForNegotiatedFamiliesOnly(t *testing.T) {
	t.Parallel()
	_, a, b := pair(t, "lower")
	a.start(t)
	a.announce(ann(a.prefix, a.address), ann("2001:db8:88:1::/64", "2001:db8::1"))
	s := meet(t, b.host, b.address, a.address, gobgp.NewCapMultiProtocol(gobgp.RF_IPv4_UC), restarting(20))
	a.until("has the session", time.Second, func(e event) bool { return e.Peers[0].State == "established" })
	if e := a.now(); e.Complete || e.Peers[0].EndOfRIB {
		t.Errorf("complete before the mark: %+v", e.Peers)
	}
	s.say(gobgp.NewEndOfRib(gobgp.RF_IPv4_UC))
	a.until("is complete", time.Second, func(e event) bool { return e.Complete && established(e) })
	if got := a.peer(b.address).Advertised; got != 1 {
		t.Errorf("%d prefixes are told to a peer without IPv6", got)
	}
}

// TestRoutesKeptForAPeerThatNeverTellsAllAgain: GoBGP itself would keep them for ever.
func TestRoutesKeptForAPeerThatNeverTellsAllAgain(t *testing.T) {
	t.Parallel()
	_, a, b := pair(t, "lower")
	a.cfg.RestartTime = 3 * time.Second
	a.start(t)
	v4 := gobgp.NewCapMultiProtocol(gobgp.RF_IPv4_UC)
	s := meet(t, b.host, b.address, a.address, v4, restarting(60))
	s.tells("10.88.2.0", 24, b.address)
	s.say(gobgp.NewEndOfRib(gobgp.RF_IPv4_UC))
	a.until("hears it", time.Second, func(e event) bool { return routed(b.prefix, b.address)(e) && established(e) })
	mark := a.mark()
	_ = s.conn.Close()
	meet(t, b.host, b.address, a.address, v4, restarting(60))
	a.until("has the session", time.Second, func(e event) bool { return e.Peers[0].State == "established" })
	time.Sleep(2 * time.Second)
	if c := a.changes(mark); len(c) > 0 {
		t.Errorf("not kept: %v", c)
	}
	a.until("forgets them", 4*time.Second, routed(b.prefix))
	if got := a.peer(b.address).LastError; got != "the peer came back and never told all its routes" {
		t.Errorf("the reason is %q", got)
	}
}

func TestNonsenseEndsTheSessionAndIsNamed(t *testing.T) {
	t.Parallel()
	_, a, b := pair(t, "lower")
	a.start(t)
	s := meet(t, b.host, b.address, a.address, gobgp.NewCapMultiProtocol(gobgp.RF_IPv4_UC), restarting(20))
	a.until("has the session", time.Second, func(e event) bool { return e.Peers[0].State == "established" })
	// An UPDATE of 23 bytes whose withdrawn routes take 65535.
	if _, err := s.conn.Write([]byte(strings.Repeat("\xff", 16) + "\x00\x17\x02\xff\xff\xff\xff")); err != nil {
		t.Fatal(err)
	}
	a.until("names it", 2*time.Second, func(e event) bool {
		return e.Peers[0].State != "established" && strings.Contains(e.Peers[0].LastError, "malformed message")
	})
	b.start(t)
	b.until("hears it", 5*time.Second, routed(a.prefix, a.address))
}
