// Command datapath compares what containers reach with what their hosts reach, beside Docker and Flannel.
//
// Every way has two hosts of its own, all up at once, and there are two more hosts on one cable and two with a router
// between, which run nothing. In each round each load is measured on every way and on the hosts of its kind, and what
// is reported is the median of the ratios within these pairs: a disturbance hits both.
//
// ROUNDS says how many rounds, LENGTH how long a measurement is, and ONLY which ways, by words of their names with commas
// between.
package main

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/fairlead-net/fairlead/nettest"
)

// loadCommand is the first argument of a process that makes load.
const loadCommand = "load"

func main() {
	if len(os.Args) > 1 && os.Args[1] == loadCommand {
		if err := runLoad(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	var p plan
	rounds, _ := strconv.Atoi(cmp.Or(os.Getenv("ROUNDS"), "7")) // 0 is refused below
	length, _ := time.ParseDuration(cmp.Or(os.Getenv("LENGTH"), "400ms"))
	flag.IntVar(&p.rounds, "rounds", rounds, "rounds")
	flag.DurationVar(&p.length, "length", length, "of one measurement")
	flag.DurationVar(&p.warm, "warm", 100*time.Millisecond, "before it")
	flag.StringVar(&p.only, "only", os.Getenv("ONLY"), "words of the names of ways, with commas between; empty: all")
	flag.StringVar(&p.event, "event", "cycles", "what perf counts of a load")
	flag.StringVar(&p.tools, "tools", "bin", "directory with the programs to compare with")
	out := flag.String("out", "bench/results/datapath", "files for the result, without .md and .svg, besides the standard output; empty: none")
	flag.Parse()
	if err := p.check(); err != nil {
		fmt.Fprintln(os.Stderr, "bench-datapath:", err)
		os.Exit(2)
	}
	err := nettest.OnStage("bench-datapath", func(s *nettest.Stage) error {
		r, err := compare(s, p)
		if err != nil {
			return err
		}
		return publish(r, *out)
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench-datapath:", err)
		os.Exit(1)
	}
}

// plan is what is measured.
type plan struct {
	rounds       int
	length, warm time.Duration
	only         string
	event        string
	tools        string
}

const (
	mostRounds = 100
	mostLength = 10 * time.Second
)

func (p plan) check() error {
	switch {
	case p.rounds < 1 || p.rounds > mostRounds:
		return fmt.Errorf("rounds: 1 to %d", mostRounds)
	case p.length < 10*time.Millisecond || p.length > mostLength:
		return fmt.Errorf("length: 10ms to %v", mostLength)
	case p.warm < 0 || p.warm > mostLength:
		return fmt.Errorf("warm: up to %v", mostLength)
	}
	return nil
}

// compare puts everything up and measures it.
func compare(s *nettest.Stage, p plan) (*result, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	dir := nettest.NewDir(s, "")
	k := kept{binary: nettest.Binary(s, dir), program: program, pins: nettest.MountPins(s, dir)}
	if k.tools, err = filepath.Abs(p.tools); err != nil {
		return nil, err
	}
	if k.gauge, err = newGauge(s, p.event); err != nil {
		return nil, err
	}
	r := &result{plan: p, gauge: k.gauge, bases: make(map[bool]*way), ways: chosen(p.only)}
	if len(r.ways) == 0 {
		return nil, fmt.Errorf("no way has a name with a word of %q", p.only)
	}
	for _, routed := range []bool{false, true} {
		site := newSite(s, filepath.Join(dir, fmt.Sprint("base-", routed)), routed)
		name := map[bool]string{false: "host to host, one cable", true: "host to host, through a router"}[routed]
		r.bases[routed] = &way{name: name, routed: routed, lane: lane{path: site.path()}}
	}
	for i, w := range r.ways {
		fmt.Fprintf(os.Stderr, "setting up: %s\n", w.name)
		k.dir = filepath.Join(dir, fmt.Sprint(i))
		w.missing = try(s, func(t nettest.T) (err error) { w.lane, err = w.build(t, k); return err })
		if w.missing != nil {
			fmt.Fprintf(os.Stderr, "left out: %s: %v\n", w.name, w.missing)
		}
	}
	for _, w := range r.ways {
		w.before = w.carried()
	}
	if slices.ContainsFunc(r.ways, func(w *way) bool { return w.shown(ports) }) {
		if r.programmed, err = programPorts(s, k, p.rounds); err != nil {
			return nil, fmt.Errorf("program ports: %w", err)
		}
	}
	m := &meter{gauge: k.gauge, program: program, warm: p.warm, length: p.length}
	for i := range p.rounds + 1 {
		begun := time.Now()
		r.round(s, m, i)
		fmt.Fprintf(os.Stderr, "round %d of %d: %.0f s\n", i, p.rounds, time.Since(begun).Seconds()) // round 0 warms up
	}
	r.carriers()
	return r, nil
}

// round measures every load on every way, each beside its hosts.
func (r *result) round(s *nettest.Stage, m *meter, number int) {
	for _, k := range kinds() {
		for i := range r.ways {
			w := r.ways[(i+number)%len(r.ways)]
			if w.missing != nil || !w.takes(k) {
				continue
			}
			s.Helper() // an interruption ends here
			got, err := r.pair(m, w, k, number)
			for again := 0; err != nil && again < retries; again++ {
				fmt.Fprintf(os.Stderr, "again: %s, %s: %v\n", w.name, k, err)
				got, err = r.pair(m, w, k, number)
			}
			if err != nil { // the others go on
				fmt.Fprintf(os.Stderr, "left out: %s, %s: %v\n", w.name, k, err)
				w.missing = fmt.Errorf("%s in round %d: %w", k, number, err)
				clear(w.taken)
				continue
			}
			if number > 0 {
				w.taken[k] = append(w.taken[k], got)
			}
		}
	}
}

// retries is how often a measurement that fails is made again.
const retries = 2

// pair measures a load between the hosts and on a way, in turns as to which is first.
func (r *result) pair(m *meter, w *way, k kind, number int) (got taken, err error) {
	hosts := func() (err error) {
		if got.base, err = m.measure(r.bases[w.routed].path, k); err != nil {
			err = fmt.Errorf("between hosts: %w", err)
		}
		return err
	}
	if number%2 == 0 {
		err = hosts()
	}
	if err == nil {
		got.sample, err = m.measure(w.path, k)
	}
	if err == nil && number%2 != 0 {
		err = hosts()
	}
	return got, errors.Join(err, forget(w.tracking))
}

func publish(r *result, out string) error {
	text := r.report()
	if _, err := io.WriteString(os.Stdout, text); err != nil || out == "" {
		return err
	}
	return errors.Join(os.MkdirAll(filepath.Dir(out), 0o755), os.WriteFile(out+".md", []byte(text), 0o644),
		os.WriteFile(out+".svg", []byte(r.chart()), 0o644))
}
