package bgp

import (
	"context"

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
