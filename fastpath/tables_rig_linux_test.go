package fastpath

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/fairlead-net/fairlead/nettest"
	"github.com/fairlead-net/fairlead/reconcile"
)

// tableRig is a host whose maps are pinned where no other test sees them.
type tableRig struct {
	*nettest.Host
	t    *testing.T
	pins string
}

func newTableRig(t *testing.T) tableRig {
	t.Helper()
	return tableRig{nettest.NewHost(t, "a"), t, nettest.MountPins(t, t.TempDir())}
}

// open adopts the maps as a daemon does that starts on the host.
func (r tableRig) open(sizes Sizes) *tables {
	r.t.Helper()
	tb, err := r.tryOpen(sizes)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = tb.close() }) // again, where a test has closed it
	return tb
}

func (r tableRig) tryOpen(sizes Sizes) (tb *tables, err error) {
	err = r.Do(func() error {
		dir, err := dirHere(r.pins)
		if err != nil {
			return err
		}
		lock, err := lockDir(dir)
		if err != nil {
			return err
		}
		defer lock.Close()
		spec, err := loadDatapath()
		if err != nil {
			return err
		}
		tb, err = openTables(dir, spec, sizes)
		return err
	})
	return tb, err
}

// dir is where the pins of the host are.
func (r tableRig) dir() (dir string) {
	r.t.Helper()
	if err := r.Do(func() (err error) { dir, err = dirHere(r.pins); return err }); err != nil {
		r.t.Fatal(err)
	}
	return dir
}

// endpoint makes a pair with the inside in another namespace, and returns that.
func (r tableRig) endpoint(link string) *nettest.Host {
	r.t.Helper()
	inside := nettest.NewHost(r.t, "c")
	r.IP(fmt.Sprintf("link add %s type veth peer name eth0 netns %s", link, filepath.Base(inside.Path)))
	return inside
}

// settle brings a table to want in one pass and checks that it is then exactly that, and that a second pass has nothing to
// do.
func settle[K, V comparable](t *testing.T, target reconcile.Target[K, V], want map[K]V) *reconcile.Report {
	t.Helper()
	table := reconcile.NewTable("row", target)
	r := reconcile.Climb(t.Context(), table.Rung(want, nil))
	if !r.Clean() {
		t.Fatalf("settle: %v", r.Err())
	}
	holds(t, target, want)
	if again := reconcile.Climb(t.Context(), table.Rung(want, nil)); !again.Clean() || again.Total() != 0 {
		t.Fatalf("second pass: %+v", again)
	}
	return r
}

// holds checks what a table lists.
func holds[K, V comparable](t *testing.T, target reconcile.Target[K, V], want map[K]V) {
	t.Helper()
	have, err := target.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, have, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}), cmpopts.EquateEmpty()); diff != "" {
		t.Fatalf("table (-want +have):\n%s", diff)
	}
}

func mustBe(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func ip(s string) netip.Addr { return netip.MustParseAddr(s) }

func cidr(s string) netip.Prefix { return netip.MustParsePrefix(s) }

// slotsIn is the slots that the rows of the maps have, by what they are of.
func slotsIn(t *testing.T, tb *tables) map[string]uint32 {
	t.Helper()
	all := make(map[string]uint32)
	endpoints, err := tb.endpoints().read(t.Context())
	mustBe(t, err)
	for a, v := range endpoints {
		all[a.String()] = v.Slot
	}
	sides, err := tb.sides().read(t.Context())
	mustBe(t, err)
	for index, v := range sides {
		all[fmt.Sprint("side ", index)] = v.Slot
	}
	routes, err := tb.routes().read(t.Context())
	mustBe(t, err)
	for p, v := range routes {
		all[p.String()] = v.Slot
	}
	return all
}
