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
	rounds := flag.Int("rounds", 7, "rounds")
	length := flag.Duration("length", time.Second, "of one measurement")
	wanted := flag.String("ways", "direct;direct, no tunnels;vxlan", "what to compare, with semicolons between; also ipip, gre")
	out := flag.String("out", "", "file for the result, besides the standard output")
	flag.Parse()
	err := nettest.OnStage("bench-tunnel", func(s *nettest.Stage) error {
		return measure(s, *rounds, *length, strings.Split(*wanted, ";"), *out)
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench-tunnel:", err)
		os.Exit(1)
	}
}

// load is one kind of traffic.
type load struct {
	name string
	rate string // of the cable; "": as fast as the processors move packets
	run  func(ends, time.Duration) (sample, error)
}

const (
	stream = "TCP stream"
	wire   = "TCP stream on 10 Gbit/s"
	pps    = "UDP packets"
	turns  = "TCP request and response"
)

// loads are all. On a cable without a rate the processors are the limit, which hosts with a network card seldom reach: a
// stream on a cable of 10 Gbit/s is what other projects publish.
func loads() []load {
	return []load{
		{stream, "", ends.stream}, {wire, "10gbit", ends.stream}, {pps, "", ends.packets}, {turns, "", ends.turns},
	}
}

// result is the ratios and figures of one way, one of each round.
type result struct {
	pair
	ratios  map[string][]float64 // container to host, by load
	between map[string][]float64 // what the hosts reached
	cpu     []float64            // processor time of a gigabyte, container to host, without a rate
}

func measure(s *nettest.Stage, rounds int, length time.Duration, wanted []string, out string) error {
	dir := nettest.NewDir(s, "")
	binary := nettest.Binary(s, dir)
	var all []*result
	for i, w := range ways() {
		if !slices.Contains(wanted, w.name) {
			continue
		}
		own := filepath.Join(dir, fmt.Sprint(i))
		for _, host := range []string{"a", "b"} {
			if err := os.MkdirAll(filepath.Join(own, host), 0o755); err != nil {
				return err
			}
		}
		p, err := newPair(s, binary, own, w)
		if err != nil {
			return fmt.Errorf("%s: %w", w.name, err)
		}
		all = append(all, &result{pair: p, ratios: make(map[string][]float64), between: make(map[string][]float64)})
	}
	if len(all) == 0 {
		return fmt.Errorf("none of %q is a way", wanted)
	}
	for i := range rounds + 1 {
		for k := range all {
			r := all[(i+k)%len(all)]
			if err := r.round(length, i > 0); err != nil {
				return fmt.Errorf("%s: %w", r.name, err)
			}
		}
		fmt.Fprintf(os.Stderr, "round %d of %d\n", i, rounds) // round 0 warms up
	}
	return publish(all, rounds, length, out)
}

// round measures the hosts and then the containers, for each load.
func (r *result) round(length time.Duration, counts bool) error {
	for _, l := range loads() {
		r.cable(l.rate)
		base, err := l.run(r.hosts, length)
		if err != nil {
			return fmt.Errorf("%s between hosts: %w", l.name, err)
		}
		got, err := l.run(r.containers, length)
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

func publish(all []*result, rounds int, length time.Duration, out string) error {
	text := report(all, rounds, length)
	if _, err := io.WriteString(os.Stdout, text); err != nil || out == "" {
		return err
	}
	return errors.Join(os.MkdirAll(filepath.Dir(out), 0o755), os.WriteFile(out, []byte(text), 0o644))
}
