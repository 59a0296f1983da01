// Package reconcile brings a table of facts, usually the kernel's, to what is wanted of it.
package reconcile

import (
	"context"
	"errors"
)

// ErrWaits is wrapped by a Put that can not be done yet because what the row stands on is not there, such as the device
// of a route. It is no failure: the pass is not clean, but nothing is held back because of it.
var ErrWaits = errors.New("waits for what it stands on")

// Target is one table of facts that we own. What others own is invisible to it: never listed, never touched.
type Target[K, V comparable] interface {
	// List reads every row of ours.
	List(ctx context.Context) (map[K]V, error)
	// Put makes or replaces the row k. It is idempotent.
	Put(ctx context.Context, k K, v V) error
	// Delete removes the row k. Absent is success.
	Delete(ctx context.Context, k K) error
}

// Bulk is offered by a target that writes many rows faster together than one by one.
type Bulk[K, V comparable] interface {
	// Apply puts, then deletes; it returns the rows that failed and why.
	Apply(ctx context.Context, puts map[K]V, deletes []K) map[K]error
}

// Apply puts, then deletes, many rows together where the target can. It returns the rows that failed and why.
func Apply[K, V comparable](ctx context.Context, t Target[K, V], puts map[K]V, deletes []K) map[K]error {
	if b, ok := t.(Bulk[K, V]); ok {
		return b.Apply(ctx, puts, deletes)
	}
	failed := make(map[K]error)
	for k, v := range puts {
		if err := t.Put(ctx, k, v); err != nil {
			failed[k] = err
		}
	}
	for _, k := range deletes {
		if err := t.Delete(ctx, k); err != nil {
			failed[k] = err
		}
	}
	return failed
}

// Changes is what must be done to a table.
type Changes[K, V comparable] struct {
	Put   map[K]V // missing or different
	Prune []K     // there and not wanted
}

// Diff compares what is wanted with what is there.
func Diff[K, V comparable](want, have map[K]V) Changes[K, V] {
	c := Changes[K, V]{Put: make(map[K]V)}
	for k, w := range want {
		if h, ok := have[k]; !ok || h != w {
			c.Put[k] = w
		}
	}
	for k := range have {
		if _, ok := want[k]; !ok {
			c.Prune = append(c.Prune, k)
		}
	}
	return c
}
