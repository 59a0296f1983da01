package agent

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/fairlead-net/fairlead/endpoint"
	"github.com/fairlead-net/fairlead/fastpath"
	"github.com/fairlead-net/fairlead/nat"
	"github.com/fairlead-net/fairlead/reconcile"
)

// fastLadder is the maps of the fast path. They stand above the kernel's own way, which is complete without them. The hooks
// stand above them all, and are the trailer's.
type fastLadder struct {
	programs  *reconcile.Table[string, string]
	settings  *reconcile.Table[string, fastpath.Settings]
	nodes     *reconcile.Table[netip.Addr, fastpath.Node]
	sides     *reconcile.Table[string, fastpath.Side]
	endpoints *reconcile.Table[netip.Addr, fastpath.Endpoint]
	routes    *reconcile.Table[netip.Prefix, fastpath.Route]
	own       *reconcile.Table[netip.Addr, fastpath.Own]
	ports     *reconcile.Table[fastpath.Port, fastpath.Mapping]
}

func newFastLadder(k FastTables) *fastLadder {
	if k.Engine == nil {
		return nil
	}
	return &fastLadder{
		programs:  reconcile.NewTable("fast-program", reconcile.Target[string, string](programs{k.Engine})).Alone(),
		settings:  reconcile.NewTable("fast-settings", reconcile.Target[string, fastpath.Settings](sparing{k.Settings, k})).Alone(),
		nodes:     reconcile.NewTable("fast-node", k.Nodes).Alone(),
		sides:     reconcile.NewTable("fast-side", k.Sides).Alone(),
		endpoints: reconcile.NewTable("fast-endpoint", k.Endpoints).Alone(),
		routes:    reconcile.NewTable("fast-route", k.Routes).Alone(),
		own:       reconcile.NewTable("fast-own", k.Own).Alone(),
		ports:     reconcile.NewTable("fast-port", reconcile.Target[fastpath.Port, fastpath.Mapping](forgetting{k.Ports, k.Engine})).Alone(),
	}
}

// fastHave is what is there of the fast path. A table that could not be read is nil.
type fastHave struct {
	settings  map[string]fastpath.Settings
	nodes     map[netip.Addr]fastpath.Node
	sides     map[string]fastpath.Side
	endpoints map[netip.Addr]fastpath.Endpoint
	routes    map[netip.Prefix]fastpath.Route
	own       map[netip.Addr]fastpath.Own
	ports     map[fastpath.Port]fastpath.Mapping
}

func (l *fastLadder) read(ctx context.Context) (have fastHave) {
	if l == nil {
		return have
	}
	have.settings, _ = l.settings.List(ctx)
	have.nodes, _ = l.nodes.List(ctx)
	have.sides, _ = l.sides.List(ctx)
	have.endpoints, _ = l.endpoints.List(ctx)
	have.routes, _ = l.routes.List(ctx)
	have.own, _ = l.own.List(ctx)
	have.ports, _ = l.ports.List(ctx)
	return have
}

// rungs are the tables from the foot. While the RIB is not complete, nothing that a route could still ask for is pruned. A
// side comes after its addresses, and goes before them: what has a side and no address is taken for forged.
func (l *fastLadder) rungs(have fastHave, want fastpath.Rows, complete bool) []reconcile.Rung {
	if l == nil {
		return nil
	}
	loaded := make(map[string]string)
	if len(want.Settings) > 0 {
		loaded[programsKey] = ""
	}
	return []reconcile.Rung{
		l.programs.Rung(loaded, nil),
		l.nodes.Known(have.nodes, want.Nodes, func(netip.Addr, fastpath.Node) bool { return !complete }),
		l.routes.Known(have.routes, want.Routes, func(netip.Prefix, fastpath.Route) bool { return !complete }),
		l.endpoints.Known(have.endpoints, want.Endpoints, nil),
		l.sides.Known(have.sides, want.Sides, nil),
		l.own.Known(have.own, want.Own, nil),
		l.ports.Known(have.ports, want.Ports, nil),
		l.settings.Known(have.settings, want.Settings, nil),
	}
}

// paved is the links of endpoints, each ready for programs before its endpoint sends anything. That they could not be made
// ready is told by the trailer, which can do no better.
type paved struct {
	reconcile.Target[string, endpoint.Row]
	engine Engine
}

func (p paved) Put(ctx context.Context, hostIf string, r endpoint.Row) error {
	err := p.Target.Put(ctx, hostIf, r)
	if err == nil && p.engine != nil {
		_ = p.engine.Pave(hostIf)
	}
	return err
}

// sparing is the settings, which say whether connections to ports of the host are the programs'. Before they are, those that
// the kernel translates are noted, and stay with it. Before they are no more, the kernel takes over those that there are.
type sparing struct {
	reconcile.Target[string, fastpath.Settings]
	tables FastTables
}

func (s sparing) Put(ctx context.Context, key string, v fastpath.Settings) error {
	if v.Flags.Has(fastpath.MapsPorts) {
		if err := s.tables.keep(ctx); err != nil {
			return err
		}
	}
	if err := s.handOver(ctx, v); err != nil {
		return err
	}
	return s.Target.Put(ctx, key, v)
}

func (s sparing) Delete(ctx context.Context, key string) error {
	if err := s.handOver(ctx, fastpath.Settings{}); err != nil {
		return err
	}
	return s.Target.Delete(ctx, key)
}

// handOver gives the kernel the connections by ports unless the programs keep them.
func (s sparing) handOver(ctx context.Context, next fastpath.Settings) error {
	if next.Flags.Has(fastpath.MapsPorts) || s.tables.Translator == nil {
		return nil
	}
	open, err := s.tables.Engine.Connections(ctx)
	if err != nil {
		return fmt.Errorf("look for connections by ports: %w", err)
	}
	all := make([]nat.Connection, len(open))
	for i, c := range open {
		all[i] = nat.Connection(c)
	}
	return s.tables.Translator.Adopt(ctx, all)
}

// forgetting is the ports. A connection does not outlive its own.
type forgetting struct {
	reconcile.Target[fastpath.Port, fastpath.Mapping]
	engine Engine
}

// Apply implements reconcile.Bulk.
func (f forgetting) Apply(ctx context.Context, puts map[fastpath.Port]fastpath.Mapping, deletes []fastpath.Port) map[fastpath.Port]error {
	failed := reconcile.Apply(ctx, f.Target, puts, deletes)
	if _, err := f.engine.Expire(ctx); err != nil {
		for _, p := range deletes {
			failed[p] = err
		}
	}
	return failed
}

// programs is the table of what has to be loaded: one row, or none.
type programs struct{ engine Engine }

const programsKey = "all"

func (p programs) List(context.Context) (map[string]string, error) {
	if p.engine.Idle() {
		return map[string]string{}, nil
	}
	return map[string]string{programsKey: ""}, nil
}

func (p programs) Put(context.Context, string, string) error { return p.engine.Begin() }

func (p programs) Delete(ctx context.Context, _ string) error { return p.engine.End(ctx) }
