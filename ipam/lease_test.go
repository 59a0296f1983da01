package ipam_test

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/fairlead-net/fairlead/ipam"
	"github.com/fairlead-net/fairlead/store"
)

func TestLeaseIsKeptAndTheSameForTheSameOwner(t *testing.T) {
	d := newDesk(t, small(), six())
	got, err := d.Lease(t.Context(), ipam.Request{Owner: "web", Pool: "small"},
		ipam.Request{Owner: "web", Pool: "six", Policy: ipam.PolicyOwner})
	if err != nil {
		t.Fatal(err)
	}
	want := []ipam.Lease{
		{Address: addr("10.88.7.1"), Owner: "web", Pool: "small", Policy: ipam.PolicyEndpoint, Since: d.clock.t},
		{Address: addr("2001:db8:88::1"), Owner: "web", Pool: "six", Policy: ipam.PolicyOwner, Since: d.clock.t},
	}
	addrs := cmpopts.EquateComparable(netip.Addr{})
	if diff := cmp.Diff(want, got, addrs); diff != "" {
		t.Error(diff)
	}
	d.clock.advance(time.Hour)
	rev := d.db.Revision()
	d.wants(t, "10.88.7.1", "web", "small")
	d.wants(t, "10.88.7.1", "web", "", "10.88.7.1")
	d.wants(t, "2001:db8:88::1", "web", "six")
	if d.db.Revision() != rev {
		t.Error("asking again was written to the disk")
	}
	d.restart(t)
	if diff := cmp.Diff(want, d.Leases(), addrs); diff != "" {
		t.Errorf("after a restart: %s", diff)
	}
	d.wants(t, "10.88.7.1", "web", "small")
	d.wants(t, "10.88.7.2", "db", "small")
}

func TestReservedAddressesAreNeverGiven(t *testing.T) {
	four, long := small(), six()
	four.Reserve = []netip.Prefix{netip.MustParsePrefix("10.88.7.2/31"), netip.MustParsePrefix("10.88.9.0/24")}
	long.Reserve = []netip.Prefix{netip.MustParsePrefix("2001:db8:88::4/126")}
	d := newDesk(t, four, long)
	for i, want := range []string{"10.88.7.1", "10.88.7.4", "10.88.7.5", "10.88.7.6"} {
		d.wants(t, want, fmt.Sprint("v4-", i), "small")
	}
	for i, want := range []string{"2001:db8:88::1", "2001:db8:88::2", "2001:db8:88::3"} {
		d.wants(t, want, fmt.Sprint("v6-", i), "six")
	}
	d.refused(t, ipam.ErrExhausted, ipam.Request{Owner: "x", Pool: "small"}, "10.88.7.0/29", "4 are leased", "4 are reserved", "small")
	d.refused(t, ipam.ErrExhausted, ipam.Request{Owner: "x", Pool: "six"}, "2001:db8:88::/125")
	for a, why := range map[string]string{
		"10.88.7.0":      "network address of 10.88.7.0/29",
		"10.88.7.7":      "broadcast address",
		"10.88.7.3":      "reserve of pool small lists 10.88.7.2/31",
		"2001:db8:88::":  "subnet-router anycast",
		"2001:db8:88::5": "2001:db8:88::4/126",
	} {
		d.refused(t, ipam.ErrReserved, ipam.Request{Owner: "x", Address: addr(a)}, why)
	}
}

func TestSmallestBlocksReserveNothing(t *testing.T) {
	cases := map[string][]string{
		"192.0.2.4/31":        {"192.0.2.4", "192.0.2.5"},
		"192.0.2.9/32":        {"192.0.2.9"},
		"192.0.2.0/30":        {"192.0.2.1", "192.0.2.2"},
		"2001:db8:88::2/127":  {"2001:db8:88::2", "2001:db8:88::3"},
		"2001:db8:88::9/128":  {"2001:db8:88::9"},
		"2001:db8:88::10/126": {"2001:db8:88::11", "2001:db8:88::12", "2001:db8:88::13"},
	}
	for cidr, want := range cases {
		t.Run(cidr, func(t *testing.T) {
			p := ipam.Pool{Name: "p", CIDR: netip.MustParsePrefix(cidr)}
			d := newDesk(t, p)
			d.refused(t, ipam.ErrNoBlock, ipam.Request{Owner: "x", Pool: "p"}, "set block")
			if err := d.Claim(t.Context(), "p", p.CIDR); err != nil {
				t.Fatal(err)
			}
			for i, a := range want {
				d.wants(t, a, fmt.Sprint(i), "p")
			}
			d.refused(t, ipam.ErrExhausted, ipam.Request{Owner: "x", Pool: "p"})
		})
	}
}

func TestFreedAddressesRestAndComeBackOldestFirst(t *testing.T) {
	d := newDesk(t, small())
	for i := range 6 {
		d.lease(t, fmt.Sprint(i), "small") // .1 to .6
	}
	for _, owner := range []string{"3", "0", "4"} { // .4, .1, .5
		d.clock.advance(10 * time.Second)
		d.release(t, owner)
	}
	d.clock.advance(9 * time.Second)
	d.refused(t, ipam.ErrExhausted, ipam.Request{Owner: "a", Pool: "small"}, "3 are leased", "3 rest", "1s")
	d.restart(t)
	d.clock.advance(time.Second)
	d.wants(t, "10.88.7.4", "a", "small")
	d.refused(t, ipam.ErrExhausted, ipam.Request{Owner: "b", Pool: "small"}, "10s")
	d.clock.advance(time.Minute)
	d.restart(t)
	d.wants(t, "10.88.7.1", "b", "small")
	d.wants(t, "10.88.7.5", "c", "small")
}

func TestAddressesThatNobodyHadGoFirst(t *testing.T) {
	d := newDesk(t, small())
	d.wants(t, "10.88.7.1", "a", "small")
	d.release(t, "a")
	d.clock.advance(time.Hour)
	for i, want := range []string{"10.88.7.2", "10.88.7.3", "10.88.7.4", "10.88.7.5", "10.88.7.6", "10.88.7.1"} {
		d.wants(t, want, fmt.Sprint(i), "small")
	}
}

func TestAskedForAddress(t *testing.T) {
	d := newDesk(t, small())
	d.wants(t, "10.88.7.5", "web", "small", "10.88.7.5")
	d.refused(t, ipam.ErrTaken, ipam.Request{Owner: "db", Pool: "small", Address: addr("10.88.7.5")}, `"web" holds it`, "detach")
	d.refused(t, ipam.ErrTaken, ipam.Request{Owner: "web", Pool: "small", Address: addr("10.88.7.6")}, "10.88.7.5 of this pool already")
	d.refused(t, ipam.ErrForeign, ipam.Request{Owner: "db", Pool: "small", Address: addr("10.88.8.1")}, "10.88.7.0/29")
	d.refused(t, ipam.ErrForeign, ipam.Request{Owner: "db", Pool: "small", Address: addr("192.0.2.1")}, "10.88.7.0/29")
	d.refused(t, ipam.ErrForeign, ipam.Request{Owner: "db", Pool: "small", Address: addr("2001:db8:88::1")})
	d.refused(t, ipam.ErrNoPool, ipam.Request{Owner: "db", Address: addr("192.0.2.1")}, "the pools are small")
	d.refused(t, ipam.ErrNoPool, ipam.Request{Owner: "db", Pool: "large"}, "the pools are small", `"large"`)
	d.release(t, "web")
	d.clock.advance(10 * time.Second)
	d.refused(t, ipam.ErrResting, ipam.Request{Owner: "db", Pool: "small", Address: addr("10.88.7.5")}, `"web"`, "20s", "reuse_delay 30s")
	d.wants(t, "10.88.7.5", "web", "small", "10.88.7.5") // who had it last need not wait
	d.release(t, "web")
	d.clock.advance(31 * time.Second)
	d.wants(t, "10.88.7.5", "db", "small", "::ffff:10.88.7.5")
}

func TestClockSetBackDoesNotLockAddressesAway(t *testing.T) {
	d := newDesk(t, small())
	d.lease(t, "web", "small", "10.88.7.5")
	d.release(t, "web")
	d.clock.advance(-1000 * time.Hour)
	d.refused(t, ipam.ErrResting, ipam.Request{Owner: "db", Pool: "small", Address: addr("10.88.7.5")}, "30s")
	d.clock.advance(31 * time.Second)
	d.wants(t, "10.88.7.5", "db", "small", "10.88.7.5")
}

func TestAllOrNone(t *testing.T) {
	d := newDesk(t, small(), six())
	d.lease(t, "old", "small", "10.88.7.1")
	d.release(t, "old")
	for range 3 { // each time the very same is free again
		_, err := d.Lease(t.Context(), ipam.Request{Owner: "web", Pool: "six"}, ipam.Request{Owner: "web", Pool: "small"},
			ipam.Request{Owner: "web", Pool: "none"})
		if !errors.Is(err, ipam.ErrNoPool) {
			t.Fatal(err)
		}
		sour := errors.New("sour")
		_, err = d.LeaseWith(t.Context(), func(tx *store.Tx, leases []ipam.Lease) error {
			if len(leases) != 2 || leases[1].Address != addr("10.88.7.1") {
				t.Errorf("leases %v", leases)
			}
			return sour
		}, ipam.Request{Owner: "old", Pool: "six"}, ipam.Request{Owner: "old", Pool: "small", Address: addr("10.88.7.1")})
		if !errors.Is(err, sour) {
			t.Fatal(err)
		}
		if got := d.Leases(); len(got) != 0 {
			t.Fatalf("leases %v", got)
		}
	}
	d.wants(t, "10.88.7.2", "web", "small")
	d.wants(t, "2001:db8:88::1", "web", "six")
	d.refused(t, ipam.ErrResting, ipam.Request{Owner: "db", Pool: "small", Address: addr("10.88.7.1")})
}

func TestWhatIsWrittenWithALeaseIsInTheSameCommit(t *testing.T) {
	d := newDesk(t, small())
	notes := store.Bucket[string]{Name: "notes"}
	rev := d.db.Revision()
	leases, err := d.LeaseWith(t.Context(), func(tx *store.Tx, leases []ipam.Lease) error {
		return notes.Put(tx, "web", leases[0].Address.String())
	}, ipam.Request{Owner: "web", Pool: "small"})
	if err != nil || d.db.Revision() != rev+1 {
		t.Fatalf("%v, revision %d, want %d", err, d.db.Revision(), rev+1)
	}
	note := func() (s string) {
		_ = d.db.View(func(tx *store.Tx) (err error) { s, _, err = notes.Get(tx, "web"); return err })
		return s
	}
	if note() != leases[0].Address.String() {
		t.Errorf("note %q", note())
	}
	sour := errors.New("sour")
	if _, err := d.ReleaseWith(t.Context(), "web", func(tx *store.Tx) error { return sour }); !errors.Is(err, sour) {
		t.Errorf("release: %v", err)
	}
	if len(d.Leases()) != 1 {
		t.Error("the lease ended all the same")
	}
	gone, err := d.ReleaseWith(t.Context(), "web", func(tx *store.Tx) error { return notes.Delete(tx, "web") })
	if err != nil || !slices.Equal(gone, leases) || note() != "" || d.db.Revision() != rev+2 {
		t.Errorf("released %v, %v; note %q", gone, err, note())
	}
	// Nothing is held, and what goes with it is written all the same.
	if _, err = d.ReleaseWith(t.Context(), "web", func(tx *store.Tx) error { return notes.Put(tx, "web", "gone") }); err != nil || note() != "gone" {
		t.Errorf("released nothing: %v; note %q", err, note())
	}
}

func TestPanicWithALeaseLeavesNothing(t *testing.T) {
	d := newDesk(t, small())
	func() {
		defer func() { _ = recover() }()
		_, _ = d.LeaseWith(t.Context(), func(*store.Tx, []ipam.Lease) error { panic("rotten") }, ipam.Request{Owner: "web", Pool: "small"})
	}()
	d.wants(t, "10.88.7.1", "web", "small")
	func() {
		defer func() { _ = recover() }()
		_, _ = d.ReleaseWith(t.Context(), "web", func(*store.Tx) error { panic("rotten") })
	}()
	d.wants(t, "10.88.7.1", "web", "small")
}

func TestPolicies(t *testing.T) {
	d := newDesk(t, small(), six())
	_, err := d.Lease(t.Context(), ipam.Request{Owner: "web", Pool: "small"}, ipam.Request{Owner: "web", Pool: "six", Policy: ipam.PolicyOwner})
	if err != nil {
		t.Fatal(err)
	}
	gone, err := d.Release(t.Context(), "web")
	if err != nil || len(gone) != 1 || gone[0].Pool != "small" {
		t.Errorf("released %v, %v", gone, err)
	}
	fixed := addr("2001:db8:88::1")
	if err := d.ReleaseAddress(t.Context(), "db", fixed); !errors.Is(err, ipam.ErrTaken) {
		t.Errorf("another one's: %v", err)
	} else {
		says(t, err, `"web"`, fixed.String())
	}
	for range 2 { // the second time nobody holds it
		if err := d.ReleaseAddress(t.Context(), "web", fixed); err != nil {
			t.Error(err)
		}
	}
	if got := d.Leases(); len(got) != 0 {
		t.Errorf("leases %v", got)
	}
	for _, r := range []ipam.Request{{Pool: "small"}, {Owner: "web", Pool: "small", Policy: "forever"}} {
		if _, err := d.Lease(t.Context(), r); err == nil {
			t.Errorf("%+v was given", r)
		}
	}
}
