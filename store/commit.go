package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	bbolterrors "go.etcd.io/bbolt/errors"
	"golang.org/x/sys/unix"
)

// Update runs fn in a transaction that may write, and returns when what it wrote is on the disk.
//
// Callers share commits: one that finds nobody committing does so at once; those that come while a commit is at work
// gather, and the first of them then commits for all. So fn can run on another caller's goroutine, and more than once:
// it must work only on tx and on what it sets anew each time. An error of fn undoes what fn did and nothing else, and a
// panic in fn is raised again in its caller. A commit that changes nothing costs no write.
//
// ctx is honoured while the call waits for its turn. Once its commit has begun the outcome is awaited, since to answer
// earlier would be to guess. A full disk is ErrFull, has no effect, and leaves the store usable.
func (db *DB) Update(ctx context.Context, fn func(*Tx) error) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("update store: %w", err)
	}
	c := &call{fn: fn, lead: make(chan struct{}, 1), done: make(chan outcome, 1)}
	if db.queue.join(c) {
		db.leadOnce()
		return (<-c.done).settle()
	}
	select {
	case o := <-c.done:
		return o.settle()
	case <-c.lead:
		db.leadOnce()
	case <-ctx.Done():
		if db.queue.leave(c) {
			return fmt.Errorf("update store: %w", ctx.Err())
		}
	}
	return (<-c.done).settle()
}

// call is one caller of Update.
type call struct {
	fn   func(*Tx) error
	lead chan struct{} // told to commit for all who wait
	done chan outcome
}

type outcome struct {
	err   error
	panic any
}

func (o outcome) settle() error {
	if o.panic != nil {
		panic(o.panic)
	}
	return o.err
}

// run calls fn and catches its panic, which is its caller's affair and not the leader's.
func (c *call) run(tx *Tx) (o outcome) {
	defer func() {
		if p := recover(); p != nil {
			o.panic = p
		}
	}()
	tx.err = nil
	o.err = c.fn(tx)
	if o.err == nil {
		o.err = tx.err
	}
	return o
}

// queue gathers the callers that wait while another one commits.
type queue struct {
	mu      sync.Mutex
	waiting []*call
	leader  *call // who commits now, or has been told to; nil when nobody does
}

// join adds c, and reports whether c has to lead because nobody else does.
func (q *queue) join(c *call) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.waiting = append(q.waiting, c)
	if q.leader != nil {
		return false
	}
	q.leader = c
	return true
}

// leave takes c out again, unless its commit has begun.
func (q *queue) leave(c *call) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	i := slices.Index(q.waiting, c)
	if i < 0 {
		return false
	}
	q.waiting = slices.Delete(q.waiting, i, i+1)
	if q.leader == c {
		q.appoint()
	}
	return true
}

// take empties the queue for a commit.
func (q *queue) take() []*call {
	q.mu.Lock()
	defer q.mu.Unlock()
	batch := q.waiting
	q.waiting = nil
	return batch
}

// pass ends a leadership and hands it to the first who waits.
func (q *queue) pass() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.appoint()
}

func (q *queue) appoint() {
	q.leader = nil
	if len(q.waiting) > 0 {
		q.leader = q.waiting[0]
		q.leader.lead <- struct{}{}
	}
}

// leadOnce commits for all who wait now, and passes the leadership on.
func (db *DB) leadOnce() {
	defer db.queue.pass()
	for batch := db.queue.take(); len(batch) > 0; {
		batch = db.commit(batch)
	}
}

// commit runs the batch in one transaction and answers it. It returns those that have to run again because one among
// them failed after it had written.
func (db *DB) commit(batch []*call) (again []*call) {
	tx, err := db.beginWrite()
	if err != nil {
		answer(batch, err)
		return nil
	}
	passed := make([]*call, 0, len(batch))
	for i, c := range batch {
		before := tx.changes
		o := c.run(tx)
		if o.err == nil && o.panic == nil {
			passed = append(passed, c)
			continue
		}
		c.done <- o
		if tx.changes != before || o.panic != nil {
			db.rollback(tx)
			return append(passed, batch[i+1:]...)
		}
	}
	answer(passed, db.finish(tx))
	return nil
}

func answer(batch []*call, err error) {
	for _, c := range batch {
		c.done <- outcome{err: err}
	}
}

func (db *DB) beginWrite() (*Tx, error) {
	if err := db.failed(); err != nil {
		return nil, fmt.Errorf("update store: %w", err)
	}
	b, err := db.bolt.Begin(true)
	if errors.Is(err, bbolterrors.ErrDatabaseNotOpen) {
		err = ErrClosed
	}
	if err != nil {
		return nil, fmt.Errorf("update store: %w", err)
	}
	return &Tx{bolt: b, rev: db.revision.Load() + 1}, nil
}

func (db *DB) rollback(tx *Tx) {
	if err := tx.bolt.Rollback(); err != nil && !errors.Is(err, bbolterrors.ErrTxClosed) {
		db.fail(fmt.Errorf("%w: roll back: %w", ErrUnsure, err))
	}
}

// finish makes the transaction durable, or has it leave no trace.
func (db *DB) finish(tx *Tx) error {
	if tx.changes == 0 {
		db.rollback(tx)
		return nil
	}
	after := sums(db.tally, tx.tally)
	err := errors.Join(metaNumber().Put(tx, keyRevision, tx.rev), metaTally().Put(tx, keyTally, after))
	if err != nil {
		db.rollback(tx)
		return err
	}
	if err := tx.bolt.Commit(); err != nil {
		return db.commitFailed(tx.rev, err)
	}
	db.revision.Store(tx.rev)
	db.tally = after
	return nil
}

// commitFailed tells a commit that left no trace from one that may have.
//
// bbolt writes the meta page last. When the sync after it fails, the page is in the cache and readers already see the
// commit; whether the disk has it nobody can say, and asking again would not tell: Linux reports a failed write back
// only once (fsync(2), "EIO").
func (db *DB) commitFailed(rev uint64, cause error) error {
	cause = full(cause)
	var seen uint64
	err := db.View(func(tx *Tx) error {
		seen = tx.rev
		return nil
	})
	if err == nil && seen < rev {
		return fmt.Errorf("update store: %w", cause)
	}
	db.fail(fmt.Errorf("%w: restart fairlead: %w", ErrUnsure, cause))
	return fmt.Errorf("update store: %w", db.failed())
}

// full marks errors that a full disk or an exhausted quota caused. bbolt flattens some of them into text.
func full(err error) error {
	for _, errno := range []error{unix.ENOSPC, unix.EDQUOT} {
		if errors.Is(err, errno) || strings.Contains(err.Error(), errno.Error()) {
			return fmt.Errorf("%w: free some space: %w", ErrFull, err)
		}
	}
	return err
}
