package ipam

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/fairlead-net/fairlead/store"
)

// Policy says what ends a lease.
type Policy string

// The policies of a lease.
const (
	PolicyEndpoint Policy = "endpoint" // it lives and dies with its endpoint
	PolicyOwner    Policy = "owner"    // it stays until the owner gives it back
)

// Lease is one address, held by one owner.
type Lease struct {
	Address netip.Addr `json:"address"`
	Owner   string     `json:"owner"`
	Pool    string     `json:"pool"`
	Policy  Policy     `json:"policy"`
	Since   time.Time  `json:"since"`
}

// rest is an address that was given back. It keeps its record after its rest, so that addresses that nobody had go
// first, and then those whose last holder left longest ago.
type rest struct {
	Address netip.Addr `json:"address"`
	Owner   string     `json:"owner"`
	Pool    string     `json:"pool"`
	Freed   time.Time  `json:"freed"`
	Seq     uint64     `json:"seq"` // the order of release, which a clock can not give

	home  *shelf // where it lies; nil while a commit decides about it
	index int    // its place in the heap there
}

func leaseBucket() store.Bucket[Lease]        { return store.Bucket[Lease]{Name: "leases"} }
func restBucket() store.Bucket[rest]          { return store.Bucket[rest]{Name: "rests"} }
func blockBucket() store.Bucket[netip.Prefix] { return store.Bucket[netip.Prefix]{Name: "blocks"} }

// load reads the whole ledger out of the store.
func (l *Ledger) load(tx *store.Tx) error {
	for key, lease := range leaseBucket().All(tx) {
		if key != lease.Address.String() || lease.Owner == "" {
			return fmt.Errorf("lease %s is of %s, owner %q: %w", key, lease.Address, lease.Owner, store.ErrCorrupt)
		}
		l.insert(&entry{Lease: lease, state: held})
	}
	for key, r := range restBucket().All(tx) {
		if key != r.Address.String() || l.leases[r.Address] != nil {
			return fmt.Errorf("rest %s is of %s, which may be leased: %w", key, r.Address, store.ErrCorrupt)
		}
		l.rests[r.Address] = &r
		l.seq = max(l.seq, r.Seq)
	}
	for pool, block := range blockBucket().All(tx) {
		l.blocks[pool] = block
	}
	return nil
}
