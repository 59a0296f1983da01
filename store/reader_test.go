package store_test

import (
	"bytes"
	"errors"
	"iter"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/fairlead-net/fairlead/store"
)

// change puts a fruit; one without a name stands for a deletion.
func change(tx *store.Tx, key string, v fruit) error {
	if v.Name == "" {
		return fruits().Delete(tx, key)
	}
	return fruits().Put(tx, key, v)
}

type entry struct {
	Key   string
	Fruit fruit
}

func entries(all iter.Seq2[string, fruit]) (list []entry) {
	for k, v := range all {
		list = append(list, entry{k, v})
	}
	return list
}

// TestReaderGivesWhatTheBucketGives: whatever was put, changed, changed back, deleted or undone since it last read, a
// reader gives what the bucket gives, in the same order.
func TestReaderGivesWhatTheBucketGives(t *testing.T) {
	db := open(t, tempPath(t))
	r := store.NewReader(fruits())
	undone := errors.New("undone")
	value := rapid.SampledFrom([]fruit{{"apple", 1}, {"apple", 2}, {"banana", 1}, {}})
	changes := rapid.MapOfN(rapid.SampledFrom([]string{"a", "b", "c", "d"}), value, 0, 3)
	rapid.Check(t, func(t *rapid.T) {
		same := func(tx *store.Tx) {
			if diff := cmp.Diff(entries(fruits().All(tx)), entries(r.All(tx))); diff != "" {
				t.Fatal(diff)
			}
		}
		for range rapid.IntRange(1, 4).Draw(t, "rounds") {
			for range rapid.IntRange(0, 3).Draw(t, "commits") {
				set, look, undo := changes.Draw(t, "changes"), rapid.Bool().Draw(t, "look"), rapid.Bool().Draw(t, "undo")
				err := db.Update(t.Context(), func(tx *store.Tx) error {
					for k, v := range set {
						if err := change(tx, k, v); err != nil {
							return err
						}
					}
					if look {
						same(tx)
					}
					if undo {
						return undone
					}
					return nil
				})
				if err != nil && !errors.Is(err, undone) {
					t.Fatal(err)
				}
			}
			part := rapid.Bool().Draw(t, "read a part first") // which must not matter to the next time
			err := db.View(func(tx *store.Tx) error {
				for range r.All(tx) {
					if part {
						break
					}
				}
				same(tx)
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestReaderDecodesOnlyWhatChanged(t *testing.T) {
	db := open(t, tempPath(t))
	put(t, db, "z", fruit{"zest", 9}) // a neighbour that never changes
	// What is decoded anew is at another address.
	r := store.NewReader(store.Bucket[*fruit]{Name: "fruits"})
	before := map[string]*fruit{}
	for _, step := range []struct {
		what, key string
		put       fruit
		fresh     []string
	}{
		{"first", "a", fruit{"apple", 1}, []string{"a", "z"}},
		{"the same", "a", fruit{"apple", 1}, nil},
		{"changed", "a", fruit{"apple", 2}, []string{"a"}},
		{"changed back", "a", fruit{"apple", 1}, []string{"a"}},
		{"the file grew and is mapped elsewhere", "b", fruit{strings.Repeat("melon ", 1<<19), 1}, []string{"b"}},
		{"deleted", "a", fruit{}, nil},
		{"put again", "a", fruit{"apple", 1}, []string{"a"}},
	} {
		if err := db.Update(t.Context(), func(tx *store.Tx) error { return change(tx, step.key, step.put) }); err != nil {
			t.Fatal(err)
		}
		var fresh []string
		now := map[string]*fruit{}
		err := db.View(func(tx *store.Tx) error {
			for k, v := range r.All(tx) {
				if now[k] = v; before[k] != v {
					fresh = append(fresh, k)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(step.fresh, fresh); diff != "" {
			t.Errorf("%s: %s", step.what, diff)
		}
		before = now
	}
}

// TestDamageUnderAReaderIsAnError: that a value was sound when it was read is no reason to trust it now.
func TestDamageUnderAReaderIsAnError(t *testing.T) {
	path := tempPath(t)
	db := open(t, path)
	put(t, db, "a", fruit{"apple", 3})
	put(t, db, "b", fruit{"banana", 1})
	r := store.NewReader(fruits())
	read := func() (got []entry, err error) {
		err = db.View(func(tx *store.Tx) error {
			got = entries(r.All(tx))
			return nil
		})
		return got, err
	}
	sound, err := read()
	if err != nil || len(sound) != 2 {
		t.Fatal(sound, err)
	}
	overwrite(t, path, "banana", "bananq")
	got, err := read()
	if !errors.Is(err, store.ErrCorrupt) || !strings.Contains(err.Error(), `read fruits "b"`) {
		t.Errorf("damaged: %v", err)
	}
	if diff := cmp.Diff(sound[:1], got); diff != "" {
		t.Errorf("damaged: %s", diff)
	}
	overwrite(t, path, "bananq", "banana")
	got, err = read()
	if diff := cmp.Diff(sound, got); diff != "" || err != nil {
		t.Errorf("mended: %v %s", err, diff)
	}
}

// overwrite changes a text wherever the file has it, under whoever has the file open.
func overwrite(t *testing.T, path, old, by string) {
	t.Helper()
	image, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for at := 0; ; {
		i := bytes.Index(image[at:], []byte(old))
		if i < 0 {
			return
		}
		at += i
		if _, err := f.WriteAt([]byte(by), int64(at)); err != nil {
			t.Fatal(err)
		}
		at += len(old)
	}
}
