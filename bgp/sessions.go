package bgp

import "slices"

// Sessions lists the configured neighbours by address as Peers does, but for how many prefixes go to and fro: GoBGP,
// which counts the whole table of each neighbour for that, is not asked. So it is cheap enough for every pass.
func (s *Speaker) Sessions() []PeerStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]PeerStatus, 0, len(s.sessions))
	for _, p := range s.sessions {
		all = append(all, PeerStatus{
			Address: p.Address, ASN: p.ASN, Role: p.Role, State: p.state, Since: p.since, LastError: p.lastError,
			Name: p.name, EndOfRIB: p.whole(),
		})
	}
	slices.SortFunc(all, func(a, b PeerStatus) int { return a.Address.Compare(b.Address) })
	return all
}
