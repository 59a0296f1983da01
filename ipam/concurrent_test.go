package ipam_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/fairlead-net/fairlead/ipam"
	"github.com/fairlead-net/fairlead/store"
)

func crowded() ipam.Pool {
	return ipam.Pool{Name: "crowded", CIDR: netip.MustParsePrefix("10.88.0.0/16"), Block: netip.MustParsePrefix("10.88.7.0/26")}
}

// TestConcurrentCallersOfOneOwnerGetOneLease: the same endpoint is attached twice at once.
func TestConcurrentCallersOfOneOwnerGetOneLease(t *testing.T) {
	d := newDesk(t, crowded())
	rev := d.db.Revision()
	got := make([]netip.Addr, 32)
	var wg sync.WaitGroup
	for i := range got {
		wg.Go(func() {
			leases, err := d.Lease(t.Context(), ipam.Request{Owner: "web", Pool: "crowded"})
			if err != nil {
				t.Error(err)
				return
			}
			got[i] = leases[0].Address
		})
	}
	wg.Wait()
	if one := slices.Compact(got); len(one) != 1 || d.db.Revision() != rev+1 || len(d.Leases()) != 1 {
		t.Errorf("addresses %v in %d commits", one, d.db.Revision()-rev)
	}
}

// holders is what the callers themselves believe, to catch an address that two of them hold.
type holders struct {
	mu sync.Mutex
	by map[netip.Addr]string
}

func (h *holders) take(t *testing.T, l ipam.Lease) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if other, taken := h.by[l.Address]; taken && other != l.Owner {
		t.Errorf("%s was given to %s while %s holds it", l.Address, l.Owner, other)
	}
	h.by[l.Address] = l.Owner
}

func (h *holders) give(owner string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for a, by := range h.by {
		if by == owner {
			delete(h.by, a)
		}
	}
}

// TestNoAddressIsDoubledUnderLoad has many callers contend for few addresses, some of whose commits fail or are given up.
func TestNoAddressIsDoubledUnderLoad(t *testing.T) {
	defer goleak.VerifyNone(t)
	d := newDesk(t, crowded(), six())
	h := &holders{by: map[netip.Addr]string{}}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	var wg sync.WaitGroup
	for c := range 64 {
		rng := rand.New(rand.NewPCG(seed, uint64(c)))
		wg.Go(func() {
			for range 40 {
				contend(t, d, h, fmt.Sprint("owner-", c), rng)
			}
		})
	}
	wg.Wait()
	want := d.Leases()
	for _, l := range want {
		if h.by[l.Address] != l.Owner {
			t.Errorf("%s is leased to %s, but %q holds it", l.Address, l.Owner, h.by[l.Address])
		}
	}
	if len(want) != len(h.by) {
		t.Errorf("%d leases, %d are held", len(want), len(h.by))
	}
	usage := d.Usage()
	d.restart(t)
	if got := d.Leases(); !slices.Equal(got, want) {
		t.Errorf("after a restart:\ngot  %v\nwant %v", got, want)
	}
	if got := d.Usage(); !slices.Equal(got, usage) {
		t.Errorf("after a restart:\ngot  %+v\nwant %+v", got, usage)
	}
	_ = d.db.Close()
}

func contend(t *testing.T, d *desk, h *holders, owner string, rng *rand.Rand) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if rng.IntN(8) == 0 {
		time.AfterFunc(time.Duration(rng.IntN(3000))*time.Microsecond, cancel)
	}
	requests := []ipam.Request{{Owner: owner, Pool: "crowded"}}
	if rng.IntN(4) == 0 {
		requests = append(requests, ipam.Request{Owner: owner, Pool: "six"})
	}
	sour := errors.New("sour")
	fail := func(*store.Tx, []ipam.Lease) error { return nil }
	if rng.IntN(8) == 0 {
		fail = func(*store.Tx, []ipam.Lease) error { return sour }
	}
	leases, err := d.LeaseWith(ctx, fail, requests...)
	for _, l := range leases {
		h.take(t, l)
	}
	if !slices.ContainsFunc([]error{nil, sour, context.Canceled, ipam.ErrExhausted}, func(e error) bool { return errors.Is(err, e) }) {
		t.Errorf("lease: %v", err)
	}
	if rng.IntN(3) > 0 {
		// Before, as the address is another's as soon as the release is done. A release that fails is tried again.
		h.give(owner)
		for {
			if _, err = d.Release(ctx, owner); err == nil {
				break
			}
			if !errors.Is(err, context.Canceled) {
				t.Errorf("release: %v", err)
				break
			}
			ctx = context.Background()
		}
	}
}

// TestHugeBlocksAreNotWrittenOut picks from blocks that nobody could list, and fills a large one.
func TestHugeBlocksAreNotWrittenOut(t *testing.T) {
	sixteen := ipam.Pool{Name: "sixteen", CIDR: netip.MustParsePrefix("10.88.0.0/16"), Block: netip.MustParsePrefix("10.88.0.0/16"),
		Reserve: prefixes("10.88.0.0/17", "10.88.128.0/18")}
	huge := ipam.Pool{Name: "huge", CIDR: netip.MustParsePrefix("2001:db8:88::/48"), Block: netip.MustParsePrefix("2001:db8:88::/48"),
		Reserve: prefixes("2001:db8:88::/49", "2001:db8:88:8000::/64")}
	d := newDesk(t, sixteen, huge)
	d.wants(t, "10.88.192.0", "first", "sixteen")
	d.wants(t, "2001:db8:88:8001::", "first", "huge")
	const left = 1<<14 - 2 // a quarter of the block without first's and the broadcast address
	start := time.Now()
	var leases []ipam.Lease
	for len(leases) < left {
		requests := make([]ipam.Request, min(512, left-len(leases)))
		for i := range requests {
			requests[i] = ipam.Request{Owner: fmt.Sprint(len(leases) + i), Pool: "sixteen"}
		}
		more, err := d.Lease(t.Context(), requests...)
		if err != nil {
			t.Fatal(err)
		}
		leases = append(leases, more...)
	}
	t.Logf("%d leases in %s", len(leases), time.Since(start))
	if got := leases[len(leases)-1].Address; got != addr("10.88.255.254") {
		t.Errorf("the last is %s", got)
	}
	d.refused(t, ipam.ErrExhausted, ipam.Request{Owner: "one more", Pool: "sixteen"}, "49153 are reserved")
	d.restart(t)
	d.release(t, "7")
	d.wants(t, leases[7].Address.String(), "one more", "sixteen")
}
