package main

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// report is the result as Markdown.
func report(all []*result, p plan) string {
	var b strings.Builder
	fmt.Fprintf(&b, "Linux %s, %d processors, %s; medians of %d rounds of %v for each measurement, range behind. "+
		"The slower cable has %s.\n\n",
		release(), runtime.NumCPU(), time.Now().UTC().Format(time.DateOnly), p.rounds, p.length, p.cable)
	fmt.Fprintf(&b, "| containers to hosts = 1 | %s | processor time per gigabyte | %s | %s | %s |\n", stream, slow, pps, turns)
	b.WriteString("| --- | --- | --- | --- | --- | --- |\n")
	for _, r := range all {
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s |\n", r.name, spread(r.ratios[stream]), spread(r.cpu),
			spread(r.ratios[slow]), spread(r.ratios[pps]), spread(r.ratios[turns]))
	}
	first := all[0].between
	fmt.Fprintf(&b, "\nBetween the hosts themselves: %.1f Gbit/s, %.1f on the slower cable, %.0f packets and %.0f answers in a second.\n",
		median(first[stream])*8/1e9, median(first[slow])*8/1e9, median(first[pps]), median(first[turns]))
	return b.String()
}

func spread(values []float64) string {
	return fmt.Sprintf("%.2f (%.2f to %.2f)", median(values), slices.Min(values), slices.Max(values))
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}

func release() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return "?"
	}
	version, _, _ := strings.Cut(unix.ByteSliceToString(u.Release[:]), "-") // what is behind names a build
	return version
}
