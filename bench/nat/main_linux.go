// Command nat compares our mapped ports with one rule for each port, as Docker writes them.
//
// Each number of mappings of each way has a client, a host and a container of its own, all up at once. In each round every
// one of them is measured, and what is reported is the median of the ratios within the rounds: a disturbance hits all.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/fairlead-net/fairlead/nettest"
)

func main() {
	var p plan
	flag.IntVar(&p.rounds, "rounds", 25, "rounds")
	flag.DurationVar(&p.length, "length", 100*time.Millisecond, "of one measurement")
	flag.IntVar(&p.repeats, "repeats", 3, "times that our way is programmed")
	flag.IntVar(&p.calls, "calls", 4, "mappings that are added by single calls at each level")
	backends := flag.String("backends", "nft,legacy", "of iptables, with commas between; those that are not installed are left out")
	out := flag.String("out", "bench/results/nat.md", "file for the result, besides the standard output")
	flag.Parse()
	err := nettest.OnStage("bench-nat", func(s *nettest.Stage) error {
		text, err := all(s, p, strings.Split(*backends, ","))
		if err != nil {
			return err
		}
		return publish(text, *out)
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench-nat:", err)
		os.Exit(1)
	}
}

// plan is how much is measured.
type plan struct {
	rounds  int
	length  time.Duration
	repeats int
	calls   int
}

// counts are how many ports are mapped.
func counts() []int { return []int{1, 100, 1000, most} }

const most = 10000

// all is the report on every back end that is there.
func all(s *nettest.Stage, p plan, backends []string) (string, error) {
	text := method + conditions(p)
	found := 0
	for _, name := range backends {
		err := s.Part(func() error {
			dir := nettest.NewDir(s, "")
			if err := use(name, dir); err != nil {
				fmt.Fprintf(os.Stderr, "%s left out: %v\n", name, err)
				return nil
			}
			found++
			fmt.Fprintf(os.Stderr, "iptables of %s\n", name)
			traffic, err := compare(s, p)
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			times, err := program(s, p)
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			text += fmt.Sprintf("\n## iptables of the back end %s\n\n", name) + traffic.table() + times.table()
			return nil
		})
		if err != nil {
			return "", err
		}
	}
	if found == 0 {
		return "", fmt.Errorf("none of %q is installed", backends)
	}
	return text, nil
}

func publish(text, out string) error {
	if _, err := io.WriteString(os.Stdout, text); err != nil || out == "" {
		return err
	}
	return errors.Join(os.MkdirAll(filepath.Dir(out), 0o755), os.WriteFile(out, []byte(text), 0o644))
}
