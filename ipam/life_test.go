package ipam_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strconv"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/fairlead-net/fairlead/ipam"
	"github.com/fairlead-net/fairlead/store"
)

// lifeSteps is how much happens in the life of a ledger that is killed, or loses its power, at every point of it.
const lifeSteps = 16

// answer is what a step was answered.
type answer struct {
	Step   int
	Leases []ipam.Lease
	Err    string
}

// life is a fixed sequence of leases and releases, chosen by a seed.
type life struct {
	seed  uint64
	clock *clock
	*ipam.Ledger
}

func lifePools() []ipam.Pool {
	picked := ipam.Pool{Name: "picked", CIDR: netip.MustParsePrefix("198.51.100.0/24"), ReuseDelay: time.Hour}
	return []ipam.Pool{small(), six(), picked}
}

// begin opens the ledger as the daemon would at its start.
func begin(path string, seed uint64) (*store.DB, *life, error) {
	db, err := store.Open(context.Background(), path, store.Options{})
	if err != nil {
		return nil, nil, err
	}
	c := newClock()
	l, err := ipam.NewLedger(db, c.now)
	if err == nil {
		err = l.SetPools(lifePools())
	}
	return db, &life{seed, c, l}, err
}

// set is the time of a step.
func (c *clock) set(step int) { c.t = newClock().t.Add(time.Duration(max(0, step)) * 11 * time.Second) }

// step does the nth thing of this life: the same whenever it is done.
func (l *life) step(n int) answer {
	rng := rand.New(rand.NewPCG(l.seed, uint64(n)))
	l.clock.set(n)
	owner := fmt.Sprint("owner-", rng.IntN(5))
	a := answer{Step: n}
	var err error
	switch k := rng.IntN(10); {
	case n == 2:
		err = l.Claim(context.Background(), "picked", netip.MustParsePrefix("198.51.100.64/28"))
	case k < 6:
		var requests []ipam.Request
		for _, pool := range []string{"small", "six", "picked"} {
			if rng.IntN(2) == 0 {
				requests = append(requests, ipam.Request{Owner: owner, Pool: pool})
			}
		}
		a.Leases, err = l.Lease(context.Background(), requests...)
	case k < 7:
		_, err = l.LeaseWith(context.Background(), func(tx *store.Tx, _ []ipam.Lease) error {
			return store.Bucket[int]{Name: "notes"}.Put(tx, "last", n)
		}, ipam.Request{Owner: owner, Pool: "small", Address: netip.MustParseAddr("10.88.7.5"), Policy: ipam.PolicyOwner})
	default:
		_, err = l.Release(context.Background(), owner)
	}
	for _, known := range []error{ipam.ErrExhausted, ipam.ErrTaken, ipam.ErrResting, ipam.ErrNoBlock} {
		if errors.Is(err, known) {
			err = known
		}
	}
	if err != nil {
		a.Err = err.Error()
	}
	return a
}

// state is everything that a ledger knows.
type ledgerState struct {
	Leases []ipam.Lease
	Usage  []ipam.Usage
}

func (l *life) state() ledgerState { return ledgerState{l.Leases(), l.Usage()} }

func (s ledgerState) equal(o ledgerState) bool {
	return slices.Equal(s.Leases, o.Leases) && slices.Equal(s.Usage, o.Usage)
}

func comparable() cmp.Option { return cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}) }

// live is the child process: it lives the life, and says every answer before it goes on.
func live(path, seed string) error {
	runtime.LockOSThread() // strace counts the calls of each thread on its own
	n, err := strconv.ParseUint(seed, 10, 64)
	if err != nil {
		return err
	}
	db, l, err := begin(path, n)
	if err != nil {
		return err
	}
	for step := range lifeSteps {
		line, err := json.Marshal(l.step(step))
		if err != nil {
			return err
		}
		if _, err := os.Stdout.Write(append(line, '\n')); err != nil {
			return err
		}
	}
	return db.Close()
}

// course is what a life looks like when nothing disturbs it.
type course struct {
	answers []answer
	states  []ledgerState // states[n] is how it was after n steps
}

func undisturbed(path string, seed uint64) (course, error) {
	db, l, err := begin(path, seed)
	if err != nil {
		return course{}, err
	}
	c := course{states: []ledgerState{l.state()}}
	for step := range lifeSteps {
		c.answers = append(c.answers, l.step(step))
		c.states = append(c.states, l.state())
	}
	return c, db.Close()
}

// resume opens what is left of a life of which the first n steps were answered, and wants to find it after n steps or,
// when the next one was on its way, after n+1. It then asks again and lives on to the end, where nothing may show that
// there was a disturbance: no address leaked, none doubled.
func (c course) resume(path string, seed uint64, n int) error {
	var diffs string
	for after := n; after <= min(n+1, lifeSteps); after++ {
		diff, err := c.resumeAfter(path, seed, n, after)
		if diff == "" || err != nil {
			return err
		}
		diffs += fmt.Sprintf("\nnot as after %d steps: %s", after, diff)
	}
	return fmt.Errorf("%d steps were answered: %s", n, diffs)
}

// resumeAfter does it when the ledger is as it was after that many steps, and else returns the difference.
func (c course) resumeAfter(path string, seed uint64, n, after int) (diff string, err error) {
	db, l, err := begin(path, seed)
	if err != nil {
		return "", fmt.Errorf("open: %w", err)
	}
	defer db.Close()
	l.clock.set(after - 1)
	if s := l.state(); !s.equal(c.states[after]) {
		return cmp.Diff(c.states[after], s, comparable()), nil
	}
	for step := n; step < lifeSteps; step++ {
		a := l.step(step)
		want := c.answers[step]
		if a.Err != want.Err || !slices.Equal(a.Leases, want.Leases) {
			return "", fmt.Errorf("step %d asked again: %s", step, cmp.Diff(want, a, comparable()))
		}
		if s := l.state(); !s.equal(c.states[step+1]) {
			return "", fmt.Errorf("after step %d: %s", step, cmp.Diff(c.states[step+1], s, comparable()))
		}
	}
	return "", nil
}
