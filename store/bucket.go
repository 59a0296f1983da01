package store

import (
	"bytes"
	"encoding/json"
	"fmt"
	"iter"

	"go.etcd.io/bbolt"
)

// Tx is one transaction: read-only in View, writable in Update. It ends with the function that it was given to.
type Tx struct {
	bolt    *bbolt.Tx
	rev     uint64
	changes int              // writes that made a difference
	tally   map[string]tally // by how much they changed each bucket
	err     error            // the first value that All could not decode
}

// Revision is the revision that a View sees; in an Update, the one that its commit makes if it changes something.
func (tx *Tx) Revision() uint64 { return tx.rev }

// note counts a write.
func (tx *Tx) note(bucket string, change tally) {
	tx.changes++
	if tx.tally == nil {
		tx.tally = make(map[string]tally)
	}
	tx.tally[bucket] = tx.tally[bucket].plus(change)
}

// Bucket is a named map of JSON-coded values in the store. It comes into being with its first Put.
//
// Every value is stored behind a checksum over its key and itself, and the store keeps a tally of the values of each
// bucket, since bbolt has no checksum for its data pages.
type Bucket[V any] struct{ Name string }

// Get returns the value of key, and whether there is one.
func (b Bucket[V]) Get(tx *Tx, key string) (v V, found bool, err error) {
	bucket := tx.bolt.Bucket([]byte(b.Name))
	if bucket == nil {
		return v, false, nil
	}
	sealed := bucket.Get([]byte(key))
	if sealed == nil {
		return v, false, nil
	}
	v, err = decode[V](b.Name, key, sealed)
	return v, err == nil, err
}

// Put sets the value of key. Setting the value that it already has changes nothing, not even the revision.
func (b Bucket[V]) Put(tx *Tx, key string, v V) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("put %s %q: %w", b.Name, key, err)
	}
	bucket, err := tx.bolt.CreateBucketIfNotExists([]byte(b.Name))
	if err != nil {
		return fmt.Errorf("put %s %q: %w", b.Name, key, err)
	}
	old, sealed := bucket.Get([]byte(key)), seal(key, data)
	if bytes.Equal(old, sealed) {
		return nil
	}
	change := tally{}.without(old).with(sealed)
	if err := bucket.Put([]byte(key), sealed); err != nil {
		return fmt.Errorf("put %s %q: %w", b.Name, key, err)
	}
	tx.note(b.Name, change)
	return nil
}

// Delete removes key; that it is absent is success.
func (b Bucket[V]) Delete(tx *Tx, key string) error {
	bucket := tx.bolt.Bucket([]byte(b.Name))
	if bucket == nil {
		return nil
	}
	old := bucket.Get([]byte(key))
	if old == nil {
		return nil
	}
	change := tally{}.without(old)
	if err := bucket.Delete([]byte(key)); err != nil {
		return fmt.Errorf("delete %s %q: %w", b.Name, key, err)
	}
	tx.note(b.Name, change)
	return nil
}

// All ranges over the bucket in the order of its keys. The bucket must not be changed meanwhile.
//
// A value that can not be decoded ends the loop, and its error becomes the error of the View or Update around it
// unless that already has one of its own.
func (b Bucket[V]) All(tx *Tx) iter.Seq2[string, V] { return b.scan(tx, b.decode) }

func (b Bucket[V]) decode(key string, sealed []byte) (V, error) {
	return decode[V](b.Name, key, sealed)
}

func (b Bucket[V]) scan(tx *Tx, decode func(key string, sealed []byte) (V, error)) iter.Seq2[string, V] {
	return func(yield func(string, V) bool) {
		bucket := tx.bolt.Bucket([]byte(b.Name))
		if bucket == nil {
			return
		}
		c := bucket.Cursor()
		for k, sealed := c.First(); k != nil; k, sealed = c.Next() {
			key := string(k)
			v, err := decode(key, sealed)
			if err != nil {
				tx.err = err
				return
			}
			if !yield(key, v) {
				return
			}
		}
	}
}

// Reader reads all of one bucket again and again, and decodes only what has changed since it last did. It hands out the
// same value each time, so nothing inside a value may be changed. It is not safe for several goroutines at once.
type Reader[V any] struct {
	bucket Bucket[V]
	known  map[string]decoded[V]
}

type decoded[V any] struct {
	sealed []byte
	value  V
}

// NewReader makes a reader that has read nothing yet.
func NewReader[V any](b Bucket[V]) *Reader[V] { return &Reader[V]{bucket: b} }

// All is the bucket's All.
func (r *Reader[V]) All(tx *Tx) iter.Seq2[string, V] {
	before := r.known
	r.known = make(map[string]decoded[V], len(before))
	return r.bucket.scan(tx, func(key string, sealed []byte) (V, error) {
		d, seen := before[key]
		if !seen || !bytes.Equal(d.sealed, sealed) {
			v, err := r.bucket.decode(key, sealed)
			if err != nil {
				return v, err
			}
			d = decoded[V]{bytes.Clone(sealed), v}
		}
		r.known[key] = d
		return d.value, nil
	})
}
