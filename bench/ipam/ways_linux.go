package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"path/filepath"
	"sync"
	"time"

	"go.etcd.io/bbolt"

	"github.com/fairlead-net/fairlead/ipam"
	"github.com/fairlead-net/fairlead/store"
)

const (
	batch = 50  // leases of one caller in a round
	each  = 20  // leases of each of many callers
	held  = 100 // leases that are there all the time, so that no store is empty
)

// newLines are all ways, in the order of the report.
func newLines(l *lab, dir string) ([]line, error) {
	bare, err := newBare(l, filepath.Join(dir, "bare.db"))
	if err != nil {
		return nil, err
	}
	one, err := newLedger(l, filepath.Join(dir, "one", "fairlead.db"))
	if err != nil {
		return nil, err
	}
	crowd, err := newLedger(l, filepath.Join(dir, "many", "fairlead.db"))
	if err != nil {
		return nil, err
	}
	socket, err := newSocket(l, dir)
	if err != nil {
		return nil, err
	}
	cni, err := newCNI(dir)
	if err != nil {
		return nil, err
	}
	return []line{
		{name: "bare bbolt put and delete", way: bare},
		{name: "ledger, one caller", way: ledgerOne{one}},
		{name: fmt.Sprintf("ledger, %d callers", many), way: ledgerMany{crowd}},
		{name: "fairlead run, by its socket", way: socket},
		{name: "CNI host-local", way: cni},
	}, nil
}

// timed does something some times in a row, and returns how long one took.
func timed(n int, do func(i int) error) (time.Duration, error) {
	start := time.Now()
	for i := range n {
		if err := do(i); err != nil {
			return 0, err
		}
	}
	return time.Since(start) / time.Duration(n), nil
}

// inTurn times n leases and then their release.
func inTurn(n int, lease, release func(i int) error) (t times, err error) {
	if t.lease, err = timed(n, lease); err != nil {
		return t, fmt.Errorf("lease: %w", err)
	}
	if t.release, err = timed(n, release); err != nil {
		return t, fmt.Errorf("release: %w", err)
	}
	return t, nil
}

func owner(kind string, i int) string { return fmt.Sprintf("%s-%04d", kind, i) }

// bare puts records as large as a lease into a bbolt file of its own, with bbolt's own defaults.
type bare struct {
	db     *bbolt.DB
	record []byte
}

func newBare(l *lab, path string) (*bare, error) {
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		return nil, err
	}
	l.Cleanup(func() { _ = db.Close() })
	record, err := json.Marshal(ipam.Lease{
		Address: netip.MustParseAddr("10.88.0.100"), Owner: owner("caller", 0), Pool: "default",
		Policy: ipam.PolicyEndpoint, Since: time.Now().UTC(),
	})
	if err != nil {
		return nil, err
	}
	b := &bare{db, record}
	for i := range held {
		if err := b.put(owner("held", i)); err != nil {
			return nil, err
		}
	}
	return b, nil
}

func (b *bare) put(key string) error {
	return b.db.Update(func(tx *bbolt.Tx) error {
		bucket, err := tx.CreateBucketIfNotExists([]byte("leases"))
		if err != nil {
			return err
		}
		return bucket.Put([]byte(key), b.record)
	})
}

func (b *bare) round() (times, error) {
	put := func(i int) error { return b.put(owner("caller", i)) }
	del := func(i int) error {
		return b.db.Update(func(tx *bbolt.Tx) error { return tx.Bucket([]byte("leases")).Delete([]byte(owner("caller", i))) })
	}
	return inTurn(batch, put, del)
}

// newLedger is a ledger as the daemon has it.
func newLedger(l *lab, path string) (*ipam.Ledger, error) {
	db, err := store.Open(context.Background(), path, store.Options{})
	if err != nil {
		return nil, err
	}
	l.Cleanup(func() { _ = db.Close() })
	ledger, err := ipam.NewLedger(db, time.Now)
	if err != nil {
		return nil, err
	}
	pool := netip.MustParsePrefix("10.88.0.0/22")
	if err := ledger.SetPools([]ipam.Pool{{Name: "default", CIDR: pool, Block: pool}}); err != nil {
		return nil, err
	}
	for i := range held {
		if err := lease(ledger, owner("held", i)); err != nil {
			return nil, err
		}
	}
	return ledger, nil
}

func lease(l *ipam.Ledger, owner string) error {
	_, err := l.Lease(context.Background(), ipam.Request{Owner: owner, Pool: "default"})
	return err
}

func release(l *ipam.Ledger, owner string) error {
	_, err := l.Release(context.Background(), owner)
	return err
}

type ledgerOne struct{ *ipam.Ledger }

func (l ledgerOne) round() (times, error) {
	return inTurn(batch,
		func(i int) error { return lease(l.Ledger, owner("caller", i)) },
		func(i int) error { return release(l.Ledger, owner("caller", i)) })
}

type ledgerMany struct{ *ipam.Ledger }

func (l ledgerMany) round() (times, error) {
	errs := make([]error, many)
	var callers sync.WaitGroup
	start := time.Now()
	for c := range many {
		callers.Go(func() {
			_, errs[c] = timed(each, func(int) error {
				if err := lease(l.Ledger, owner("caller", c)); err != nil {
					return err
				}
				return release(l.Ledger, owner("caller", c))
			})
		})
	}
	callers.Wait()
	took := time.Since(start) / (2 * many * each)
	for _, err := range errs {
		if err != nil {
			return times{}, err
		}
	}
	return times{both: took}, nil
}
