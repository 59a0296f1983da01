package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"sync"
	"time"

	"go.etcd.io/bbolt"

	"github.com/fairlead-net/fairlead/ipam"
	"github.com/fairlead-net/fairlead/nettest"
	"github.com/fairlead-net/fairlead/store"
)

const (
	batch = 50  // leases of one caller in a round
	each  = 20  // leases of each of many callers
	held  = 100 // leases that are there all the time, so that no store is empty
)

// newLines are all ways, in the order of the report.
func newLines(t nettest.T, dir string) ([]line, error) {
	bare, err := newBare(t, filepath.Join(dir, "bare.db"))
	if err != nil {
		return nil, err
	}
	one, err := newLedger(t, filepath.Join(dir, "one", "fairlead.db"))
	if err != nil {
		return nil, err
	}
	crowd, err := newLedger(t, filepath.Join(dir, "many", "fairlead.db"))
	if err != nil {
		return nil, err
	}
	socket, err := newSocket(t, dir)
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

// inTurn does n leases and then their release, and notes how long each took.
func (t *times) inTurn(n int, lease, release func(i int) error) error {
	for i := range n {
		start := time.Now()
		if err := lease(i); err != nil {
			return fmt.Errorf("lease: %w", err)
		}
		t.leases = append(t.leases, time.Since(start))
	}
	for i := range n {
		start := time.Now()
		if err := release(i); err != nil {
			return fmt.Errorf("release: %w", err)
		}
		t.releases = append(t.releases, time.Since(start))
	}
	return nil
}

func owner(kind string, i int) string { return fmt.Sprintf("%s-%04d", kind, i) }

// bare puts records as large as a lease into a bbolt file of its own, with bbolt's own defaults.
type bare struct {
	db     *bbolt.DB
	record []byte
}

func newBare(t nettest.T, path string) (*bare, error) {
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { _ = db.Close() })
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

func (b *bare) round(t *times) error {
	put := func(i int) error { return b.put(owner("caller", i)) }
	del := func(i int) error {
		return b.db.Update(func(tx *bbolt.Tx) error { return tx.Bucket([]byte("leases")).Delete([]byte(owner("caller", i))) })
	}
	return t.inTurn(batch, put, del)
}

// newLedger is a ledger as the daemon has it.
func newLedger(t nettest.T, path string) (*ipam.Ledger, error) {
	db, err := store.Open(context.Background(), path, store.Options{})
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { _ = db.Close() })
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

func (l ledgerOne) round(t *times) error {
	return t.inTurn(batch,
		func(i int) error { return lease(l.Ledger, owner("caller", i)) },
		func(i int) error { return release(l.Ledger, owner("caller", i)) })
}

type ledgerMany struct{ *ipam.Ledger }

func (l ledgerMany) round(t *times) error {
	errs := make([]error, many)
	var callers sync.WaitGroup
	start := time.Now()
	for c := range many {
		callers.Go(func() {
			for range each {
				errs[c] = errors.Join(errs[c], lease(l.Ledger, owner("caller", c)), release(l.Ledger, owner("caller", c)))
			}
		})
	}
	callers.Wait()
	t.shares = append(t.shares, time.Since(start)/(2*many*each))
	return errors.Join(errs...)
}
