package store_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/fairlead-net/fairlead/store"
)

func TestWhatWasPutIsThereAfterReopening(t *testing.T) {
	path := tempPath(t)
	db := open(t, path)
	put(t, db, "a", fruit{"apple", 3})
	put(t, db, "b", fruit{"banana", 1})
	node, rev := db.NodeUUID(), db.Revision()
	if node == uuid.Nil {
		t.Error("the node has no identity")
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db = open(t, path)
	want := map[string]fruit{"a": {"apple", 3}, "b": {"banana", 1}}
	if diff := cmp.Diff(want, contents(t, db)); diff != "" {
		t.Error(diff)
	}
	if db.NodeUUID() != node || db.Revision() != rev {
		t.Errorf("node %s revision %d, want %s %d", db.NodeUUID(), db.Revision(), node, rev)
	}
}

func TestFileAndDirectoryAreForTheirOwnerOnly(t *testing.T) {
	path := tempPath(t)
	open(t, path)
	for name, want := range map[string]os.FileMode{path: 0o600, filepath.Dir(path): 0o700 | os.ModeDir} {
		info, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode() != want {
			t.Errorf("%s has mode %s, want %s", name, info.Mode(), want)
		}
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 1 {
		t.Errorf("the directory has %v, %v; want the store alone", entries, err)
	}
}

func TestRevisionGrowsOnlyWithAChange(t *testing.T) {
	db := open(t, tempPath(t))
	put(t, db, "a", fruit{"apple", 3})
	rev := db.Revision()
	unchanging := map[string]func(*store.Tx) error{
		"nothing":       func(*store.Tx) error { return nil },
		"the same":      func(tx *store.Tx) error { return fruits().Put(tx, "a", fruit{"apple", 3}) },
		"delete absent": func(tx *store.Tx) error { return fruits().Delete(tx, "z") },
		"no bucket":     func(tx *store.Tx) error { return store.Bucket[int]{Name: "none"}.Delete(tx, "z") },
		"error": func(tx *store.Tx) error {
			return errors.Join(fruits().Delete(tx, "a"), errors.ErrUnsupported)
		},
	}
	for name, fn := range unchanging {
		err := db.Update(t.Context(), fn)
		if name == "error" != (err != nil) {
			t.Errorf("%s: %v", name, err)
		}
		if db.Revision() != rev {
			t.Errorf("%s: revision %d, want %d", name, db.Revision(), rev)
		}
	}
	var in uint64
	err := db.Update(t.Context(), func(tx *store.Tx) error {
		in = tx.Revision()
		return fruits().Delete(tx, "a")
	})
	if err != nil || in != rev+1 || db.Revision() != rev+1 {
		t.Errorf("revision %d in, %d after, %v; want %d", in, db.Revision(), err, rev+1)
	}
	if got := contents(t, db); len(got) != 0 {
		t.Errorf("contents %v", got)
	}
}

func TestValueOfAnotherKindIsAnError(t *testing.T) {
	db := open(t, tempPath(t))
	put(t, db, "a", fruit{"apple", 3})
	wrong := store.Bucket[[]string]{Name: "fruits"}
	err := db.View(func(tx *store.Tx) error {
		_, found, err := wrong.Get(tx, "a")
		if found {
			t.Error("found")
		}
		return err
	})
	if err == nil || !strings.Contains(err.Error(), `read fruits "a"`) {
		t.Errorf("Get: %v", err)
	}
	err = db.View(func(tx *store.Tx) error {
		for range wrong.All(tx) {
			t.Error("decoded")
		}
		return nil
	})
	if err == nil || !strings.Contains(err.Error(), `read fruits "a"`) {
		t.Errorf("All in View: %v", err)
	}
	err = db.Update(t.Context(), func(tx *store.Tx) error {
		for range wrong.All(tx) {
			t.Error("decoded")
		}
		return fruits().Delete(tx, "a")
	})
	if err == nil || len(contents(t, db)) != 1 {
		t.Errorf("All in Update: %v, %v left", err, contents(t, db))
	}
}

func TestClosedStoreSaysSo(t *testing.T) {
	db := open(t, tempPath(t))
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if err := db.View(func(*store.Tx) error { return nil }); !errors.Is(err, store.ErrClosed) {
		t.Errorf("View: %v", err)
	}
	err := db.Update(t.Context(), func(*store.Tx) error { return nil })
	if !errors.Is(err, store.ErrClosed) {
		t.Errorf("Update: %v", err)
	}
	if err := db.Close(); err != nil {
		t.Errorf("Close again: %v", err)
	}
}

func TestInterruptedCreationIsBegunAgain(t *testing.T) {
	path := tempPath(t)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path+".new", []byte("half a page"), 0o600); err != nil {
		t.Fatal(err)
	}
	put(t, open(t, path), "a", fruit{"apple", 3})
	if _, err := os.Stat(path + ".new"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the draft is still there: %v", err)
	}
}

func TestOnlyOneOfManyMakesTheStore(t *testing.T) {
	for range 20 {
		path := tempPath(t)
		dbs, errs := make([]*store.DB, 8), make([]error, 8)
		var wg sync.WaitGroup
		for i := range dbs {
			wg.Go(func() { dbs[i], errs[i] = store.Open(t.Context(), path, store.Options{Timeout: 50 * time.Millisecond}) })
		}
		wg.Wait()
		made := 0
		for i, db := range dbs {
			if errs[i] == nil {
				made++
				put(t, db, "a", fruit{"apple", i})
				_ = db.Close()
			} else if !errors.Is(errs[i], store.ErrLocked) {
				t.Error(errs[i])
			}
		}
		if made != 1 || len(contents(t, open(t, path))) != 1 {
			t.Errorf("%d of %d made it: %v", made, len(dbs), errs)
		}
		if left, err := os.ReadDir(filepath.Dir(path)); err != nil || len(left) != 1 {
			t.Errorf("left behind: %v, %v", left, err)
		}
	}
}
