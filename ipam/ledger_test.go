package ipam_test

import (
	"context"
	"errors"
	"math"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/fairlead-net/fairlead/ipam"
	"github.com/fairlead-net/fairlead/store"
)

func says(t *testing.T, err error, words ...string) {
	t.Helper()
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("error %q does not say %q", err, w)
		}
	}
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// small is a pool with six addresses to hand out: .1 to .6.
func small() ipam.Pool {
	return ipam.Pool{
		Name: "small", CIDR: netip.MustParsePrefix("10.88.0.0/16"), Block: netip.MustParsePrefix("10.88.7.0/29"),
		ReuseDelay: 30 * time.Second,
	}
}

func six() ipam.Pool {
	return ipam.Pool{
		Name: "six", CIDR: netip.MustParsePrefix("2001:db8:88::/64"), Block: netip.MustParsePrefix("2001:db8:88::/125"),
		ReuseDelay: 30 * time.Second,
	}
}

func TestHold(t *testing.T) {
	d := newDesk(t, small())
	d.wants(t, "10.88.7.1", "web", "small")
	d.Hold("small", "block 10.88.7.0/29 is also announced by 192.0.2.9")
	d.refused(t, ipam.ErrHeld, ipam.Request{Owner: "db", Pool: "small"}, "192.0.2.9")
	d.wants(t, "10.88.7.1", "web", "small")
	if err := d.SetPools(d.pools); err != nil {
		t.Fatal(err)
	}
	if u := d.Usage()[0]; u.Held == "" {
		t.Errorf("usage %+v", u)
	}
	d.release(t, "web")
	d.Hold("small", "")
	d.wants(t, "10.88.7.2", "db", "small")
}

func TestClaim(t *testing.T) {
	p := small()
	p.Block = netip.Prefix{}
	d := newDesk(t, p)
	a, b := netip.MustParsePrefix("10.88.3.0/24"), netip.MustParsePrefix("10.88.4.0/24")
	if got := d.Usage()[0].Block; got.IsValid() {
		t.Errorf("block %s before the claim", got)
	}
	for block, want := range map[netip.Prefix]error{netip.MustParsePrefix("10.89.0.0/24"): ipam.ErrForeign, {}: ipam.ErrForeign} {
		if err := d.Claim(t.Context(), "small", block); !errors.Is(err, want) {
			t.Errorf("claim %s: %v", block, err)
		}
	}
	if err := d.Claim(t.Context(), "none", a); !errors.Is(err, ipam.ErrNoPool) {
		t.Errorf("no pool: %v", err)
	}
	for _, block := range []netip.Prefix{a, a, b} {
		if err := d.Claim(t.Context(), "small", block); err != nil {
			t.Fatal(err)
		}
	}
	d.restart(t)
	if got := d.Usage()[0].Block; got != b {
		t.Errorf("block %s, want %s", got, b)
	}
	d.wants(t, "10.88.4.1", "web", "small")
	if err := d.Claim(t.Context(), "small", a); !errors.Is(err, ipam.ErrTaken) {
		t.Errorf("claim with leases: %v", err)
	} else {
		says(t, err, "10.88.4.1", `"web"`)
	}
	if err := d.Claim(t.Context(), "small", b); err != nil {
		t.Errorf("claim the same: %v", err)
	}
	d.release(t, "web")
	if err := d.Claim(t.Context(), "small", a); err != nil {
		t.Fatal(err)
	}
	d.wants(t, "10.88.3.1", "web", "small")

	p.Block = b
	if err := d.SetPools([]ipam.Pool{p}); err != nil {
		t.Fatal(err)
	}
	if err := d.Claim(t.Context(), "small", a); !errors.Is(err, ipam.ErrForeign) {
		t.Errorf("claim against the config: %v", err)
	}
	if got := d.Usage()[0].Block; got != b {
		t.Errorf("block %s, want the configured %s", got, b)
	}
}

func TestLeasesOutsideOfAllPoolsAreKept(t *testing.T) {
	d := newDesk(t, small(), six())
	d.wants(t, "10.88.7.1", "web", "small")
	d.wants(t, "10.88.7.2", "db", "small")
	d.pools = []ipam.Pool{six()}
	d.restart(t)
	if got := d.Leases(); len(got) != 2 {
		t.Errorf("leases %v", got)
	}
	d.wants(t, "10.88.7.1", "web", "small") // it is still the owner's
	d.release(t, "web")
	d.pools = []ipam.Pool{small(), six()}
	d.restart(t)
	d.refused(t, ipam.ErrResting, ipam.Request{Owner: "x", Pool: "small", Address: addr("10.88.7.1")})
	d.refused(t, ipam.ErrTaken, ipam.Request{Owner: "x", Pool: "small", Address: addr("10.88.7.2")})
	d.wants(t, "10.88.7.3", "x", "small")

	d.pools = nil
	d.restart(t)
	d.refused(t, ipam.ErrNoPool, ipam.Request{Owner: "y", Pool: "small"}, "no [[pool]] is configured")
}

func TestRestore(t *testing.T) {
	d := newDesk(t, small())
	since := d.clock.t.Add(-time.Hour)
	found := []ipam.Lease{
		{Address: addr("10.88.7.3"), Owner: "web", Since: since},
		{Address: addr("10.88.200.9"), Owner: "db", Pool: "small", Since: since}, // of an earlier block
		{Address: addr("198.51.100.7"), Owner: "old", Pool: "gone", Policy: ipam.PolicyOwner, Since: since},
	}
	for range 2 {
		if err := d.RestoreWith(t.Context(), found, nil); err != nil {
			t.Fatal(err)
		}
		d.restart(t)
	}
	got := d.Leases()
	if len(got) != 3 || got[0].Pool != "small" || got[0].Policy != ipam.PolicyEndpoint || !got[1].Since.Equal(since) {
		t.Errorf("leases %+v", got)
	}
	d.wants(t, "10.88.7.3", "web", "small")
	for _, l := range []ipam.Lease{
		{Address: addr("10.88.7.3"), Owner: "thief", Pool: "small"},
		{Address: addr("10.88.7.4"), Owner: "web", Pool: "small"},
		{Address: addr("10.88.7.4")},
		{Owner: "x"},
	} {
		if err := d.RestoreWith(t.Context(), []ipam.Lease{{Address: addr("10.88.7.5"), Owner: "new"}, l}, nil); err == nil {
			t.Errorf("%+v was restored", l)
		}
	}
	if got := d.Leases(); len(got) != 3 {
		t.Errorf("leases %+v", got)
	}
}

func TestUsage(t *testing.T) {
	huge := ipam.Pool{Name: "huge", CIDR: netip.MustParsePrefix("2001:db8::/32"), Block: netip.MustParsePrefix("2001:db8:88::/48")}
	none := ipam.Pool{Name: "none", CIDR: netip.MustParsePrefix("198.51.100.0/24")}
	d := newDesk(t, small(), huge, none)
	for _, owner := range []string{"a", "b", "c"} {
		d.lease(t, owner, "small")
	}
	d.release(t, "a")
	d.lease(t, "a", "huge")
	want := []ipam.Usage{
		{Pool: "huge", Block: huge.Block, Size: math.MaxInt, Reserved: 1, Leased: 1},
		{Pool: "none"},
		{Pool: "small", Block: small().Block, Size: 8, Reserved: 2, Leased: 2, Resting: 1},
	}
	if diff := cmp.Diff(want, d.Usage(), cmpopts.EquateComparable(netip.Prefix{})); diff != "" {
		t.Error(diff)
	}
	d.clock.advance(time.Minute)
	if got := d.Usage()[2].Resting; got != 0 {
		t.Errorf("%d rest after their rest", got)
	}
}

func TestBadPoolsChangeNothing(t *testing.T) {
	d := newDesk(t, small())
	for what, bad := range map[string]func(*ipam.Pool){
		"no name":         func(p *ipam.Pool) { p.Name = "" },
		"no network":      func(p *ipam.Pool) { p.CIDR = netip.Prefix{} },
		"host bits":       func(p *ipam.Pool) { p.CIDR = netip.MustParsePrefix("203.0.113.1/24") },
		"foreign block":   func(p *ipam.Pool) { p.Block = netip.MustParsePrefix("10.99.0.0/24") },
		"larger block":    func(p *ipam.Pool) { p.Block = netip.MustParsePrefix("203.0.112.0/23") },
		"other family":    func(p *ipam.Pool) { p.Block = netip.MustParsePrefix("2001:db8::/120") },
		"negative delay":  func(p *ipam.Pool) { p.ReuseDelay = -1 },
		"the same name":   func(p *ipam.Pool) { p.Name = "small" },
		"the same region": func(p *ipam.Pool) { p.CIDR, p.Block = netip.MustParsePrefix("10.0.0.0/8"), netip.Prefix{} },
	} {
		p := ipam.Pool{Name: "p", CIDR: netip.MustParsePrefix("203.0.113.0/24"), Block: netip.MustParsePrefix("203.0.113.0/25")}
		bad(&p)
		if err := d.SetPools([]ipam.Pool{small(), p}); err == nil {
			t.Errorf("%s: taken", what)
		}
	}
	d.wants(t, "10.88.7.1", "web", "small")
}

func TestCanceledWaitGivesNothing(t *testing.T) {
	d := newDesk(t, small())
	began, goOn := make(chan struct{}), make(chan struct{})
	done := make(chan error)
	go func() {
		_, err := d.LeaseWith(context.Background(), func(*store.Tx, []ipam.Lease) error {
			close(began)
			<-goOn
			return nil
		}, ipam.Request{Owner: "web", Pool: "small"})
		done <- err
	}()
	<-began
	if got := d.Leases(); len(got) != 0 {
		t.Errorf("listed before it is on the disk: %v", got)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	for _, owner := range []string{"web", "db"} { // one waits for the same owner, one for the disk
		if _, err := d.Lease(ctx, ipam.Request{Owner: owner, Pool: "small"}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: %v", owner, err)
		}
	}
	close(goOn)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	d.wants(t, "10.88.7.1", "web", "small")
	d.wants(t, "10.88.7.2", "db", "small")
}
