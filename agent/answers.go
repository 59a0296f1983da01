package agent

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/fairlead-net/fairlead/bgp"
	"github.com/fairlead-net/fairlead/endpoint"
	"github.com/fairlead-net/fairlead/fastpath"
	"github.com/fairlead-net/fairlead/ipam"
	"github.com/fairlead-net/fairlead/nat"
	"github.com/fairlead-net/fairlead/store"
	"github.com/fairlead-net/fairlead/tunnel"
)

// established is the state of a session that works, RFC 4271 section 8.2.2.
const established = "established"

// seen is the latest outcome and what belongs to it.
func (a *Agent) seen() (o outcome, cfg Config, refused error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.state.last, a.state.cfg, a.state.refused
}

// Status answers in one screen what a tired operator asks first.
func (a *Agent) Status() Status {
	o, cfg, refused := a.seen()
	s := Status{
		Node: cfg.Node.Name, Address: cfg.Node.Address, UUID: a.room.DB.NodeUUID().String(), Version: a.room.Version,
		UptimeSeconds: int64(a.room.Now().Sub(a.started).Seconds()), Revision: o.rev, Endpoints: len(o.in.records),
		Fastpath: a.fastWords(&o), FastpathBytes: a.fastBytes(), Offload: string(a.trial.known()), LastPass: o.finished, ConfigFile: cfg.File, Drained: o.in.drained, DriftRepaired: a.metrics.repairedSoFar(),
	}
	if refused != nil {
		s.ConfigError = refused.Error()
	}
	for _, p := range a.Peers() {
		s.Peers.Configured++
		if p.State == established {
			s.Peers.Established++
		}
	}
	s.Routes = count(o.desired.routes)
	s.Ports = len(o.desired.nat.Ports)
	for _, p := range cfg.Pools {
		s.Pools = append(s.Pools, a.poolStatus(p.Name, p.CIDR))
	}
	s.Problems = a.problems(&o, &s)
	s.Ready = o.sound() && !slices.ContainsFunc(s.Pools, func(p PoolStatus) bool { return p.Block == "" || p.Held != "" })
	return s
}

func (a *Agent) poolStatus(name string, cidr netip.Prefix) PoolStatus {
	p := PoolStatus{Name: name, CIDR: cidr}
	for _, u := range a.room.Ledger.Usage() {
		if u.Pool != name {
			continue
		}
		p.Size, p.Leased, p.Resting, p.Reserved, p.Held = u.Size, u.Leased, u.Resting, u.Reserved, u.Held
		if u.Block.IsValid() {
			p.Block = u.Block.String()
		}
	}
	return p
}

// problems lists what is wrong, most urgent first.
func (a *Agent) problems(o *outcome, s *Status) []string {
	all := []string{}
	if o.finished.IsZero() {
		all = append(all, "starting: the first pass is not done yet")
	} else if !o.clean() {
		all = append(all, o.problem().Error())
	}
	for _, p := range s.Pools {
		switch {
		case p.Held != "":
			all = append(all, fmt.Sprintf("pool %s hands out no address: %s", p.Name, p.Held))
		case p.Block == "":
			all = append(all, fmt.Sprintf("pool %s has no block yet: listening to the peers first", p.Name))
		}
	}
	if outside := a.room.Ledger.Outside(a.pools()); len(outside) > 0 {
		all = append(all, fmt.Sprintf("%d addresses in use are in no block of this host, so no other host reaches them, such as %s of %s: detach and attach them again, or put their pool and block back",
			len(outside), outside[0].Address, a.tenantOf(outside[0])))
	}
	if s.ConfigError != "" {
		all = append(all, "the changed config was refused, the old one is in force: "+s.ConfigError)
	}
	for _, p := range a.Peers() {
		if p.State != established {
			why := p.State
			if p.LastError != "" {
				why += ": " + p.LastError
			}
			all = append(all, fmt.Sprintf("peer %s is not established (%s)", p.Address, why))
		}
	}
	for _, r := range o.desired.routes {
		switch r.Reason {
		case "", reasonOutside, reasonDefault: // refused on purpose
			continue
		case reasonOwn, reasonMissing: // named with the cause already, by the pool and by the pass
			continue
		}
		all = append(all, fmt.Sprintf("route %s via %s is not used: %s", r.Prefix, join(r.Via), r.Reason))
	}
	for _, id := range nat.Ambiguous(fences(o.in.networks)) {
		all = append(all, fmt.Sprintf("network %s is kept apart, and another has addresses of its subnet: its containers do not reach each other across hosts: give each a subnet of its own", titleOf(o.in.networks, id)))
	}
	if o.in.fast.why != "" && o.in.cfg.Fast == FastOn {
		all = append(all, "containers' packets take the kernel's way, though [fastpath] mode is \"on\": "+o.in.fast.why)
	}
	if o.in.cfg.NAT.Backend == nat.EBPF && !o.in.fast.on {
		all = append(all, "ports are mapped by iptables alone, though [nat] backend is \"ebpf\": there is no fast path: "+cmp.Or(o.in.fast.why, "[fastpath] mode is \"off\""))
	}
	if _, err := a.trailer.pending(); err != nil && o.in.fast.on {
		all = append(all, "not all of the fast path is at work, and the kernel carries what it does not: "+err.Error())
	}
	if o.in.checksums == tunnel.VerdictBad {
		all = append(all, "checksums that VXLAN leaves to the hardware arrive broken: offload is switched off on our devices, which costs processor time")
	}
	if weak := a.room.Kernel.NAT.Holds.Weak(); weak != "" && len(o.in.mappings) > 0 {
		all = append(all, "published ports are free to others while the daemon does not run: "+weak)
	}
	if err := a.portsLack(); err != nil {
		all = append(all, err.Error())
	}
	if err := a.callsLack(); err != nil {
		all = append(all, err.Error())
	}
	if why := a.metadata.fault(); why != "" {
		all = append(all, why)
	}
	for _, r := range o.in.records {
		switch {
		case o.in.alive[r.Name] || r.Guest.Stage == stageAdmitted:
		case r.Guest.Stage != "":
			all = append(all, fmt.Sprintf("endpoint %s: its link is gone: docker restart %s", r.title(), r.title()))
		default:
			all = append(all, fmt.Sprintf("endpoint %s: its namespace %s is gone", r.Name, r.NetNS))
		}
	}
	return all
}

func (a *Agent) pools() []ipam.Pool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.state.cfg.Pools
}

func count(routes []Route) RouteCount {
	var c RouteCount
	for _, r := range routes {
		if !r.Installed {
			c.Skipped++
			continue
		}
		switch tunnel.Encap(r.Encap) {
		case tunnel.Direct:
			c.Direct++
		case tunnel.IPIP:
			c.IPIP++
		case tunnel.VXLAN:
			c.VXLAN++
		case tunnel.GRE:
			c.GRE++
		}
	}
	return c
}

// Routes lists every route heard from the peers, used or not.
func (a *Agent) Routes() []Route {
	o, _, _ := a.seen()
	if o.desired.routes == nil {
		return []Route{}
	}
	return o.desired.routes
}

// Peers lists the configured BGP neighbours.
func (a *Agent) Peers() []Peer {
	o, _, _ := a.seen()
	accepted := o.in.accepted()
	all := []Peer{}
	for _, p := range a.room.Speaker.Peers() {
		all = append(all, showPeer(p, accepted[p.Address], a.room.Now()))
	}
	slices.SortFunc(all, func(x, y Peer) int { return x.Address.Compare(y.Address) })
	return all
}

// accepted is how many prefixes are taken from each peer.
func (in *inputs) accepted() map[netip.Addr]int {
	accepted := make(map[netip.Addr]int)
	for i := range in.routes {
		for _, from := range in.routes[i].Peers {
			if refuse(*in, in.routes[i].Prefix) == "" {
				accepted[from]++
			}
		}
	}
	return accepted
}

// showPeer is a neighbour as the API tells it.
func showPeer(p bgp.PeerStatus, accepted int, now time.Time) Peer {
	view := Peer{
		Address: p.Address, ASN: p.ASN, Role: string(p.Role), State: p.State, Received: p.Received, Accepted: accepted,
		Advertised: p.Advertised, LastError: graphic(p.LastError), Node: graphic(p.Name),
	}
	if p.State == established && !p.Since.IsZero() {
		view.UptimeSeconds = int64(now.Sub(p.Since).Seconds())
	}
	return view
}

// Endpoints lists what is attached here, by name.
func (a *Agent) Endpoints() ([]Endpoint, error) {
	records, err := a.recorded()
	all := make([]Endpoint, 0, len(records))
	for _, r := range records {
		all = append(all, a.show(r))
	}
	slices.SortFunc(all, func(x, y Endpoint) int {
		return cmp.Or(strings.Compare(x.Name, y.Name), strings.Compare(x.Network, y.Network))
	})
	return all, err
}

// recorded is every endpoint that the disk has, by the name that it is kept under.
func (a *Agent) recorded() (all []record, err error) {
	err = a.room.DB.View(func(tx *store.Tx) error {
		for _, r := range endpoints().All(tx) {
			all = append(all, r)
		}
		return nil
	})
	return all, err
}

// called is the endpoint that is kept under a name, or else the oldest guest that people call so.
func (a *Agent) called(name string) (r record, found bool, err error) {
	r, found, err = a.record(name)
	if found || err != nil {
		return r, found, err
	}
	all, err := a.recorded()
	for _, guest := range all {
		if guest.Guest.Container == name && (!found || guest.Created.Before(r.Created)) {
			r, found = guest, true
		}
	}
	return r, found, err
}

// Leases are all leases of this host, by address. Those of guests are told under the name that people know.
func (a *Agent) Leases() ([]Lease, error) {
	records, err := a.recorded()
	titles := titlesOf(records)
	all := a.room.Ledger.Leases()
	for i, l := range all {
		if title := titles[l.Address]; l.Owner == guestOwner+l.Address.String() && title != "" {
			all[i].Owner = title
		}
	}
	return all, err
}

// titlesOf are the names that people know, by address.
func titlesOf(records []record) map[netip.Addr]string {
	titles := make(map[netip.Addr]string)
	for _, r := range records {
		for _, ip := range r.Addresses {
			titles[ip] = r.title()
		}
	}
	return titles
}

// tenantOf says who has a lease so that people know who to ask for it.
func (a *Agent) tenantOf(l Lease) string {
	if l.Owner != guestOwner+l.Address.String() {
		return l.Owner
	}
	records, _ := a.recorded() // without the store it is Docker's all the same
	if title := titlesOf(records)[l.Address]; title != "" {
		return title + ", a container of Docker,"
	}
	return "Docker"
}

func (a *Agent) endpointNamed(name string) (Endpoint, error) {
	r, found, err := a.called(name)
	if err == nil && !found {
		err = fmt.Errorf("%w: no endpoint %q here: fairlead endpoints lists them", ErrNotFound, name)
	}
	if err != nil {
		return Endpoint{}, err
	}
	return a.show(r), nil
}

// show is a record as the API tells it.
func (a *Agent) show(r record) Endpoint {
	o, cfg, _ := a.seen()
	r.Network = a.networkName(r.Network)
	return showEndpoint(r, cfg.Node.Name, a.mappingsOf(r), o.desired.fast)
}

// networkName is what people call a network: its ID where nobody has said it, or the store does not.
func (a *Agent) networkName(id string) string {
	var n Network
	err := a.room.DB.View(func(tx *store.Tx) (err error) {
		n, _, err = networks().Get(tx, id)
		return err
	})
	if err != nil {
		return id
	}
	return cmp.Or(n.Name, id)
}

// mappingsOf is what the book has for an endpoint, under each of its names.
func (a *Agent) mappingsOf(r record) []nat.Mapping {
	all := a.room.Ports.Of(r.Name)
	if r.Guest.Container != "" {
		all = append(all, a.room.Ports.Of(r.Guest.Container)...)
	}
	return all
}

// showEndpoint is a record, whose network has the name that people know, as the API tells it.
func showEndpoint(r record, node string, mappings []nat.Mapping, fast fastpath.Rows) Endpoint {
	if r.Labels == nil {
		r.Labels = map[string]string{}
	}
	return Endpoint{
		Name: r.title(), ID: r.ID, Node: node, Network: r.Network, Addresses: r.Addresses,
		MAC: r.row().MAC.String(), IfName: r.IfName, HostIfName: endpoint.HostIf(r.Name),
		NetNS: r.NetNS, Labels: r.Labels, Ports: portsOf(mappings, r, fast), Created: r.Created,
	}
}
