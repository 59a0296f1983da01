package agent

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/fairlead-net/fairlead/fastpath"
)

// fast tells what the programs of the fast path have counted.
func (v view) fast(out chan<- prometheus.Metric) {
	engine := v.agent.room.Kernel.Fast.Engine
	if engine == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	counts, err := engine.Counts(ctx)
	if err != nil {
		return // a fast path that can not be read is said by the pass
	}
	send := func(name, help string, value uint64, keys []string, labels ...string) {
		d := prometheus.NewDesc("fairlead_fastpath_"+name, help, keys, nil)
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(value), labels...)
	}
	for reason, n := range counts.Reasons {
		send("packets_total", "Packets that the programs of the fast path saw, by the way they took and why.", n, []string{"way"}, reason)
	}
	names := make(map[string]string)
	attached, _ := v.agent.Endpoints() // without the store nobody knows whose links they are
	for _, e := range attached {
		names[e.HostIfName] = e.Name
	}
	traffic := func(kind, key, label string, c fastpath.Count) {
		for way, t := range map[string]fastpath.Traffic{"out": c.Out, "in": c.In, "kernel": c.Kernel, "dropped": c.Drops} {
			if kind == "route" && (way == "kernel" || way == "dropped") {
				continue // a packet that is left alone has no route yet
			}
			send(kind+"_packets_total", "Packets of the fast path, by "+kind+". Kernel: from it, and left to the kernel.", t.Packets, []string{key, "way"}, label, way)
			send(kind+"_bytes_total", "Bytes of the fast path, by "+kind+", with their Ethernet headers.", t.Bytes, []string{key, "way"}, label, way)
		}
	}
	for link, c := range counts.Links {
		if name, known := names[link]; known {
			traffic("endpoint", "endpoint", name, c)
		}
	}
	for prefix, c := range counts.Routes {
		traffic("route", "prefix", prefix.String(), c)
	}
}
