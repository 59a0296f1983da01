package endpoint_test

import (
	"fmt"

	"slices"
	"testing"
	"time"

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
