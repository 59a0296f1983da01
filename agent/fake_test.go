package agent_test

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/agent"
	"github.com/fairlead-net/fairlead/bgp"
	"github.com/fairlead-net/fairlead/endpoint"
	"github.com/fairlead-net/fairlead/ipam"
	"github.com/fairlead-net/fairlead/nat"
	"github.com/fairlead-net/fairlead/reconcile"
	"github.com/fairlead-net/fairlead/store"
	"github.com/fairlead-net/fairlead/tunnel"
)

// rows is a kernel table in memory.
type rows[K, V comparable] struct {
	mu     sync.Mutex
	table  map[K]V
	refuse func(K) error
	keep   error // why no row goes
}

func (r *rows[K, V]) List(context.Context) (map[K]V, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.table), nil
}

func (r *rows[K, V]) Put(_ context.Context, k K, v V) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.refuse != nil {
		if err := r.refuse(k); err != nil {
			return err
		}
	}
	if r.table == nil {
		r.table = make(map[K]V)
	}
	r.table[k] = v
	return nil
}

func (r *rows[K, V]) Delete(_ context.Context, k K) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.keep != nil {
		return r.keep
	}
	delete(r.table, k)
	return nil
}

// text is the table as sorted lines.
func (r *rows[K, V]) text(name string) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var lines []string
	for k, v := range r.table {
		lines = append(lines, fmt.Sprintf("%s %v -> %v", name, k, v))
	}
	slices.Sort(lines)
	return lines
}

// sets are those of a packet filter in memory, which nobody else changes.
type sets struct{ rows[nat.Member, nat.Fault] }

func (s *sets) Changed() <-chan struct{} { return nil }

// filter is a packet filter in memory that nobody else changes.
type filter struct{ rows[nat.EntryKey, nat.Entry] }

func (f *filter) Changed() <-chan struct{} { return nil }

func (f *filter) Dropped(context.Context) (map[nat.EntryKey]uint64, error) {
	return map[nat.EntryKey]uint64{{Name: "vxlan", Family: 4}: 7}, nil
}

// world is a whole host in memory: kernel, peers and underlay.
type world struct {
	devices    rows[string, tunnel.Device]
	endpoints  rows[string, endpoint.Row]
	sysctls    rows[string, string]
	neighbours rows[tunnel.NeighKey, tunnel.MAC]
	fdb        rows[tunnel.FDBKey, netip.Addr]
	routes     rows[tunnel.RouteKey, tunnel.Route]
	rules      rows[netip.Prefix, tunnel.Rule]
	members    sets
	filter     filter
	translation

	mu        sync.Mutex
	underlay  tunnel.Underlay
	hops      map[netip.Addr]tunnel.Hop
	heard     []bgp.Route
	complete  bool
	announced []bgp.Announcement
	peers     []bgp.PeerStatus
	told      bgp.Config // the peers in force
	stubborn  error      // of new peers
	mute      error      // what reading a kernel parameter gives, instead of a value
	blind     error      // of a look at the underlay
	rib, news chan struct{}

	broken bool // checksums that are left to the hardware

	clock clock
	log   slog.Handler
}

// clock is the agent's. It goes by itself until it is stopped. What interrupt is given happens in the midst of what the
// agent does when it next looks at the clock.
type clock struct {
	mu      sync.Mutex
	stopped time.Time
	first   func()
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	first := c.first
	c.first = nil
	c.mu.Unlock()
	if first != nil {
		first()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stopped.IsZero() {
		return time.Now()
	}
	return c.stopped
}

// advance stops the clock, if it goes, and sets it forward.
func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stopped.IsZero() {
		c.stopped = time.Now()
	}
	c.stopped = c.stopped.Add(d)
}

func (c *clock) interrupt(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.first = f
}

func newWorld() *world {
	return &world{
		underlay: tunnel.Underlay{
			Dev: "eth0", MTU: 1500, Address: netip.MustParseAddr("192.0.2.1"),
			Subnets: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")},
		},
		complete: true,
		rib:      make(chan struct{}, 1),
		news:     make(chan struct{}, 1),
		log:      slog.DiscardHandler,
	}
}

// text is everything that the kernel and the peers hold, readable.
func (w *world) text() string {
	var lines []string
	for _, t := range [][]string{
		w.devices.text("device"), w.endpoints.text("endpoint"), w.sysctls.text("sysctl"), w.neighbours.text("neighbour"),
		w.fdb.text("fdb"), w.routes.text("route"), w.rules.text("rule"), w.members.text("member"), w.filter.text("filter"),
		w.translation.text(),
	} {
		lines = append(lines, t...)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, a := range w.announced {
		lines = append(lines, fmt.Sprintf("announce %v via %v%s", a.Prefix, a.NextHop, map[bool]string{true: " that takes VXLAN"}[a.Encaps == bgp.VXLAN]))
	}
	return strings.Join(lines, "\n") + "\n"
}

// hear sets what the peers announce.
func (w *world) hear(routes ...bgp.Route) {
	w.mu.Lock()
	w.heard = routes
	w.mu.Unlock()
	poke(w.rib)
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// speaker is the world's BGP.
type speaker struct{ *world }

func (s speaker) Routes() ([]bgp.Route, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.heard), s.complete
}
func (s speaker) Changed() <-chan struct{} { return s.rib }
func (s speaker) Announce(all []bgp.Announcement) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.announced = all
	return nil
}
func (s speaker) SetPeers(cfg bgp.Config) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stubborn == nil {
		s.told = cfg
	}
	return s.stubborn
}
func (s speaker) Peers() []bgp.PeerStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.peers
}
func (s speaker) Sessions() []bgp.PeerStatus { return s.Peers() }

// beneath is the world's underlay.
type beneath struct{ *world }

func (b beneath) Underlay(_ context.Context, address netip.Addr) (tunnel.Underlay, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	own := b.underlay.Address
	switch {
	case b.blind != nil:
		return tunnel.Underlay{}, b.blind
	case address.IsUnspecified() && address.Is4() != own.Is4():
		return tunnel.Underlay{}, nil
	case !address.IsUnspecified() && address != own:
		return tunnel.Underlay{}, tunnel.ErrAddressGone
	}
	return b.underlay, nil
}

func (b beneath) Hops(_ context.Context, next []netip.Addr) (map[netip.Addr]tunnel.Hop, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := make(map[netip.Addr]tunnel.Hop)
	for _, nh := range next {
		h, known := b.hops[nh]
		if !known {
			h = tunnel.Hop{Reachable: true, OnLink: b.underlay.Subnets[0].Contains(nh), Dev: "eth0", MTU: 1500}
		}
		out[nh] = h
	}
	return out, nil
}

// Supports is a kernel that has VXLAN alone.
func (b beneath) Supports(_ context.Context, wanted tunnel.Encaps) (tunnel.Encaps, error) {
	return wanted & tunnel.SetOf(tunnel.VXLAN), nil
}

func (b beneath) Partners(context.Context, tunnel.Encaps) (map[tunnel.Source]struct{}, error) {
	return nil, nil
}

// ProbeOffload is a peer that answers nobody, unless the card is said to be broken.
func (b beneath) ProbeOffload(context.Context, string, netip.Addr, netip.Addr) (tunnel.Verdict, error) {
	if b.broken {
		return tunnel.VerdictBad, nil
	}
	return tunnel.VerdictUnknown, nil
}

func (beneath) Foreign(context.Context, []netip.Prefix) ([]tunnel.Foreign, error) { return nil, nil }
func (b beneath) Shadowed(context.Context, []netip.Prefix) (map[netip.Prefix]string, error) {
	return nil, nil
}

func (b beneath) ReadSysctl(string) (string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return "0", b.mute
}

func (b beneath) Swept(string) (map[string]string, error)                   { return nil, nil }
func (b beneath) Watch(context.Context) (tunnel.Pokes, error)               { return tunnel.Pokes{Own: b.news}, nil }
func (b beneath) Inspect(context.Context, []endpoint.Row) ([]string, error) { return nil, nil }
func (b beneath) Mend(context.Context, endpoint.Row) error                  { return nil }

func (w *world) kernel() agent.Kernel {
	return agent.Kernel{
		Devices: &w.devices, Endpoints: &w.endpoints, Neighbours: &w.neighbours, FDB: &w.fdb, Routes: &w.routes,
		Rules: &w.rules, Members: &w.members, Filter: &w.filter, Insides: beneath{w},
		NAT:     w.tables(),
		Sysctls: func(map[string]string) reconcile.Target[string, string] { return &w.sysctls },
	}
}

// source gives one config, or one error.
type source struct {
	mu  sync.Mutex
	cfg agent.Config
	err error
}

func (s *source) Reload() (agent.Config, []string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cfg, []string{"pool"}, s.err
}

func (s *source) Adopted() {}

func config(block string) agent.Config {
	p := ipam.Pool{Name: "default", CIDR: netip.MustParsePrefix("10.88.0.0/16"), ReuseDelay: time.Second}
	if block != "" {
		p.Block = netip.MustParsePrefix(block)
	}
	return agent.Config{
		Node:     agent.Node{Name: "n1", Address: netip.MustParseAddr("192.0.2.1")},
		Pools:    []ipam.Pool{p},
		Tunnel:   tunnel.Config{Mode: tunnel.ModeAuto, VNI: 88, Port: 4789, Accept: tunnel.AcceptPeers},
		Interval: time.Minute,
	}
}

// start runs an agent in the world until the test ends.
func start(t testing.TB, w *world, cfg agent.Config) *agent.Agent {
	t.Helper()
	return startWith(t, w, cfg, &source{cfg: cfg})
}

func startWith(t testing.TB, w *world, cfg agent.Config, src agent.Source) *agent.Agent {
	t.Helper()
	a := prepare(t, w, cfg, src)
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		<-ended
	})
	return a
}

// prepare makes an agent that does not run yet.
func prepare(t testing.TB, w *world, cfg agent.Config, src agent.Source) *agent.Agent {
	t.Helper()
	db, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "fairlead.db"), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return prepareOn(t, db, w, cfg, src)
}

// prepareOn is prepare for a store that is open already.
func prepareOn(t testing.TB, db *store.DB, w *world, cfg agent.Config, src agent.Source) *agent.Agent {
	t.Helper()
	if err := (speaker{w}).SetPeers(cfg.BGP); err != nil {
		t.Fatal(err)
	}
	ledger, err := ipam.NewLedger(db, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	a, err := agent.New(cfg, agent.Rooms{
		DB: db, Ledger: ledger, Ports: w.book(t, db), Speaker: speaker{w}, Underlay: beneath{w}, Prober: beneath{w}, Kernel: w.kernel(), Source: src,
		Notify: func(string) {}, Log: slog.New(w.log), Version: "test", Now: w.clock.now,
	})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// eventually polls until ok, or ends the test.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("never happened: %s", what)
}
