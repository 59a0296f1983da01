package store

import (
	"context"
	"time"
)

// Waiting is how many callers of Update wait for their turn.
func (db *DB) Waiting() int {
	db.queue.mu.Lock()
	defer db.queue.mu.Unlock()
	return len(db.queue.waiting)
}

// OpenSchema opens the store with another schema than this binary's own.
func OpenSchema(ctx context.Context, path string, o Options, version uint64, steps map[uint64]func(*Tx) error) (*DB, error) {
	return openSchema(ctx, path, o, schema{version: version, steps: steps})
}

// VerifyApart has the file examined by a child within the limit.
func VerifyApart(ctx context.Context, path string, argv []string, limit time.Duration) error {
	return verifyApart(ctx, path, argv, limit)
}
