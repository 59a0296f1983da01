package main

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	leastRate  = 0.95 // of connections with most ports mapped, one mapped = 1
	leastTimes = 50   // as fast as one call of iptables for each DNAT rule
)

// method is what stands above the figures.
const method = `# Mapped ports, against one rule for each port

A client, a host and a container on it for each number of mappings and each way, in namespaces of one kernel and all up at
once. Fairlead's rules are those of the daemon: the same plan, written by the same code. One rule for each port is what
Docker writes: its chains, and for each port a DNAT rule behind a test for the host's addresses, a rule in filter that
accepts, and a masquerade rule for the container itself. In both, the port that is measured is the last, FORWARD drops what
nobody accepts, and every port leads to another container, of which only the last is there.

In each round every one is measured, in turns; ratios are within the round, figures are medians of the rounds, with the
range of the middle half of the rounds behind. A new connection is: connect, one byte there, one back, close. A request goes over a connection that is there.
Client, server and all between share a processor; the processor time of a connection is what all of them took, and on a
machine with other work it says more than the rate. A port that is not mapped has a program on the host itself behind it:
its connections look through the rules as well.

What grows with the number of ports is timed: with us the chains of the mappings, at once; with the others one call of
iptables for each rule. These are timed at several fill levels, with the rules of other ports there already, and added up
between them: running them all would take minutes. To repeat: make bench-nat.

`

func conditions(p plan) string {
	return fmt.Sprintf("Linux %s, %d processors, %s; %d rounds of %v for each measurement.\n",
		release(), runtime.NumCPU(), time.Now().UTC().Format(time.DateOnly), p.rounds, p.length)
}

// table is the traffic as Markdown.
func (t traffic) table() string {
	var b strings.Builder
	b.WriteString("| way | mappings | new connections a second | at 1 mapping = 1 | processor time of one, at 1 mapping = 1 | median latency | 99th percentile | of a request | new connections a second to a port that is not mapped |\n")
	b.WriteString("| --- | --- | --- | --- | --- | --- | --- | --- | --- |\n")
	for _, r := range t {
		same, cost, count := "", "", ""
		if r.count > 0 {
			one := t.find(r.way, 1)
			same, cost, count = spread(ratios(r.mapped, one.mapped, rate)), spread(ratios(r.mapped, one.mapped, cpuTime)), fmt.Sprint(r.count)
		}
		fmt.Fprintf(&b, "| %s | %s | %.0f | %s | %s | %s | %s | %s | %.0f |\n", r.way, count, median(rates(r.mapped)), same, cost,
			us(r.mapped, func(s sample) time.Duration { return s.p50 }), us(r.mapped, func(s sample) time.Duration { return s.p99 }),
			us(r.requests, func(s sample) time.Duration { return s.p50 }), median(rates(r.unmapped)))
	}
	mine, theirs := t.find(ours, most), t.find(perPort, most)
	kept := ratios(mine.mapped, t.find(ours, 1).mapped, rate)
	fmt.Fprintf(&b, "\nFairlead with %d mappings reaches %s of its rate with one: %s. Against one rule for each port it is %s times as fast, to a port that is not mapped %s times.\n",
		most, spread(kept), verdict(median(kept) >= leastRate, fmt.Sprintf("at least %.2f", leastRate)),
		spread(ratios(mine.mapped, theirs.mapped, rate)), spread(ratios(mine.unmapped, theirs.unmapped, rate)))
	return b.String()
}

// table is the times as Markdown.
func (t times) table() string {
	var b strings.Builder
	b.WriteString("\n| to program | 1,000 mappings | 10,000 mappings |\n| --- | --- | --- |\n")
	fmt.Fprintf(&b, "| Fairlead | %s | %s |\n", ms(t.ours[1000]), ms(t.ours[most]))
	fmt.Fprintf(&b, "| one rule for each port, one call for each of the three rules | %.1f s | %.1f s |\n", t.calls1k.Seconds(), t.calls.Seconds())
	fmt.Fprintf(&b, "| of these, calls for the DNAT rules alone | | %.1f s |\n", t.translations.Seconds())
	mine := middle(t.ours[most])
	faster, alone := t.calls.Seconds()/mine.Seconds(), t.translations.Seconds()/mine.Seconds()
	fmt.Fprintf(&b, "\nFor 10,000 Fairlead is %.0f times as fast as the calls for the DNAT rules alone: %s. As all calls it is %.0f times as fast. "+
		"With 10,000 there it adds one more in %s and removes it in %s. A call of iptables takes:\n\n",
		alone, verdict(alone >= leastTimes, fmt.Sprintf("at least %d", leastTimes)), faster, ms(t.added), ms(t.removed))
	b.WriteString("| mappings there | DNAT | accept | masquerade |\n| --- | --- | --- | --- |\n")
	for _, l := range t.levels {
		fmt.Fprintf(&b, "| %d | %s | %s | %s |\n", l.count, ms(l.each[:1]), ms(l.each[1:2]), ms(l.each[2:]))
	}
	return b.String()
}

func verdict(reached bool, wanted string) string {
	if reached {
		return "wanted is " + wanted + ", reached"
	}
	return "wanted is " + wanted + ", missed"
}

func rates(all []sample) (values []float64) {
	for _, s := range all {
		values = append(values, s.rate)
	}
	return values
}

// spread is the median and the quartiles: a round that something else disturbed says nothing.
func spread(values []float64) string {
	sorted := slices.Sorted(slices.Values(values))
	last := len(sorted) - 1
	return fmt.Sprintf("%.2f (%.2f to %.2f)", median(values), sorted[last/4], sorted[last-last/4])
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}

func middle(all []time.Duration) time.Duration {
	sorted := slices.Sorted(slices.Values(all))
	return sorted[len(sorted)/2]
}

func us(all []sample, of func(sample) time.Duration) string {
	var d []time.Duration
	for _, s := range all {
		d = append(d, of(s))
	}
	return fmt.Sprintf("%.0f µs", float64(middle(d).Nanoseconds())/1000)
}

func ms(all []time.Duration) string {
	middle := fmt.Sprintf("%.1f ms", float64(middle(all).Microseconds())/1000)
	if len(all) == 1 {
		return middle
	}
	return fmt.Sprintf("%s (%.1f to %.1f)", middle, float64(slices.Min(all).Microseconds())/1000, float64(slices.Max(all).Microseconds())/1000)
}

func release() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return "?"
	}
	version, _, _ := strings.Cut(unix.ByteSliceToString(u.Release[:]), "-") // what is behind names a build
	return version
}
