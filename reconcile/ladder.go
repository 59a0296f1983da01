package reconcile

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// Rung is a table together with what is wanted of it in one pass. Table.Rung makes it.
type Rung interface {
	put(ctx context.Context, r *Report) (ok bool)
	prune(ctx context.Context, r *Report)
	alone() bool
	name() string
}

// Report is what one pass over the ladder did.
type Report struct {
	Writes   map[string]int // rows written or removed, by table
	Repaired int            // rows put back that an earlier pass had already put
	Mended   map[string]int // the same, by table
	Waiting  []Failure      // rows that wait for what they stand on
	Failures []Failure
	Held     []string // tables whose pruning was put off

	replaced bool // a row was put in the place of another, or should have been, or was put back
}

// Failure is one row that could not be brought to what is wanted. An empty Key means the table itself.
type Failure struct {
	Table, Key string
	Err        error
	Alone      bool // of a table whose rows concern nobody else
}

func (f Failure) String() string { return f.Err.Error() }

// Clean tells whether the tables are now as wanted, as far as this pass was allowed to go.
func (r *Report) Clean() bool { return len(r.Failures) == 0 && len(r.Waiting) == 0 }

// Sound tells whether everything is as wanted but for rows that concern nobody else, and rows that wait for those.
func (r *Report) Sound() bool {
	return !slices.ContainsFunc(r.Failures, func(f Failure) bool { return !f.Alone })
}

// Err joins the failures, nil when there are none.
func (r *Report) Err() error {
	errs := make([]error, 0, len(r.Failures)+len(r.Waiting))
	for _, f := range r.Failures {
		errs = append(errs, f.Err)
	}
	for _, f := range r.Waiting {
		errs = append(errs, f.Err)
	}
	return errors.Join(errs...)
}

// Total is the number of writes of the pass.
func (r *Report) Total() int {
	n := 0
	for _, w := range r.Writes {
		n += w
	}
	return n
}

func (r *Report) fail(table, key, verb string, err error, alone bool) {
	f := Failure{Table: table, Key: key, Err: fmt.Errorf("%s %s %s: %w", verb, table, key, err), Alone: alone}
	if key == "" {
		f.Err = fmt.Errorf("%s %s: %w", verb, table, err)
	}
	if errors.Is(err, ErrWaits) {
		r.Waiting = append(r.Waiting, f)
		return
	}
	r.Failures = append(r.Failures, f)
}

// Climb puts from the lowest rung to the highest, then prunes from the highest to the lowest.
//
// A rung that could not put everything is not pruned, nor is any rung beneath it: what the old rows stand on must stay
// until the new rows are there. Rungs above it go on.
func Climb(ctx context.Context, rungs ...Rung) *Report {
	r := &Report{Writes: make(map[string]int), Mended: make(map[string]int)}
	ok := make([]bool, len(rungs))
	for i, rung := range rungs {
		ok[i] = rung.put(ctx, r)
	}
	held := false
	for i := len(rungs) - 1; i >= 0; i-- {
		if !ok[i] && !rungs[i].alone() {
			held = true
		}
		if held {
			r.Held = append(r.Held, rungs[i].name())
			continue
		}
		rungs[i].prune(ctx, r)
	}
	return r
}

// Whole is a rung whose table takes everything that is wanted at once and works out by itself what is new and what is
// gone. On top of a ladder it is set after everything beneath is put and before anything beneath is pruned.
func Whole(name string, set func(context.Context) error) Rung {
	return whole{title: name, set: set}
}

type whole struct {
	title string
	set   func(context.Context) error
}

func (w whole) alone() bool  { return false }
func (w whole) name() string { return w.title }

func (w whole) put(ctx context.Context, r *Report) bool {
	if err := w.set(ctx); err != nil {
		r.fail(w.title, "", "set", err, false)
		return false
	}
	return true
}

func (w whole) prune(context.Context, *Report) {}
