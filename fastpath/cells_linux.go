package fastpath

import (
	"context"
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

const (
	together  = 1024 // entries that one call writes or reads
	fullCycle = 4    // times that a table may seem to hold more than it has room for, while others change it
)

// cells are the entries of a map of the kernel, with keys and values as layout.go has them.
type cells[K comparable, V any] struct{ m *ebpf.Map }

// read reads all entries. What is there from the beginning to the end of it is in the answer.
func (c cells[K, V]) read(ctx context.Context) (map[K]V, error) {
	have, err := c.readBatch(ctx)
	if errors.Is(err, ebpf.ErrNotSupported) {
		have, err = c.readEach(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("read map %v: %w", c.m, err)
	}
	return have, nil
}

func (c cells[K, V]) readBatch(ctx context.Context) (map[K]V, error) {
	have := make(map[K]V)
	size := together
	keys, values := make([]K, size), make([]V, size)
	limit := fullCycle * max(int(c.m.MaxEntries()), together)
	for cursor, total := new(ebpf.MapBatchCursor), 0; total <= limit; {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		n, err := c.m.BatchLookup(cursor, keys, values, nil)
		if errors.Is(err, unix.ENOSPC) && size <= limit { // a bucket of the table has more
			size *= 2
			keys, values = make([]K, size), make([]V, size)
			continue
		}
		if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return nil, err
		}
		for i, k := range keys[:n] {
			have[k] = values[i]
		}
		total += n
		if err != nil {
			return have, nil
		}
	}
	return nil, errors.New("others change it all the time")
}

func (c cells[K, V]) readEach(ctx context.Context) (map[K]V, error) {
	have := make(map[K]V)
	var k K
	var v V
	for all := c.m.Iterate(); ; {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if !all.Next(&k, &v) {
			return have, all.Err()
		}
		have[k] = v
	}
}

// write writes entries, and returns the error of each that could not be.
func (c cells[K, V]) write(ctx context.Context, keys []K, values []V) []error {
	return inParts(ctx, len(keys), func(from, to int) (int, error) {
		return c.m.BatchUpdate(keys[from:to], values[from:to], nil)
	}, func(i int) error {
		return full(c.m.Put(&keys[i], &values[i]))
	})
}

// erase deletes entries. One that is not there is no error.
func (c cells[K, V]) erase(ctx context.Context, keys []K) []error {
	return inParts(ctx, len(keys), func(from, to int) (int, error) {
		return c.m.BatchDelete(keys[from:to], nil)
	}, func(i int) error {
		if err := c.m.Delete(&keys[i]); !errors.Is(err, ebpf.ErrKeyNotExist) {
			return err
		}
		return nil
	})
}

// inParts does things by many where it can, and from the first that fails on each for itself.
func inParts(ctx context.Context, all int, many func(from, to int) (done int, err error), one func(i int) error) []error {
	errs := make([]error, all)
	for from := 0; from < all; from += together {
		to := min(from+together, all)
		next := to
		if err := ctx.Err(); err != nil {
			for i := from; i < all; i++ {
				errs[i] = err
			}
			return errs
		}
		if done, err := many(from, to); err != nil {
			// A kernel that has not begun says that it has done all of them.
			if next = from + done; next >= to || errors.Is(err, ebpf.ErrNotSupported) {
				next = from
			}
		}
		for i := next; i < to; i++ {
			errs[i] = one(i)
		}
	}
	return errs
}

// full tells a map without room from other errors: a hash says E2BIG, a trie ENOSPC.
func full(err error) error {
	if errors.Is(err, unix.E2BIG) || errors.Is(err, unix.ENOSPC) {
		return fmt.Errorf("%w: %w", errFull, err)
	}
	return err
}

// twin is a table of which each family has a map of its own.
type twin[R, K4, K6 comparable, V any] struct {
	four cells[K4, V]
	six  cells[K6, V]
	key  func(R) (is4 bool, four K4, six K6)
	row4 func(K4) R
	row6 func(K6) R
}

func (t twin[R, K4, K6, V]) read(ctx context.Context) (map[R]V, error) {
	four, err := t.four.read(ctx)
	if err != nil {
		return nil, err
	}
	six, err := t.six.read(ctx)
	if err != nil {
		return nil, err
	}
	have := make(map[R]V, len(four)+len(six))
	for k, v := range four {
		have[t.row4(k)] = v
	}
	for k, v := range six {
		have[t.row6(k)] = v
	}
	return have, nil
}

// write writes rows and returns the error of each.
func (t twin[R, K4, K6, V]) write(ctx context.Context, rows []R, values []V) []error {
	keys4, keys6, order := t.keys(rows)
	sorted := make([]V, len(values))
	for at, i := range order {
		sorted[at] = values[i]
	}
	return unsorted(order, append(t.four.write(ctx, keys4, sorted[:len(keys4)]), t.six.write(ctx, keys6, sorted[len(keys4):])...))
}

func (t twin[R, K4, K6, V]) erase(ctx context.Context, rows []R) []error {
	keys4, keys6, order := t.keys(rows)
	return unsorted(order, append(t.four.erase(ctx, keys4), t.six.erase(ctx, keys6)...))
}

// keys are those of the rows, and which row each of the first is of, then each of the second.
func (t twin[R, K4, K6, V]) keys(rows []R) (keys4 []K4, keys6 []K6, order []int) {
	var order6 []int
	for i, r := range rows {
		if is4, four, six := t.key(r); is4 {
			keys4, order = append(keys4, four), append(order, i)
		} else {
			keys6, order6 = append(keys6, six), append(order6, i)
		}
	}
	return keys4, keys6, append(order, order6...)
}

func unsorted(order []int, errs []error) []error {
	out := make([]error, len(errs))
	for at, i := range order {
		out[i] = errs[at]
	}
	return out
}
