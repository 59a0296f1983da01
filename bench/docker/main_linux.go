// Command docker compares networks of ours with those of Docker's own bridge driver, on one host and of one engine.
//
// In each round every way is measured, in turns, and the ratios are those within the rounds: a disturbance hits all.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/fairlead-net/fairlead/nettest"
)

func main() {
	var p plan
	flag.IntVar(&p.runs, "runs", 25, "containers that are run to their end, one after another, for each way")
	flag.IntVar(&p.connects, "connects", 80, "times that a running container is connected and disconnected, for each way")
	flag.IntVar(&p.crowds, "crowds", 3, "times that many containers are started at once, for each way")
	flag.IntVar(&p.crowd, "crowd", 50, "of these")
	flag.DurationVar(&p.rest, "rest", 100*time.Millisecond, "before each measurement, for what the one before has left to do")
	out := flag.String("out", "bench/results/docker.md", "file for the result, besides the standard output")
	flag.Parse()
	err := nettest.OnStage("bench-docker", func(s *nettest.Stage) error {
		text, err := measure(s, p)
		if err != nil {
			return err
		}
		return publish(text, *out)
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench-docker:", err)
		os.Exit(1)
	}
}

// plan is how much is measured.
type plan struct {
	runs, connects int
	crowds, crowd  int
	rest           time.Duration
}

// The measurements, by what they are called in the report.
const (
	running       = "`docker run --rm`, a container that ends at once"
	connecting    = "connect a running container"
	disconnecting = "disconnect it"
	starting      = "start of many at once, until all answer a ping"
	removing      = "removal of them at once"
)

// measure takes everything, of every way in turns.
func measure(s *nettest.Stage, p plan) (string, error) {
	all, version := prepare(s)
	for _, step := range []struct {
		name   string
		rounds int
		warm   int // rounds more, that do not count
		do     func(*way) (map[string]time.Duration, error)
	}{
		{"run", p.runs, 1, (*way).run},
		{"connect", p.connects, 1, (*way).connect},
		{"start at once", p.crowds, 0, func(w *way) (map[string]time.Duration, error) { return w.start(p.crowd) }},
	} {
		for i := range step.warm + step.rounds {
			for k := range all {
				w := all[(i+k)%len(all)]
				s.Helper() // an interruption ends here
				time.Sleep(p.rest)
				took, err := step.do(w)
				if err != nil {
					return "", fmt.Errorf("%s, %s: %w", step.name, w.name, err)
				}
				if i >= step.warm {
					w.note(took)
				}
			}
		}
		fmt.Fprintf(os.Stderr, "%s: %d rounds\n", step.name, step.rounds)
	}
	return report(all, p, version), nil
}

func publish(text, out string) error {
	if _, err := io.WriteString(os.Stdout, text); err != nil || out == "" {
		return err
	}
	return errors.Join(os.MkdirAll(filepath.Dir(out), 0o755), os.WriteFile(out, []byte(text), 0o644))
}
