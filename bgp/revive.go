package bgp

import (
	"context"
	"net/netip"
	"time"

	api "github.com/osrg/gobgp/v3/api"
)

// flush forgets a dead peer's routes. With graceful restart GoBGP keeps them also when the hold timer expired, which
// RFC 4724 section 4.2 allows for a lost connection only; a session that is made anew has none, and is ready at once.
func (s *Speaker) flush(a netip.Addr) {
	s.ops.Lock()
	defer s.ops.Unlock()
	s.mu.Lock()
	p := s.sessions[a]
	if p == nil {
		s.mu.Unlock()
		return
	}
	p.leave()
	t, reason := p.terms, p.lastError
	s.mu.Unlock()
	s.log.Warn("bgp peer is dead", "peer", a, "reason", reason)
	err := s.gobgp.DeletePeer(context.Background(), &api.DeletePeerRequest{Address: a.String()})
	if err == nil {
		err = s.openSession(t, false)
	}
	if err != nil {
		s.log.Error("bgp session not made anew", "peer", a, "error", err)
	}
}

// halt ends a session until its config changes. GoBGP would leave it idle by itself, and would sometimes keep the
// routes: when the peer, told of the limit, closes the connection before GoBGP does, that passes for a restart.
func (s *Speaker) halt(a netip.Addr) {
	s.ops.Lock()
	defer s.ops.Unlock()
	s.mu.Lock()
	p := s.sessions[a]
	if p == nil || !p.stopped {
		s.mu.Unlock()
		return
	}
	p.leave()
	t, reason := p.terms, p.lastError
	s.mu.Unlock()
	s.log.Error("bgp session stopped", "peer", a, "reason", reason)
	if err := s.closeSession(t); err != nil {
		s.log.Error("bgp session not stopped", "peer", a, "error", err)
	}
}

// hasten shortens the rest that GoBGP takes after a session or an attempt failed: 5 seconds in the idle state, during
// which it turns away a peer that is back already. Of all that its API offers, only a reset sets another time, and only
// a disabled and enabled session takes it up. The reset's Cease is never sent, since an idle session has no connection.
func (s *Speaker) hasten(a netip.Addr, since time.Time) {
	s.ops.Lock()
	defer s.ops.Unlock()
	resting := func() bool {
		p := s.peer(a)
		return p.GetState().GetSessionState() == api.PeerState_IDLE &&
			p.GetState().GetAdminState() == api.PeerState_UP && time.Since(since) < 3*time.Second
	}
	if !resting() {
		return
	}
	ctx, name := context.Background(), a.String()
	err := s.gobgp.ResetPeer(ctx, &api.ResetPeerRequest{Address: name})
	if err == nil {
		err = s.gobgp.DisablePeer(ctx, &api.DisablePeerRequest{Address: name})
	}
	if err != nil {
		return
	}
	s.setDisabled(a, true)
	s.await(a, api.PeerState_DOWN, func() {})
	s.enable(a)
}

// enable ends what hasten began; ops is held. When GoBGP does not follow in time, the next tick calls it again.
func (s *Speaker) enable(a netip.Addr) {
	done := s.await(a, api.PeerState_UP, func() {
		_ = s.gobgp.EnablePeer(context.Background(), &api.EnablePeerRequest{Address: a.String()})
	})
	s.setDisabled(a, !done)
}

func (s *Speaker) setDisabled(a netip.Addr, disabled bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.sessions[a]; p != nil {
		p.disabled = disabled
	}
}

// enableForgotten repairs what a busy GoBGP made of hasten.
func (s *Speaker) enableForgotten() {
	s.ops.Lock()
	defer s.ops.Unlock()
	s.mu.Lock()
	var forgotten []netip.Addr
	for a, p := range s.sessions {
		if p.disabled {
			forgotten = append(forgotten, a)
		}
	}
	s.mu.Unlock()
	for _, a := range forgotten {
		s.enable(a)
	}
}

// await asks until the session is in the wanted administrative state, which GoBGP enters behind its API's back.
func (s *Speaker) await(a netip.Addr, want api.PeerState_AdminState, again func()) bool {
	for range 2000 {
		again()
		if p := s.peer(a); p == nil || p.GetState().GetAdminState() == want {
			return true
		}
		time.Sleep(time.Millisecond)
	}
	return false
}

// dropOverstayed forgets the kept routes of a peer that is back for longer than its restart time and has not told all:
// GoBGP stops the restart timer when the session is up, and would keep them for ever.
func (s *Speaker) dropOverstayed() {
	s.mu.Lock()
	var late []netip.Addr
	for a, p := range s.sessions {
		if p.state == stateEstablished && p.retained && time.Since(p.since) > s.cfg.RestartTime {
			p.lastError, p.dialing, p.told = "the peer came back and never told all its routes", false, true
			late = append(late, a)
		}
	}
	s.mu.Unlock()
	for _, a := range late {
		s.flush(a)
	}
}
