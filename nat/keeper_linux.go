package nat

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os/exec"
	"slices"
	"sync"
	"time"
)

// keeper keeps the rows of a site in its chains, for both families.
//
// To read them, iptables is run, which takes milliseconds, and with thousands of rules a tenth of a second. So they are
// read only when they may have changed: at first, after nf_tables told of it or the size of the old back end's table is
// another, and after some time. What was read is believed in between.
type keeper[K, V comparable] struct {
	hand
	form form[K, V]
	age  time.Duration

	mu   sync.Mutex
	seen map[int]*sighting[K, V] // by family; nil when it may be wrong
	read time.Time               // when that was
	hung hung
	size sizes
}

func newKeeper[K, V comparable](h hand, f form[K, V], age time.Duration) *keeper[K, V] {
	return &keeper[K, V]{hand: h, form: f, age: age}
}

// Changed pokes after others have changed what the rows depend on. The channel has capacity 1. It is silent before the
// first List.
func (c *keeper[K, V]) Changed() <-chan struct{} { return c.changed }

// List reads the rows. One that is there and does not work, since what leads to it is not in order, has a fault, and Apply
// mends it. When iptables hangs, the error comes after some seconds (it wraps context.DeadlineExceeded), and again at once
// to who asks soon after.
func (c *keeper[K, V]) List(ctx context.Context) (map[K]V, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.list(ctx)
}

func (c *keeper[K, V]) list(ctx context.Context) (map[K]V, error) {
	if c.concerned() {
		c.seen = nil
	}
	if c.hung.still() {
		return nil, c.hung.err
	}
	if c.seen == nil || time.Since(c.read) >= c.age {
		if err := c.within(ctx, c.survey); err != nil {
			if ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
				c.hung = hung{err, time.Now()}
			}
			return nil, err
		}
	}
	n := 0
	for _, s := range c.seen {
		n += len(s.listed)
	}
	rows := make(map[K]V, n)
	for _, s := range c.seen {
		maps.Copy(rows, s.listed)
	}
	return rows, nil
}

// Put makes a row, and mends what leads to it.
func (c *keeper[K, V]) Put(ctx context.Context, k K, v V) error {
	return c.Apply(ctx, map[K]V{k: v}, nil)[k]
}

// Delete removes a row, and with the last one all of our chains.
func (c *keeper[K, V]) Delete(ctx context.Context, k K) error {
	return c.Apply(ctx, nil, []K{k})[k]
}

// Apply puts rows and removes rows, a family at a time and all of a family at once: when something of it fails, all of it
// has failed, and nothing was changed. It mends whatever else is wrong.
func (c *keeper[K, V]) Apply(ctx context.Context, puts map[K]V, deletes []K) map[K]error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.apply(ctx, puts, deletes)
}

func (c *keeper[K, V]) apply(ctx context.Context, puts map[K]V, deletes []K) map[K]error {
	failed := make(map[K]error)
	if c.concerned() {
		c.seen = nil
	}
	err := c.within(ctx, func(ctx context.Context) error {
		for _, family := range families() {
			mine := c.of(family, puts, deletes)
			if len(mine) == 0 {
				continue
			}
			if err := c.bring(ctx, family, puts, deletes); err != nil {
				c.seen = nil
				for _, k := range mine {
					failed[k] = err
				}
			}
		}
		return nil
	})
	for k, v := range puts {
		s := c.seen[c.form.family(k)]
		switch {
		case failed[k] != nil:
		case err != nil:
			failed[k] = err
		case s == nil:
			failed[k] = errors.New("other rules were changed meanwhile")
		case s.listed[k] != v:
			failed[k] = fmt.Errorf("iptables was told %q and says %q", fmt.Sprint(v), fmt.Sprint(s.listed[k]))
		}
	}
	return failed
}

// of are the keys of one family.
func (c *keeper[K, V]) of(family int, puts map[K]V, deletes []K) []K {
	all := slices.AppendSeq(slices.Clone(deletes), maps.Keys(puts))
	return slices.DeleteFunc(all, func(k K) bool { return c.form.family(k) != family })
}

// survey reads the rows of both families.
func (c *keeper[K, V]) survey(ctx context.Context) error {
	c.forget() // what comes while it is read makes it be read again
	seen := make(map[int]*sighting[K, V])
	c.seen, c.read, c.hung = nil, time.Now(), hung{}
	for _, family := range families() {
		t, err := c.tool(ctx, family)
		if errors.Is(err, exec.ErrNotFound) {
			continue // then nothing of ours was put there
		}
		if err == nil {
			seen[family], err = c.sight(ctx, t)
		}
		if err != nil {
			return err
		}
	}
	c.seen = seen
	return nil
}

// sight reads the rows of one family.
func (c *keeper[K, V]) sight(ctx context.Context, t *tool) (*sighting[K, V], error) {
	c.size.note(t)
	have, err := t.survey(ctx, c.at.in(t.family))
	if err != nil {
		return nil, err
	}
	stray := ""
	if other := t.other(); other != nil {
		switch _, err := other.list(ctx, c.at.chain); {
		case err == nil:
			stray = other.name
		case ctx.Err() != nil:
			return nil, err
		}
	}
	if len(have.chains) == 0 {
		delete(c.size.left, t.family)
	}
	c.size.watch(&c.hand, &c.mu, func() { c.seen = nil })
	return recognise(c.form, c.at.in(t.family), have, t.family, stray), nil
}

// tool is iptables for a family. What was read by another is not believed any more.
func (c *keeper[K, V]) tool(ctx context.Context, family int) (*tool, error) {
	before := c.tools[family]
	t, err := c.hand.tool(ctx, family, c.unsettled)
	if t != before {
		c.seen = nil
	}
	return t, err
}

// unsettled reads the news, and tells whether the rows must be read again because of them.
func (c *keeper[K, V]) unsettled() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	known := c.seen != nil
	if !c.concerned() {
		return false
	}
	c.seen = nil
	return known // otherwise they are to be read again already
}
