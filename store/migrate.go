package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
)

// What the store knows about itself.
const (
	metaName  = "meta"
	keySchema = "schema"
	keyNode   = "node"
	keyState  = "state"
)

func metaSchema() Bucket[uint64]  { return Bucket[uint64]{metaName} }
func metaNode() Bucket[uuid.UUID] { return Bucket[uuid.UUID]{metaName} }
func metaState() Bucket[state]    { return Bucket[state]{metaName} }

// state changes with every commit.
type state struct {
	Revision uint64           `json:"revision"`
	Tally    map[string]tally `json:"tally"` // by bucket
}

// state reads it. Its absence is damage: it is made with the file.
func (tx *Tx) state() (state, error) {
	s, found, err := metaState().Get(tx, keyState)
	if err == nil && !found {
		err = fmt.Errorf("%w: it has no revision", ErrCorrupt)
	}
	return s, err
}

// note counts a write.
func (tx *Tx) note(bucket string, change tally) {
	tx.changes++
	if tx.tally == nil {
		tx.tally = make(map[string]tally)
	}
	tx.tally[bucket] = tx.tally[bucket].plus(change)
}

// seal writes the state that the transaction makes.
func (tx *Tx) seal() error {
	s, err := tx.state()
	if err != nil {
		return err
	}
	s.Revision = tx.rev
	for bucket, change := range tx.tally {
		if bucket != metaName {
			s.Tally[bucket] = s.Tally[bucket].plus(change)
		}
	}
	return metaState().Put(tx, keyState, s)
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
	var found bool
	err := db.View(func(tx *Tx) (err error) {
		have, found, err = metaSchema().Get(tx, keySchema)
		return err
	})
	switch {
	case err != nil:
		return err
	case !found:
		return fmt.Errorf("%w: it has no schema version", ErrCorrupt)
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
		return metaSchema().Put(tx, keySchema, s.version)
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
		metaSchema().Put(tx, keySchema, version),
		metaState().Put(tx, keyState, state{Revision: 1, Tally: map[string]tally{}}),
	)
}
