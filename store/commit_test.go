package store_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/fairlead-net/fairlead/store"
)

func TestConcurrentCallersShareCommits(t *testing.T) {
	defer goleak.VerifyNone(t)
	db := open(t, tempPath(t))
	before := db.Revision()
	const callers, each = 64, 20
	var wg sync.WaitGroup
	for c := range callers {
		wg.Go(func() {
			for i := range each {
				key := fmt.Sprintf("%d-%d", c, i)
				err := db.Update(t.Context(), func(tx *store.Tx) error { return fruits().Put(tx, key, fruit{key, i}) })
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if got := len(contents(t, db)); got != callers*each {
		t.Errorf("%d values, want %d", got, callers*each)
	}
	commits := db.Revision() - before
	t.Logf("%d updates in %d commits", callers*each, commits)
	if commits > callers*each/4 {
		t.Errorf("%d updates took %d commits", callers*each, commits)
	}
	_ = db.Close()
}

// gathered runs fns so that they share one commit: a first caller holds the lead until all of them wait.
func gathered(t *testing.T, db *store.DB, fns ...func(*store.Tx) error) (results []error, panics []any) {
	t.Helper()
	results, panics = make([]error, len(fns)), make([]any, len(fns))
	var wg sync.WaitGroup
	leading, release := make(chan struct{}), make(chan struct{})
	wg.Go(func() {
		err := db.Update(t.Context(), func(*store.Tx) error {
			close(leading)
			<-release
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
	<-leading
	for i, fn := range fns {
		waiting := db.Waiting()
		wg.Go(func() {
			defer func() { panics[i] = recover() }()
			results[i] = db.Update(t.Context(), fn)
		})
		for db.Waiting() == waiting { // so that the order is known
			runtime.Gosched()
		}
	}
	close(release)
	wg.Wait()
	return results, panics
}

func TestOneFailureDoesNotSpoilTheOthers(t *testing.T) {
	db := open(t, tempPath(t))
	runs := make([]int, 6)
	write := func(i int, then func() error) func(*store.Tx) error {
		return func(tx *store.Tx) error {
			runs[i]++
			key := fmt.Sprint(i)
			if err := fruits().Put(tx, key, fruit{key, i}); err != nil {
				return err
			}
			return then()
		}
	}
	fine := func() error { return nil }
	sour := errors.New("sour")
	before := db.Revision()
	results, panics := gathered(t, db,
		write(0, fine),
		write(1, func() error { return sour }),
		write(2, fine),
		write(3, func() error { panic("rotten") }),
		func(*store.Tx) error { runs[4]++; return sour }, // fails before it wrote: nobody has to run again for it
		write(5, fine),
	)
	for i, want := range []error{nil, sour, nil, nil, sour, nil} {
		if !errors.Is(results[i], want) {
			t.Errorf("caller %d: %v, want %v", i, results[i], want)
		}
	}
	if panics[3] != "rotten" {
		t.Errorf("panic %v", panics[3])
	}
	got := contents(t, db)
	for i, want := range []bool{true, false, true, false, false, true} {
		if _, there := got[fmt.Sprint(i)]; there != want {
			t.Errorf("value %d there: %t, want %t", i, there, want)
		}
	}
	if runs[4] != 1 || runs[1] != 1 || runs[3] != 1 {
		t.Errorf("runs %v: who failed must not run again", runs)
	}
	if n := db.Revision() - before; n != 1 {
		t.Errorf("%d commits, want 1", n)
	}
}

func TestLonePanicLeavesTheStoreUsable(t *testing.T) {
	db := open(t, tempPath(t))
	func() {
		defer func() {
			if p := recover(); p != "rotten" {
				t.Errorf("panic %v", p)
			}
		}()
		_ = db.Update(t.Context(), func(tx *store.Tx) error {
			_ = fruits().Put(tx, "a", fruit{})
			panic("rotten")
		})
	}()
	put(t, db, "b", fruit{"banana", 1})
	if got := contents(t, db); len(got) != 1 {
		t.Errorf("contents %v", got)
	}
}

func TestWaitingHonoursItsContext(t *testing.T) {
	db := open(t, tempPath(t))
	done, cancel := context.WithCancel(t.Context())
	cancel()
	if err := db.Update(done, func(*store.Tx) error { return errors.New("ran") }); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled before: %v", err)
	}

	leading, release := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		_ = db.Update(t.Context(), func(*store.Tx) error {
			close(leading)
			<-release
			return nil
		})
	})
	<-leading
	ctx, cancel := context.WithCancel(t.Context())
	left := make(chan error)
	go func() { left <- db.Update(ctx, func(*store.Tx) error { t.Error("ran"); return nil }) }()
	for db.Waiting() == 0 {
		runtime.Gosched()
	}
	// Another one waits behind it, and must get its turn although the first leaves.
	wg.Go(func() { put(t, db, "b", fruit{"banana", 1}) })
	for db.Waiting() == 1 {
		runtime.Gosched()
	}
	cancel()
	if err := <-left; !errors.Is(err, context.Canceled) {
		t.Errorf("canceled while waiting: %v", err)
	}
	close(release)
	wg.Wait()
	if got := contents(t, db); len(got) != 1 {
		t.Errorf("contents %v", got)
	}
}
