// Package agent keeps one host's network as config, store and BGP want it: it reads, thinks and acts, in passes.
package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/fairlead-net/fairlead/bgp"
	"github.com/fairlead-net/fairlead/ipam"
	"github.com/fairlead-net/fairlead/nat"
	"github.com/fairlead-net/fairlead/reconcile"
	"github.com/fairlead-net/fairlead/store"
	"github.com/fairlead-net/fairlead/tunnel"
)

// Speaker is a source of routes and a sink of announcements.
type Speaker interface {
	Routes() (routes []bgp.Route, complete bool)
	Changed() <-chan struct{}
	Announce([]bgp.Announcement) error // everything, every time
	SetPeers(bgp.Config) error
	Peers() []bgp.PeerStatus
	Sessions() []bgp.PeerStatus // Peers without the counts, and cheap
}

// Underlay answers questions about the network beneath and says when it changes.
type Underlay interface {
	Underlay(ctx context.Context, address netip.Addr) (tunnel.Underlay, error)
	// Supports finds out which of the wanted tunnels this host can make.
	Supports(ctx context.Context, wanted tunnel.Encaps) (tunnel.Encaps, error)
	// Partners are the far ends of tunnels of those kinds that are not ours.
	Partners(ctx context.Context, of tunnel.Encaps) (map[tunnel.Source]struct{}, error)
	Hops(ctx context.Context, next []netip.Addr) (map[netip.Addr]tunnel.Hop, error)
	// Shadowed finds those of our prefixes for which the kernel uses a foreign route, with that route as text.
	Shadowed(ctx context.Context, ours []netip.Prefix) (map[netip.Prefix]string, error)
	// Foreign is the routes of others inside the pools.
	Foreign(ctx context.Context, pools []netip.Prefix) ([]tunnel.Foreign, error)
	ReadSysctl(path string) (string, error)
	Swept(path string) (map[string]string, error) // other kernel parameters that writing this one changes
	Watch(ctx context.Context) (tunnel.Pokes, error)
}

// Rooms are what the agent works with.
type Rooms struct {
	DB       *store.DB
	Ledger   *ipam.Ledger
	Ports    *nat.Book
	Speaker  Speaker
	Underlay Underlay
	Kernel   Kernel
	Prober   Prober
	Source   Source
	Notify   func(state string) // to the service manager, sd_notify(3) words
	Watchdog time.Duration      // how often the service manager wants to hear of us, 0 = never
	Log      *slog.Logger
	Version  string
	Now      func() time.Time
}

// Agent is the daemon's heart. Its methods may be called at the same time.
type Agent struct {
	room     Rooms
	started  time.Time
	ladder   *ladder
	patrol   *patrol
	trial    *trial
	trailer  *trailer
	metadata *metadata
	metrics  *metrics
	news     *news
	locks    names
	asked    chan struct{}         // poke: an intent changed
	stopped  chan struct{}         // closed when the loop has ended
	gone     map[string]time.Time  // since when endpoints are missing; of the loop alone
	records  *store.Reader[record] // of the loop alone
	move     move                  // of the loop alone

	mu    sync.Mutex
	state state // under mu
}

// state is what the API and the loop share.
type state struct {
	cfg         Config
	rev         uint64 // grows with every intent
	drained     bool
	uninstall   bool
	refused     error         // why the last reload was refused
	unpublished error         // why not all ports of the config are there
	uncalled    error         // why Docker can not call
	last        outcome       // of the latest pass
	passed      chan struct{} // closed by the next pass
}

// outcome is what a pass left.
type outcome struct {
	rev      uint64
	err      error // the pass could not be made
	report   *reconcile.Report
	desired  desired
	in       inputs
	finished time.Time
}

// clean tells whether everything is as wanted.
func (o *outcome) clean() bool {
	return o.err == nil && o.in.fault == nil && o.report != nil && o.report.Clean()
}

// sound tells whether the node does its job: everything is as wanted, but perhaps for single endpoints. A container that
// spoils its own network must not make its host look broken.
func (o *outcome) sound() bool {
	return o.err == nil && o.in.fault == nil && o.report != nil && o.report.Sound()
}

// bare tells whether an uninstall has left nothing of ours in the kernel. The underlay need not be there for it.
func (o *outcome) bare() bool {
	return o.in.uninstall && o.err == nil && o.report != nil && o.report.Clean()
}

// problem is why the pass is not clean, nil when it is.
func (o *outcome) problem() error {
	if o.err != nil || o.report == nil {
		return o.err
	}
	return errors.Join(o.in.fault, o.report.Err())
}

// New makes an agent; Run starts it.
func New(cfg Config, r Rooms) (*Agent, error) {
	watch := newPatrol(r.Kernel.Insides, r.Log)
	a := &Agent{
		room: r, started: r.Now(), patrol: watch, trial: newTrial(r.Prober, r.Log), trailer: newTrailer(r.Kernel.Fast, r.Log), ladder: newLadder(r.Kernel, r.Speaker, watch),
		locks: names{held: make(map[string]chan struct{})}, metadata: newMetadata(),
		asked: make(chan struct{}, 1), stopped: make(chan struct{}),
		gone: make(map[string]time.Time), records: store.NewReader(endpoints()),
		state: state{cfg: cfg, rev: r.DB.Revision(), passed: make(chan struct{}), unpublished: errUnpublished},
	}
	// One that an earlier life did not finish is gone on with.
	err := r.DB.View(func(tx *store.Tx) (err error) {
		a.state.uninstall, err = leaving(tx)
		return err
	})
	if err != nil {
		return nil, err
	}
	a.metrics = newMetrics(a)
	a.news = newNews(a.metrics.hooks, a.programs, r.Log)
	if err := a.room.Ledger.SetPools(cfg.Pools); err != nil {
		return nil, fmt.Errorf("set pools: %w", err)
	}
	return a, nil
}

// Metrics is the registry that holds everything the agent counts.
func (a *Agent) Metrics() *prometheus.Registry { return a.metrics.registry }

// ask makes a new revision for a changed intent and wakes the loop.
func (a *Agent) ask() uint64 {
	a.mu.Lock()
	a.state.rev++
	rev := a.state.rev
	a.mu.Unlock()
	poke(a.asked)
	return rev
}

// publish makes the outcome of a pass known to those who wait for it.
func (a *Agent) publish(o outcome) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.state.last = o
	close(a.state.passed)
	a.state.passed = make(chan struct{})
}

// after waits for the first pass that knows of revision rev.
func (a *Agent) after(ctx context.Context, rev uint64) (outcome, error) {
	return a.until(ctx, rev, func(*outcome) bool { return true })
}

// Settled waits until a sound pass knows of revision rev: everything is as wanted, but perhaps for single endpoints. When
// ctx ends first, the error says what is in the way.
func (a *Agent) Settled(ctx context.Context, rev uint64) error {
	_, err := a.until(ctx, rev, (*outcome).sound)
	return err
}

// until waits for a pass that knows of revision rev and is as good as asked for.
func (a *Agent) until(ctx context.Context, rev uint64, good func(*outcome) bool) (outcome, error) {
	for {
		a.mu.Lock()
		o, next := a.state.last, a.state.passed
		a.mu.Unlock()
		known := !o.finished.IsZero() && o.rev >= rev
		if known && good(&o) {
			return o, nil
		}
		var err error
		select {
		case <-next:
			continue
		case <-a.stopped:
			if a.seenSince(&o) {
				continue // the last pass came between
			}
			err = ErrStopped
		case <-ctx.Done():
			err = ctx.Err()
		}
		err = fmt.Errorf("wait for revision %d: %w", rev, err)
		if known && o.problem() != nil {
			err = fmt.Errorf("%w: %w", err, o.problem())
		}
		return o, err
	}
}

// seenSince tells whether a pass was published after o.
func (a *Agent) seenSince(o *outcome) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return !a.state.last.finished.Equal(o.finished)
}
