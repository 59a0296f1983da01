// Command attach measures how long a container waits for its network, and for being rid of it.
//
// Three ways, each on a host of its own with its own containers: a request to a real `fairlead run` process, the same
// steps by `ip` commands, and the CNI plugins ptp and host-local. All containers are attached before the first is
// detached, in groups that take turns, so that what grows with their number is seen and a disturbance hits all three.
package main

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/fairlead-net/fairlead/nettest"
)

const (
	mostOfCNI  = 0.35 // our p50 against CNI's
	mostSpread = 3.0  // our p99 against our p50
)

func main() {
	containers := flag.Int("containers", 200, "containers for each way")
	group := flag.Int("group", 20, "containers attached or detached before it is another way's turn")
	flag.Parse()
	err := nettest.OnStage("bench-attach", func(s *nettest.Stage) error { return measure(s, *containers, *group) })
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench-attach:", err)
		os.Exit(1)
	}
}

// way is one way to attach the container number i of its own, and to detach it.
type way interface {
	attach(i int) error
	detach(i int) error
}

// times are what one way took.
type times struct {
	name            string
	way             way
	attaches, frees []time.Duration
}

func measure(t nettest.T, containers, group int) error {
	dir := nettest.NewDir(t, "")
	binary := nettest.Binary(t, dir)
	fmt.Fprintf(os.Stderr, "making %d containers\n", 3*containers)
	all := []*times{
		{name: "fairlead", way: newAPI(t, binary, dir, containers)},
		{name: "ip commands", way: newCommands(t, containers)},
		{name: "CNI ptp + host-local", way: newPlugins(t, dir, containers)},
	}
	if err := run(all, containers, group); err != nil {
		return err
	}
	report(all, containers)
	return nil
}

// run attaches everything, then detaches everything.
func run(all []*times, containers, group int) error {
	err := inGroups(all, containers, group, "attach", way.attach, func(t *times) *[]time.Duration { return &t.attaches })
	if err != nil {
		return err
	}
	return inGroups(all, containers, group, "detach", way.detach, func(t *times) *[]time.Duration { return &t.frees })
}

// inGroups does one thing with every container and notes how long each took; who begins changes with each group.
func inGroups(all []*times, containers, group int, verb string, do func(way, int) error, took func(*times) *[]time.Duration) error {
	for from, turn := 0, 0; from < containers; from, turn = from+group, turn+1 {
		for k := range all {
			t := all[(turn+k)%len(all)]
			for i := from; i < min(from+group, containers); i++ {
				start := time.Now()
				if err := do(t.way, i); err != nil {
					return fmt.Errorf("%s by %s: %w", verb, t.name, err)
				}
				*took(t) = append(*took(t), time.Since(start))
			}
		}
		fmt.Fprintf(os.Stderr, "%sed %d\n", verb, min(from+group, containers))
	}
	return nil
}

func report(all []*times, containers int) {
	fmt.Printf("%d containers, one after another, attached and then detached\n\n", containers)
	fmt.Println("| way | attach p50 | p99 | detach p50 | p99 |")
	fmt.Println("| --- | --- | --- | --- | --- |")
	for _, t := range all {
		fmt.Printf("| %s | %s | %s | %s | %s |\n", t.name, ms(part(t.attaches, 50)), ms(part(t.attaches, 99)),
			ms(part(t.frees, 50)), ms(part(t.frees, 99)))
	}
	ours, commands, cni := all[0], all[1], all[2]
	fmt.Println("\n| ratio | measured | to reach |")
	fmt.Println("| --- | --- | --- |")
	ratio("attach p50 to CNI's", part(ours.attaches, 50), part(cni.attaches, 50), mostOfCNI)
	ratio("attach p99 to its p50", part(ours.attaches, 99), part(ours.attaches, 50), mostSpread)
	ratio("attach p50 to ip's", part(ours.attaches, 50), part(commands.attaches, 50), 0)
	ratio("detach p50 to CNI's", part(ours.frees, 50), part(cni.frees, 50), mostOfCNI)
	ratio("detach p99 to its p50", part(ours.frees, 99), part(ours.frees, 50), mostSpread)
	ratio("detach p50 to ip's", part(ours.frees, 50), part(commands.frees, 50), 0)
}

// ratio prints one line; most 0 means that nothing was promised.
func ratio(name string, a, b time.Duration, most float64) {
	got, verdict := float64(a)/float64(b), ""
	switch {
	case most > 0 && got <= most:
		verdict = fmt.Sprintf("<= %.2f: reached", most)
	case most > 0:
		verdict = fmt.Sprintf("<= %.2f: missed", most)
	}
	fmt.Printf("| %s | %.2f | %s |\n", name, got, verdict)
}

// part is the p-th percentile.
func part(d []time.Duration, p int) time.Duration {
	d = slices.Sorted(slices.Values(d))
	return d[(len(d)-1)*p/100]
}

func ms(d time.Duration) string { return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000) }
