package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
)

// What the store knows about itself.
const (
	metaName    = "meta"
	keySchema   = "schema"
	keyNode     = "node"
	keyRevision = "revision"
	keyTally    = "tally"
)

func metaNumber() Bucket[uint64]          { return Bucket[uint64]{metaName} }
func metaNode() Bucket[uuid.UUID]         { return Bucket[uuid.UUID]{metaName} }
func metaTally() Bucket[map[string]tally] { return Bucket[map[string]tally]{metaName} }

// must is the value of a meta key. Its absence is damage: all are made with the file.
func must[V any](tx *Tx, b Bucket[V], key string) (V, error) {
	v, found, err := b.Get(tx, key)
	if err == nil && !found {
		err = fmt.Errorf("%w: it has no %s", ErrCorrupt, key)
	}
	return v, err
}

// schema is a version of the file's contents, and the way to it.
type schema struct {
	version uint64
	steps   map[uint64]func(*Tx) error // by the version that a step leads away from
}

// current is the schema that this binary writes.
func current() schema { return schema{version: 1} }

// migrate brings the file to s in one commit, or makes the meta of a new file.
func (db *DB) migrate(ctx context.Context, s schema) error {
	var have uint64
	err := db.View(func(tx *Tx) (err error) {
		have, err = must(tx, metaNumber(), keySchema)
		return err
	})
	switch {
	case err != nil:
		return err
	case have > s.version:
		return fmt.Errorf("%w: its schema is %d and this binary knows %d: "+
			"install the fairlead that wrote it, or a later one", ErrNewer, have, s.version)
	case have == s.version:
		return nil
	}
	return db.Update(ctx, func(tx *Tx) error {
		for v := have; v < s.version; v++ {
			step, ok := s.steps[v]
			if !ok {
				return fmt.Errorf("migrate schema %d to %d: no such step", v, v+1)
			}
			if err := step(tx); err != nil {
				return fmt.Errorf("migrate schema %d to %d: %w", v, v+1, err)
			}
		}
		return metaNumber().Put(tx, keySchema, s.version)
	})
}

// found writes the meta of a new file.
func found(tx *Tx, version uint64) error {
	id, err := uuid.NewRandom()
	if err != nil {
		return fmt.Errorf("make node identity: %w", err)
	}
	return errors.Join(
		metaNode().Put(tx, keyNode, id),
		metaNumber().Put(tx, keySchema, version),
		metaNumber().Put(tx, keyRevision, 1),
		metaTally().Put(tx, keyTally, map[string]tally{}),
	)
}
