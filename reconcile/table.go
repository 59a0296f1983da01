package reconcile

import (
	"context"
	"errors"
	"fmt"
)

// Table is a target under care from pass to pass.
//
// It remembers what it has put, for one purpose only: to tell drift that was repaired from what is newly wanted.
type Table[K, V comparable] struct {
	name    string
	target  Target[K, V]
	settled map[K]V
	single  bool
}

// NewTable takes a target into care. The name is what reports, logs and metrics call it.
func NewTable[K, V comparable](name string, t Target[K, V]) *Table[K, V] {
	return &Table[K, V]{name: name, target: t, settled: make(map[K]V)}
}

// Alone declares that the rows do not depend on each other and that nothing beneath depends on them, so that a row that
// can not be put holds back no pruning.
func (t *Table[K, V]) Alone() *Table[K, V] {
	t.single = true
	return t
}

// Rung says what is wanted of the table in this pass. Rows for which keep is true are not pruned, for instance because
// the input that would want them is not complete yet; a nil keep keeps none.
func (t *Table[K, V]) Rung(want map[K]V, keep func(K, V) bool) Rung {
	return &rung[K, V]{Table: t, want: want, keep: keep}
}

// List reads the table ahead of its rung.
func (t *Table[K, V]) List(ctx context.Context) (map[K]V, error) { return t.target.List(ctx) }

// Known is Rung for a table that this pass has read already. It is read again if have is nil, or if a row beneath has been
// replaced or put back in this pass, or could not be replaced: what stood on the old one may have gone with it.
func (t *Table[K, V]) Known(have, want map[K]V, keep func(K, V) bool) Rung {
	return &rung[K, V]{Table: t, want: want, keep: keep, have: have}
}

type rung[K, V comparable] struct {
	*Table[K, V]
	want map[K]V
	have map[K]V
	keep func(K, V) bool
	gone []K // there, not wanted, and not kept
}

func (g *rung[K, V]) alone() bool  { return g.single }
func (g *rung[K, V]) name() string { return g.Table.name }

func (g *rung[K, V]) put(ctx context.Context, r *Report) bool {
	if g.have == nil || r.replaced {
		have, err := g.target.List(ctx)
		if err != nil {
			r.fail(g.Table.name, "", "list", err, false)
			return false
		}
		g.have = have
	}
	changes := Diff(g.want, g.have)
	puts := changes.Put
	for _, k := range changes.Prune {
		if g.keep == nil || !g.keep(k, g.have[k]) {
			g.gone = append(g.gone, k)
		}
	}
	failed := g.apply(ctx, puts)
	ok := true
	for k, err := range failed {
		r.fail(g.Table.name, fmt.Sprint(k), "put", err, g.single)
		ok = ok && errors.Is(err, ErrWaits)
	}
	g.account(r, puts, failed)
	return ok
}

func (g *rung[K, V]) apply(ctx context.Context, puts map[K]V) map[K]error {
	if len(puts) == 0 {
		return nil
	}
	return Apply(ctx, g.target, puts, nil)
}

// account counts the writes and tells repairs from news.
func (g *rung[K, V]) account(r *Report, puts map[K]V, failed map[K]error) {
	for k, v := range puts {
		_, there := g.have[k]
		if _, bad := failed[k]; bad {
			r.replaced = r.replaced || there // it may have got as far as taking away the old one
			continue
		}
		r.Writes[g.Table.name]++
		was, settled := g.settled[k]
		if settled && was == v {
			r.Repaired++
			r.Mended[g.Table.name]++
		}
		if there || settled {
			r.replaced = true
		}
	}
	settled := make(map[K]V, len(g.want))
	for k, v := range g.want {
		if _, bad := failed[k]; !bad {
			settled[k] = v
		}
	}
	g.settled = settled
}

func (g *rung[K, V]) prune(ctx context.Context, r *Report) {
	if len(g.gone) == 0 {
		return
	}
	failed := Apply(ctx, g.target, nil, g.gone)
	for _, k := range g.gone {
		if err, bad := failed[k]; bad {
			r.fail(g.Table.name, fmt.Sprint(k), "delete", err, g.single)
			continue
		}
		r.Writes[g.Table.name]++
	}
}
