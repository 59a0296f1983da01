package bgp

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	api "github.com/osrg/gobgp/v3/api"
)

// SetPeers brings the sessions in line with cfg and touches only those that changed. What the whole speaker stands on
// (its AS, identifier, address and port) can not change while it runs.
func (s *Speaker) SetPeers(cfg Config) error {
	cfg = cfg.filled()
	if err := cfg.check(); err != nil {
		return fmt.Errorf("set peers: %w", err)
	}
	s.ops.Lock()
	defer s.ops.Unlock()
	s.mu.Lock()
	old, open := s.cfg, s.open
	s.mu.Unlock()
	if cfg.ASN != old.ASN || cfg.RouterID != old.RouterID || cfg.Listen != old.Listen || cfg.Port != old.Port {
		return errors.New("set peers: asn, router id, listen address and port need a restart")
	}
	want := make(map[netip.Addr]terms)
	for _, t := range cfg.terms() {
		want[t.Address] = t
	}
	s.mu.Lock()
	s.cfg = cfg
	var gone, fresh []*session
	for a, p := range s.sessions {
		if want[a] != p.terms {
			gone = append(gone, p)
			delete(s.sessions, a)
		}
	}
	for a, t := range want {
		if s.sessions[a] == nil {
			s.sessions[a] = newSession(t)
			fresh = append(fresh, s.sessions[a])
		}
	}
	s.mu.Unlock()
	var errs []error
	if open {
		for _, p := range gone {
			errs = append(errs, s.closeSession(p.terms))
		}
		for _, p := range fresh {
			errs = append(errs, s.openSession(p.terms, false))
		}
	}
	s.review()
	return errors.Join(errs...)
}

func (s *Speaker) openSessions() (errs []error) {
	s.mu.Lock()
	s.open = true
	warm := s.cfg.Warm
	var all []terms
	for _, p := range s.sessions {
		all = append(all, p.terms)
	}
	s.mu.Unlock()
	for _, t := range all {
		errs = append(errs, s.openSession(t, warm))
	}
	s.review()
	return errs
}

func (s *Speaker) openSession(t terms, warm bool) error {
	s.mu.Lock()
	listen := s.cfg.Listen
	if p := s.sessions[t.Address]; p != nil && p.since.IsZero() {
		p.since = time.Now()
	}
	s.mu.Unlock()
	err := s.gobgp.AddPeer(context.Background(), &api.AddPeerRequest{Peer: t.gobgp(listen, warm)})
	if err != nil {
		return fmt.Errorf("open session with %v: %w", t.Address, err)
	}
	return nil
}

// closeSession ends a session on purpose: the peer is sent a Cease and forgets our routes.
func (s *Speaker) closeSession(t terms) error {
	ctx := context.Background()
	if t.Password != "" {
		// DeletePeer leaves the key on the listening socket, and a later session without password could not come in.
		// A session that changes its password takes the old key away.
		bare := t
		bare.Password = ""
		s.mu.Lock()
		listen := s.cfg.Listen
		s.mu.Unlock()
		if _, err := s.gobgp.UpdatePeer(ctx, &api.UpdatePeerRequest{Peer: bare.gobgp(listen, false)}); err != nil {
			return fmt.Errorf("take back password of %v: %w", t.Address, err)
		}
	}
	if err := s.gobgp.DeletePeer(ctx, &api.DeletePeerRequest{Address: t.Address.String()}); err != nil {
		return fmt.Errorf("close session with %v: %w", t.Address, err)
	}
	return nil
}

// listen folds what GoBGP's table reports into ours.
func (s *Speaker) listen(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.reports.poke:
		}
		changed := false
		s.mu.Lock()
		for _, report := range s.reports.take() {
			changed = s.fold(report) || changed
		}
		s.mu.Unlock()
		s.review()
		if changed {
			poke(s.changed)
		}
	}
}

func (s *Speaker) fold(report []*api.Path) bool {
	var paths []path
	for _, p := range report {
		if p.GetNlri() == nil {
			f, ok := familyFrom(p.GetFamily())
			if peer := s.sessions[neighbour(p)]; ok && peer != nil {
				peer.endOfRIB[f] = true
			}
			continue
		}
		if _, ok := familyFrom(p.GetFamily()); !ok {
			continue
		}
		decoded, err := decode(p)
		if err != nil {
			s.log.Debug("path not understood", "error", err)
			continue
		}
		paths = append(paths, decoded)
	}
	return s.best.fold(paths)
}

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
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.notes.poke:
			for _, n := range s.notes.take() {
				s.act(n)
			}
		case <-ticker.C:
			s.seekClaims()
			s.dropOverstayed()
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
	turned, was := false, p.state
	switch n.kind {
	case noteState:
		turned = p.enter(n)
	case noteDead:
		p.lastError, p.dialing, p.told = n.text, false, true
	case noteRefused:
		if !p.stopped {
			p.lastError, p.dialing, p.told = n.text, p.state != stateEstablished, true
		}
	case noteDial:
		p.lastError, p.dialing = n.text, true
	case noteSocket:
		p.lastError, p.dialing = n.text, false
	case noteLimit:
		p.lastError, p.dialing, p.told, p.stopped = tooMany(p.terms, n.text), false, true, true
	}
	state, reason, kept := p.state, p.lastError, p.retained
	s.mu.Unlock()
	switch {
	case n.kind == noteDead:
		s.flush(n.peer)
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
	p.enter(note{kind: noteState, to: stateIdle, when: time.Now()})
	p.retained = false
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

// hasten shortens the rest that GoBGP takes after a session or an attempt failed: 5 seconds in the idle state, during
// which it turns away a peer that is back already. Of all that its API offers, only a reset sets another time, and only
// a disabled and enabled session takes it up. The reset's Cease is never sent, since an idle session has no connection.
func (s *Speaker) hasten(a netip.Addr, since time.Time) {
	s.ops.Lock()
	defer s.ops.Unlock()
	resting := func() bool {
		p := s.peer(a)
		return p.GetState().GetSessionState() == api.PeerState_IDLE &&
			p.GetState().GetAdminState() == api.PeerState_UP && time.Since(since) < 2*time.Second
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
	s.await(a, api.PeerState_DOWN, func() {})
	s.await(a, api.PeerState_UP, func() { _ = s.gobgp.EnablePeer(ctx, &api.EnablePeerRequest{Address: name}) })
}

// await asks until the session is in the wanted administrative state, which GoBGP enters behind its API's back.
func (s *Speaker) await(a netip.Addr, want api.PeerState_AdminState, again func()) {
	for range 1000 {
		again()
		if p := s.peer(a); p == nil || p.GetState().GetAdminState() == want {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// seekClaims looks who else announces what we announce. Our own path is always the best one, and GoBGP reports only
// changes of the best.
func (s *Speaker) seekClaims() {
	s.mu.Lock()
	var lookups [families][]*api.TableLookupPrefix
	for prefix := range s.announced {
		f := familyOf(prefix)
		lookups[f] = append(lookups[f], &api.TableLookupPrefix{Prefix: prefix.String()})
	}
	s.mu.Unlock()
	found := make(rib)
	for f, prefixes := range lookups {
		if len(prefixes) == 0 {
			continue
		}
		r := &api.ListPathRequest{TableType: api.TableType_GLOBAL, Family: family(f).api(), Prefixes: prefixes}
		err := s.gobgp.ListPath(context.Background(), r, func(d *api.Destination) {
			var paths []path
			for _, p := range d.GetPaths() {
				if decoded, err := decode(p); err == nil {
					paths = append(paths, decoded)
				}
			}
			found.fold(paths)
		})
		if err != nil {
			s.log.Debug("own prefixes not looked up", "error", err)
			return
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	changed := len(found) != len(s.claims)
	for prefix, set := range found {
		changed = s.claims.put(prefix, set) || changed
	}
	s.claims = found
	if changed {
		poke(s.changed)
	}
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
