package ipam_test

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/ipam"
	"github.com/fairlead-net/fairlead/store"
)

// The test binary is also the child processes of its tests.
const (
	childVerify = "-child-verify" // examines the store
	childLife   = "-child-life"   // leases and releases, to be killed
)

func TestMain(m *testing.M) {
	if len(os.Args) > 2 {
		switch os.Args[1] {
		case childVerify:
			exit(store.Verify(os.Args[2]))
		case childLife:
			exit(live(os.Args[2], os.Args[3]))
		}
	}
	_ = os.Setenv("GORACE", "atexit_sleep_ms=0") // or each child with the race detector takes a second to end
	os.Exit(m.Run())
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// clock is time in the hands of the test.
type clock struct{ t time.Time }

func newClock() *clock { return &clock{time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)} }

func (c *clock) now() time.Time          { return c.t }
func (c *clock) advance(d time.Duration) { c.t = c.t.Add(d) }

// desk is a ledger, the store below it, and the clock.
type desk struct {
	*ipam.Ledger
	db    *store.DB
	path  string
	clock *clock
	pools []ipam.Pool
}

func newDesk(t *testing.T, pools ...ipam.Pool) *desk {
	t.Helper()
	d := &desk{path: filepath.Join(t.TempDir(), "fairlead.db"), clock: newClock(), pools: pools}
	d.open(t)
	t.Cleanup(func() { _ = d.db.Close() })
	return d
}

func (d *desk) open(t *testing.T) {
	t.Helper()
	var err error
	if d.db, err = store.Open(t.Context(), d.path, store.Options{Check: []string{os.Args[0], childVerify}}); err != nil {
		t.Fatal(err)
	}
	d.read(t)
}

// read has a new ledger read the store.
func (d *desk) read(t *testing.T) {
	t.Helper()
	var err error
	if d.Ledger, err = ipam.NewLedger(d.db, d.clock.now); err != nil {
		t.Fatal(err)
	}
	if err := d.SetPools(d.pools); err != nil {
		t.Fatal(err)
	}
}

// restart is the daemon's.
func (d *desk) restart(t *testing.T) {
	t.Helper()
	if err := d.db.Close(); err != nil {
		t.Fatal(err)
	}
	d.open(t)
}

// lease asks for any address, or for the one that is given.
func (d *desk) lease(t *testing.T, owner, pool string, address ...string) netip.Addr {
	t.Helper()
	r := ipam.Request{Owner: owner, Pool: pool}
	for _, a := range address {
		r.Address = netip.MustParseAddr(a)
	}
	leases, err := d.Lease(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	return leases[0].Address
}

func (d *desk) wants(t *testing.T, want, owner, pool string, address ...string) {
	t.Helper()
	if got := d.lease(t, owner, pool, address...); got != netip.MustParseAddr(want) {
		t.Errorf("%s got %s, want %s", owner, got, want)
	}
}

func (d *desk) release(t *testing.T, owner string) {
	t.Helper()
	if _, err := d.Release(t.Context(), owner); err != nil {
		t.Fatal(err)
	}
}

// refused asks and wants an error that says all of words.
func (d *desk) refused(t *testing.T, want error, r ipam.Request, words ...string) {
	t.Helper()
	before := d.Leases()
	_, err := d.Lease(t.Context(), r)
	if !errors.Is(err, want) {
		t.Errorf("%+v: %v, want %v", r, err, want)
		return
	}
	says(t, err, words...)
	if after := d.Leases(); len(after) != len(before) {
		t.Errorf("%+v: refused, but %d leases became %d", r, len(before), len(after))
	}
}
