package docker

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/fairlead-net/fairlead/agent"
)

// How sure one must be that Docker has forgotten something.
//
// Between the address of a container and its endpoint in Docker's own list, and between a network's gateway and the
// network, there are only calls to this driver. Docker tries a call that breaks off again for 15 s, and none takes us
// longer than the driver's timeout: what is without an owner for lookRetries and that timeout has none. The time counts
// from a look of this daemon's life, so that calls which its last life broke off are over by then.
const (
	lookRetries = 20 * time.Second
	lookAgain   = 5 * time.Second // between looks while something is without an owner
	lookStale   = 3 * lookAgain   // after which an earlier look says nothing: a daemon that stood still saw nothing meanwhile
)

// lookHeld is what the daemon keeps for Docker.
type lookHeld struct {
	guests   []agent.Guest
	unbound  []netip.Addr
	networks []agent.Network
}

// lookSeen is what Docker has.
type lookSeen struct {
	containers []engineContainer
	networks   []engineNetwork // of this driver
}

// lookKind is what is wrong with something.
type lookKind string

const (
	lookOrphan   lookKind = "orphan"   // an endpoint that Docker has not
	lookUnowned  lookKind = "unowned"  // an address that neither side can tell the owner of
	lookObsolete lookKind = "obsolete" // a network that Docker has not
	lookLost     lookKind = "lost"     // a network that only Docker has
)

// lookSuspect is something that one side has and the other has not.
type lookSuspect struct {
	kind    lookKind
	id      string     // of an endpoint or a network
	address netip.Addr // of an unowned one
}

// lookMemory is since when things are suspect.
type lookMemory struct {
	at    time.Time // of the latest look
	since map[lookSuspect]time.Time
}

// compare finds what one side has and the other has not. Those are sure that were so at each look of a time of grace, with
// at least one look before this one; the rest is remembered for the next.
func compare(held lookHeld, seen lookSeen, earlier lookMemory, now time.Time, timeout time.Duration) (sure []lookSuspect, later lookMemory) {
	if now.Sub(earlier.at) > lookStale {
		earlier.since = nil
	}
	later = lookMemory{now, make(map[lookSuspect]time.Time)}
	for _, s := range lookSuspects(held, seen) {
		since, known := earlier.since[s]
		switch {
		case !known:
			later.since[s] = now
		case now.Sub(since) < s.grace(timeout):
			later.since[s] = since
		default:
			sure = append(sure, s)
		}
	}
	return sure, later
}

// grace is how long something must have been suspect, when no call takes longer than timeout.
//
// It is shorter for what is easily made good. An endpoint that Docker has not and no container either is in nobody's way but
// of a container that wants its address; Docker lists it as soon as the one call that makes it is answered. A network that
// Docker alone has keeps containers from starting; one that was just being removed is forgotten again later.
func (s lookSuspect) grace(timeout time.Duration) time.Duration {
	switch s.kind {
	case lookLost:
		return lookAgain
	case lookOrphan:
		return lookAgain + timeout
	default:
		return lookRetries + timeout
	}
}

// lookSuspects compares once, in the order in which things must end: a network that has endpoints stays.
func lookSuspects(held lookHeld, seen lookSeen) (all []lookSuspect) {
	has := lookIndexed(held, seen)
	used := make(map[string]bool)
	for _, g := range held.guests {
		used[g.Network] = true
		if g.Loose && !has.guest(g) {
			all = append(all, lookSuspect{kind: lookOrphan, id: g.ID})
		}
	}
	ours := make(map[string]bool)
	for _, n := range held.networks {
		ours[n.ID] = true
		if !has.networks[n.ID] && !used[n.ID] {
			all = append(all, lookSuspect{kind: lookObsolete, id: n.ID})
		}
	}
	var lost []lookSuspect
	for _, n := range seen.networks {
		if !ours[n.ID] {
			lost = append(lost, lookSuspect{kind: lookLost, id: n.ID})
		}
	}
	for _, a := range held.unbound {
		// Docker does not tell each gateway: one without an owner may be that of a network that is lost.
		unsure := a.IsLinkLocalUnicast() && len(lost) > 0
		if !unsure && !has.addresses[a] {
			all = append(all, lookSuspect{kind: lookUnowned, address: a})
		}
	}
	return append(all, lost...)
}

// lookIndex is what Docker has, to be asked.
type lookIndex struct {
	endpoints map[string]bool
	addresses map[netip.Addr]bool // of anything
	strange   map[netip.Addr]bool // those of endpoints that are no guests of ours
	networks  map[string]bool
}

// guest tells whether Docker has one: by its ID, or by an address that no other guest explains.
func (x lookIndex) guest(g agent.Guest) bool {
	return x.endpoints[g.ID] || slices.ContainsFunc(g.Addresses, func(a netip.Addr) bool { return x.strange[a] })
}

func (x lookIndex) endpoint(id string, guests map[string]bool, addresses ...engineAddress) {
	if id == "" {
		return
	}
	x.endpoints[id] = true
	for _, a := range addresses {
		x.addresses[a.Addr] = true
		if !guests[id] && a.IsValid() {
			x.strange[a.Addr] = true
		}
	}
}

func lookIndexed(held lookHeld, seen lookSeen) lookIndex {
	x := lookIndex{map[string]bool{}, map[netip.Addr]bool{}, map[netip.Addr]bool{}, map[string]bool{}}
	guests := make(map[string]bool)
	for _, g := range held.guests {
		guests[g.ID] = true
	}
	for _, c := range seen.containers {
		for _, e := range c.NetworkSettings.Networks {
			x.endpoint(e.EndpointID, guests, e.IPAddress, e.GlobalIPv6Address)
			x.addresses[e.Gateway.Addr], x.addresses[e.IPv6Gateway.Addr] = true, true
			x.networks[e.NetworkID] = true
		}
	}
	for _, n := range seen.networks {
		x.networks[n.ID] = true
		for _, c := range n.Containers {
			x.endpoint(c.EndpointID, guests, c.IPv4Address, c.IPv6Address)
		}
		for _, p := range n.IPAM.Config {
			x.addresses[p.Gateway.Addr] = true
			for _, a := range p.AuxiliaryAddresses {
				x.addresses[a.Addr] = true
			}
		}
	}
	return x
}

// lookTold is what the daemon may learn: of each endpoint of this driver its container, and the names of networks.
func lookTold(seen lookSeen) (told []agent.Told, names map[string]string) {
	names = make(map[string]string)
	ours := make(map[string]bool)
	for _, n := range seen.networks {
		ours[n.ID] = true
		if agent.PlainName(n.Name) {
			names[n.ID] = n.Name
		}
	}
	for _, c := range seen.containers {
		name, labels := c.name(), lookLabels(c)
		for _, e := range c.NetworkSettings.Networks {
			if e.EndpointID != "" && ours[e.NetworkID] {
				told = append(told, agent.Told{ID: e.EndpointID, Network: e.NetworkID, Container: name, Labels: maps.Clone(labels)})
			}
		}
	}
	slices.SortFunc(told, func(a, b agent.Told) int { return cmp.Compare(a.ID, b.ID) })
	return told, names
}
