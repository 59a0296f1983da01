package fastpath

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
)

// Attached is an address of an endpoint of this host.
type Attached struct {
	Address netip.Addr
	Link    string // the host side of its pair
	MAC     MAC    // of the inside
	MTU     int    // of the link, in bytes
	Realm   uint32 // 0, or a network that is kept apart from others
}

// Remote is a prefix and how it is reached, in any order. One without hops is left to the kernel, though a wider one may
// be there.
type Remote struct {
	Prefix netip.Prefix
	Hops   []Hop
}

// Input is everything that the plan depends on.
type Input struct {
	Sizes     Sizes
	Endpoints []Attached
	Routes    []Remote
	Nodes     []netip.Addr // that may send through tunnels
	Uplinks   []string     // links with Ethernet header that lead to other hosts
	Framed    []string     // tunnel devices of the kernel whose packets have an Ethernet header: VXLAN
	Bare      []string     // those whose packets have none: IPIP, GRE
	Settings  Settings
	Ports     map[Port]netip.AddrPort // of this host, with the endpoints' that they lead to; nil: they are the kernel's
	Own       []netip.Addr            // this host's addresses
}

// Skip is what the fast path leaves to the kernel though it was asked for it.
type Skip struct {
	Prefix netip.Prefix // or an address, as the prefix of it alone
	Reason string
}

// The reason words of what is left to the kernel, stable for scripts.
const (
	SkipHops   = "too-many-next-hops"
	SkipEncap  = "encap-not-carried" // the fast path knows no such encapsulation
	SkipFamily = "family-mismatch"   // the addresses of a hop do not go together, or not with what it carries
	SkipCross  = "family-crossing"   // IPv6 inside of IPv4 or the reverse, which this kernel can not unwrap: Linux 6.3
	SkipTwice  = "address-twice"     // two endpoints have it
	SkipLink   = "link-skipped"      // another address of the endpoint is
	SkipForm   = "no-such-address"   // no packet can have it
	SkipRoom   = "table-full"
)

// Rows is what the maps and the hooks shall hold, and what is left out.
type Rows struct {
	Endpoints map[netip.Addr]Endpoint
	Sides     map[string]Side
	Routes    map[netip.Prefix]Route
	Nodes     map[netip.Addr]Node
	Ports     map[Port]Mapping
	Own       map[netip.Addr]Own
	Settings  map[string]Settings
	Hooks     map[Hook]Job
	Skipped   []Skip
}

// Plan works out every row from the inputs.
func Plan(in Input) Rows {
	in.Sizes = in.Sizes.orDefault()
	r := Rows{
		Endpoints: make(map[netip.Addr]Endpoint),
		Sides:     make(map[string]Side),
		Routes:    make(map[netip.Prefix]Route),
		Nodes:     make(map[netip.Addr]Node),
		Ports:     make(map[Port]Mapping),
		Own:       make(map[netip.Addr]Own),
		Settings:  make(map[string]Settings),
		Hooks:     make(map[Hook]Job),
	}
	r.endpoints(in)
	r.routes(in)
	r.nodes(in)
	r.ports(in)
	if len(r.Ports) > 0 {
		in.Settings.Flags |= MapsPorts
	}
	if in.Settings != (Settings{}) {
		r.Settings[SettingsKey] = in.Settings
	}
	r.hooks(in)
	slices.SortFunc(r.Skipped, func(a, b Skip) int {
		return cmp.Or(a.Prefix.Compare(b.Prefix), cmp.Compare(a.Reason, b.Reason))
	})
	r.Skipped = slices.Compact(r.Skipped)
	return r
}

// endpoints takes links with all of their addresses or not at all: what an endpoint sends from an address that its side
// does not have would be dropped as forged.
func (r *Rows) endpoints(in Input) {
	byLink := make(map[string][]Attached)
	times := make(map[netip.Addr]int)
	for _, a := range in.Endpoints {
		a.Address = a.Address.Unmap()
		if !slices.Contains(byLink[a.Link], a) {
			byLink[a.Link] = append(byLink[a.Link], a)
			times[a.Address]++
		}
	}
	var count [2]int // addresses, by family
	for _, link := range slices.Sorted(maps.Keys(byLink)) {
		all := byLink[link]
		slices.SortFunc(all, func(a, b Attached) int { return a.Address.Compare(b.Address) })
		more := count
		for _, a := range all {
			more[family(a.Address)]++
		}
		full := max(more[0], more[1], len(r.Sides)+1) > in.Sizes.Endpoints
		if r.skipLink(all, times, full) {
			continue
		}
		count = more
		r.Sides[link] = Side{MAC: all[0].MAC}
		for _, a := range all {
			r.Endpoints[a.Address] = Endpoint{Link: link, MAC: a.MAC, MTU: fit16(a.MTU), Realm: a.Realm}
		}
	}
}

// skipLink tells whether a link can not be had, and notes why not for each of its addresses.
func (r *Rows) skipLink(all []Attached, times map[netip.Addr]int, full bool) bool {
	reason := func(a Attached) string {
		switch {
		case checkAddress(a.Address) != nil:
			return SkipForm
		case times[a.Address] > 1:
			return SkipTwice
		case full:
			return SkipRoom
		}
		return ""
	}
	if !slices.ContainsFunc(all, func(a Attached) bool { return reason(a) != "" }) {
		return false
	}
	for _, a := range all {
		r.skip(hostPrefix(a.Address), cmp.Or(reason(a), SkipLink))
	}
	return true
}

// routes fills the table with the longest prefixes first: one for which there is no room is then covered by none that is
// there, and its packets are left to the kernel. One that can not be carried gets a row that says so where a wider one
// would take its packets, and so does an address of an endpoint that is left out.
func (r *Rows) routes(in Input) {
	wanted := make(map[netip.Prefix]Route)
	var left []netip.Prefix
	for _, s := range r.Skipped {
		if s.Prefix.IsValid() {
			left = append(left, s.Prefix)
		}
	}
	for _, m := range in.Routes {
		p := m.Prefix.Masked()
		route, reason := in.route(p, m.Hops)
		if reason != "" {
			r.skip(p, reason)
		}
		if !p.IsValid() {
			continue
		}
		if route == (Route{}) {
			left = append(left, p)
			continue
		}
		wanted[p] = route
	}
	covers := lengths(wanted)
	for _, p := range left {
		delete(wanted, p)
		if covers.wider(p) {
			wanted[p] = Route{}
		}
	}
	order := slices.SortedFunc(maps.Keys(wanted), func(a, b netip.Prefix) int {
		return cmp.Or(cmp.Compare(b.Bits(), a.Bits()), a.Compare(b))
	})
	for i, p := range order {
		if i < in.Sizes.Routes {
			r.Routes[p] = wanted[p]
		} else if wanted[p] != (Route{}) {
			r.skip(p, SkipRoom)
		}
	}
}

// nodes beyond the room are not known: what they send is left to the kernel, which knows them all.
func (r *Rows) nodes(in Input) {
	var count [2]int
	all := make([]netip.Addr, len(in.Nodes))
	for i, a := range in.Nodes {
		all[i] = a.Unmap()
	}
	slices.SortFunc(all, netip.Addr.Compare)
	for _, a := range slices.Compact(all) {
		switch f := family(a); {
		case checkAddress(a) != nil:
			r.skip(hostPrefix(a), SkipForm)
		case count[f] >= in.Sizes.Routes:
			r.skip(hostPrefix(a), SkipRoom)
		default:
			count[f]++
			r.Nodes[a] = Node{}
		}
	}
}

// hooks stand at both ways of the endpoints' links and of the uplinks. What leaves by a device of the kernel's own tunnels
// is only looked at.
func (r *Rows) hooks(in Input) {
	for link := range r.Sides {
		r.Hooks[Hook{link, Ingress}] = Job{Program: "from_container"}
		r.Hooks[Hook{link, Egress}] = Job{Program: "to_container"}
	}
	for _, link := range in.Uplinks {
		r.Hooks[Hook{link, Ingress}] = Job{Program: FromWire}
		r.Hooks[Hook{link, Egress}] = Job{Program: "to_wire"}
	}
	for _, link := range in.Framed {
		r.Hooks[Hook{link, Egress}] = Job{Program: "to_wire"}
	}
	for _, link := range in.Bare {
		r.Hooks[Hook{link, Egress}] = Job{Program: "to_tunnel"}
	}
}

func (r *Rows) skip(p netip.Prefix, reason string) {
	r.Skipped = append(r.Skipped, Skip{Prefix: p, Reason: reason})
}
