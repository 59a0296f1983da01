package nat

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os/exec"
	"sync"
	"sync/atomic"
	"time"
)

const (
	inputTable = "filter"
	inputChain = "FAIRLEAD-INPUT"
	inputHook  = "INPUT"
)

// Chain is the table of the rules in a chain of ours, for both families. It is entered before every other rule, so that
// none accepts what ours would drop.
//
// To read it, iptables is run, which takes milliseconds. So it is read only when it may have changed: at first, after the
// chain or its hook was written, ours or not, as nf_tables tells, and after some time. What was read is believed in
// between. The old back end tells nobody of changes: there the size of the table does.
type Chain struct {
	hand
	name, hook string
	age        time.Duration

	mu        sync.Mutex
	last      reading[Entry]
	size      sizes
	displaced []time.Time
	tally     tally
}

// reading is something of each rule as it was read last.
type reading[V any] struct {
	rows map[EntryKey]V // nil when it may be wrong
	at   time.Time
	hung error // why there is nothing, when it took too long
}

// tally is what the rules have counted. A pass never waits for who reads it.
type tally struct {
	mu   sync.Mutex // held while iptables runs, so that it runs once for many who ask
	last atomic.Pointer[reading[uint64]]
}

const (
	countAge = 2 * time.Second // for which the counters are believed, whoever asks and however often
	runsTime = 8 * time.Second // for all runs of iptables that one call makes: a pass must not outlast the watchdog
	restTime = 5 * time.Second // after a reading that took longer, for which the others of the same pass do not try again
)

// inputSite is where the chain is.
func inputSite() site {
	return site{table: inputTable, chain: inputChain, hooks: []hook{{chain: inputHook}}}
}

// Input is the chain that drops packets to this host. What was read of it is believed for as long as age.
func (k *Kernel) Input(age time.Duration) *Chain {
	return &Chain{hand: k.hand(inputSite()), name: inputChain, hook: inputHook, age: age}
}

// Changed pokes after others have changed what the chain depends on. The channel has capacity 1. It is silent before the
// first List.
func (c *Chain) Changed() <-chan struct{} { return c.changed }

// List reads the rules. Where the chain is not in order, each has a fault, and Apply mends all. When iptables hangs, the
// error comes after some seconds (it wraps context.DeadlineExceeded), and again at once to who asks soon after.
func (c *Chain) List(ctx context.Context) (map[EntryKey]Entry, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.concerned() {
		c.last.rows = nil
	}
	since := time.Since(c.last.at)
	if c.last.hung != nil && since < restTime {
		return nil, c.last.hung
	}
	if c.last.rows == nil || since >= c.age {
		if err := c.within(ctx, c.look); err != nil {
			if ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
				c.last = reading[Entry]{at: time.Now(), hung: err}
			}
			return nil, err
		}
	}
	return maps.Clone(c.last.rows), nil
}

// look reads the rules of both families. What changes while it reads makes it be read again.
func (c *Chain) look(ctx context.Context) error {
	c.last = reading[Entry]{}
	c.tally.last.Store(new(reading[uint64])) // rules that were put anew count from zero
	now, rows := time.Now(), make(map[EntryKey]Entry)
	for _, family := range families() {
		t, err := c.tool(ctx, family)
		if errors.Is(err, exec.ErrNotFound) {
			continue // then nothing of ours was put there
		}
		if err != nil {
			return err
		}
		c.size.note(t)
		s, err := t.state(ctx, c.name, c.hook)
		if err != nil {
			return err
		}
		if s.there == missing {
			delete(c.size.left, family)
		}
		maps.Copy(rows, s.rows(c.name))
	}
	c.size.watch(&c.hand, &c.mu, func() { c.last.rows = nil })
	c.last = reading[Entry]{rows: rows, at: now}
	return nil
}

// tool is iptables for a family. Who has none can do without the guard.
func (c *Chain) tool(ctx context.Context, family int) (*tool, error) {
	t, err := c.hand.tool(ctx, family, c.unsettled)
	if errors.Is(err, exec.ErrNotFound) {
		return nil, fmt.Errorf(`%w, or set accept = "any" under [tunnel]`, err)
	}
	return t, err
}

// Put makes a rule, and mends the chain where it is not in order.
func (c *Chain) Put(ctx context.Context, k EntryKey, r Entry) error {
	return c.Apply(ctx, map[EntryKey]Entry{k: r}, nil)[k]
}

// Delete removes a rule, and the chain with the last one.
func (c *Chain) Delete(ctx context.Context, k EntryKey) error {
	return c.Apply(ctx, nil, []EntryKey{k})[k]
}

// Apply puts rules and removes rules, a family at a time: when something of it fails, all of it counts as failed.
//
// Since all rules drop, and none is removed before those that are wanted are there, packets that shall pass pass all the
// time, and those that shall not are let through at no time that they were not let through before.
func (c *Chain) Apply(ctx context.Context, puts map[EntryKey]Entry, deletes []EntryKey) map[EntryKey]error {
	c.mu.Lock()
	defer c.mu.Unlock()
	failed := make(map[EntryKey]error)
	err := c.within(ctx, func(ctx context.Context) error {
		for _, family := range families() {
			o := order{family: family, puts: make(map[string]Entry)}
			o.take(puts, deletes)
			if err := c.obey(ctx, o); err != nil {
				o.blame(failed, err)
			}
		}
		c.forget() // it is what we wrote ourselves, or is read now
		return c.look(ctx)
	})
	for k, r := range puts {
		switch have := c.last.rows[k]; {
		case failed[k] != nil:
		case err != nil:
			failed[k] = err
		case have != r:
			failed[k] = fmt.Errorf("iptables was told %q and says %q", r, have)
		}
	}
	return failed
}

// Dropped is how many packets each rule has dropped since it was put, as of at most two seconds ago.
func (c *Chain) Dropped(ctx context.Context) (map[EntryKey]uint64, error) {
	c.tally.mu.Lock()
	defer c.tally.mu.Unlock()
	last := c.tally.last.Load()
	if last == nil || last.rows == nil || time.Since(last.at) >= countAge {
		fresh := &reading[uint64]{rows: make(map[EntryKey]uint64), at: time.Now()}
		if err := c.within(ctx, func(ctx context.Context) error { return c.count(ctx, fresh.rows) }); err != nil {
			return nil, fmt.Errorf("read the counters of %s: %w", c.name, err)
		}
		c.tally.last.CompareAndSwap(last, fresh) // not when rules were put meanwhile
		last = fresh
	}
	return maps.Clone(last.rows), nil
}

// count adds what the rules of both families have dropped.
func (c *Chain) count(ctx context.Context, dropped map[EntryKey]uint64) error {
	for _, family := range families() {
		t, err := find(family, inputTable)
		if errors.Is(err, exec.ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		printed, err := t.list(ctx, c.name, "-v")
		if err != nil && !refused(err) {
			return explain(err)
		}
		for _, l := range lines(printed, c.name) {
			if name, packets, ours := l.counted(); ours {
				dropped[EntryKey{name, family}] += packets
			}
		}
	}
	return nil
}
