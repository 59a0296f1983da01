package nat_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/fairlead-net/fairlead/nat"
	"github.com/fairlead-net/fairlead/store"
)

// locker is who holds ports, in memory. Other programs have some.
type locker struct {
	mu      sync.Mutex
	others  map[uint16]bool
	claimed map[nat.Port]int

	meanwhile func() // what others do during the next claim
}

func (l *locker) Claim(_ context.Context, ports ...nat.Port) error {
	l.mu.Lock()
	meanwhile := l.meanwhile
	l.meanwhile = nil
	l.mu.Unlock()
	if meanwhile != nil {
		meanwhile()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range ports {
		if l.others[p.Number] {
			return fmt.Errorf("%w: %s is in use by nginx", nat.ErrTaken, p)
		}
	}
	for _, p := range ports {
		l.claimed[p]++
	}
	return nil
}

func (l *locker) Release(ports ...nat.Port) { l.Settle(ports...) }

func (l *locker) Settle(ports ...nat.Port) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range ports {
		if l.claimed[p]--; l.claimed[p] == 0 {
			delete(l.claimed, p)
		}
	}
}

// desk is a book on a disk, with a clock that is set by hand.
type desk struct {
	*nat.Book
	db    *store.DB
	locks *locker
	now   time.Time
	dice  *rand.Rand
}

type fataler interface {
	Helper()
	Fatalf(format string, args ...any)
}

func openDesk(t fataler, dir string, seed uint64) *desk {
	t.Helper()
	d := &desk{locks: &locker{others: map[uint16]bool{8002: true}, claimed: make(map[nat.Port]int)}, now: time.Unix(1e9, 0).UTC(), dice: rand.New(rand.NewPCG(seed, 1))}
	var err error
	if d.db, err = store.Open(context.Background(), filepath.Join(dir, "book.db"), store.Options{}); err != nil {
		t.Fatalf("open store: %v", err)
	}
	d.reopen(t)
	return d
}

func (d *desk) reopen(t fataler) {
	t.Helper()
	var err error
	if d.Book, err = nat.NewBook(d.db, d.locks, func() time.Time { return d.now }, d.draw); err != nil {
		t.Fatalf("read book: %v", err)
	}
}

// draw is the same each time for one seed.
func (d *desk) draw(below int) int {
	d.locks.mu.Lock()
	defer d.locks.mu.Unlock()
	return d.dice.IntN(below)
}

func (d *desk) order(o nat.Order) error {
	o.Random = nat.Range{First: 8000, Last: 8007}
	draft, err := d.Plan(context.Background(), o)
	if err != nil {
		return err
	}
	return draft.Commit(context.Background())
}

func (d *desk) text() string {
	var all []string
	for _, m := range d.All() {
		rests := ""
		if m.Resting() {
			rests = " rests"
		}
		all = append(all, fmt.Sprintf("%s %s->%d %s%s", m.Owner, m.Port, m.Target, m.Origin, rests))
	}
	return strings.Join(all, ", ")
}

func specs(t fataler, texts ...string) (all []nat.Spec) {
	t.Helper()
	for _, text := range texts {
		s, err := nat.ParseSpec(text)
		if err != nil {
			t.Fatalf("%v", err)
		}
		all = append(all, s...)
	}
	return all
}

// TestBookByModel has random owners do random things, and holds after each what must be true of every book.
func TestBookByModel(t *testing.T) {
	dir := t.TempDir()
	round := 0
	rapid.Check(t, func(t *rapid.T) {
		round++
		d := openDesk(t, filepath.Join(dir, fmt.Sprint(round)), rapid.Uint64().Draw(t, "seed"))
		defer d.db.Close()
		owner := rapid.SampledFrom([]string{"a", "b", "c"})
		spec := rapid.SampledFrom([]string{"80", "81", "80/udp", "8001:80", "8001:81", "8002:80", "8003-8005:80", "192.0.2.1:8001:80", "127.0.0.1::80", "0.0.0.0:8006:80"})
		families := rapid.SampledFrom([][]int{{4}, {4, 6}})
		for range rapid.IntRange(1, 12).Draw(t, "steps") {
			o := nat.Order{
				Owner: owner.Draw(t, "owner"), Families: families.Draw(t, "families"),
				Specs: specs(t, rapid.SliceOfN(spec, 0, 3).Draw(t, "specs")...),
			}
			before := d.text()
			switch rapid.IntRange(0, 7).Draw(t, "what") {
			case 0, 1, 2:
				o.Origin = rapid.SampledFrom([]nat.Origin{nat.OriginAttach, nat.OriginPublish, nat.OriginReserve}).Draw(t, "origin")
				d.checkOrder(t, o, before)
			case 3:
				if err := d.Rest(o.Owner).Commit(t.Context()); err != nil {
					t.Fatalf("rest: %v", err)
				}
			case 4:
				draft, err := d.Cancel(o.Owner, o.Specs)
				if err == nil {
					err = draft.Commit(t.Context())
				}
				if err != nil && d.text() != before {
					t.Fatalf("a refused cancel changed %s to %s", before, d.text())
				}
			case 5:
				d.now = d.now.Add(rapid.SampledFrom([]time.Duration{time.Minute, nat.RestTime}).Draw(t, "later"))
				if err := d.Expire().Commit(t.Context()); err != nil {
					t.Fatalf("expire: %v", err)
				}
			case 6:
				draft, err := d.Configure(t.Context(), []nat.Order{{Owner: o.Owner, Families: o.Families, Specs: o.Specs, Random: nat.Range{First: 8000, Last: 8007}}})
				if err == nil {
					err = draft.Commit(t.Context())
				} else {
					draft.End(err)
				}
				if err != nil && d.text() != before {
					t.Fatalf("a refused config changed %s to %s", before, d.text())
				}
			case 7:
				draft, err := d.Plan(t.Context(), o)
				if err == nil {
					draft.End(errors.New("the disk is full"))
				}
				if d.text() != before {
					t.Fatalf("what was not written changed %s to %s", before, d.text())
				}
			}
			d.check(t)
		}
	})
}

// checkOrder gives an order: it is obeyed in full, or changes nothing.
func (d *desk) checkOrder(t *rapid.T, o nat.Order, before string) {
	if err := d.order(o); err != nil {
		if d.text() != before {
			t.Fatalf("a refused order changed %s to %s", before, d.text())
		}
		return
	}
	own := d.Of(o.Owner)
	for _, s := range o.Specs {
		for _, family := range o.Families {
			ip := cmp.Or(s.HostIP, map[int]netip.Addr{4: netip.IPv4Unspecified(), 6: netip.IPv6Unspecified()}[family])
			if !slices.ContainsFunc(own, func(m nat.Mapping) bool {
				number := s.HostPort == 0 || s.HostPort <= m.Port.Number && m.Port.Number <= s.HostLast
				return m.Port.IP == ip && m.Port.Proto == s.Proto && m.Target == s.Port && number && (!m.Resting() || s.HostIP.IsValid() && s.HostIP.Is4() != (family == 4))
			}) {
				t.Fatalf("%v for %s is not in %s", s, o.Owner, d.text())
			}
		}
	}
	again := d.text()
	if err := d.order(o); err != nil || d.text() != again {
		t.Fatalf("given twice the order changed %s to %s: %v", again, d.text(), err)
	}
}

// check holds what is always true.
func (d *desk) check(t *rapid.T) {
	all := d.All()
	for i, m := range all {
		if m.Port.Number == 8002 {
			t.Fatalf("%s has what another program has", m.Owner)
		}
		for _, o := range all[:i] {
			if m.Port.Overlaps(o.Port) {
				t.Fatalf("%s overlap %s: %s", m.Port, o.Port, d.text())
			}
		}
	}
	if len(d.locks.claimed) != 0 {
		t.Fatalf("claims are not settled: %v", d.locks.claimed)
	}
	had := d.text()
	d.reopen(t)
	if d.text() != had {
		t.Fatalf("the disk has %s, the book had %s", d.text(), had)
	}
}

func TestBookGivesEachPortOnce(t *testing.T) {
	d := openDesk(t, t.TempDir(), 1)
	defer d.db.Close()
	var all sync.WaitGroup
	errs := make([]error, 16)
	for i := range errs {
		all.Go(func() {
			errs[i] = d.order(nat.Order{Owner: fmt.Sprint("o", i), Origin: nat.OriginReserve, Families: []int{4, 6}, Specs: specs(t, "80")})
		})
	}
	all.Wait()
	given := 0
	for _, err := range errs {
		switch {
		case err == nil:
			given++
		case !errors.Is(err, nat.ErrNoPort):
			t.Error(err)
		}
	}
	if given != 7 || len(d.All()) != 14 { // of eight, one of which another program has
		t.Errorf("%d orders had a port of seven: %s", given, d.text())
	}
}

// TestOrdersThatMeet: what an order has read of the book may be another's before it is done.
func TestOrdersThatMeet(t *testing.T) {
	d := openDesk(t, t.TempDir(), 1)
	defer d.db.Close()
	web := nat.Order{Owner: "web", Origin: nat.OriginPublish, Families: []int{4}, Specs: specs(t, "8001:80")}
	if err := errors.Join(d.order(web), d.Rest("web").Commit(t.Context())); err != nil {
		t.Fatal(err)
	}
	d.locks.meanwhile = func() {
		err := d.order(nat.Order{Owner: "sea", Origin: nat.OriginPublish, Families: []int{4}, Specs: specs(t, "8001:81")})
		if err != nil {
			t.Error(err)
		}
	}
	web.Origin, web.Specs = nat.OriginAttach, specs(t, "8003:80")
	if err := d.order(web); err != nil {
		t.Fatal(err)
	}
	if got, want := d.text(), "sea 0.0.0.0:8001/tcp->81 publish, web 0.0.0.0:8003/tcp->80 attach"; got != want {
		t.Errorf("have %s\nwant %s", got, want)
	}
}

func TestWhatWasTakenOverComesBackWhenItIsTakenBack(t *testing.T) {
	d := openDesk(t, t.TempDir(), 1)
	defer d.db.Close()
	web := nat.Order{Owner: "web", Origin: nat.OriginPublish, Families: []int{4}, Specs: specs(t, "8001:80")}
	if err := errors.Join(d.order(web), d.Rest("web").Commit(t.Context())); err != nil {
		t.Fatal(err)
	}
	had := d.text()
	draft, err := d.Plan(t.Context(), nat.Order{Owner: "sea", Origin: nat.OriginAttach, Families: []int{4}, Specs: specs(t, "8001:80", "8004:80")})
	if err == nil {
		err = draft.Commit(t.Context())
	}
	if err != nil || len(draft.Dispossessed()) != 1 {
		t.Fatalf("%v, dispossessed %v", err, draft.Dispossessed())
	}
	if err := draft.Reverse().Commit(t.Context()); err != nil || d.text() != had {
		t.Errorf("had %s, then %s, %v", had, d.text(), err)
	}
}

func TestTheConfigHasWhatItCan(t *testing.T) {
	d := openDesk(t, t.TempDir(), 1)
	defer d.db.Close()
	draft, err := d.Configure(t.Context(), []nat.Order{{Owner: "a", Families: []int{4}, Specs: specs(t, "8001:80", "8002:80")}, {Owner: "b", Families: []int{4}, Specs: specs(t, "8003:80")}})
	if !errors.Is(err, nat.ErrTaken) || !strings.Contains(err.Error(), "nginx") {
		t.Errorf("of what another program has: %v", err)
	}
	if err := draft.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, want := d.text(), "a 0.0.0.0:8001/tcp->80 config, b 0.0.0.0:8003/tcp->80 config"; got != want {
		t.Errorf("have %s\nwant %s", got, want)
	}
}

func TestNothingIsPickedFromNowhere(t *testing.T) {
	d := openDesk(t, t.TempDir(), 1)
	defer d.db.Close()
	draft, err := d.Configure(t.Context(), []nat.Order{{Owner: "a", Families: []int{4}, Specs: specs(t, "80", "8001:81")}})
	if !errors.Is(err, nat.ErrNoPort) {
		t.Errorf("without a range: %v", err)
	}
	if err := draft.Commit(t.Context()); err != nil || d.text() != "a 0.0.0.0:8001/tcp->81 config" {
		t.Errorf("have %s, %v", d.text(), err)
	}
}

func TestWhatCanNotBePublished(t *testing.T) {
	d := openDesk(t, t.TempDir(), 1)
	defer d.db.Close()
	for spec, says := range map[string]string{
		"8088:80": "metadata", "169.254.1.1:87:80": "link-local", "[::1]:87:80": "::1", "[fe80::1]:87:80": "link-local",
	} {
		err := d.order(nat.Order{Owner: "a", Origin: nat.OriginPublish, Families: []int{4, 6}, Specs: specs(t, spec)})
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", spec, err)
		}
	}
	if err := d.order(nat.Order{Owner: "a", Origin: nat.OriginPublish, Families: []int{4}, Specs: specs(t, "192.0.2.1:8088:80", "8088:80/udp")}); err != nil {
		t.Error(err)
	}
}

func TestWhoIsGoneLongestGivesWayFirst(t *testing.T) {
	d := openDesk(t, t.TempDir(), 1)
	defer d.db.Close()
	for i := range 7 {
		o := nat.Order{Owner: fmt.Sprint("o", i), Origin: nat.OriginAttach, Families: []int{4}, Specs: specs(t, "80")}
		if err := errors.Join(d.order(o), d.Rest(o.Owner).Commit(t.Context())); err != nil {
			t.Fatal(err)
		}
		d.now = d.now.Add(time.Second)
	}
	first := d.Of("o0")[0].Port
	if err := d.order(nat.Order{Owner: "new", Origin: nat.OriginAttach, Families: []int{4}, Specs: specs(t, "80")}); err != nil {
		t.Fatal(err)
	}
	if got := d.Of("new"); len(got) != 1 || got[0].Port != first || len(d.Of("o0")) != 0 {
		t.Errorf("have %s, want %s for new", d.text(), first)
	}
}
