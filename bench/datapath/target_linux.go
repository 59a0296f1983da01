package main

import (
	"fmt"
	"slices"
	"strings"
)

// target is what a way is to reach with a load, as a ratio to the hosts or to another way.
type target struct {
	way     string
	load    kind
	against string // another way, "" for the hosts
	least   float64
}

const (
	margin = 0.04 // so much less is still acceptable
	flat   = 0.97 // of the connections with one port that most ports must leave
)

func targets() []target {
	return []target{
		{fastDirect, stream, "", 0.92}, {fastDirect, tcpRR, "", 0.90}, {fastDirect, connect, "", 0.89},
		{fastIPIP, stream, "", 0.84}, {fastIPIP, tcpRR, "", 0.85}, {fastIPIP, connect, "", 0.84},
		{fastVXLAN, stream, "", 0.84}, {fastVXLAN, tcpRR, "", 0.85}, {fastVXLAN, connect, "", 0.87},
		{fastVXLAN, stream, flannelVXLAN, 1.8}, {fastVXLAN, tcpRR, flannelVXLAN, 1.3},
		{fastVXLAN, stream, dockerOverlay, 1.8}, {fastVXLAN, tcpRR, dockerOverlay, 1.3},
		{fastDirect, tcpRR, dockerPort, 1.6},
		{mappingName("ebpf", 10000), connect, "", 0.88}, {mappingName("ebpf", 10000), connect, mappingName("ebpf", 1), flat},
	}
}

// targets is the table of what was to be reached.
func (r *result) targets(b *strings.Builder) {
	b.WriteString("\n## To reach\n\nA stream is held to its target by its rate, all else by its cost: there both ends share a processor, " +
		"and on a machine with other work the rate says less.\n\n" +
		"| way | load | against | to reach | by cost | by rate | |\n| --- | --- | --- | --- | --- | --- | --- |\n")
	for _, t := range targets() {
		against := t.against
		if against == "" {
			against = "hosts"
		}
		cost, rate := r.ratios(t, economy), r.ratios(t, func(t taken) float64 { return t.rate / t.base.rate })
		counts := cost
		if t.load == stream {
			counts = rate
		}
		fmt.Fprintf(b, "| %s | %s | %s | %.2f | %s | %s | %s |\n", t.way, t.load, against, t.least, spread(cost), spread(rate), t.verdict(counts))
	}
}

// ratios are those to the hosts, or in each round those to the other way's.
func (r *result) ratios(t target, of func(taken) float64) []float64 {
	mine := each(r.taken(t.way, t.load), of)
	if t.against == "" {
		return mine
	}
	theirs := each(r.taken(t.against, t.load), of)
	mine = mine[:min(len(mine), len(theirs))] // none when one of them is missing
	for i := range mine {
		mine[i] /= theirs[i]
	}
	return mine
}

func (r *result) taken(name string, k kind) []taken {
	i := slices.IndexFunc(r.ways, func(w *way) bool { return w.name == name })
	if i < 0 {
		return nil
	}
	return r.ways[i].taken[k]
}

func (t target) verdict(values []float64) string {
	switch {
	case len(values) == 0:
		return "not measured"
	case median(values) >= t.least:
		return "reached"
	case t.against == "" && median(values) >= t.least-margin:
		return fmt.Sprintf("missed by less than %.2f", margin)
	}
	return "missed"
}

// sizes is the table of the sizes of packets.
func (r *result) sizes(b *strings.Builder) {
	first := true
	for _, w := range r.ways {
		if !w.shown(sizes) {
			continue
		}
		if first {
			b.WriteString("\n## Sizes of packets\n\nStreams of packets that fill the tunnel, and of a little smaller ones, of which the largest that TCP hands down holds whole " +
				"writes of 128 KiB better.\n\n| way | bytes in a segment | rate, hosts = 1 | cost, hosts = 1 |\n| --- | --- | --- | --- |\n")
			first = false
		}
		got := w.taken[stream]
		fmt.Fprintf(b, "| %s | %.0f | %s | %s |\n", w.name, median(each(got, func(t taken) float64 { return t.most })),
			spread(each(got, func(t taken) float64 { return t.rate / t.base.rate })), spread(each(got, economy)))
	}
}

// mappings is the table of the published ports.
func (r *result) mappings(b *strings.Builder) {
	if !slices.ContainsFunc(r.ways, func(w *way) bool { return w.shown(ports) }) {
		return
	}
	b.WriteString("\n## Published ports\n\nConnections from another host through the last of so many ports of a real daemon to a container.\n\n")
	fmt.Fprintf(b, "| way | ports | connections in a second | rate, hosts = 1 | cost, hosts = 1 | rate, one port = 1 | cost, one port = 1 |\n"+
		"| --- | --- | --- | --- | --- | --- | --- |\n")
	for _, backend := range []string{"ebpf", "iptables"} {
		for _, count := range counts() {
			name := mappingName(backend, count)
			got := r.taken(name, connect)
			if len(got) == 0 {
				continue
			}
			one := target{way: name, load: connect, against: mappingName(backend, 1)}
			rate := r.ratios(one, func(t taken) float64 { return t.rate / t.base.rate })
			cost := r.ratios(one, economy)
			fmt.Fprintf(b, "| %s | %d | %.0f | %s | %s | %s | %s |\n", backend, count, median(each(got, func(t taken) float64 { return t.rate })),
				spread(each(got, func(t taken) float64 { return t.rate / t.base.rate })), spread(each(got, economy)), spread(rate), spread(cost))
		}
	}
	if len(r.programmed) == 0 {
		return
	}
	b.WriteString("\nTo fill the map of ports from nothing, as a pass does, takes in ms: ")
	for i, count := range counts() {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(b, "%d ports %s", count, spread(r.programmed[count]))
	}
	b.WriteString("; 10,000 are to take no more than 50.\n")
}
