package nat

import (
	"net/netip"
	"time"

	"github.com/fairlead-net/fairlead/store"
)

// Mapping is one published port, as it is kept: it stays when its endpoint goes, and waits for the next of that name.
type Mapping struct {
	Port   Port      `json:"port"`
	Owner  string    `json:"owner"`  // the name of an endpoint, which need not exist
	Target uint16    `json:"target"` // port of the endpoint
	Origin Origin    `json:"origin"`
	Rests  time.Time `json:"rests,omitzero"` // since when the endpoint is gone; zero while it is there or not expected yet
}

// Origin is who asked for a mapping, and so who ends it.
type Origin string

// The origins of a mapping.
const (
	OriginAttach  Origin = "attach"  // ends when the endpoint is attached without it
	OriginPublish Origin = "publish" // ends when it is unpublished
	OriginReserve Origin = "reserve" // the same
	OriginConfig  Origin = "config"  // ends when the config has it no more
)

// RestTime is how long a mapping waits for its endpoint to come back.
const RestTime = time.Hour

// Resting tells whether its endpoint is gone, so that it gives way to whoever asks for that very port.
func (m Mapping) Resting() bool { return !m.Rests.IsZero() }

func mappings() store.Bucket[Mapping] { return store.Bucket[Mapping]{Name: "ports"} }

// Range is First to Last, both included.
type Range struct{ First, Last uint16 }

func (r Range) has(n uint16) bool { return r.First <= n && n <= r.Last }

// Order is what somebody wants of the book.
type Order struct {
	Owner    string
	Origin   Origin
	Specs    []Spec
	Families []int   // 4, 6: of the endpoint's addresses
	Random   Range   // to pick from where no port is named
	Avoid    []Range // not to be picked
}

// wish is a spec with what it means on this host.
type wish struct {
	Spec
	ports []Port // one for each family, without the number
}

// at is the ports of the wish with a number.
func (w wish) at(number uint16) []Port {
	all := make([]Port, len(w.ports))
	for i, p := range w.ports {
		p.Number = number
		all[i] = p
	}
	return all
}

// fits tells whether a mapping is what the wish asks for.
func (w wish) fits(m Mapping) bool {
	if m.Target != w.Port || w.HostPort != 0 && !(Range{w.HostPort, w.HostLast}).has(m.Port.Number) {
		return false
	}
	for _, p := range w.ports {
		if p.Proto == m.Port.Proto && p.IP == m.Port.IP {
			return true
		}
	}
	return false
}

// every stands for all addresses of the host of a family.
func every(family int) netip.Addr {
	if family == 4 {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}
