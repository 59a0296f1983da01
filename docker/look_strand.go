package docker

import (
	"maps"
	"net/netip"
	"slices"
	"time"
)

// lookStrand is a container that runs, by Docker, on networks of ours through endpoints that the daemon does not know: our
// memory was lost, or taken out of the kernel by an uninstall, and the container has no link.
type lookStrand struct {
	name      string
	networks  []string
	endpoints []string // that are not known
	since     time.Time
	told      bool
}

// strand tells people of stranded containers, once of each until it is mended. It says whether some have to be seen again
// first: one that was just starting when the daemon was asked is known the next time.
func (l *Looker) strand(held lookHeld, seen lookSeen, now time.Time) (again bool) {
	later := lookStranded(held, seen)
	for id, s := range later {
		earlier, known := l.stranded[id]
		switch {
		case !known || !earlier.told && !slices.Equal(earlier.endpoints, s.endpoints):
			s.since = now
		default:
			s.since, s.told = earlier.since, earlier.told
		}
		if !s.told && now.Sub(s.since) >= lookAgain {
			s.told = true
			l.driver.log.Warn("container has no link, fairlead does not know its endpoint: restart it",
				"container", s.name, "networks", s.networks, "command", "docker restart "+s.name)
		}
		again = again || !s.told
		later[id] = s
	}
	l.stranded = later
	return again
}

// lookStranded finds them by the containers' IDs. A network that is not known has to be restored first: a container that is
// started without it fails.
func lookStranded(held lookHeld, seen lookSeen) map[string]lookStrand {
	knows := lookKnown(held, seen)
	networks := make(map[string]bool)
	for _, n := range held.networks {
		networks[n.ID] = true
	}
	all := make(map[string]lookStrand)
	for _, c := range seen.containers {
		s := lookStrand{name: c.name()}
		if s.name == "" {
			s.name = c.ID
		}
		for _, name := range slices.Sorted(maps.Keys(c.NetworkSettings.Networks)) {
			if e := c.NetworkSettings.Networks[name]; e.EndpointID != "" && networks[e.NetworkID] && !knows(e) {
				s.networks, s.endpoints = append(s.networks, name), append(s.endpoints, e.EndpointID)
			}
		}
		if len(s.endpoints) > 0 {
			all[c.ID] = s
		}
	}
	return all
}

// lookKnown tells whether an endpoint of Docker's is a guest: by its ID, or by an address of a guest whose ID no container
// has, since of one that was found in the kernel not all is known.
func lookKnown(held lookHeld, seen lookSeen) func(engineEndpoint) bool {
	theirs := make(map[string]bool)
	for _, c := range seen.containers {
		for _, e := range c.NetworkSettings.Networks {
			theirs[e.EndpointID] = true
		}
	}
	ids, addresses := make(map[string]bool), make(map[netip.Addr]bool)
	for _, g := range held.guests {
		ids[g.ID] = true
		for _, a := range g.Addresses {
			addresses[a] = addresses[a] || !theirs[g.ID]
		}
	}
	return func(e engineEndpoint) bool {
		return ids[e.EndpointID] || addresses[e.IPAddress.Addr] || addresses[e.GlobalIPv6Address.Addr]
	}
}
