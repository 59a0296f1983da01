package agent

import (
	"net/netip"
	"time"

	"github.com/fairlead-net/fairlead/bgp"
	"github.com/fairlead-net/fairlead/endpoint"
	"github.com/fairlead-net/fairlead/nat"
	"github.com/fairlead-net/fairlead/tunnel"
)

// Sight is what a pass knows, as far as the way of a packet depends on it.
type Sight struct {
	Config    Config
	Endpoints map[string][]netip.Addr
	Network   map[string]string // of some endpoints, by its ID; they are guests
	Networks  []Network
	Gone      []string // endpoints without a namespace
	Block     netip.Prefix
	Mappings  []nat.Mapping
	Routes    []bgp.Route
	Underlay  tunnel.Underlay
	Hops      map[netip.Addr]tunnel.Hop
	Off       string // why there is no fast path
}

// Foresee plans what the sight asks for and follows a packet.
func (s Sight) Foresee(q TraceRequest) (Trace, error) {
	in := inputs{
		cfg: s.Config, networks: s.Networks, blocks: map[string]netip.Prefix{"default": s.Block}, mappings: s.Mappings,
		routes: s.Routes, complete: true, underlay: s.Underlay, hops: s.Hops, rows: make(map[string]endpoint.Row),
		alive: make(map[string]bool), fast: fast{on: s.Off == "", why: s.Off},
	}
	for name, addresses := range s.Endpoints {
		r := record{Name: name, Addresses: addresses}
		if id := s.Network[name]; id != "" {
			r.Network, r.Guest.Stage = id, stageJoined
		}
		in.records = append(in.records, r)
		in.rows[name], in.alive[name] = r.row(), true
	}
	for _, name := range s.Gone {
		in.alive[name] = false
	}
	o := outcome{in: in, desired: desire(in), finished: time.Unix(1, 0)}
	return foresee(&o, q, []netip.Addr{s.Underlay.Address, netip.MustParseAddr("203.0.113.1")})
}
