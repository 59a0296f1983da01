package ipam_test

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"

	"github.com/fairlead-net/fairlead/ipam"
)

// part asks for any address of a part of the pool small, for an owner of its own.
func part(p string) ipam.Request {
	return ipam.Request{Each: "box ", Pool: "small", Within: netip.MustParsePrefix(p), Policy: ipam.PolicyOwner}
}

// take asks and wants an address, with the owner that goes with it.
func (d *desk) take(t *testing.T, want string, r ipam.Request) {
	t.Helper()
	leases, err := d.Lease(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	if got := leases[0]; got.Address.String() != want || got.Owner != "box "+want {
		t.Errorf("%+v: got %s of %q, want %s", r, got.Address, got.Owner, want)
	}
}

func TestEachAddressHasAnOwnerOfItsOwn(t *testing.T) {
	d := newDesk(t, small())
	d.take(t, "10.88.7.4", part("10.88.7.4/31"))
	d.take(t, "10.88.7.5", part("10.88.7.4/31"))
	d.refused(t, ipam.ErrExhausted, part("10.88.7.4/31"), "10.88.7.4/31")
	d.refused(t, ipam.ErrForeign, part("10.88.9.0/24"), "10.88.7.0/29", "10.88.9.0/24")
	d.take(t, "10.88.7.1", part("10.88.7.0/30")) // not the network address
	d.take(t, "10.88.7.2", part("10.88.0.0/16"))
	named := part("10.88.0.0/16")
	named.Address = netip.MustParseAddr("10.88.7.5")
	d.take(t, "10.88.7.5", named) // the same again
	d.lease(t, "web", "small", "10.88.7.6")
	named.Address = netip.MustParseAddr("10.88.7.6")
	d.refused(t, ipam.ErrTaken, named, "web")
	for _, a := range []string{"10.88.7.5", "10.88.7.4"} { // in the order in which they may be had again
		if err := d.ReleaseAddress(t.Context(), "box "+a, netip.MustParseAddr(a)); err != nil {
			t.Fatal(err)
		}
	}
	d.refused(t, ipam.ErrExhausted, part("10.88.7.4/31"))
	named.Address = netip.MustParseAddr("10.88.7.4")
	d.take(t, "10.88.7.4", named) // by name it is had at once
	d.clock.advance(small().ReuseDelay)
	d.take(t, "10.88.7.5", part("10.88.7.4/31"))
	d.restart(t)
	d.take(t, "10.88.7.5", func() ipam.Request { r := part("10.88.7.0/29"); r.Address = netip.MustParseAddr("10.88.7.5"); return r }())
}

func TestManyAtOnceGetEachTheirOwn(t *testing.T) {
	d := newDesk(t, small())
	var wg sync.WaitGroup
	given := make([]string, 9)
	for i := range given {
		wg.Go(func() {
			leases, err := d.Lease(t.Context(), part("10.88.7.0/29"))
			if err == nil {
				given[i] = leases[0].Address.String()
			} else if !errors.Is(err, ipam.ErrExhausted) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	slices.Sort(given)
	if got := fmt.Sprint(given); got != "[   10.88.7.1 10.88.7.2 10.88.7.3 10.88.7.4 10.88.7.5 10.88.7.6]" {
		t.Errorf("given: %s", got)
	}
}
