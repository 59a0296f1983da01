package main

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// result is what everything came to.
type result struct {
	plan  plan
	gauge *gauge
	bases map[bool]*way // by whether there is a router
	ways  []*way
	proof string // of what the fast path has carried

	programmed map[int][]float64 // milliseconds that so many ports take to program
}

const method = `# What containers reach, against what their hosts reach

![ratios to the hosts](datapath.svg)

Each way has two hosts of its own, network namespaces of one kernel, with real daemons and a container on each. Hosts are on
one cable of 1,500 bytes, a veth pair, or have a router between them. Two more hosts on one cable, and two with a router
between them, run nothing: in each round each load is measured on every way and on those two hosts that are joined alike,
right after each other, in one round these first and in the next that. Ratios are within these pairs; all figures are
medians of the rounds, with the range behind. 1.00 is host to host.

The load is the same program everywhere, one thread at each end with plain sockets and bare system calls, started into the
namespace. The client of a stream and of the small packets is on one processor, their server on another; for all else both
share one, since what waking another takes is no matter of the path. The stream writes 128 KiB at a time by TCP; TCP_RR
and UDP_RR send one byte and wait for one; connect makes a connection, sends one byte, waits for one, and closes; small
packets are UDP datagrams of 18 bytes, 64 to a system call, counted where they arrive. Congestion control is reno. A cable
of the test is memory: nothing but the processors limits a load, so every instruction on the path shows. Galaxy, the
reference, publishes 0.94 for direct, 0.77 for IPIP and 0.67 for VXLAN, as streams between real machines.

`

// gaugeText says what costs are.
func (r *result) gaugeText() string {
	if r.gauge.reason == "" {
		return fmt.Sprintf("Costs are %s of both ends and all between them, counted by perf stat for the control group of the load.", r.gauge.event)
	}
	return fmt.Sprintf("Costs are processor time, of both ends and all between them, that the kernel charges to the control group of the load "+
		"(usage_usec of cpu.stat): this machine cannot count %s for it (%s).", r.plan.event, short(fmt.Errorf("%s", r.gauge.reason)))
}

// report is the result as Markdown.
func (r *result) report() string {
	var b strings.Builder
	b.WriteString(method)
	fmt.Fprintf(&b, "%s To repeat: make bench-datapath.\n\n", r.gaugeText())
	fmt.Fprintf(&b, "Linux %s, %d processors (%s), %s; %d rounds of %v for each measurement.\n",
		release(), runtime.NumCPU(), processor(), time.Now().UTC().Format(time.DateOnly), r.plan.rounds, r.plan.length)
	r.targets(&b)
	b.WriteString("\n## Rates, hosts = 1\n\n")
	r.table(&b, func(t taken) float64 { return t.rate / t.base.rate })
	b.WriteString("\n## Costs, what the hosts pay for the same = 1\n\n")
	b.WriteString("Turned over, so that more is better here too: 0.80 is a quarter more than the hosts pay.\n\n")
	r.table(&b, economy)
	b.WriteString("\n## Figures\n\n")
	r.figures(&b)
	r.sizes(&b)
	r.mappings(&b)
	b.WriteString(r.proof)
	r.absent(&b)
	return b.String()
}

func economy(t taken) float64 { return t.base.cost / t.cost }

// table is the ratios of all ways and loads.
func (r *result) table(b *strings.Builder, ratio func(taken) float64) {
	b.WriteString("| containers by |")
	for _, k := range kinds() {
		fmt.Fprintf(b, " %s |", k)
	}
	b.WriteString("\n| --- |" + strings.Repeat(" --- |", len(kinds())) + "\n")
	for _, w := range r.ways {
		if !w.shown(speeds) {
			continue
		}
		fmt.Fprintf(b, "| %s |", w.name)
		for _, k := range kinds() {
			fmt.Fprintf(b, " %s |", spread(each(w.taken[k], ratio)))
		}
		b.WriteString("\n")
	}
}

// figures are the medians themselves, with their costs.
func (r *result) figures(b *strings.Builder) {
	fmt.Fprintf(b, "In a second, and in brackets %s for one.\n\n| |", r.gauge.unit())
	for _, k := range kinds() {
		fmt.Fprintf(b, " %s |", heading(k))
	}
	b.WriteString(" bytes in a segment |\n| --- |" + strings.Repeat(" --- |", len(kinds())+1) + "\n")
	row := func(name string, of func(taken) sample, ways ...*way) {
		fmt.Fprintf(b, "| %s |", name)
		most := 0.0
		for _, k := range kinds() {
			var all []taken
			for _, w := range ways {
				all = append(all, w.taken[k]...)
			}
			fmt.Fprintf(b, " %s |", figure(k, each(all, func(t taken) float64 { return of(t).rate }), each(all, func(t taken) float64 { return of(t).cost })))
			if k == stream && len(all) > 0 {
				most = median(each(all, func(t taken) float64 { return of(t).most }))
			}
		}
		fmt.Fprintf(b, " %.0f |\n", most)
	}
	for _, routed := range []bool{false, true} {
		beside := slices.DeleteFunc(slices.Clone(r.ways), func(w *way) bool { return w.routed != routed || w.missing != nil })
		if len(beside) > 0 {
			row(r.bases[routed].name, func(t taken) sample { return t.base }, beside...)
		}
	}
	for _, w := range r.ways {
		if w.shown(speeds) {
			row(w.name, func(t taken) sample { return t.sample }, w)
		}
	}
}

func heading(k kind) string {
	if k == stream {
		return "TCP stream, Gbit (KiB)"
	}
	return string(k)
}

func figure(k kind, rates, costs []float64) string {
	if len(rates) == 0 {
		return ""
	}
	if k == stream {
		return fmt.Sprintf("%.1f (%.0f)", median(rates)*8/1e9, median(costs)*1024)
	}
	return fmt.Sprintf("%.0f (%.0f)", median(rates), median(costs))
}

// absent are the ways that this machine cannot have.
func (r *result) absent(b *strings.Builder) {
	first := true
	for _, w := range r.ways {
		if w.missing == nil {
			continue
		}
		if first {
			b.WriteString("\n## Left out\n\n| way | why, as it was found out in this run |\n| --- | --- |\n")
			first = false
		}
		fmt.Fprintf(b, "| %s | %s |\n", w.name, short(w.missing))
	}
}

func each(all []taken, of func(taken) float64) (values []float64) {
	for _, t := range all {
		values = append(values, of(t))
	}
	return values
}

func spread(values []float64) string {
	if len(values) == 0 {
		return ""
	}
	return fmt.Sprintf("%.2f (%.2f to %.2f)", median(values), slices.Min(values), slices.Max(values))
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	half := len(sorted) / 2
	if len(sorted)%2 == 0 {
		return (sorted[half-1] + sorted[half]) / 2
	}
	return sorted[half]
}

func release() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return "?"
	}
	version, _, _ := strings.Cut(unix.ByteSliceToString(u.Release[:]), "-") // what is behind names a build
	return version
}

// processor is what the machine's processors call themselves, proc(5).
func processor() string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "?"
	}
	for line := range strings.Lines(string(text)) {
		if name, value, found := strings.Cut(line, ":"); found && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "?"
}
