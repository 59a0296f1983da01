package agent

import (
	"context"
	"net/netip"

	"github.com/fairlead-net/fairlead/fastpath"
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
}

func newFastLadder(k FastTables) *fastLadder {
	if k.Engine == nil {
		return nil
	}
	return &fastLadder{
		programs:  reconcile.NewTable("fast-program", reconcile.Target[string, string](programs{k.Engine})).Alone(),
		settings:  reconcile.NewTable("fast-settings", k.Settings).Alone(),
		nodes:     reconcile.NewTable("fast-node", k.Nodes).Alone(),
		sides:     reconcile.NewTable("fast-side", k.Sides).Alone(),
		endpoints: reconcile.NewTable("fast-endpoint", k.Endpoints).Alone(),
		routes:    reconcile.NewTable("fast-route", k.Routes).Alone(),
	}
}

// fastHave is what is there of the fast path. A table that could not be read is nil.
type fastHave struct {
	settings  map[string]fastpath.Settings
	nodes     map[netip.Addr]fastpath.Node
	sides     map[string]fastpath.Side
	endpoints map[netip.Addr]fastpath.Endpoint
	routes    map[netip.Prefix]fastpath.Route
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
		l.settings.Known(have.settings, want.Settings, nil),
		l.nodes.Known(have.nodes, want.Nodes, func(netip.Addr, fastpath.Node) bool { return !complete }),
		l.routes.Known(have.routes, want.Routes, func(netip.Prefix, fastpath.Route) bool { return !complete }),
		l.endpoints.Known(have.endpoints, want.Endpoints, nil),
		l.sides.Known(have.sides, want.Sides, nil),
	}
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
