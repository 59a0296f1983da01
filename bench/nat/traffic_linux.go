package main

import (
	"fmt"
	"net/netip"
	"os"
	"slices"

	"github.com/fairlead-net/fairlead/nettest"
)

// compare measures the traffic of every way with every number of mappings.
func compare(s *nettest.Stage, p plan) (t traffic, err error) {
	t, err = newTraffic(s)
	if err != nil {
		return t, err
	}
	for i := range p.rounds + 1 {
		for k := range t {
			r := t[(i+k)%len(t)]
			if err := r.round(p, i > 0); err != nil {
				return t, fmt.Errorf("%s, %d mappings: %w", r.way, r.count, err)
			}
		}
		fmt.Fprintf(os.Stderr, "round %d of %d\n", i, p.rounds) // round 0 warms up
	}
	return t, nil
}

// result is what the rounds of one site came to.
type result struct {
	site
	way   way
	count int

	mapped, unmapped, requests []sample // one of each round
}

// traffic is all sites, the one without rules first.
type traffic []*result

// newTraffic puts up the sites and their rules.
func newTraffic(s *nettest.Stage) (t traffic, err error) {
	add := func(w way, count int, layout func(site) error) {
		if err != nil {
			return
		}
		r := &result{way: w, count: count}
		if r.site, err = newSite(s); err == nil {
			err = layout(r.site)
		}
		if t = append(t, r); err != nil {
			err = fmt.Errorf("set up %s, %d mappings: %w", w, count, err)
		}
	}
	add(direct, 0, func(site) error { return nil })
	for _, count := range counts() {
		add(ours, count, func(here site) error {
			k, err := here.kernel(s)
			if err == nil {
				_, err = put(k, book(ports(count)))
			}
			return err
		})
	}
	for _, count := range counts() {
		add(perPort, count, func(here site) error {
			if err := here.run(frame, "iptables-restore", "-w", "5", "--noflush"); err != nil {
				return err
			}
			return here.bulk(ports(count))
		})
	}
	return t, err
}

// round measures a site once.
func (r *result) round(p plan, counts bool) error {
	to := netip.AddrPortFrom(hostIP(), lastPort)
	if r.way == direct {
		to = netip.AddrPortFrom(boxIP(), inside)
	}
	mapped, err := r.connections(to, r.onBox, p.length)
	if err != nil {
		return err
	}
	requests, err := r.exchanges(to, r.onBox, p.length/4)
	if err != nil {
		return err
	}
	if r.way != direct {
		if err := r.calm(); err != nil {
			return err
		}
	}
	unmapped, err := r.connections(netip.AddrPortFrom(hostIP(), unmapped), r.onHost, p.length/2)
	if err != nil {
		return fmt.Errorf("port that is not mapped: %w", err)
	}
	if r.way != direct {
		err = r.calm()
	}
	if counts {
		r.mapped = append(r.mapped, mapped)
		r.unmapped = append(r.unmapped, unmapped)
		r.requests = append(r.requests, requests)
	}
	return err
}

// find is the site of a way with a number of mappings.
func (t traffic) find(w way, count int) *result {
	i := slices.IndexFunc(t, func(r *result) bool { return r.way == w && r.count == count })
	return t[i]
}

func rate(s sample) float64    { return s.rate }
func cpuTime(s sample) float64 { return float64(s.cost) }

// ratios are those within each round.
func ratios(of, to []sample, what func(sample) float64) (values []float64) {
	for i := range of {
		values = append(values, what(of[i])/what(to[i]))
	}
	return values
}
