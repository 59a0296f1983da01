package main

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const most = 1.0 // of what the bridge driver takes

// method is what stands above the figures.
const method = `# Networks of Docker, against Docker's own bridge driver

One host with a real dockerd, a real fairlead beside it, and two networks of each driver: Fairlead's in the pool, the others
user-defined bridges as ` + "`docker network create`" + ` makes them. Both of Fairlead's have the same range. What both programs write down is on the same disk. Beside it a host
whose Docker writes no rules into iptables (--iptables=false), which few have: its containers reach nothing outside
unless somebody else translates their addresses, and nothing keeps its networks apart.

In each round every way is measured, in turns, with a rest in between. Ratios are those of the rounds, medians with the
range of the middle half of the rounds behind. ` + "`docker run`" + ` is the command, with what it takes to start; all else is asked of
the engine's API. A running container is connected to the second network of the driver that it is on. To repeat: make
bench-docker.

`

// report is the result as Markdown.
func report(all []*way, p plan, version string) string {
	var b strings.Builder
	b.WriteString(method)
	fmt.Fprintf(&b, "Linux %s, %d processors, Docker %s, %s; %d containers run, %d times connected, %d times %d at once.\n\n",
		release(), runtime.NumCPU(), version, time.Now().UTC().Format(time.DateOnly), p.runs, p.connects, p.crowds, p.crowd)
	b.WriteString("| what | way | p50 | p99 | to the bridge driver = 1 |\n| --- | --- | --- | --- | --- |\n")
	ours, theirs := all[0], all[1]
	for _, what := range []string{running, connecting, disconnecting, starting, removing} {
		for _, w := range all {
			if len(w.took[what]) == 0 {
				continue // it was not wanted
			}
			against := ""
			if w != theirs {
				against = spread(ratios(w.took[what], theirs.took[what]))
			}
			worst := ms(part(w.took[what], 99))
			if what == starting || what == removing { // a few rounds have no percentiles
				worst = ""
			}
			fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", what, w.name, ms(part(w.took[what], 50)), worst, against)
		}
	}
	b.WriteString("\n| Fairlead to bridge | measured | to reach |\n| --- | --- | --- |\n")
	for _, what := range []string{running, connecting, disconnecting, starting} {
		for _, p := range []int{50, 99} {
			if len(ours.took[what]) == 0 || p > 50 && what == starting { // of a few rounds there is no percentile to tell
				continue
			}
			got := float64(part(ours.took[what], p)) / float64(part(theirs.took[what], p))
			fmt.Fprintf(&b, "| %s: p%d | %.2f | %s |\n", what, p, got, verdict(got))
		}
	}
	return b.String()
}

func verdict(got float64) string {
	if got <= most {
		return fmt.Sprintf("<= %.1f: reached", most)
	}
	return fmt.Sprintf("<= %.1f: missed", most)
}

func ratios(a, b []time.Duration) (all []float64) {
	for i := range a {
		all = append(all, float64(a[i])/float64(b[i]))
	}
	return all
}

// spread is the median and the quartiles: a round that something else disturbed says nothing.
func spread(values []float64) string {
	sorted := slices.Sorted(slices.Values(values))
	last := len(sorted) - 1
	return fmt.Sprintf("%.2f (%.2f to %.2f)", sorted[len(sorted)/2], sorted[last/4], sorted[last-last/4])
}

// part is the p-th percentile.
func part(d []time.Duration, p int) time.Duration {
	d = slices.Sorted(slices.Values(d))
	return d[(len(d)-1)*p/100]
}

func ms(d time.Duration) string { return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000) }

func release() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return "?"
	}
	version, _, _ := strings.Cut(unix.ByteSliceToString(u.Release[:]), "-") // what is behind names a build
	return version
}
