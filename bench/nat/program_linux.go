package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/fairlead-net/fairlead/nat"
	"github.com/fairlead-net/fairlead/nettest"
)

// times are how long it takes to program the ports.
type times struct {
	ours           map[int][]time.Duration // all at once, by their number
	added, removed []time.Duration         // one more with most of them there
	levels         []level                 // in order
	calls1k, calls time.Duration           // added up for 1,000 and for most, of all three rules
	translations   time.Duration           // for most, of the DNAT rules alone
}

// level is what single calls take with so many ports there already.
type level struct {
	count int
	each  [3]time.Duration // of each of the rules, the mean
}

// fills are the levels at which single calls are measured.
func fills() []int { return []int{0, 500, 1000, 2500, 5000, 7500, most} }

// program measures both ways in turns: ours a few times, the other at a few levels between which it grows evenly.
func program(s *nettest.Stage, p plan) (t times, err error) {
	t = times{ours: make(map[int][]time.Duration)}
	for i := range p.repeats {
		if err := t.once(s); err != nil {
			return t, err
		}
		if i == 0 {
			if err := t.climb(s, p.calls); err != nil {
				return t, err
			}
		}
		fmt.Fprintf(os.Stderr, "programmed %d of %d times\n", i+1, p.repeats)
	}
	t.integrate()
	return t, nil
}

// once programs 1,000 and then most of them by our way, from nothing.
func (t *times) once(s *nettest.Stage) error {
	for _, count := range []int{1000, most} {
		err := s.Part(func() error {
			here, err := newSite(s)
			if err != nil {
				return err
			}
			k, err := here.kernel(s)
			if err != nil {
				return err
			}
			took, err := put(k, book(ports(count)))
			if err != nil {
				return err
			}
			t.ours[count] = append(t.ours[count], took)
			if count < most {
				return nil
			}
			return t.change(k)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// change adds a port and takes it away.
func (t *times) change(k *nat.Kernel) error {
	ctx, table := context.Background(), k.Ports(age)
	if _, err := table.List(ctx); err != nil {
		return err
	}
	rows := book([]uint16{1023}).Ports // no other has this number
	begun := time.Now()
	if err := failure(table.Apply(ctx, rows, nil)); err != nil {
		return err
	}
	t.added = append(t.added, time.Since(begun))
	begun = time.Now()
	err := failure(table.Apply(ctx, nil, slices.Collect(maps.Keys(rows))))
	t.removed = append(t.removed, time.Since(begun))
	return err
}

// climb measures single calls of iptables at every level, and fills up in between by one call.
func (t *times) climb(s *nettest.Stage, count int) error {
	return s.Part(func() error {
		here, err := newSite(s)
		if err != nil {
			return err
		}
		if err := here.run(frame, "iptables-restore", "-w", "5", "--noflush"); err != nil {
			return err
		}
		all := ports(most)
		there := 0
		for _, fill := range fills() {
			if err := here.bulk(all[there:fill]); err != nil {
				return err
			}
			there = fill
			one := level{count: fill}
			for i := range count {
				took, err := here.call(uint16(1 + i)) // no other has this number
				if err != nil {
					return err
				}
				for k := range took {
					one.each[k] += took[k] / time.Duration(count)
				}
			}
			t.levels = append(t.levels, one)
		}
		return nil
	})
}

// integrate adds up what the calls for all ports take, each as long as the levels around it say.
func (t *times) integrate() {
	sum := func(upTo int, of func(level) time.Duration) (whole time.Duration) {
		for i, l := range t.levels[1:] {
			if before := t.levels[i]; l.count <= upTo {
				whole += (of(before) + of(l)) / 2 * time.Duration(l.count-before.count)
			}
		}
		return whole
	}
	every := func(l level) time.Duration { return l.each[0] + l.each[1] + l.each[2] }
	t.calls1k, t.calls = sum(1000, every), sum(most, every)
	t.translations = sum(most, func(l level) time.Duration { return l.each[0] })
}
