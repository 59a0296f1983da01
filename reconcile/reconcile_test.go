package reconcile_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/fairlead-net/fairlead/reconcile"
)

// fake is a kernel table in memory. Rows in broken refuse to be put; every effect is noted in the shared journal.
type fake struct {
	name    string
	rows    map[int]string
	broken  map[int]error
	journal *[]string
	deaf    error
	reads   int
	load    *fake // rows that stand on these, and go when the one beneath is replaced
}

func (f *fake) List(context.Context) (map[int]string, error) {
	f.reads++
	return maps.Clone(f.rows), f.deaf
}

func (f *fake) Put(_ context.Context, k int, v string) error {
	if err := f.broken[k]; err != nil {
		return err
	}
	f.rows[k] = v
	if f.load != nil {
		delete(f.load.rows, k)
	}
	f.note("put %s %d", f.name, k)
	return nil
}

func (f *fake) Delete(_ context.Context, k int) error {
	delete(f.rows, k)
	f.note("delete %s %d", f.name, k)
	return nil
}

func (f *fake) note(format string, args ...any) {
	if f.journal != nil {
		*f.journal = append(*f.journal, fmt.Sprintf(format, args...))
	}
}

// bulky is a fake that also takes rows in bulk.
type bulky struct{ *fake }

func (b bulky) Apply(ctx context.Context, puts map[int]string, deletes []int) map[int]error {
	failed := map[int]error{}
	for k, v := range puts {
		if err := b.Put(ctx, k, v); err != nil {
			failed[k] = err
		}
	}
	for _, k := range deletes {
		_ = b.Delete(ctx, k)
	}
	return failed
}

func two(t *testing.T) (lower, upper *fake, journal *[]string) {
	t.Helper()
	journal = new([]string)
	lower = &fake{name: "link", rows: map[int]string{1: "old"}, broken: map[int]error{}, journal: journal}
	upper = &fake{name: "route", rows: map[int]string{1: "old"}, broken: map[int]error{}, journal: journal}
	return lower, upper, journal
}

func TestPutsClimbAndPrunesDescend(t *testing.T) {
	lower, upper, journal := two(t)
	links, routes := reconcile.NewTable("link", lower), reconcile.NewTable("route", upper)
	want := map[int]string{2: "new"}
	r := reconcile.Climb(t.Context(), links.Rung(want, nil), routes.Rung(want, nil))
	if !r.Clean() || r.Total() != 4 || r.Repaired != 0 {
		t.Fatalf("report %+v", r)
	}
	if diff := cmp.Diff([]string{"put link 2", "put route 2", "delete route 1", "delete link 1"}, *journal); diff != "" {
		t.Fatal(diff)
	}
}

func TestFailedPutHoldsWhatIsBeneath(t *testing.T) {
	lower, upper, journal := two(t)
	top := &fake{name: "announcement", rows: map[int]string{7: "x"}, journal: journal}
	upper.broken[2] = errors.New("network is unreachable")
	want := map[int]string{2: "new"}
	r := reconcile.Climb(t.Context(),
		reconcile.NewTable("link", lower).Rung(want, nil),
		reconcile.NewTable("route", upper).Rung(want, nil),
		reconcile.NewTable("announcement", top).Rung(nil, nil))
	if diff := cmp.Diff([]string{"put link 2", "delete announcement 7"}, *journal); diff != "" {
		t.Fatal(diff)
	}
	if got := r.Err().Error(); got != "put route 2: network is unreachable" {
		t.Fatal(got)
	}
	if diff := cmp.Diff([]string{"route", "link"}, r.Held); diff != "" {
		t.Fatal(diff)
	}
}

func TestRowsThatWaitOrStandAloneHoldNothing(t *testing.T) {
	for name, broken := range map[string]error{"waits": fmt.Errorf("link gone: %w", reconcile.ErrWaits), "alone": errors.New("no")} {
		lower, upper, journal := two(t)
		upper.broken[2] = broken
		want := map[int]string{2: "new"}
		table := reconcile.NewTable("route", upper)
		if name == "alone" {
			table.Alone()
		}
		r := reconcile.Climb(t.Context(), reconcile.NewTable("link", lower).Rung(want, nil), table.Rung(want, nil))
		if r.Clean() {
			t.Errorf("%s: the pass counts as clean", name)
		}
		if diff := cmp.Diff([]string{"put link 2", "delete route 1", "delete link 1"}, *journal); diff != "" {
			t.Error(name, diff)
		}
	}
}

func TestUnreadableTableIsLeftAlone(t *testing.T) {
	lower, upper, journal := two(t)
	upper.deaf = errors.New("interrupted")
	r := reconcile.Climb(t.Context(), reconcile.NewTable("link", lower).Rung(nil, nil), reconcile.NewTable("route", upper).Rung(nil, nil))
	if len(*journal) != 0 || r.Err().Error() != "list route: interrupted" {
		t.Fatalf("%v %v", *journal, r.Err())
	}
}

func TestKeptRowsAreNotPruned(t *testing.T) {
	lower, _, journal := two(t)
	lower.rows[2] = "old"
	keep := func(k int, _ string) bool { return k == 1 }
	reconcile.Climb(t.Context(), reconcile.NewTable("link", lower).Rung(nil, keep))
	if diff := cmp.Diff([]string{"delete link 2"}, *journal); diff != "" {
		t.Fatal(diff)
	}
}

// TestReadAheadIsReadAgainOnlyWhereItMayBeStale: what was listed before the climb is believed, unless a row beneath was
// put in the place of another or put back. What stood on the old one may have gone with it, and is put in the same pass.
func TestReadAheadIsReadAgainOnlyWhereItMayBeStale(t *testing.T) {
	for _, c := range []struct {
		name   string
		drift  func(links *fake)
		want   map[int]string // links, after a pass that wanted 1 and 2
		reads  int            // of the routes
		writes int
	}{
		{"nothing happened", func(*fake) {}, map[int]string{1: "a", 2: "b"}, 0, 0},
		{"replaced by what is newly wanted", func(*fake) {}, map[int]string{1: "a", 2: "c"}, 1, 2},
		{"changed by others and replaced", func(f *fake) { f.rows[2] = "x" }, map[int]string{1: "a", 2: "b"}, 1, 2},
		{"taken by others and put back", func(f *fake) { delete(f.rows, 2) }, map[int]string{1: "a", 2: "b"}, 1, 2},
		{"taken by others and put back as another", func(f *fake) { delete(f.rows, 2) }, map[int]string{1: "a", 2: "c"}, 1, 2},
		{"left otherwise by an earlier daemon", nil, map[int]string{1: "a", 2: "c"}, 1, 2},
		{"could not be put back", func(f *fake) {
			delete(f.rows, 2)
			f.broken = map[int]error{2: errors.New("no")}
		}, map[int]string{1: "a", 2: "b"}, 0, 0},
		{"could not be replaced", func(f *fake) {
			f.rows[2] = "x"
			f.broken = map[int]error{2: errors.New("no")}
		}, map[int]string{1: "a", 2: "b"}, 1, 0},
		{"new", func(*fake) {}, map[int]string{1: "a", 2: "b", 3: "c"}, 0, 1},
		{"not wanted any more", func(*fake) {}, map[int]string{1: "a"}, 0, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			upper := &fake{name: "route", rows: map[int]string{}}
			lower := &fake{name: "link", rows: map[int]string{}, load: upper}
			links, routes := reconcile.NewTable("link", lower), reconcile.NewTable("route", upper)
			roads := map[int]string{1: "x", 2: "y"}
			reconcile.Climb(t.Context(), links.Rung(map[int]string{1: "a", 2: "b"}, nil), routes.Rung(roads, nil))
			if c.drift == nil {
				links, routes = reconcile.NewTable("link", lower), reconcile.NewTable("route", upper)
			} else {
				c.drift(lower)
			}
			have := maps.Clone(upper.rows)
			upper.reads = 0
			r := reconcile.Climb(t.Context(), links.Known(maps.Clone(lower.rows), c.want, nil), routes.Known(have, roads, nil))
			if upper.reads != c.reads || r.Total() != c.writes {
				t.Errorf("%d reads and %v written, want %d and %d", upper.reads, r.Writes, c.reads, c.writes)
			}
			if diff := cmp.Diff(roads, upper.rows); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestOnlyWhatCouldNotBeReadAheadIsReadInItsTurn(t *testing.T) {
	lower, upper, journal := two(t)
	links, routes := reconcile.NewTable("link", lower), reconcile.NewTable("route", upper)
	have, err := links.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := map[int]string{1: "old", 2: "new"}
	r := reconcile.Climb(t.Context(), links.Known(have, want, nil), routes.Known(nil, want, nil))
	if lower.reads != 1 || upper.reads != 1 || !r.Clean() {
		t.Errorf("%d and %d reads, %v", lower.reads, upper.reads, r.Err())
	}
	if diff := cmp.Diff([]string{"put link 2", "put route 2"}, *journal); diff != "" {
		t.Error(diff)
	}
}

// TestAnyDriftIsGoneInOnePass: whatever others did to the table, one pass restores it, counts the repairs of what was
// settled before, and the pass after it writes nothing.
func TestAnyDriftIsGoneInOnePass(t *testing.T) {
	rows := rapid.MapOf(rapid.IntRange(0, 20), rapid.SampledFrom([]string{"a", "b", "c"}))
	rapid.Check(t, func(t *rapid.T) {
		want, drift := rows.Draw(t, "want"), rows.Draw(t, "drift")
		f := &fake{name: "route", rows: rows.Draw(t, "before")}
		var target reconcile.Target[int, string] = f
		if rapid.Bool().Draw(t, "bulk") {
			target = bulky{f}
		}
		table := reconcile.NewTable("route", target)
		reconcile.Climb(t.Context(), table.Rung(want, nil))
		f.rows = maps.Clone(drift)
		repairs := 0
		for k, v := range want {
			if drift[k] != v {
				repairs++
			}
		}
		r := reconcile.Climb(t.Context(), table.Rung(want, nil))
		if diff := cmp.Diff(want, f.rows); diff != "" || r.Repaired != repairs || r.Mended["route"] != repairs {
			t.Fatalf("repaired %d, want %d; %s", r.Repaired, repairs, diff)
		}
		if r := reconcile.Climb(t.Context(), table.Rung(want, nil)); r.Total() != 0 {
			t.Fatalf("a second pass wrote %d rows", r.Total())
		}
	})
}

func TestDiffNamesEachRowOnce(t *testing.T) {
	c := reconcile.Diff(map[int]string{1: "a", 2: "b", 3: "c"}, map[int]string{1: "a", 2: "x", 4: "d", 5: "e"})
	slices.Sort(c.Prune)
	if diff := cmp.Diff(reconcile.Changes[int, string]{Put: map[int]string{2: "b", 3: "c"}, Prune: []int{4, 5}}, c); diff != "" {
		t.Fatal(diff)
	}
}
