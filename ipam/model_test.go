package ipam_test

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/ipam"
	"github.com/fairlead-net/fairlead/store"
)

// model is the ledger as its description says it, without a disk, an order of locks, or a thought for speed.
type model struct {
	pools []ipam.Pool
	given map[netip.Addr]ipam.Lease
	rests map[netip.Addr]freed
	order int      // of the last release
	undo  []func() // of the last leases
	holds map[string]bool
	now   time.Time
}

type freed struct {
	owner string
	at    time.Time
	order int
}

func (m *model) pool(name string) *ipam.Pool {
	for i := range m.pools {
		if m.pools[i].Name == name {
			return &m.pools[i]
		}
	}
	return nil
}

func (m *model) holder(a netip.Addr) *ipam.Lease {
	if l, ok := m.given[a]; ok {
		return &l
	}
	return nil
}

func (m *model) rested(p *ipam.Pool, f freed) bool {
	return m.now.Sub(f.at) >= p.ReuseDelay
}

func reservedIn(p *ipam.Pool, a netip.Addr) bool {
	if a == p.Block.Addr() && p.Block.Bits() < a.BitLen()-1 {
		return true
	}
	if a.Is4() && p.Block.Bits() < 31 && !p.Block.Contains(a.Next()) {
		return true
	}
	return slices.ContainsFunc(p.Reserve, func(r netip.Prefix) bool { return r.Contains(a) })
}

// lease is all or none.
func (m *model) lease(requests []ipam.Request) ([]ipam.Lease, error) {
	m.undo = m.undo[:0]
	var got []ipam.Lease
	for _, r := range requests {
		l, err := m.one(r)
		if err != nil {
			m.back()
			return nil, err
		}
		got = append(got, l)
	}
	return got, nil
}

// back takes the last leases back.
func (m *model) back() {
	for _, f := range m.undo {
		f()
	}
}

func (m *model) one(r ipam.Request) (ipam.Lease, error) {
	for _, l := range m.given {
		if l.Owner == r.Owner && l.Pool == r.Pool {
			if r.Address.IsValid() && r.Address != l.Address {
				return l, ipam.ErrTaken
			}
			return l, nil
		}
	}
	p := m.pool(r.Pool)
	switch {
	case p == nil:
		return ipam.Lease{}, ipam.ErrNoPool
	case m.holds[r.Pool]:
		return ipam.Lease{}, ipam.ErrHeld
	}
	a, err := m.choose(p, r)
	if err != nil {
		return ipam.Lease{}, err
	}
	l := ipam.Lease{Address: a, Owner: r.Owner, Pool: r.Pool, Policy: r.Policy, Since: m.now}
	f, rests := m.rests[a]
	m.undo = append(m.undo, func() {
		delete(m.given, a)
		if rests {
			m.rests[a] = f
		}
	})
	m.given[a] = l
	delete(m.rests, a)
	return l, nil
}

func (m *model) choose(p *ipam.Pool, r ipam.Request) (netip.Addr, error) {
	if a := r.Address; a.IsValid() {
		f, rests := m.rests[a]
		switch {
		case !p.Block.Contains(a):
			return a, ipam.ErrForeign
		case reservedIn(p, a):
			return a, ipam.ErrReserved
		case m.holder(a) != nil:
			return a, ipam.ErrTaken
		case rests && f.owner != r.Owner && !m.rested(p, f):
			return a, ipam.ErrResting
		}
		return a, nil
	}
	for a := p.Block.Addr(); p.Block.Contains(a); a = a.Next() {
		if _, rests := m.rests[a]; !rests && m.holder(a) == nil && !reservedIn(p, a) {
			return a, nil
		}
	}
	var oldest netip.Addr
	for a, f := range m.rests {
		if p.Block.Contains(a) && !reservedIn(p, a) && (!oldest.IsValid() || f.order < m.rests[oldest].order) {
			oldest = a
		}
	}
	if oldest.IsValid() && m.rested(p, m.rests[oldest]) {
		return oldest, nil
	}
	return netip.Addr{}, ipam.ErrExhausted
}

func (m *model) release(end func(ipam.Lease) bool) []ipam.Lease {
	var gone []ipam.Lease
	for a, l := range m.given {
		if end(l) {
			gone = append(gone, l)
			delete(m.given, a)
		}
	}
	slices.SortFunc(gone, byAddress)
	for _, l := range gone {
		m.order++
		m.rests[l.Address] = freed{l.Owner, m.now, m.order}
	}
	return gone
}

func byAddress(a, b ipam.Lease) int { return a.Address.Compare(b.Address) }

// pair is a ledger and the model that it must equal.
type pair struct {
	*desk
	model *model
	rng   *rand.Rand
	seen  map[string]int // how many answers of which kind
}

const modelOwners = 60

func modelPools() []ipam.Pool {
	pool := func(name, cidr, block string, delay time.Duration, reserve ...string) ipam.Pool {
		return ipam.Pool{Name: name, CIDR: netip.MustParsePrefix(cidr), Block: netip.MustParsePrefix(block),
			ReuseDelay: delay, Reserve: prefixes(reserve...)}
	}
	return []ipam.Pool{
		pool("tight", "10.88.0.0/20", "10.88.3.64/27", 30*time.Second, "10.88.3.72/30", "10.88.3.80/32"),
		pool("pair", "192.0.2.0/24", "192.0.2.6/31", time.Second),
		pool("six", "2001:db8:88::/64", "2001:db8:88::40/122", 0),
		pool("wide", "2001:db8:89::/64", "2001:db8:89::/120", time.Minute, "2001:db8:89::/124", "2001:db8:89::20/128"),
	}
}

func (p *pair) request() ipam.Request {
	pools := []string{"tight", "six", "wide", "six", "wide", "wide", "pair"}
	r := ipam.Request{
		Owner: fmt.Sprint("owner-", p.rng.IntN(modelOwners)), Pool: pools[p.rng.IntN(len(pools))], Policy: ipam.PolicyEndpoint,
	}
	if p.rng.IntN(8) == 0 {
		r.Policy = ipam.PolicyOwner
	}
	if pool := p.model.pool(r.Pool); pool != nil && p.rng.IntN(20) == 0 {
		r.Address = pool.Block.Addr() // and up to some way past the end of the smaller blocks
		for range p.rng.IntN(70) {
			r.Address = r.Address.Next()
		}
	}
	return r
}

// lease asks for a few addresses at once, and returns how many.
func (p *pair) lease(t *testing.T) int {
	requests := make([]ipam.Request, 1+p.rng.IntN(1+p.rng.IntN(8)))
	for i := range requests {
		requests[i] = p.request()
	}
	if p.rng.IntN(50) == 0 { // the commit fails: nothing happened
		sour := errors.New("sour")
		_, err := p.LeaseWith(t.Context(), func(*store.Tx, []ipam.Lease) error { return sour }, requests...)
		if _, refused := p.model.lease(requests); refused == nil {
			p.model.back()
			if !errors.Is(err, sour) {
				t.Fatalf("%v: %v, want the failure", requests, err)
			}
		}
		p.seen["failed commit"]++
		return len(requests)
	}
	want, refused := p.model.lease(requests)
	got, err := p.Lease(t.Context(), requests...)
	if refused != nil && !errors.Is(err, refused) || refused == nil && err != nil {
		t.Fatalf("%v: %v, want %v", requests, err, refused)
	}
	if !slices.Equal(got, want) {
		t.Fatalf("%v:\ngot  %v\nwant %v", requests, got, want)
	}
	if refused != nil {
		p.seen[refused.Error()]++
	} else {
		p.seen["leased"] += len(got)
	}
	return len(requests)
}

func (p *pair) giveBack(t *testing.T) {
	owner := fmt.Sprint("owner-", p.rng.IntN(modelOwners))
	switch p.rng.IntN(6) {
	case 0: // one address, perhaps of somebody else
		a := netip.MustParseAddr("10.88.3.64")
		if all := p.Leases(); len(all) > 0 {
			l := all[p.rng.IntN(len(all))]
			a = l.Address
			if p.rng.IntN(4) > 0 {
				owner = l.Owner
			}
		}
		err := p.ReleaseAddress(t.Context(), owner, a)
		if l := p.model.holder(a); l != nil && l.Owner != owner {
			if !errors.Is(err, ipam.ErrTaken) {
				t.Fatalf("release %s of %s: %v", a, owner, err)
			}
			return
		}
		p.model.release(func(l ipam.Lease) bool { return l.Address == a })
		if err != nil {
			t.Fatalf("release %s of %s: %v", a, owner, err)
		}
	case 1: // the commit fails
		sour := errors.New("sour")
		if _, err := p.ReleaseWith(t.Context(), owner, func(*store.Tx) error { return sour }); !errors.Is(err, sour) {
			t.Fatalf("release of %s: %v", owner, err)
		}
	default:
		got, err := p.Release(t.Context(), owner)
		want := p.model.release(func(l ipam.Lease) bool { return l.Owner == owner && l.Policy == ipam.PolicyEndpoint })
		if err != nil || !slices.Equal(got, want) {
			t.Fatalf("release of %s: %v, %v; want %v", owner, got, err, want)
		}
		p.seen["released"] += len(got)
	}
}

// disturb is what happens to a ledger from outside.
func (p *pair) disturb(t *testing.T) {
	switch p.rng.IntN(8) {
	case 0:
		p.read(t) // as after a restart
		p.model.pools = p.pools
		for name, on := range p.model.holds {
			if on {
				p.Hold(name, "held")
			}
		}
	case 1: // the reserve of a pool grows or shrinks
		pools := slices.Clone(p.pools)
		pools[0].Reserve = prefixes("10.88.3.72/30", "10.88.3.80/32", "10.88.3.88/29")[:p.rng.IntN(4)]
		p.pools, p.model.pools = pools, pools
		if err := p.SetPools(pools); err != nil {
			t.Fatal(err)
		}
	case 2: // a pool goes and comes back
		p.model.pools = slices.DeleteFunc(slices.Clone(p.pools), func(o ipam.Pool) bool { return o.Name == "six" && p.rng.IntN(2) == 0 })
		if err := p.SetPools(p.model.pools); err != nil {
			t.Fatal(err)
		}
	case 3:
		p.model.holds["tight"] = !p.model.holds["tight"] && p.rng.IntN(3) == 0
		p.Hold("tight", map[bool]string{true: "held"}[p.model.holds["tight"]])
	default:
		p.clock.advance(time.Duration(p.rng.Int64N(int64(20 * time.Second))))
		p.model.now = p.clock.t
	}
}

func (p *pair) compare(t *testing.T) {
	t.Helper()
	want := slices.SortedFunc(maps.Values(p.model.given), byAddress)
	if got := p.Leases(); !slices.Equal(got, want) {
		t.Fatalf("leases\ngot  %v\nwant %v", got, want)
	}
	usage := p.Usage()
	pools := slices.SortedFunc(slices.Values(p.model.pools), func(a, b ipam.Pool) int { return cmp.Compare(a.Name, b.Name) })
	for i, pool := range pools {
		leased, resting := 0, 0
		for _, l := range p.model.given {
			if pool.Block.Contains(l.Address) {
				leased++
			}
		}
		for a, f := range p.model.rests {
			if pool.Block.Contains(a) && !reservedIn(&pool, a) && !p.model.rested(&pool, f) {
				resting++
			}
		}
		if u := usage[i]; u.Pool != pool.Name || u.Leased != leased || u.Resting != resting {
			t.Fatalf("usage %+v, want %s with %d leased and %d resting", u, pool.Name, leased, resting)
		}
	}
}

// TestAMillionOperationsEqualTheModel runs random requests and releases against the ledger and the model, with restarts,
// reloads, failing commits and the clock between them. Every answer must be the same.
//
// The store lies in memory (/dev/shm), where a sync costs nothing; for all else it is the real one.
func TestAMillionOperationsEqualTheModel(t *testing.T) {
	if plain(t) {
		return
	}
	operations := 1_000_000
	if testing.Short() {
		operations = 50_000
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	dir, err := os.MkdirTemp("/dev/shm", "fairlead-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	d := &desk{path: dir + "/fairlead.db", clock: newClock(), pools: modelPools()}
	d.open(t)
	defer d.db.Close()
	p := &pair{
		desk:  d,
		model: &model{pools: d.pools, given: map[netip.Addr]ipam.Lease{}, rests: map[netip.Addr]freed{}, holds: map[string]bool{}, now: d.clock.t},
		rng:   rand.New(rand.NewPCG(seed, 0)),
		seen:  map[string]int{},
	}
	start := time.Now()
	for n := 0; n < operations; {
		switch k := p.rng.IntN(100); {
		case k < 55:
			n += p.lease(t)
		case k < 97:
			p.giveBack(t)
			n++
		default:
			p.disturb(t)
		}
		if p.rng.IntN(1000) == 0 {
			p.compare(t)
		}
	}
	p.compare(t)
	d.restart(t)
	p.model.pools = d.pools
	p.compare(t)
	t.Logf("%d operations in %s, %d commits; answers %v", operations, time.Since(start).Round(time.Second), d.db.Revision(), p.seen)
}
