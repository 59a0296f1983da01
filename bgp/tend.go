package bgp

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"time"

	api "github.com/osrg/gobgp/v3/api"
)

// review looks at what else follows from the sessions' states, and pokes when the routes became complete.
func (s *Speaker) review() {
	s.mu.Lock()
	defer s.mu.Unlock()
	complete, up := true, 0
	for _, p := range s.sessions {
		if p.state == stateEstablished {
			up++
			quiet := !p.restarts && time.Since(p.since) > p.HoldTime
			p.heard = p.heard || p.whole() || quiet
		}
		if p.whole() {
			p.retained = false
		}
		complete = complete && p.heard
	}
	complete = complete || time.Since(s.started) >= s.cfg.RestartTime
	if complete != s.complete {
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
	turned, over, was := false, false, p.state
	switch n.kind {
	case noteState:
		turned = p.enter(n)
	case noteDead:
		p.lastError, p.dialing, p.told = n.text, false, true
	case noteRefused:
		if !p.told && !p.stopped { // the first reason is the cause of the others
			p.lastError, p.dialing, p.told = n.text, p.state != stateEstablished, true
		}
	case noteDial:
		if p.state != stateEstablished {
			p.lastError, p.dialing = n.text, true
		}
	case noteSocket:
		p.lastError, p.dialing = n.text, false
	case noteLimit:
		over = !p.stopped // each further update says it again
		p.lastError, p.dialing, p.told, p.stopped = tooMany(p.terms, n.text), false, true, true
	}
	state, reason, kept := p.state, p.lastError, p.retained
	s.mu.Unlock()
	switch {
	case n.kind == noteDead:
		s.flush(n.peer)
	case over:
		s.halt(n.peer)
	case n.kind == noteSocket:
		s.log.Error("bgp socket option not set", "peer", n.peer, "error", n.text)
	case turned && state == stateEstablished:
		s.learn(n.peer)
		s.log.Info("bgp session up", "peer", n.peer)
	case turned:
		s.log.Warn("bgp session lost", "peer", n.peer, "reason", reason, "routes_kept", kept)
	}
	if n.kind == noteState && n.to == stateIdle && was != stateIdle {
		s.hasten(n.peer, n.when)
	}
}

func tooMany(t terms, family string) string {
	return fmt.Sprintf("more than %d prefixes of %s: session stopped until its config changes", t.MaxPrefixes, family)
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
	p.restarts = false
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
			p.restarts = true
		case *api.MultiProtocolCapability:
			if f, ok := familyFrom(c.GetFamily()); ok {
				p.negotiated[f] = true
			}
		}
	}
}
