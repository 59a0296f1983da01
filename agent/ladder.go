package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/fairlead-net/fairlead/endpoint"
	"github.com/fairlead-net/fairlead/nat"
	"github.com/fairlead-net/fairlead/reconcile"
	"github.com/fairlead-net/fairlead/tunnel"
)

// Kernel is every kernel table that the agent keeps.
type Kernel struct {
	Devices    reconcile.Target[string, tunnel.Device]
	Endpoints  reconcile.Target[string, endpoint.Row]
	Sysctls    func(want map[string]string) reconcile.Target[string, string]
	Neighbours reconcile.Target[tunnel.NeighKey, tunnel.MAC]
	FDB        reconcile.Target[tunnel.FDBKey, netip.Addr]
	Routes     reconcile.Target[tunnel.RouteKey, tunnel.Route]
	Rules      reconcile.Target[netip.Prefix, tunnel.Rule]
	Members    Members
	Filter     Filter
	Insides    Insides
	NAT        NATTables
	Fast       FastTables
}

// NATTables are the kernel's tables of address translation.
type NATTables struct {
	Holds    Holds
	Ports    Watched[nat.Port, nat.Rule]
	Outgoing Watched[nat.EntryKey, nat.Entry]
	Forward  Watched[nat.EntryKey, nat.Entry]
	Apart    Watched[nat.EntryKey, nat.Entry]
}

// Watched is a table that tells when others changed it.
type Watched[K, V comparable] interface {
	reconcile.Target[K, V]
	Changed() <-chan struct{}
}

// Holds is the ports that no other program may bind.
type Holds interface {
	reconcile.Target[nat.Port, nat.Fault]
	nat.Holder
	Weak() string // why they are held no longer than the daemon runs, "" when they are
}

// Members is our sets of addresses, which our rules in the packet filter ask for.
type Members interface {
	reconcile.Target[nat.Member, nat.Fault]
	Changed() <-chan struct{} // pokes when others changed them
}

// Filter is our rules in the host's packet filter.
type Filter interface {
	reconcile.Target[nat.EntryKey, nat.Entry]
	Changed() <-chan struct{} // pokes when others changed it
	Dropped(ctx context.Context) (map[nat.EntryKey]uint64, error)
}

// Insides looks into the endpoints' namespaces, which the host's tables do not show.
type Insides interface {
	Inspect(ctx context.Context, rows []endpoint.Row) (drifted []string, err error) // host link names
	Mend(ctx context.Context, r endpoint.Row) error
	Loose(ctx context.Context, hostIfs []string) (map[string]bool, error) // no container has the inside
}

// ladder is the order of the tables: puts climb it, prunes descend it.
type ladder struct {
	members    *reconcile.Table[nat.Member, nat.Fault]
	filter     *reconcile.Table[nat.EntryKey, nat.Entry]
	devices    *reconcile.Table[string, tunnel.Device]
	endpoints  *reconcile.Table[string, endpoint.Row]
	insides    *reconcile.Table[string, endpoint.Row]
	sysctls    *reconcile.Table[string, string]
	loopback   *reconcile.Table[string, string]
	neighbours *reconcile.Table[tunnel.NeighKey, tunnel.MAC]
	fdb        *reconcile.Table[tunnel.FDBKey, netip.Addr]
	routes     *reconcile.Table[tunnel.RouteKey, tunnel.Route]
	rules      *reconcile.Table[netip.Prefix, tunnel.Rule]
	holds      *reconcile.Table[nat.Port, nat.Fault]
	ports      *reconcile.Table[nat.Port, nat.Rule]
	outgoing   *reconcile.Table[nat.EntryKey, nat.Entry]
	forward    *reconcile.Table[nat.EntryKey, nat.Entry]
	fence      *reconcile.Table[nat.EntryKey, nat.Entry]
	fast       *fastLadder // nil without a fast path
	patrol     *patrol
	parameters *parameters // of sysctls
	links      *parameters // of loopback
	speaker    Speaker
	sets       Members
}

// What reports call some tables.
const (
	tableRoute = "route"
	tableFence = "fence"
	tableSet   = "set"
	tableHold  = "hold"
	tablePort  = "port"
)

func newLadder(k Kernel, speaker Speaker, p *patrol) *ladder {
	s, own := &parameters{of: k.Sysctls}, &parameters{of: k.Sysctls}
	return &ladder{
		members:    reconcile.NewTable(tableSet, reconcile.Target[nat.Member, nat.Fault](k.Members)),
		filter:     reconcile.NewTable("filter", reconcile.Target[nat.EntryKey, nat.Entry](k.Filter)),
		devices:    reconcile.NewTable("device", k.Devices),
		endpoints:  reconcile.NewTable("endpoint", reconcile.Target[string, endpoint.Row](paved{k.Endpoints, k.Fast.Engine})).Alone(),
		insides:    reconcile.NewTable("inside", reconcile.Target[string, endpoint.Row](p)).Alone(),
		sysctls:    reconcile.NewTable("sysctl", reconcile.Target[string, string](s)).Alone(),
		loopback:   reconcile.NewTable("loopback", reconcile.Target[string, string](fenced{own, k.Filter})).Alone(),
		neighbours: reconcile.NewTable("neighbour", k.Neighbours),
		fdb:        reconcile.NewTable("fdb", k.FDB),
		routes:     reconcile.NewTable(tableRoute, k.Routes),
		rules:      reconcile.NewTable("rule", k.Rules),
		holds:      reconcile.NewTable(tableHold, reconcile.Target[nat.Port, nat.Fault](k.NAT.Holds)).Alone(),
		ports:      reconcile.NewTable(tablePort, reconcile.Target[nat.Port, nat.Rule](k.NAT.Ports)).Alone(),
		outgoing:   reconcile.NewTable("outgoing", reconcile.Target[nat.EntryKey, nat.Entry](k.NAT.Outgoing)).Alone(),
		forward:    reconcile.NewTable("forward", reconcile.Target[nat.EntryKey, nat.Entry](k.NAT.Forward)).Alone(),
		fence:      reconcile.NewTable(tableFence, reconcile.Target[nat.EntryKey, nat.Entry](k.NAT.Apart)).Alone(),
		fast:       newFastLadder(k.Fast),
		patrol:     p,
		parameters: s,
		links:      own,
		speaker:    speaker,
		sets:       k.Members,
	}
}

// tables is what the kernel has of ours, but for kernel parameters. A table that could not be read is nil.
type tables struct {
	members    map[nat.Member]nat.Fault
	filter     map[nat.EntryKey]nat.Entry
	devices    map[string]tunnel.Device
	endpoints  map[string]endpoint.Row
	neighbours map[tunnel.NeighKey]tunnel.MAC
	fdb        map[tunnel.FDBKey]netip.Addr
	routes     map[tunnel.RouteKey]tunnel.Route
	rules      map[netip.Prefix]tunnel.Rule
	holds      map[nat.Port]nat.Fault
	ports      map[nat.Port]nat.Rule
	outgoing   map[nat.EntryKey]nat.Entry
	forward    map[nat.EntryKey]nat.Entry
	fence      map[nat.EntryKey]nat.Entry
	fast       fastHave
}

// read lists all but the endpoints' links, whose listing can go on beside it. What can not be read is left to its rung,
// which reads again and reports.
func (l *ladder) read(ctx context.Context, t *tables) {
	t.members, _ = l.members.List(ctx)
	t.filter, _ = l.filter.List(ctx)
	t.devices, _ = l.devices.List(ctx)
	t.neighbours, _ = l.neighbours.List(ctx)
	t.fdb, _ = l.fdb.List(ctx)
	t.routes, _ = l.routes.List(ctx)
	t.rules, _ = l.rules.List(ctx)
	t.holds, _ = l.holds.List(ctx)
	t.ports, _ = l.ports.List(ctx)
	t.outgoing, _ = l.outgoing.List(ctx)
	t.forward, _ = l.forward.List(ctx)
	t.fence, _ = l.fence.List(ctx)
	t.fast = l.fast.read(ctx)
}

// apply brings the kernel and the peers to d. While the RIB is not complete, nothing that a route could still ask for
// is pruned; what belongs to endpoints is.
func (l *ladder) apply(ctx context.Context, d desired, have tables, complete bool) *reconcile.Report {
	early := func(dev string) bool { return !complete && tunnelled(dev) }
	l.parameters.want, l.links.want = d.Sysctls, d.loopback
	l.patrol.expect(d.endpoints)
	defer l.patrol.settle()
	inside := func(nat.EntryKey, nat.Entry) bool { return !complete } // the way to other nodes may ask for it still
	rungs := []reconcile.Rung{
		reconcile.Whole(tableSet, func(ctx context.Context) error { return l.expire(ctx, have.members, d.members) }),
		l.members.Known(have.members, d.members, func(m nat.Member, _ nat.Fault) bool { return !complete && !m.Local() }),
		l.fence.Known(have.fence, d.nat.Apart, nil),
		l.holds.Known(have.holds, d.nat.Holds, nil),
		l.outgoing.Known(have.outgoing, d.nat.Outgoing, inside),
		l.forward.Known(have.forward, d.nat.Forward, inside),
		l.ports.Known(have.ports, d.nat.Ports, nil),
		l.filter.Known(have.filter, d.filter, inside),
		l.devices.Known(have.devices, d.Devices, func(name string, _ tunnel.Device) bool { return early(name) }),
		l.sysctls.Rung(d.Sysctls, nil),
		l.endpoints.Known(have.endpoints, d.endpoints, nil),
		l.loopback.Rung(d.loopback, nil),
		l.insides.Rung(d.endpoints, nil),
		l.neighbours.Known(have.neighbours, d.Neighbours, func(k tunnel.NeighKey, _ tunnel.MAC) bool { return early(k.Dev) }),
		l.fdb.Known(have.fdb, d.FDB, func(k tunnel.FDBKey, _ netip.Addr) bool { return early(k.Dev) }),
		l.routes.Known(have.routes, d.Routes, func(_ tunnel.RouteKey, r tunnel.Route) bool { return !complete && remote(r) }),
		l.rules.Known(have.rules, d.Rules, func(netip.Prefix, tunnel.Rule) bool { return !complete }),
	}
	rungs = append(rungs, l.fast.rungs(have.fast, d.fast, complete)...)
	rungs = append(rungs, reconcile.Whole("announcement", func(context.Context) error { return l.speaker.Announce(d.announce) }))
	return reconcile.Climb(ctx, rungs...)
}

// expire takes out of our sets what would let an endpoint through a fence that has the address of one that went.
func (l *ladder) expire(ctx context.Context, have, want map[nat.Member]nat.Fault) (err error) {
	if have == nil {
		if have, err = l.sets.List(ctx); err != nil {
			return err
		}
	}
	for _, m := range nat.Expired(have, want) {
		err = errors.Join(err, l.sets.Delete(ctx, m))
	}
	return err
}

// remote tells a route to another node from one to an endpoint of ours or a blackhole.
func remote(r tunnel.Route) bool {
	return r.Kind == tunnel.Unicast && (r.Hops[0].Via.IsValid() || tunnelled(r.Hops[0].Dev))
}

func tunnelled(dev string) bool { return tunnel.IsDevice(dev) }

// parameters is the table of those kernel parameters that the pass wants: all others are not ours.
type parameters struct {
	of   func(want map[string]string) reconcile.Target[string, string]
	want map[string]string
}

func (p *parameters) List(ctx context.Context) (map[string]string, error) {
	return p.of(p.want).List(ctx)
}

func (p *parameters) Put(ctx context.Context, path, value string) error {
	return p.of(p.want).Put(ctx, path, value)
}

// fenced is the parameters that let containers' packets come near to what listens on 127.0.0.0/8: none is set before the
// rule is at work that keeps them out.
type fenced struct {
	*parameters
	by Filter
}

func (f fenced) Put(ctx context.Context, path, value string) error {
	rows, err := f.by.List(ctx)
	if err != nil {
		return fmt.Errorf("look for the guard of 127.0.0.0/8: %w", err)
	}
	if guard, there := rows[nat.LoopbackGuard()]; !there || guard.Fault != "" {
		return fmt.Errorf("%w: the guard of 127.0.0.0/8 is not at work", reconcile.ErrWaits)
	}
	return f.parameters.Put(ctx, path, value)
}

// Delete has nothing to do: a parameter has a value always, and its old one is wanted like any other.
func (p *parameters) Delete(context.Context, string) error { return nil }
