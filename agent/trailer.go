package agent

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"time"

	"github.com/fairlead-net/fairlead/fastpath"
	"github.com/fairlead-net/fairlead/reconcile"
)

// The trailer waits until nothing was asked for a while, but not for ever.
const (
	trailCalm  = 200 * time.Millisecond
	trailMost  = time.Second
	trailRetry = time.Second
)

// trailer attaches the programs of the fast path, behind the passes. For each the kernel takes 15 ms and more, in which nobody
// can change a link, since it waits for every processor (tcx_prog_attach in kernel/bpf/tcx.c): an attach would wait for two
// of its own, and for those of all others beside it. Until a link has its programs, the kernel carries its packets.
type trailer struct {
	engine   Engine
	log      *slog.Logger
	watchers *reconcile.Table[fastpath.Hook, fastpath.Job]
	carriers *reconcile.Table[fastpath.Hook, fastpath.Job]
	carrier  *carriers
	poked    chan struct{}

	mu   sync.Mutex
	want trail                          // under mu
	done map[fastpath.Hook]fastpath.Job // under mu: what was there after the latest climb
	err  error                          // under mu: of the latest climb
}

// trail is what a pass asks for.
type trail struct {
	hooks    map[fastpath.Hook]fastpath.Job
	fresh    map[string]bool // links that passes have made since the latest climb, and that have carried nothing before
	complete bool            // the RIB is, so that what is not wanted goes
}

func newTrailer(k FastTables, log *slog.Logger) *trailer {
	if k.Engine == nil {
		return nil
	}
	c := &carriers{oneWay: oneWay{k.Hooks, fastpath.Ingress}, tables: k}
	return &trailer{
		engine: k.Engine, log: log, carrier: c, poked: make(chan struct{}, 1),
		watchers: reconcile.NewTable("fast-watch", reconcile.Target[fastpath.Hook, fastpath.Job](oneWay{k.Hooks, fastpath.Egress})).Alone(),
		carriers: reconcile.NewTable("fast-hook", reconcile.Target[fastpath.Hook, fastpath.Job](c)).Alone(),
	}
}

// offer tells what the latest pass wants.
func (t *trailer) offer(o *outcome) {
	if t == nil || o.report == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	next := trail{hooks: o.desired.fast.Hooks, fresh: make(map[string]bool), complete: o.in.complete || o.in.uninstall}
	for h := range next.hooks {
		_, made := o.desired.endpoints[h.Link]
		_, there := o.in.have.endpoints[h.Link]
		if made && (!there || t.want.fresh[h.Link]) {
			next.fresh[h.Link] = true
		}
	}
	if !maps.Equal(next.hooks, t.want.hooks) || next.complete != t.want.complete {
		poke(t.poked)
	}
	t.want = next
}

// pending is how many hooks are still to come, and what is in their way.
func (t *trailer) pending() (n int, err error) {
	if t == nil {
		return 0, nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for h, j := range t.want.hooks {
		if t.done[h] != j {
			n++
		}
	}
	return n, t.err
}

// run climbs whenever a pass or the kernel asks for it, until ctx ends.
func (t *trailer) run(ctx context.Context, interval func() time.Duration) {
	if t == nil {
		return
	}
	tick := time.NewTimer(interval())
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.poked:
			t.wait(ctx)
		case <-t.engine.Changed():
		case <-tick.C:
		}
		next := interval()
		if err := t.climb(ctx); err != nil {
			next = min(next, trailRetry)
		}
		tick.Reset(next)
	}
}

// wait returns when nothing was asked for a while.
func (t *trailer) wait(ctx context.Context) {
	most := time.NewTimer(trailMost)
	defer most.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-most.C:
			return
		case <-time.After(trailCalm):
			return
		case <-t.poked:
		}
	}
}

func (t *trailer) climb(ctx context.Context) error {
	t.mu.Lock()
	want := t.want
	t.mu.Unlock()
	keep := func(fastpath.Hook, fastpath.Job) bool { return !want.complete }
	t.carrier.fresh = want.fresh
	report := reconcile.Climb(ctx,
		t.watchers.Rung(hooksOf(want.hooks, fastpath.Egress), keep),
		t.carriers.Rung(hooksOf(want.hooks, fastpath.Ingress), keep))
	err := report.Err()
	if err == nil {
		err = t.engine.Settle()
	}
	if ctx.Err() != nil {
		return nil
	}
	have, listed := t.carrier.target.List(ctx)
	t.mu.Lock()
	defer t.mu.Unlock()
	if was, is := fmt.Sprint(t.err), fmt.Sprint(err); was != is && err != nil {
		t.log.Warn("not all of the fast path is at work", "error", err)
	}
	t.err, t.done = err, have
	if listed == nil && err == nil {
		for link := range want.fresh { // from now on they carry
			delete(t.want.fresh, link)
		}
	}
	if report.Total() > 0 {
		t.log.Info("fast path follows", "writes", report.Writes, "repaired", report.Repaired)
	}
	return err
}

func hooksOf(all map[fastpath.Hook]fastpath.Job, way fastpath.Way) map[fastpath.Hook]fastpath.Job {
	some := maps.Clone(all)
	maps.DeleteFunc(some, func(h fastpath.Hook, _ fastpath.Job) bool { return h.Way != way })
	return some
}

// oneWay is the hooks of one direction.
type oneWay struct {
	target reconcile.Target[fastpath.Hook, fastpath.Job]
	way    fastpath.Way
}

func (o oneWay) List(ctx context.Context) (map[fastpath.Hook]fastpath.Job, error) {
	all, err := o.target.List(ctx)
	return hooksOf(all, o.way), err
}

func (o oneWay) Put(ctx context.Context, h fastpath.Hook, j fastpath.Job) error {
	return o.target.Put(ctx, h, j)
}

func (o oneWay) Delete(ctx context.Context, h fastpath.Hook) error { return o.target.Delete(ctx, h) }

// carriers is the hooks at which packets leave the kernel's way. Before the first of them comes to a link that may have
// carried connections already, those that the kernel translates are noted, and stay with it: the watchers, which are there
// already, note all that begin from then on.
type carriers struct {
	oneWay
	tables FastTables
	fresh  map[string]bool // links that have carried nothing before
}

// Apply implements reconcile.Bulk.
func (c *carriers) Apply(ctx context.Context, puts map[fastpath.Hook]fastpath.Job, deletes []fastpath.Hook) map[fastpath.Hook]error {
	failed := make(map[fastpath.Hook]error)
	wire, inner := make(map[fastpath.Hook]fastpath.Job), make(map[fastpath.Hook]fastpath.Job)
	for h, j := range puts {
		if j.Program == fastpath.FromWire {
			wire[h] = j
		} else {
			inner[h] = j
		}
	}
	// What comes in by the wire is marked from then on, and what is translated of it is noted before there is an answer.
	c.attach(ctx, wire, failed)
	c.attach(ctx, inner, failed)
	for _, h := range deletes {
		if err := c.Delete(ctx, h); err != nil {
			failed[h] = err
		}
	}
	return failed
}

func (c *carriers) attach(ctx context.Context, puts map[fastpath.Hook]fastpath.Job, failed map[fastpath.Hook]error) {
	err := c.keep(ctx, puts)
	for h, j := range puts {
		if err == nil {
			failed[h] = c.Put(ctx, h, j)
		} else {
			failed[h] = err
		}
		if failed[h] == nil {
			delete(failed, h)
		}
	}
}

func (c *carriers) keep(ctx context.Context, puts map[fastpath.Hook]fastpath.Job) error {
	aged := false
	for h := range puts {
		aged = aged || !c.fresh[h.Link]
	}
	if !aged {
		return nil
	}
	return c.tables.keep(ctx)
}

// keep notes the connections that the kernel translates.
func (t FastTables) keep(ctx context.Context) error {
	if t.Translator == nil {
		return nil
	}
	all, err := t.Translator.Translated(ctx)
	if err != nil {
		return fmt.Errorf("look for connections that the kernel translates: %w", err)
	}
	flows := make([]fastpath.Flow, len(all))
	for i, f := range all {
		flows[i] = fastpath.Flow(f)
	}
	return t.Engine.Keep(ctx, flows)
}
