package bgp_test

import (
	"io"
	"net"
	"strings"
	"testing"
	"time"

	gobgp "github.com/osrg/gobgp/v3/pkg/packet/bgp"

	"github.com/fairlead-net/fairlead/nettest"
)

// stranger is a peer that is not one of us: it opens a session with the capabilities it is given and then says only
// what it is told to.
type stranger struct {
	t    *testing.T
	conn net.Conn
	open *gobgp.BGPOpen // what it was told
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
			open, keepalive := s.hears(), s.hears()
			if open != nil && keepalive != nil {
				s.open = open.Body.(*gobgp.BGPOpen)
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

// reads is the next message as it was on the wire, nil when there is none within 8 s or the connection is closed.
func (s *stranger) reads() []byte {
	_ = s.conn.SetReadDeadline(time.Now().Add(8 * time.Second))
	head := make([]byte, gobgp.BGP_HEADER_LENGTH)
	if _, err := io.ReadFull(s.conn, head); err != nil {
		return nil
	}
	body := make([]byte, int(head[16])<<8+int(head[17])-len(head))
	if _, err := io.ReadFull(s.conn, body); err != nil {
		return nil
	}
	return append(head, body...)
}

// hears is what reads gives, understood.
func (s *stranger) hears() *gobgp.BGPMessage {
	b := s.reads()
	if b == nil {
		return nil
	}
	m, err := gobgp.ParseBGPMessage(b)
	if err != nil {
		s.t.Errorf("stranger: %v", err)
		return nil
	}
	return m
}

func (s *stranger) tells(prefix string, bits uint8, hop string, more ...gobgp.PathAttributeInterface) {
	s.t.Helper()
	s.say(gobgp.NewBGPUpdateMessage(nil, append([]gobgp.PathAttributeInterface{
		gobgp.NewPathAttributeOrigin(0), gobgp.NewPathAttributeAsPath(nil), gobgp.NewPathAttributeNextHop(hop),
		gobgp.NewPathAttributeLocalPref(100),
	}, more...), []*gobgp.IPAddrPrefix{gobgp.NewIPAddrPrefix(bits, prefix)}))
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

// TestRestartedNodeSaysSoAndDoesNotWaitLong: the flags make the peer keep our routes. In return we tell it nothing until
// it has told all, and one that never does must not keep us silent.
func TestRestartedNodeSaysSoAndDoesNotWaitLong(t *testing.T) {
	t.Parallel()
	_, a, b := pair(t, "lower")
	a.cfg.Warm = true
	a.cfg.Peers[0].HoldTime = 30 * time.Second
	a.start(t)
	s := meet(t, b.host, b.address, a.address, gobgp.NewCapMultiProtocol(gobgp.RF_IPv4_UC), restarting(20))
	began := time.Now()
	var gr *gobgp.CapGracefulRestart
	for _, p := range s.open.OptParams {
		for _, c := range p.(*gobgp.OptionParameterCapability).Capability {
			if c, ok := c.(*gobgp.CapGracefulRestart); ok {
				gr = c
			}
		}
	}
	const restarted, notification, forwarded = 8, 4, 0x80
	if gr == nil || gr.Flags&restarted == 0 || gr.Flags&notification != 0 || gr.Time != 20 || len(gr.Tuples) != 2 ||
		gr.Tuples[0].Flags&forwarded == 0 || gr.Tuples[1].Flags&forwarded == 0 {
		t.Errorf("the capability is %+v", gr)
	}
	for {
		m := s.hears()
		if m == nil {
			t.Fatal("told nothing")
		}
		u, ok := m.Body.(*gobgp.BGPUpdate)
		if !ok {
			continue
		}
		if end, family := u.IsEndOfRib(); end && family != gobgp.RF_IPv4_UC {
			continue // each family has its own
		}
		if len(u.NLRI) != 1 || u.NLRI[0].String() != a.prefix {
			t.Errorf("the first update is %v", u)
		}
		break
	}
	if waited := time.Since(began); waited < 3*time.Second || waited > 7*time.Second {
		t.Errorf("told after %v", waited)
	}
}
