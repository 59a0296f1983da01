package store_test

import (
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/store"
)

// The test binary is also the child processes of its tests.
const (
	childVerify = "-child-verify" // examines the file
	childPuts   = "-child-puts"   // makes a store and puts values, for faults to strike
	childLock   = "-child-lock"   // holds the file open until its input ends
	childPanics = "-child-panics" // does what bbolt does on damage
)

func TestMain(m *testing.M) {
	if len(os.Args) == 3 {
		switch os.Args[1] {
		case childVerify:
			exit(store.Verify(os.Args[2]))
		case childPuts:
			exit(putFour(os.Args[2]))
		case childLock:
			exit(holdLock(os.Args[2]))
		case childPanics:
			panic("page 7")
		}
	}
	_ = os.Setenv("GORACE", "atexit_sleep_ms=0") // or each child with the race detector takes a second to end
	os.Exit(m.Run())
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func holdLock(path string) error {
	db, err := store.Open(context.Background(), path, store.Options{})
	if err != nil {
		return err
	}
	fmt.Println("open")
	_, _ = io.Copy(io.Discard, os.Stdin)
	return db.Close()
}

// options have the file examined in a child, as the daemon does.
func options() store.Options {
	return store.Options{Check: []string{os.Args[0], childVerify}, Timeout: 100 * time.Millisecond}
}

func open(t *testing.T, path string) *store.DB {
	t.Helper()
	db, err := store.Open(t.Context(), path, options())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func tempPath(t *testing.T) string {
	t.Helper()
	return filepath.Join(t.TempDir(), "state", "fairlead.db")
}

type fruit struct {
	Name  string `json:"name"`
	Count int    `json:"count"`
}

func fruits() store.Bucket[fruit] { return store.Bucket[fruit]{Name: "fruits"} }

func put(t *testing.T, db *store.DB, key string, v fruit) {
	t.Helper()
	if err := db.Update(t.Context(), func(tx *store.Tx) error { return fruits().Put(tx, key, v) }); err != nil {
		t.Fatal(err)
	}
}

func contents(t *testing.T, db *store.DB) map[string]fruit {
	t.Helper()
	var all map[string]fruit
	err := db.View(func(tx *store.Tx) error {
		all = maps.Collect(fruits().All(tx))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}
