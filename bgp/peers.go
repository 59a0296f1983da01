package bgp

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	api "github.com/osrg/gobgp/v3/api"
)

// SetPeers brings the sessions in line with cfg and touches only those that changed. What the whole speaker stands on
// (its AS, identifier, address and port) can not change while it runs. On an error the old config stays in force: the
// sessions that were changed by then are made anew by its terms.
func (s *Speaker) SetPeers(cfg Config) error {
	cfg = cfg.filled()
	if err := cfg.check(); err != nil {
		return fmt.Errorf("set peers: %w", err)
	}
	s.ops.Lock()
	defer s.ops.Unlock()
	s.mu.Lock()
	old := s.cfg
	s.mu.Unlock()
	if cfg.ASN != old.ASN || cfg.RouterID != old.RouterID || cfg.Listen != old.Listen || cfg.Port != old.Port {
		return errors.New("set peers: asn, router id, listen address and port need a restart")
	}
	defer s.review()
	changes := s.changes(cfg)
	for i, c := range changes {
		err := s.change(c)
		if err == nil {
			continue
		}
		for _, done := range slices.Backward(changes[:i+1]) {
			err = errors.Join(err, s.change(done.undone()))
		}
		return err
	}
	s.mu.Lock()
	s.cfg = cfg
	s.mu.Unlock()
	return nil
}

// change is what becomes of the session with one neighbour. Terms are nil where there is none.
type change struct {
	address    netip.Addr
	have, want *terms
}

func (c change) undone() change { return change{c.address, c.want, c.have} }

// changes lists what leads to the config. New sessions come first: when one can not be opened, nothing else was touched.
func (s *Speaker) changes(cfg Config) []change {
	s.mu.Lock()
	defer s.mu.Unlock()
	var added, altered, removed []change
	wanted := make(map[netip.Addr]bool)
	for _, t := range cfg.terms() {
		wanted[t.Address] = true
		p := s.sessions[t.Address]
		switch {
		case p == nil:
			added = append(added, change{t.Address, nil, &t})
		case p.terms != t:
			have := p.terms
			altered = append(altered, change{t.Address, &have, &t})
		}
	}
	for a, p := range s.sessions {
		if !wanted[a] {
			have := p.terms
			removed = append(removed, change{a, &have, nil})
		}
	}
	return slices.Concat(added, altered, removed)
}

// change makes one of them. Before the first Announce there is nothing to close or to open yet.
func (s *Speaker) change(c change) (err error) {
	s.mu.Lock()
	open := s.open
	if p := s.sessions[c.address]; p != nil && p.state == stateEstablished {
		poke(s.changed)
	}
	delete(s.sessions, c.address)
	if c.want != nil {
		s.sessions[c.address] = newSession(*c.want)
	}
	s.mu.Unlock()
	if open && c.have != nil {
		err = s.closeSession(*c.have)
	}
	if open && c.want != nil {
		err = errors.Join(err, s.openSession(*c.want, false))
	}
	return err
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
