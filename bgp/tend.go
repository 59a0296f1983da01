package bgp

import (
	"context"
	"net/netip"
	"strings"
	"time"

	api "github.com/osrg/gobgp/v3/api"
)

// review looks at what else follows from the sessions' states, and pokes when one came up or ended and when the routes
// became complete.
func (s *Speaker) review() {
	s.mu.Lock()
	defer s.mu.Unlock()
	complete, up, changed := true, 0, false
	for _, p := range s.sessions {
		changed = p.turned() || changed
		if p.state == stateEstablished {
			up++
			quiet := !p.restarts && time.Since(p.since) > p.HoldTime
			p.heard = p.heard || p.whole() || quiet
			if quiet {
				p.away = [families]time.Time{} // it does not mark the end, and has told long since
			}
		}
		if p.whole() {
			p.retained = false
		}
		complete = complete && p.heard
	}
	changed = s.release(func(prefix netip.Prefix, h hop) bool { return !s.keeps(prefix, h) }) || changed
	complete = complete || time.Since(s.started) >= s.cfg.RestartTime
	if complete != s.complete || changed {
		s.complete = complete
		poke(s.changed)
	}
	s.hears.eager.Store(up < len(s.sessions))
}

// tick is how often we look at what GoBGP has no event for.
const tick = time.Second

// tend keeps the sessions: it acts on what GoBGP's log tells of them.
func (s *Speaker) tend(ctx context.Context) {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for ticks := 0; ; {
		select {
		case <-ctx.Done():
			return
		case <-s.notes.poke:
			for _, n := range s.notes.take() {
				s.act(n)
			}
		case <-ticker.C:
			ticks++
			s.seekClaims(ticks)
			s.dropOverstayed()
			s.enableForgotten()
		}
		s.review()
	}
}

// act takes one note. What it calls may wait for GoBGP, so mu is free by then.
func (s *Speaker) act(n note) {
	s.mu.Lock()
	p := s.sessions[n.peer]
	if p == nil {
		s.mu.Unlock()
		return
	}
	was, stopped := p.state, p.stopped
	p.take(n)
	is, reason, kept := p.state, p.lastError, p.retained
	s.mu.Unlock()
	switch {
	case n.kind == noteDead:
		s.flush(n.peer)
	case n.kind == noteLimit && !stopped: // each further update says it again
		s.halt(n.peer)
	case n.kind == noteSocket:
		s.log.Error("bgp socket option not set", "peer", n.peer, "error", n.text)
	case is == was:
	case is == stateEstablished:
		s.learn(n.peer)
		s.log.Info("bgp session up", "peer", n.peer)
	case was == stateEstablished:
		s.log.Warn("bgp session lost", "peer", n.peer, "reason", reason, "routes_kept", kept)
	}
	if is == stateIdle && was != stateIdle {
		s.hasten(n.peer, n.when)
	}
}

// peer asks GoBGP about one neighbour; nil when it has none such.
func (s *Speaker) peer(a netip.Addr) (found *api.Peer) {
	_ = s.gobgp.ListPeer(context.Background(), &api.ListPeerRequest{Address: a.String()}, func(p *api.Peer) { found = p })
	return found
}

// learn reads what the peer said of itself when the session came up.
func (s *Speaker) learn(a netip.Addr) {
	found := s.peer(a)
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.sessions[a]
	if p == nil || found == nil {
		return
	}
	p.restarts, p.patience = false, 0
	for _, c := range found.GetState().GetRemoteCap() {
		m, err := c.UnmarshalNew()
		if err != nil {
			continue
		}
		switch c := m.(type) {
		case *api.FqdnCapability:
			if name := strings.TrimSuffix(c.GetHostName(), "."); name != p.name {
				p.name = name
				poke(s.changed)
			}
		case *api.GracefulRestartCapability:
			p.restarts, p.patience = true, time.Duration(c.GetTime())*time.Second
		case *api.MultiProtocolCapability:
			if f, ok := familyFrom(c.GetFamily()); ok {
				p.negotiated[f] = true
			}
		}
	}
}
