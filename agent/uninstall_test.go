package agent_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/agent"
	"github.com/fairlead-net/fairlead/nettest"
	"github.com/fairlead-net/fairlead/store"
)

// live lets use work with an agent on the store at path while it runs; ended tells why it ends, if it does by itself.
func live(t *testing.T, w *world, path string, use func(a *agent.Agent, ended <-chan error)) {
	t.Helper()
	db, err := store.Open(t.Context(), path, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	cfg := config("10.88.1.0/24")
	a := prepareOn(t, db, w, cfg, &source{cfg: cfg})
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	var running sync.WaitGroup
	running.Go(func() { ended <- a.Run(ctx) })
	defer running.Wait()
	defer stop()
	use(a, ended)
}

// TestAnUninstallThatWasCutShortIsFinishedByTheNextLife kills the daemon, as it were, right after it has noted the
// intent: nothing else of the uninstall has happened.
func TestAnUninstallThatWasCutShortIsFinishedByTheNextLife(t *testing.T) {
	w, path := newWorld(), filepath.Join(t.TempDir(), "fairlead.db")
	box := nettest.NewHost(t, "box")
	live(t, w, path, func(a *agent.Agent, _ <-chan error) {
		if _, _, err := a.Attach(t.Context(), agent.AttachRequest{Name: "web", NetNS: box.Path}); err != nil {
			t.Fatal(err)
		}
	})
	before := w.text()
	db, err := store.Open(t.Context(), path, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(t.Context(), func(tx *store.Tx) error {
		return store.Bucket[bool]{Name: "intents"}.Put(tx, "uninstall", true)
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(before, "endpoint fl") {
		t.Fatalf("nothing was attached:\n%s", before)
	}

	live(t, w, path, func(_ *agent.Agent, ended <-chan error) {
		if err := <-ended; !errors.Is(err, agent.ErrUninstalled) {
			t.Errorf("the life after it ends with %v", err)
		}
	})
	if text := strings.TrimSpace(w.text()); text != "sysctl net/ipv4/ip_forward -> 0" { // what it was before us
		t.Errorf("left in the kernel:\n%s", text)
	}
	live(t, w, path, func(a *agent.Agent, _ <-chan error) {
		eventually(t, "the node is ready", func() bool { return a.Status().Ready })
		if all, err := a.Endpoints(); err != nil || len(all) != 0 {
			t.Errorf("endpoints that came back: %v %v", all, err)
		}
		if u := a.Status().Pools[0].Leased; u != 0 {
			t.Errorf("%d addresses are still leased", u)
		}
	})
}

// TestUninstallNeedsNoUnderlay: that the address is not there any more may be why fairlead is to go.
func TestUninstallNeedsNoUnderlay(t *testing.T) {
	for _, anew := range []bool{false, true} {
		t.Run(fmt.Sprintf("daemon started without it %t", anew), func(t *testing.T) {
			w, path := newWorld(), filepath.Join(t.TempDir(), "fairlead.db")
			w.hear(route("10.88.2.0/24", "192.0.2.2"), route("10.88.3.0/24", "198.51.100.3"))
			box := nettest.NewHost(t, "box")
			unplug := func() {
				w.mu.Lock()
				defer w.mu.Unlock()
				w.blind, w.complete, w.heard = errors.New("no interface has 192.0.2.1"), false, nil
			}
			uninstall := func(a *agent.Agent, ended <-chan error) {
				ctx, stop := context.WithTimeout(t.Context(), 5*time.Second)
				defer stop()
				done, err := a.Uninstall(ctx)
				if err != nil || done.Removed == 0 {
					t.Fatalf("uninstall: %+v, %v", done, err)
				}
				if err := <-ended; !errors.Is(err, agent.ErrUninstalled) {
					t.Errorf("the daemon ends with %v", err)
				}
				if all, err := a.Endpoints(); err != nil || len(all) != 0 {
					t.Errorf("endpoints that are still known: %v %v", all, err)
				}
			}
			live(t, w, path, func(a *agent.Agent, ended <-chan error) {
				if _, _, err := a.Attach(t.Context(), agent.AttachRequest{Name: "web", NetNS: box.Path}); err != nil {
					t.Fatal(err)
				}
				for _, row := range []string{"device flvxlan", "endpoint fl", "route 10.88.3.0/24", "rule ", "announce "} {
					if text := w.text(); !strings.Contains(text, row) {
						t.Fatalf("no %s in\n%s", row, text)
					}
				}
				if unplug(); !anew {
					uninstall(a, ended)
				}
			})
			if anew {
				live(t, w, path, uninstall)
			}
			for line := range strings.Lines(w.text()) {
				if !strings.HasPrefix(line, "sysctl ") || !strings.HasSuffix(line, " -> 0\n") { // what they were before us
					t.Errorf("left in the kernel: %s", line)
				}
			}
		})
	}
}

// TestAnUninstallThatIsGivenUpChangesNothing lets a link refuse to go until the caller has given up.
func TestAnUninstallThatIsGivenUpChangesNothing(t *testing.T) {
	w := newWorld()
	a := start(t, w, config("10.88.1.0/24"))
	box := nettest.NewHost(t, "box")
	if _, _, err := a.Attach(t.Context(), agent.AttachRequest{Name: "web", NetNS: box.Path}); err != nil {
		t.Fatal(err)
	}
	if err := a.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	before := w.text()
	w.endpoints.mu.Lock()
	w.endpoints.keep = errors.New("busy")
	w.endpoints.mu.Unlock()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := a.Uninstall(ctx); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "busy") {
		t.Errorf("uninstall: %v", err)
	}
	eventually(t, "all is as before", func() bool { return w.text() == before })
	if !a.Status().Drained {
		t.Error("the node is not drained any more")
	}
	if all, err := a.Endpoints(); err != nil || len(all) != 1 {
		t.Errorf("endpoints %v, %v", all, err)
	}
}

func TestWhoWaitsIsToldThatTheDaemonStops(t *testing.T) {
	w := newWorld()
	a := prepare(t, w, config(""), nil)
	w.complete = false // no block is chosen yet
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	box := nettest.NewHost(t, "box")
	answer := make(chan error, 1)
	go func() {
		_, _, err := a.Attach(t.Context(), agent.AttachRequest{Name: "web", NetNS: box.Path})
		answer <- err
	}()
	eventually(t, "the first pass", func() bool { return !a.Status().LastPass.IsZero() })
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if err := <-answer; !errors.Is(err, agent.ErrStopped) {
		t.Errorf("attach: %v", err)
	}
	if err := a.Settled(t.Context(), 1<<60); !errors.Is(err, agent.ErrStopped) {
		t.Errorf("settled: %v", err)
	}
	if all, err := a.Endpoints(); err != nil || len(all) != 0 {
		t.Errorf("endpoints %v, %v", all, err)
	}
}

// TestAnAttachDoesNotCommitIntoAnUninstall: the intent is on the disk, and the attach began before anyone told it.
func TestAnAttachDoesNotCommitIntoAnUninstall(t *testing.T) {
	db := reopen(t, filepath.Join(t.TempDir(), "fairlead.db"))
	a := prepareOn(t, db, newWorld(), config("10.88.1.0/24"), nil)
	err := db.Update(t.Context(), func(tx *store.Tx) error {
		return store.Bucket[bool]{Name: "intents"}.Put(tx, "uninstall", true)
	})
	if err != nil {
		t.Fatal(err)
	}
	box := nettest.NewHost(t, "box")
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if _, _, err := a.Attach(ctx, agent.AttachRequest{Name: "web", NetNS: box.Path}); !errors.Is(err, agent.ErrConflict) {
		t.Errorf("attach: %v", err)
	}
	if all, err := a.Endpoints(); err != nil || len(all) != 0 || a.Status().Pools[0].Leased != 0 {
		t.Errorf("left: %v, %v, %d addresses", all, err, a.Status().Pools[0].Leased)
	}
}
