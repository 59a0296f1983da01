package bgp

import (
	"context"
	"net/netip"
	"time"

	api "github.com/osrg/gobgp/v3/api"
)

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
			if p := report.GetPeer(); p != nil {
				s.follow(p)
				continue
			}
			changed = s.fold(report.GetTable().GetPaths()) || changed
		}
		s.mu.Unlock()
		s.review()
		if changed {
			poke(s.changed)
		}
	}
}

// follow notes when a peer goes away. Reports come in order: routes that went with the session are gone by now, and
// what follows until the peer has told all again is about routes that it was promised to be kept.
func (s *Speaker) follow(e *api.WatchEventResponse_PeerEvent) {
	state := e.GetPeer().GetState()
	a, err := netip.ParseAddr(state.GetNeighborAddress())
	p := s.sessions[a]
	if err != nil || p == nil || e.GetType() != api.WatchEventResponse_PeerEvent_STATE {
		return
	}
	up := state.GetSessionState() == api.PeerState_ESTABLISHED
	if p.reported && !up {
		for f := range p.away {
			p.away[f] = time.Now()
		}
	}
	p.reported = up
}

// keeps tells whether a route of a restarting peer stays although GoBGP withdraws it: any attempt of the peer that ends
// before the session is up, as when it is restarted once more, makes GoBGP forget all. RFC 4724 section 4.2 wants that
// at the end of the restart time only.
func (s *Speaker) keeps(prefix netip.Prefix, h hop) bool {
	p := s.sessions[h.peer]
	if p == nil || p.forsaken {
		return false
	}
	since := p.away[familyOf(prefix)]
	return !since.IsZero() && time.Since(since) < min(s.cfg.RestartTime, p.patience)
}

// release forgets the kept routes for which the condition holds. mu is held.
func (s *Speaker) release(holds func(netip.Prefix, hop) bool) (changed bool) {
	if s.keeping {
		changed, s.keeping = s.best.release(holds)
	}
	return changed
}

func (s *Speaker) fold(report []*api.Path) bool {
	var paths []path
	changed := false
	for _, p := range report {
		if p.GetNlri() == nil {
			f, ok := familyFrom(p.GetFamily())
			if peer := s.sessions[neighbour(p)]; ok && peer != nil {
				peer.endOfRIB[f], peer.away[f] = true, time.Time{}
				changed = s.release(func(prefix netip.Prefix, h hop) bool {
					return h.peer == peer.Address && familyOf(prefix) == f
				}) || changed
			}
			continue
		}
		if _, ok := familyFrom(p.GetFamily()); !ok {
			continue
		}
		decoded, err := decode(p)
		if err != nil {
			s.log.Debug("path not understood", "error", err)
			if !decoded.prefix.IsValid() {
				continue
			}
		}
		paths = append(paths, decoded)
	}
	return s.best.fold(paths, func(prefix netip.Prefix, h hop) bool {
		kept := s.keeps(prefix, h)
		s.keeping = s.keeping || kept
		return kept
	}) || changed
}

// claimsATick bounds what seekClaims costs: with more prefixes than these it looks the less often.
const claimsATick = 100

// seekClaims looks who else announces what we announce. Our own path is always the best one, and GoBGP reports only
// changes of the best.
func (s *Speaker) seekClaims(ticks int) {
	s.mu.Lock()
	if ticks%(1+len(s.announced)/claimsATick) != 0 {
		s.mu.Unlock()
		return
	}
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
			found.fold(paths, nil)
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
