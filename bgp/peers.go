package bgp

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
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
	gone, fresh := s.replace(cfg)
	var errs []error
	if open {
		for _, t := range gone {
			errs = append(errs, s.closeSession(t))
		}
		for _, t := range fresh {
			errs = append(errs, s.openSession(t, false))
		}
	}
	s.review()
	return errors.Join(errs...)
}

// replace takes over the config and returns the terms of the sessions that are to end and to begin for it.
func (s *Speaker) replace(cfg Config) (gone, fresh []terms) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cfg = cfg
	want := make(map[netip.Addr]terms)
	for _, t := range cfg.terms() {
		want[t.Address] = t
	}
	for a, p := range s.sessions {
		if want[a] != p.terms {
			gone = append(gone, p.terms)
			delete(s.sessions, a)
		}
	}
	for a, t := range want {
		if s.sessions[a] == nil {
			s.sessions[a] = newSession(t)
			fresh = append(fresh, t)
		}
	}
	return gone, fresh
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

// closeSession ends a session on purpose: the peer is sent a Cease and forgets our routes. One that is closed already
// is no error.
func (s *Speaker) closeSession(t terms) error {
	if s.peer(t.Address) == nil {
		return nil
	}
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
