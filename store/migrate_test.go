package store_test

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-net/fairlead/store"
)

// older is how fruits were kept by an artificial schema before the one of the test.
func older() store.Bucket[string] { return store.Bucket[string]{Name: "fruits"} }

// later are the steps to artificial schemas after this binary's own: counts come in with 2, and a basket with 3.
func later() map[uint64]func(*store.Tx) error {
	return map[uint64]func(*store.Tx) error{
		1: func(tx *store.Tx) error {
			names := map[string]string{}
			for key, name := range older().All(tx) {
				names[key] = name
			}
			for key, name := range names {
				if err := fruits().Put(tx, key, fruit{Name: name, Count: 1}); err != nil {
					return err
				}
			}
			return nil
		},
		2: func(tx *store.Tx) error { return store.Bucket[int]{Name: "basket"}.Put(tx, "size", 7) },
	}
}

func oldStore(t *testing.T) (path string) {
	t.Helper()
	path = tempPath(t)
	db := open(t, path)
	err := db.Update(t.Context(), func(tx *store.Tx) error { return older().Put(tx, "a", "apple") })
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestOlderSchemaIsBroughtUpToDateInOneCommit(t *testing.T) {
	path := oldStore(t)
	db, err := store.OpenSchema(t.Context(), path, options(), 3, later())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]fruit{"a": {"apple", 1}}, contents(t, db)); diff != "" {
		t.Error(diff)
	}
	rev, node := db.Revision(), db.NodeUUID()
	_ = db.Close()
	if rev != 3 { // made, put, migrated
		t.Errorf("revision %d, want 3", rev)
	}
	db, err = store.OpenSchema(t.Context(), path, options(), 3, later())
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if db.Revision() != rev || db.NodeUUID() != node {
		t.Errorf("opened again: revision %d, node %s; want %d, %s", db.Revision(), db.NodeUUID(), rev, node)
	}
}

func TestNewerSchemaIsRefusedAndLeftAlone(t *testing.T) {
	path := oldStore(t)
	db, err := store.OpenSchema(t.Context(), path, options(), 3, later())
	if err != nil {
		t.Fatal(err)
	}
	_ = db.Close()
	image, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	_, err = store.Open(t.Context(), path, options())
	if !errors.Is(err, store.ErrNewer) || !strings.Contains(err.Error(), "its schema is 3 and this binary knows 1") {
		t.Errorf("error %v", err)
	}
	unchanged(t, path, image)
}

func TestFailedMigrationChangesNothing(t *testing.T) {
	path := oldStore(t)
	image, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	steps := later()
	sour := errors.New("sour")
	steps[2] = func(*store.Tx) error { return sour }
	if _, err := store.OpenSchema(t.Context(), path, options(), 3, steps); !errors.Is(err, sour) {
		t.Errorf("error %v", err)
	}
	delete(steps, 2)
	_, err = store.OpenSchema(t.Context(), path, options(), 3, steps)
	if err == nil || !strings.Contains(err.Error(), "migrate schema 2 to 3: no such step") {
		t.Errorf("missing step: %v", err)
	}
	unchanged(t, path, image)
}
