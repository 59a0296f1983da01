package endpoint_test

import (
	"fmt"

	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/endpoint"
)

// BenchmarkPutDelete attaches and detaches one container after another, and reports the median and the 99th percentile
// of each in microseconds.
func BenchmarkPutDelete(b *testing.B) {
	l := newLab(b)
	var rows []endpoint.Row
	for i := range 20 {
		rows = append(rows, l.row(fmt.Sprintf("c%d", i), l.container(fmt.Sprintf("c%d", i)), i))
	}
	defer processorTime(b)()
	var puts, deletes []time.Duration
	for i := 0; b.Loop(); i++ {
		r := rows[i%len(rows)]
		start := time.Now()
		l.put(r)
		middle := time.Now()
		if err := l.links.Delete(b.Context(), r.HostIf); err != nil {
			b.Fatal(err)
		}
		puts, deletes = append(puts, middle.Sub(start)), append(deletes, time.Since(middle))
	}
	for name, d := range map[string][]time.Duration{"put": puts, "delete": deletes} {
		slices.Sort(d)
		b.ReportMetric(float64(d[len(d)/2].Microseconds()), name+"-p50-us")
		b.ReportMetric(float64(d[len(d)*99/100].Microseconds()), name+"-p99-us")
	}
}

// BenchmarkTwoHundred is what a pass costs on a host with 200 containers.
func BenchmarkTwoHundred(b *testing.B) {
	l := newLab(b)
	var rows []endpoint.Row
	for i := range 200 {
		c := l.container("c")
		rows = append(rows, l.row(fmt.Sprintf("c%d", i), c, i))
		l.put(rows[i])
	}
	b.Run("List", func(b *testing.B) {
		defer processorTime(b)()
		for b.Loop() {
			if got, err := l.links.List(b.Context()); err != nil || len(got) != len(rows) {
				b.Fatal(len(got), err)
			}
		}
	})
	b.Run("Inspect", func(b *testing.B) {
		defer processorTime(b)()
		for b.Loop() {
			if got, err := l.links.Inspect(b.Context(), rows); err != nil || len(got) != 0 {
				b.Fatal(got, err)
			}
		}
	})
	b.Run("Alive", func(b *testing.B) {
		defer processorTime(b)()
		for b.Loop() {
			for _, r := range rows {
				if !endpoint.Alive(r) {
					b.Fatal(r)
				}
			}
		}
	})
}

// processorTime reports what the process used of the processors for one operation, which other programs hardly change.
func processorTime(b *testing.B) func() {
	used := func() time.Duration {
		var u unix.Rusage
		if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return time.Duration(unix.TimevalToNsec(u.Utime) + unix.TimevalToNsec(u.Stime))
	}
	b.ReportAllocs()
	before := used()
	return func() { b.ReportMetric(float64((used()-before).Microseconds())/float64(b.N), "cpu-us/op") }
}
