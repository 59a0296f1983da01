package agent_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/agent"
	"github.com/fairlead-net/fairlead/store"
)

// TestAnUnsureStoreEndsTheDaemon has each sync fail in turn that the daemon's own first commits need, or those of a
// caller. A commit that failed cleanly ends nothing. After one that may or may not be on the disk Run ends, since only a
// new start can find that out; and the new start does.
func TestAnUnsureStoreEndsTheDaemon(t *testing.T) {
	t.Run("own commit", func(t *testing.T) { eachSyncFails(t, nil, ownCommits) })
	t.Run("commit of a caller", func(t *testing.T) { eachSyncFails(t, ownCommits, callersCommit) })
}

type life func(*testing.T, *store.DB) error

// eachSyncFails has a life in a process of its own, on a store with an earlier life if there is one, for each sync that
// its thread makes; that sync fails.
func eachSyncFails(t *testing.T, earlier, life life) {
	const inside = "FAIRLEAD_TEST_UNSURE"
	if path := os.Getenv(inside); path != "" {
		err := life(t, reopen(t, path))
		fmt.Printf("unsure %t\n", errors.Is(err, store.ErrUnsure))
		if err != nil && !errors.Is(err, store.ErrUnsure) {
			t.Error(err)
		}
		return
	}
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Fatalf("this test needs strace: make test installs it (apt-get install strace): %v", err)
	}
	ends := map[bool]int{}
	for n := 1; ; n++ {
		path := filepath.Join(t.TempDir(), "fairlead.db")
		db := reopen(t, path)
		if earlier != nil {
			if err := earlier(t, db); err != nil {
				t.Fatal(err)
			}
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		trace := path + ".trace"
		cmd := exec.CommandContext(t.Context(), strace, "-f", "-qq", "-o", trace, "-e", "trace=fdatasync",
			"-e", fmt.Sprintf("inject=fdatasync:error=EIO:when=%d", n),
			os.Args[0], "-test.run=^"+strings.ReplaceAll(t.Name(), "/", "$/^")+"$")
		cmd.Env = append(os.Environ(), inside+"="+path, "GORACE=atexit_sleep_ms=0")
		said, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("sync %d: %v: %s", n, err, said)
		}
		calls, err := os.ReadFile(trace)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(calls), "INJECTED") {
			break
		}
		ends[strings.HasPrefix(string(said), "unsure true")]++
		if err := life(t, reopen(t, path)); err != nil {
			t.Errorf("sync %d: the life after it: %v", n, err)
		}
	}
	if t.Logf("unsure, or not: %v", ends); ends[true] == 0 || ends[false] != ends[true] { // each commit syncs twice
		t.Error("a commit that failed late must end the daemon, and no other")
	}
}

func reopen(t *testing.T, path string) *store.DB {
	t.Helper()
	db, err := store.Open(t.Context(), path, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

// newborn is an agent that has commits of its own to make: it claims a block, notes kernel parameters, and that it lives.
func newborn(t *testing.T, db *store.DB) *agent.Agent {
	t.Helper()
	cfg := config("")
	cfg.Interval = 20 * time.Millisecond // it is the next pass that finds out
	return prepareOn(t, db, newWorld(), cfg, &source{})
}

// ownCommits runs a daemon until it is ready and its store well. All its commits are made on this thread, since strace
// counts the calls of each thread on its own.
func ownCommits(t *testing.T, db *store.DB) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	a := newborn(t, db)
	ctx, stop := context.WithTimeout(t.Context(), 10*time.Second)
	defer stop()
	go func() {
		for ctx.Err() == nil && (!a.Status().Ready || db.View(func(*store.Tx) error { return nil }) != nil) {
			time.Sleep(time.Millisecond)
		}
		stop()
	}()
	if err := a.Run(ctx); err != nil {
		return err
	}
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return errors.New("the daemon is not ready, or its store not well, and it runs on")
	}
	return nil
}

// callersCommit runs a daemon, and leases an address on this thread.
func callersCommit(t *testing.T, db *store.DB) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	a := newborn(t, db)
	ctx, stop := context.WithTimeout(t.Context(), 10*time.Second)
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	eventually(t, "ready", func() bool { return a.Status().Ready })
	_, err := a.LeaseAddress(ctx, agent.LeaseRequest{Owner: "vm"})
	if !errors.Is(err, store.ErrUnsure) {
		stop()
	}
	return <-ended
}
