package agent_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/agent"
	"github.com/fairlead-net/fairlead/endpoint"
	"github.com/fairlead-net/fairlead/ipam"
	"github.com/fairlead-net/fairlead/nettest"
	"github.com/fairlead-net/fairlead/reconcile"
	"github.com/fairlead-net/fairlead/store"
)

// insides are the endpoints' namespaces: what is inside is what the world's table of endpoints has, and what the test
// says has drifted.
type insides struct {
	world *world
	log   journal

	mu      sync.Mutex
	begun   int             // looks
	within  func()          // happens once, in the midst of the next look that sees something
	after   func()          // happens once, after the next put of an endpoint
	spoilt  map[string]bool // by host link
	stale   []string        // looked at as what they had not been any more when the look began
	mended  []string
	reveals []string // what the look during which within happened says
}

func (in *insides) Inspect(_ context.Context, rows []endpoint.Row) ([]string, error) {
	in.mu.Lock()
	in.begun++
	within := in.within
	if len(rows) > 0 {
		in.within = nil
	}
	in.stale = append(in.stale, in.wrong(rows)...)
	in.mu.Unlock()
	if within == nil || len(rows) == 0 {
		return in.drifted(rows), nil
	}
	within()
	return append(in.drifted(rows), in.reveals...), nil
}

func (in *insides) drifted(rows []endpoint.Row) []string {
	in.mu.Lock()
	defer in.mu.Unlock()
	links := in.wrong(rows)
	for _, r := range rows {
		if in.spoilt[r.HostIf] {
			links = append(links, r.HostIf)
		}
	}
	return links
}

// wrong is which pairs are there and unlike rows.
func (in *insides) wrong(rows []endpoint.Row) []string {
	table, _ := in.world.endpoints.List(context.Background())
	var links []string
	for _, r := range rows {
		if is, there := table[r.HostIf]; there && is != r {
			links = append(links, r.HostIf)
		}
	}
	return links
}

func (in *insides) Mend(_ context.Context, r endpoint.Row) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.mended = append(in.mended, r.HostIf)
	delete(in.spoilt, r.HostIf)
	return nil
}

// pairs is the world's table of endpoints.
type pairs struct {
	reconcile.Target[string, endpoint.Row]
	in *insides
}

func (p pairs) Put(ctx context.Context, hostIf string, r endpoint.Row) error {
	err := p.Target.Put(ctx, hostIf, r)
	p.in.mu.Lock()
	after := p.in.after
	p.in.after = nil
	p.in.mu.Unlock()
	if after != nil {
		after()
	}
	return err
}

// set changes what happens.
func (in *insides) set(change func()) {
	in.mu.Lock()
	defer in.mu.Unlock()
	change()
}

// looked waits until two more looks have begun: what the first of them saw is noted then, whatever was under way before.
func (in *insides) looked(t *testing.T) {
	t.Helper()
	in.mu.Lock()
	most := in.begun + 2
	in.mu.Unlock()
	eventually(t, "two looks", func() bool {
		poke(in.world.news)
		in.mu.Lock()
		defer in.mu.Unlock()
		return in.begun >= most
	})
}

// untouched makes one more pass and wants nothing inside to have been written.
func (in *insides) untouched(t *testing.T, a *agent.Agent) {
	t.Helper()
	if _, err := a.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	in.log.mu.Lock()
	defer in.log.mu.Unlock()
	if len(in.mended) > 0 {
		t.Errorf("mended though nothing was wrong: %v", in.mended)
	}
	for _, line := range in.log.lines {
		if strings.Contains(line, "inside:") {
			t.Errorf("logged though nothing was wrong: %s", line)
		}
	}
}

// serve runs an agent on db until stop is called or the test ends.
func (in *insides) serve(t *testing.T, db *store.DB, cfg agent.Config) (a *agent.Agent, stop func()) {
	t.Helper()
	ledger, err := ipam.NewLedger(db, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	w := in.world
	k := w.kernel()
	k.Insides, k.Endpoints = in, pairs{k.Endpoints, in}
	a, err = agent.New(cfg, agent.Rooms{
		DB: db, Ledger: ledger, Ports: w.book(t, db), Speaker: speaker{w}, Underlay: beneath{w}, Prober: beneath{w}, Kernel: k, Source: &source{cfg: cfg},
		Notify: func(string) {}, Log: slog.New(&in.log), Version: "test", Now: w.clock.now,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	eventually(t, "a first pass", func() bool { return a.Status().Ready })
	return a, stop
}

func openStore(t *testing.T) *store.DB {
	t.Helper()
	db, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "fairlead.db"), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

// populate attaches n endpoints, all in one namespace.
func populate(t *testing.T, a *agent.Agent, n int) (names []string) {
	t.Helper()
	box := nettest.NewHost(t, "box")
	for i := range n {
		req := agent.AttachRequest{Name: fmt.Sprintf("web%d", i), NetNS: box.Path, IfName: fmt.Sprintf("eth%d", i)}
		if _, _, err := a.Attach(t.Context(), req); err != nil {
			t.Fatal(err)
		}
		names = append(names, req.Name)
	}
	return names
}

// narrow makes the underlay's MTU smaller, and with it that of each endpoint.
func (w *world) narrow() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.underlay.MTU -= 100
}

func TestAnotherMTUIsNoDrift(t *testing.T) {
	in := &insides{world: newWorld()}
	a, _ := in.serve(t, openStore(t), config("10.88.1.0/24"))
	names := populate(t, a, 20) // more than are looked at together
	in.looked(t)
	narrowed := false
	in.set(func() {
		in.within = func() {
			in.world.narrow()
			_, err := a.Reload(t.Context())
			in.set(func() { narrowed = err == nil })
		}
	})
	eventually(t, "a change in the midst of a look", func() bool {
		poke(in.world.news)
		in.mu.Lock()
		defer in.mu.Unlock()
		return narrowed
	})
	in.looked(t)
	in.untouched(t, a)
	in.set(func() {
		if len(in.stale) > 0 {
			t.Errorf("looked at as what they had been before: %v", in.stale)
		}
		in.spoilt = map[string]bool{endpoint.HostIf(names[3]): true}
	})
	in.looked(t)
	if _, err := a.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	in.set(func() {
		if want := []string{endpoint.HostIf(names[3])}; !slices.Equal(in.mended, want) {
			t.Errorf("mended %v, want %v", in.mended, want)
		}
	})
}

func TestAnEndpointThatCameAgainHasNotDrifted(t *testing.T) {
	for _, same := range []bool{false, true} {
		t.Run(fmt.Sprintf("same=%t", same), func(t *testing.T) {
			in := &insides{world: newWorld()}
			cfg := config("10.88.1.0/24")
			cfg.Pools[0].ReuseDelay = 0
			a, _ := in.serve(t, openStore(t), cfg)
			box := nettest.NewHost(t, "box")
			req := agent.AttachRequest{Name: "web", NetNS: box.Path}
			first, _, err := a.Attach(t.Context(), req)
			if err != nil {
				t.Fatal(err)
			}
			req.IPs = first.Addresses
			if !same {
				req.IPs[0] = req.IPs[0].Next()
			}
			done := make(chan error, 1)
			in.set(func() {
				in.reveals = []string{first.HostIfName} // half made
				in.within = func() {
					err := a.Detach(t.Context(), "web")
					_, _, again := a.Attach(t.Context(), req)
					done <- errors.Join(err, again)
				}
			})
			poke(in.world.news)
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			in.looked(t)
			in.untouched(t, a)
		})
	}
}

func TestWhatAPassIsJustChangingIsNotLookedAt(t *testing.T) {
	in := &insides{world: newWorld()}
	cfg := config("10.88.1.0/24")
	cfg.Interval = 50 * time.Millisecond // nothing else asks for a look while a pass is under way
	a, _ := in.serve(t, openStore(t), cfg)
	populate(t, a, 3)
	in.looked(t)
	done := make(chan struct{})
	in.set(func() {
		in.after = func() { // one is put, two are not
			defer close(done)
			in.looked(t)
		}
	})
	in.world.narrow()
	if _, err := a.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	<-done
	in.looked(t)
	in.untouched(t, a)
}

func TestAWrongHostLinkIsNotAWriteInside(t *testing.T) {
	in := &insides{world: newWorld()}
	db := openStore(t)
	spoil := func(name string) {
		in.world.endpoints.mu.Lock()
		defer in.world.endpoints.mu.Unlock()
		r := in.world.endpoints.table[endpoint.HostIf(name)]
		r.MTU = 0 // it is down
		in.world.endpoints.table[r.HostIf] = r
	}
	a, stop := in.serve(t, db, config("10.88.1.0/24"))
	names := populate(t, a, 5)
	stop()
	spoil(names[0])
	a, _ = in.serve(t, db, config("10.88.1.0/24"))
	in.untouched(t, a)

	spoil(names[0])
	if err := a.Detach(t.Context(), names[1]); err != nil {
		t.Fatal(err)
	}
	in.untouched(t, a)
}
