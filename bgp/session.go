package bgp

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	api "github.com/osrg/gobgp/v3/api"
)

const (
	stateIdle        = "idle"
	stateEstablished = "established"
)

// PeerStatus is how the session with one neighbour fares.
type PeerStatus struct {
	Address    netip.Addr
	ASN        uint32
	Role       Role
	State      string    // RFC 4271 section 8.2.2, lower case: "established", "active", …
	Since      time.Time // of the session, or of its absence; zero before the first Announce
	Received   int       // prefixes that the peer tells us, those of a restarting peer included
	Advertised int       // prefixes that we tell it
	LastError  string    // why the last session ended, or why there is none; kept when it is back
	Name       string    // as the peer calls itself, "" before the first session
	EndOfRIB   bool      // it has told all it knew when this session began
}

// terms are everything that a session is made of: it is made anew when they change.
type terms struct {
	PeerConfig
	gracefulRestart bool
	restartTime     time.Duration
}

// session is a configured neighbour and what was heard of it.
type session struct {
	terms
	state      string
	since      time.Time
	lastError  string
	dialing    bool           // lastError is of an attempt: it is void once the session is up
	told       bool           // lastError already says why the session that now ends is ending
	stopped    bool           // ended for good by too many prefixes
	disabled   bool           // hasten has disabled it and not yet seen it enabled
	retained   bool           // GoBGP keeps the routes of the last session
	name       string         //
	restarts   bool           // it negotiated graceful restart, and so marks the end of its first updates
	negotiated [families]bool // the families of this session
	endOfRIB   [families]bool // those whose first updates are complete
	heard      bool           // it has told all once since Start

	reported bool                // it is up, in the order of GoBGP's reports
	away     [families]time.Time // since when it has not told all of a family; zero: it has, or never did
	patience time.Duration       // the restart time that it asked for
	forsaken bool                // its routes are not to be kept: it is dead, or stopped for good
	shown    time.Time           // since when it was up as turned saw it last; zero: it was not
}

func newSession(t terms) *session {
	return &session{terms: t, state: stateIdle}
}

// take brings what a note says into the session.
func (s *session) take(n note) {
	switch n.kind {
	case noteState:
		s.enter(n)
	case noteDead:
		s.lastError, s.dialing, s.told = n.text, false, true
	case noteRefused:
		if !s.told && !s.stopped { // the first reason is the cause of the others
			s.lastError, s.dialing, s.told = n.text, s.state != stateEstablished, true
		}
	case noteDial:
		if s.state != stateEstablished {
			s.lastError, s.dialing = n.text, true
		}
	case noteSocket:
		s.lastError, s.dialing = n.text, false
	case noteLimit:
		s.lastError = fmt.Sprintf("more than %d prefixes of %s: session stopped until its config changes",
			s.MaxPrefixes, n.text)
		s.dialing, s.told, s.stopped = false, true, true
	}
}

// enter is a change of state.
func (s *session) enter(n note) {
	was := s.state
	s.state = n.to
	switch {
	case n.to == was:
	case n.to == stateEstablished:
		s.since, s.told, s.forsaken = n.when, false, false
		// The End-of-RIB may be here already: it comes another way than the states.
		s.negotiated = [families]bool{}
		if s.dialing {
			s.lastError, s.dialing = "", false
		}
	case was == stateEstablished:
		s.since = n.when
		s.endOfRIB = [families]bool{}
		s.retained = n.text == "graceful-restart"
		s.forsaken = !s.retained
		if !s.told {
			s.lastError, s.dialing = because(n.text), false
		}
		s.told = false
	case n.to == stateIdle:
		if !s.told && !s.stopped {
			s.lastError, s.dialing = because(n.text), true
		}
		s.told = false
	}
}

// leave is the end of a session by our own doing, which GoBGP has no word for. None of its routes are kept.
func (s *session) leave() {
	s.enter(note{to: stateIdle, when: time.Now()})
	s.retained, s.forsaken = false, true
}

// turned says whether the session came up or ended since it was last asked, be it both.
func (s *session) turned() bool {
	was := s.shown
	s.shown = time.Time{}
	if s.state == stateEstablished {
		s.shown = s.since
	}
	return s.shown != was
}

// because puts GoBGP's reason for the end of a session, or of an attempt, into words.
func because(reason string) string {
	switch reason {
	case "graceful-restart":
		return "connection lost: routes are kept for the peer's restart time"
	case "read-failed":
		return "the peer closed the connection"
	case "write-failed":
		return "the connection broke"
	case "hold-timer-expired":
		return "hold timer expired"
	case "invalid-msg":
		// Before the session is open GoBGP says nothing of a notification but that it is no OPEN or KEEPALIVE.
		return "the peer refused to open the session"
	case "restart-timer-expired":
		return "the peer did not return within its restart time"
	}
	return strings.ReplaceAll(reason, "-", " ")
}

// whole says that every family of the session has been told completely.
func (s *session) whole() bool {
	spoken := false
	for f, negotiated := range s.negotiated {
		if negotiated && !s.endOfRIB[f] {
			return false
		}
		spoken = spoken || negotiated
	}
	return spoken
}

// gobgp is the session in GoBGP's terms. Warm tells the peer that we restart and forwarded all along.
func (t terms) gobgp(listen netip.Addr, warm bool) *api.Peer {
	hold := uint64(t.HoldTime / time.Second)
	p := &api.Peer{
		Conf: &api.PeerConf{NeighborAddress: t.Address.String(), PeerAsn: t.ASN, AuthPassword: t.Password},
		Timers: &api.Timers{Config: &api.TimersConfig{
			HoldTime: hold, KeepaliveInterval: hold / 3, ConnectRetry: 1, IdleHoldTimeAfterReset: 1,
		}},
		Transport:       &api.Transport{RemotePort: uint32(t.Port), PassiveMode: t.passive(listen) && !warm},
		GracefulRestart: t.restart(warm),
	}
	if listen.Is4() == t.Address.Is4() {
		p.Transport.LocalAddress = listen.String()
	}
	if t.TTLSecurity {
		p.TtlSecurity = &api.TtlSecurity{Enabled: true, TtlMin: 255}
	}
	for f := range families {
		p.AfiSafis = append(p.AfiSafis, &api.AfiSafi{
			Config: &api.AfiSafiConfig{Family: f.api(), Enabled: true},
			MpGracefulRestart: &api.MpGracefulRestart{
				Config: &api.MpGracefulRestartConfig{Enabled: true},
			},
			PrefixLimits: &api.PrefixLimit{Family: f.api(), MaxPrefixes: uint32(t.MaxPrefixes)},
		})
	}
	return p
}

// restart is the graceful-restart part of the session.
//
// The N-bit of RFC 8538 stays off: with it a peer whose hold timer expires keeps the routes, and a dead host would
// attract packets for the whole restart time. Without graceful restart we still help others and mark our End-of-RIB.
func (t terms) restart(warm bool) *api.GracefulRestart {
	return &api.GracefulRestart{
		Enabled:         true,
		HelperOnly:      !t.gracefulRestart,
		RestartTime:     uint32(t.restartTime / time.Second),
		DeferralTime:    deferralSeconds,
		LocalRestarting: warm && t.gracefulRestart,
	}
}

// deferralSeconds bounds how long a restarted node keeps its routes to itself, waiting for a peer that has opened a
// session and then tells nothing.
const deferralSeconds = 5

// passive leaves it to the node with the higher address to connect. GoBGP does not resolve collisions (RFC 4271 section
// 6.8): when two connect at the same moment, as both do when a cable is back, each closes the other's connection. A
// restarted node connects whatever its address is: it is back sooner, and alone in it.
func (t terms) passive(listen netip.Addr) bool {
	return t.Role == Mesh && listen.Is4() == t.Address.Is4() && !listen.IsUnspecified() && listen.Less(t.Address)
}
