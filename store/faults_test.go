package store_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/fairlead-net/fairlead/store"
)

// putFour is a child process: it makes a store and puts four values, and says how each went.
func putFour(path string) error {
	runtime.LockOSThread() // strace counts the calls of each thread on its own
	db, err := store.Open(context.Background(), path, store.Options{})
	if err != nil {
		fmt.Println("open failed")
		return nil
	}
	for i := range 4 {
		key := strconv.Itoa(i)
		err := db.Update(context.Background(), func(tx *store.Tx) error { return fruits().Put(tx, key, fruit{key, i}) })
		seen := db.View(func(tx *store.Tx) error { return nil })
		warned := false
		select {
		case <-db.Unsure():
			warned = true
		default:
		}
		switch {
		case warned != errors.Is(seen, store.ErrUnsure):
			fmt.Println(key, "odd: warned", warned, seen)
		case err == nil && seen == nil:
			fmt.Println(key, "ok")
		case errors.Is(err, store.ErrUnsure) && errors.Is(seen, store.ErrUnsure):
			fmt.Println(key, "unsure")
		case err != nil && seen == nil:
			fmt.Println(key, "failed")
		default:
			fmt.Println(key, "odd", err, seen)
		}
	}
	return nil
}

// TestFailedSyncIsNeverTakenForSuccess has each sync of a store's life fail in turn. A commit that was answered is
// there, one that failed cleanly is not, and after one that nobody can tell the store says nothing more.
func TestFailedSyncIsNeverTakenForSuccess(t *testing.T) {
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Fatalf("this test needs strace: make test installs it (apt-get install strace): %v", err)
	}
	seen := map[string]int{}
	for _, call := range []string{"fdatasync", "pwrite64", "fsync"} {
		for n := 1; ; n++ {
			path := tempPath(t)
			inject := fmt.Sprintf("inject=%s:error=EIO:when=%d", call, n)
			cmd := exec.CommandContext(t.Context(), strace, "-f", "-qq", "-o", t.TempDir()+"/log", "-e", "trace="+call, "-e", inject,
				os.Args[0], childPuts, path)
			said, err := cmd.Output()
			if err != nil {
				t.Fatalf("%s %d: %v: %s", call, n, err, said)
			}
			if !faulted(t, path, call, n, string(said), seen) {
				break
			}
		}
	}
	t.Logf("answers %v", seen)
	for _, kind := range []string{"open failed", "failed", "unsure"} {
		if seen[kind] == 0 {
			t.Errorf("no fault led to %q", kind)
		}
	}
}

// faulted compares what the child said with what its file holds, and tells whether anything failed.
func faulted(t *testing.T, path, call string, n int, said string, seen map[string]int) bool {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(said), "\n")
	if said == "open failed\n" {
		seen["open failed"]++
		put(t, open(t, path), "a", fruit{"apple", 3})
		return true
	}
	got := contents(t, open(t, path))
	unsure, fault := false, false
	for _, line := range lines {
		key, answer, _ := strings.Cut(line, " ")
		seen[answer]++
		_, there := got[key]
		fault = fault || answer != "ok"
		switch {
		case unsure && answer != "unsure",
			answer == "ok" && !there,
			answer == "failed" && there,
			answer != "ok" && answer != "failed" && answer != "unsure":
			t.Errorf("%s %d: the child said %q, the file has %v", call, n, lines, got)
		}
		unsure = unsure || answer == "unsure"
	}
	if len(lines) != 4 {
		t.Errorf("%s %d: the child said %q", call, n, lines)
	}
	return fault
}
