// Package store keeps the node's durable state in one bbolt file, and is the only room that knows bbolt.
package store

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"go.etcd.io/bbolt"
)

// What can be wrong with the file, or with the disk below it. Each is wrapped with the path and what cures it.
var (
	ErrCorrupt  = errors.New("the store is damaged")
	ErrLocked   = errors.New("the store is in use by another process")
	ErrNewer    = errors.New("the store was written by a newer fairlead")
	ErrReadOnly = errors.New("the store can not be written")
	ErrFull     = errors.New("the disk of the store is full")
	ErrClosed   = errors.New("the store is closed")

	// ErrUnsure means that a commit failed so late that the disk may or may not have it. Nothing is read or written
	// any more, because memory and disk can disagree; opening the store again settles it.
	ErrUnsure = errors.New("the store does not know what its last commit left on the disk")
)

// Options are the choices of Open. The zero value is usable.
type Options struct {
	// Check is the command that examines an existing file before it is opened; the path is appended. It must call
	// Verify and exit 0 when all is well. bbolt panics, or dies of SIGBUS, on a damaged file: only a child process
	// can find that out safely. Without it Verify runs in this process, which damage may then end.
	Check []string

	// Timeout bounds the wait for the lock of the file; 0 means one second.
	Timeout time.Duration
}

// DB is an open store. Its methods can be called by many goroutines at once.
type DB struct {
	bolt     *bbolt.DB
	path     string
	node     uuid.UUID
	revision atomic.Uint64
	tally    map[string]tally // of the last commit; the leader's
	queue    queue
	unsure   chan struct{} // closed once down is ErrUnsure

	mu   sync.Mutex
	down error // ErrClosed or ErrUnsure, once it is so
}

// Open opens the store at path, or makes it, and brings an older schema up to date.
//
// An existing file is examined first. A file that is damaged, locked, not writable or newer than this binary is left
// byte for byte as it was, and the error wraps ErrCorrupt, ErrLocked, ErrReadOnly or ErrNewer. Open waits for the lock
// and for the examination no longer than ctx allows.
func Open(ctx context.Context, path string, o Options) (*DB, error) {
	return openSchema(ctx, path, o, current())
}

func openSchema(ctx context.Context, path string, o Options, s schema) (*DB, error) {
	if o.Timeout <= 0 {
		o.Timeout = time.Second
	}
	bolt, err := openFile(ctx, path, o)
	if err != nil {
		return nil, fmt.Errorf("open store %s: %w", path, err)
	}
	db := &DB{bolt: bolt, path: path, unsure: make(chan struct{})}
	if err := db.begin(ctx, s); err != nil {
		return nil, fmt.Errorf("open store %s: %w", path, errors.Join(err, bolt.Close()))
	}
	return db, nil
}

// begin reads what the store knows about itself, and migrates the schema where needed.
func (db *DB) begin(ctx context.Context, s schema) error {
	err := db.View(func(tx *Tx) (err error) {
		db.revision.Store(tx.rev)
		if db.node, err = must(tx, metaNode(), keyNode); err != nil {
			return err
		}
		db.tally, err = must(tx, metaTally(), keyTally)
		return err
	})
	if err != nil {
		return err
	}
	return db.migrate(ctx, s)
}

// Close waits for running transactions and closes the file. Later calls return ErrClosed.
func (db *DB) Close() error {
	db.fail(ErrClosed)
	if err := db.bolt.Close(); err != nil {
		return fmt.Errorf("close store %s: %w", db.path, err)
	}
	return nil
}

// View runs fn on one consistent state of the store. What fn got is not to be kept beyond it, save decoded values.
//
// fn must not call Update: when the file has to grow, the one would wait for the other for ever.
func (db *DB) View(fn func(*Tx) error) error {
	if err := db.failed(); err != nil {
		return fmt.Errorf("read store: %w", err)
	}
	return db.bolt.View(func(b *bbolt.Tx) error {
		tx := &Tx{bolt: b}
		var err error
		if tx.rev, err = must(tx, metaNumber(), keyRevision); err != nil {
			return fmt.Errorf("read store: %w", err)
		}
		if err := fn(tx); err != nil {
			return err
		}
		return tx.err
	})
}

// Revision is a number that grows with every commit that changed something; it survives a restart.
func (db *DB) Revision() uint64 { return db.revision.Load() }

// NodeUUID is the identity of this node: made once, together with the file.
func (db *DB) NodeUUID() uuid.UUID { return db.node }

// Unsure is closed when the outcome of a commit, anyone's, became unknown: from then on every call returns ErrUnsure. A
// store that was closed before stays closed, and this channel open.
func (db *DB) Unsure() <-chan struct{} { return db.unsure }

func (db *DB) failed() error {
	db.mu.Lock()
	defer db.mu.Unlock()
	return db.down
}

func (db *DB) fail(err error) {
	db.mu.Lock()
	defer db.mu.Unlock()
	if db.down != nil {
		return
	}
	db.down = err
	if errors.Is(err, ErrUnsure) {
		close(db.unsure)
	}
}
