// Command tunnel compares what containers reach with what their hosts reach, for each way between two hosts.
//
// Each way has two hosts on a cable of their own, with a real `fairlead run` on each. In each round every way is measured
// right after its own hosts, and what is reported is the median of the ratios within the rounds: a disturbance hits both.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fairlead-net/fairlead/nettest"
)

func main() {
	var p plan
	flag.IntVar(&p.rounds, "rounds", 7, "rounds")
	flag.DurationVar(&p.length, "length", time.Second, "of one measurement")
	flag.StringVar(&p.cable, "cable", "10gbit", "rate of the slower cable, in words of tc(8)")
	wanted := flag.String("ways", "direct;direct, no tunnels;vxlan", "what to compare, with semicolons between; also ipip, gre")
	guest := flag.Bool("guest", true, "compare also on a kernel that has IPIP and GRE, in QEMU")
	out := flag.String("out", "bench/results/tunnel.md", "file for the result, besides the standard output")
	flag.Parse()
	p.wanted = strings.Split(*wanted, ";")
	err := nettest.OnStage("bench-tunnel", func(s *nettest.Stage) error {
		text, err := measure(s, p)
		if err == nil && *guest {
			text, err = both(s, text)
		}
		if err != nil {
			return err
		}
		return publish(text, *out)
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench-tunnel:", err)
		os.Exit(1)
	}
}

// plan is what is measured.
type plan struct {
	rounds int
	length time.Duration
	cable  string
	wanted []string // names of ways
}

// load is one kind of traffic.
type load struct {
	name   string
	slower bool // on the slower cable
	run    func(ends, time.Duration) (sample, error)
}

const (
	stream = "TCP stream"
	slow   = "TCP stream on the slower cable"
	pps    = "UDP packets"
	turns  = "TCP request and response"
)

// loads are all. On the faster cable the processors are the limit, which hosts with a network card seldom reach: a stream
// at the rate of a card is what other projects publish.
func loads() []load {
	return []load{{stream, false, ends.stream}, {slow, true, ends.stream}, {pps, false, ends.packets}, {turns, false, ends.turns}}
}

// result is the ratios and figures of one way, one of each round.
type result struct {
	pair
	ratios  map[string][]float64 // container to host, by load
	between map[string][]float64 // what the hosts reached
	cpu     []float64            // processor time of a gigabyte, container to host, without a rate
}

func measure(s *nettest.Stage, p plan) (string, error) {
	dir := nettest.NewDir(s, "")
	all, err := prepare(s, nettest.Binary(s, dir), dir, p.wanted)
	if err != nil {
		return "", err
	}
	for i := range p.rounds + 1 {
		for k := range all {
			r := all[(i+k)%len(all)]
			if err := r.round(p, i > 0); err != nil {
				return "", fmt.Errorf("%s: %w", r.name, err)
			}
		}
		fmt.Fprintf(os.Stderr, "round %d of %d\n", i, p.rounds) // round 0 warms up
	}
	return report(all, p), nil
}

// prepare puts up a pair of hosts for each way that is wanted.
func prepare(t nettest.T, binary, dir string, wanted []string) (all []*result, err error) {
	for i, w := range ways() {
		if !slices.Contains(wanted, w.name) {
			continue
		}
		own := filepath.Join(dir, fmt.Sprint(i))
		for _, host := range []string{"a", "b"} {
			if err := os.MkdirAll(filepath.Join(own, host), 0o755); err != nil {
				return nil, err
			}
		}
		p, err := newPair(t, binary, own, w)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", w.name, err)
		}
		all = append(all, &result{pair: p, ratios: make(map[string][]float64), between: make(map[string][]float64)})
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("none of %q is a way", wanted)
	}
	return all, nil
}

// round measures the hosts and then the containers, for each load.
func (r *result) round(p plan, counts bool) error {
	for _, l := range loads() {
		rate := ""
		if l.slower {
			rate = p.cable
		}
		r.cable(rate)
		base, err := l.run(r.hosts, p.length)
		if err != nil {
			return fmt.Errorf("%s between hosts: %w", l.name, err)
		}
		got, err := l.run(r.containers, p.length)
		if err != nil {
			return fmt.Errorf("%s between containers: %w", l.name, err)
		}
		if !counts {
			continue
		}
		r.ratios[l.name] = append(r.ratios[l.name], got.rate/base.rate)
		r.between[l.name] = append(r.between[l.name], base.rate)
		if l.name == stream && base.cpu > 0 {
			r.cpu = append(r.cpu, float64(got.cpu)/float64(base.cpu))
		}
	}
	return nil
}

func publish(text, out string) error {
	if _, err := io.WriteString(os.Stdout, text); err != nil || out == "" {
		return err
	}
	return errors.Join(os.MkdirAll(filepath.Dir(out), 0o755), os.WriteFile(out, []byte(text), 0o644))
}
