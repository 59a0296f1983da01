package agent

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/fairlead-net/fairlead/tunnel"
)

// metrics are what the agent counts, and a look at the rest whenever somebody asks.
type metrics struct {
	registry *prometheus.Registry
	agent    *Agent
	passes   *prometheus.CounterVec
	seconds  prometheus.Histogram
	writes   *prometheus.CounterVec
	errors   *prometheus.CounterVec
	drift    prometheus.Counter
	reloads  *prometheus.CounterVec
	hooks    *prometheus.CounterVec
	good     prometheus.Gauge
	goodAt   prometheus.Gauge
	repaired atomic.Uint64
}

func newMetrics(a *Agent) *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		agent:    a,
		passes:   counters("reconcile_passes_total", "Passes over the ladder, by result.", "result"),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "fairlead", Name: "reconcile_duration_seconds", Help: "How long a pass takes.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 12),
		}),
		writes:  counters("reconcile_writes_total", "Rows put or deleted, by table.", "table"),
		errors:  counters("reconcile_errors_total", "Rows or tables that failed, by table.", "table"),
		drift:   prometheus.NewCounter(prometheus.CounterOpts{Namespace: "fairlead", Name: "drift_repaired_total", Help: "Kernel objects put back after others changed or removed them."}),
		reloads: counters("config_reloads_total", "Config reloads, by result.", "result"),
		hooks:   counters("hook_runs_total", "Events for hooks, by hook and by what came of them.", "hook", "result"),
		good:    gauge("config_last_reload_successful", "Whether the last reload was applied (1) or refused (0)."),
		goodAt:  gauge("config_last_reload_success_timestamp_seconds", "When a config was last applied."),
	}
	m.good.Set(1)
	m.goodAt.Set(float64(a.started.Unix()))
	m.registry.MustRegister(m.passes, m.seconds, m.writes, m.errors, m.drift, m.reloads, m.hooks, m.good, m.goodAt, view{a},
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

func counters(name, help string, labels ...string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "fairlead", Name: name, Help: help}, labels)
}

func gauge(name, help string) prometheus.Gauge {
	return prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "fairlead", Name: name, Help: help})
}

// pass counts what one pass did.
func (m *metrics) pass(o *outcome, took time.Duration) {
	m.seconds.Observe(took.Seconds())
	if !o.clean() {
		m.passes.WithLabelValues("failed").Inc()
	} else {
		m.passes.WithLabelValues("clean").Inc()
	}
	if o.report == nil {
		m.errors.WithLabelValues("inputs").Inc()
		return
	}
	for table, n := range o.report.Writes {
		m.writes.WithLabelValues(table).Add(float64(n))
	}
	for _, f := range o.report.Failures {
		m.errors.WithLabelValues(f.Table).Inc()
	}
	m.drift.Add(float64(o.report.Repaired))
	m.repaired.Add(uint64(o.report.Repaired))
}

func (m *metrics) repairedSoFar() uint64 { return m.repaired.Load() }

func (m *metrics) reloaded(ok bool, now time.Time) {
	if !ok {
		m.reloads.WithLabelValues("refused").Inc()
		m.good.Set(0)
		return
	}
	m.reloads.WithLabelValues("applied").Inc()
	m.good.Set(1)
	m.goodAt.Set(float64(now.Unix()))
}

// view reads the agent at the time of the question, so that no gauge can be stale.
type view struct{ agent *Agent }

// Describe sends nothing: which pools and peers there are is known only when asked.
func (view) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (v view) Collect(out chan<- prometheus.Metric) {
	s := v.agent.Status()
	send := func(name, help string, value float64, labels prometheus.Labels) {
		d := prometheus.NewDesc("fairlead_"+name, help, nil, labels)
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value)
	}
	send("build_info", "Always 1; the labels say what runs.", 1, prometheus.Labels{"version": s.Version, "goversion": runtime.Version()})
	ready := 0.0
	if s.Ready {
		ready = 1
	}
	send("ready", "Whether the node is ready.", ready, nil)
	send("endpoints", "Endpoints attached to this node.", float64(s.Endpoints), nil)
	send("event_readers", "Who follows the events now.", float64(v.agent.news.feed.count()), nil)
	states := make(map[string]int)
	for _, p := range v.agent.Peers() {
		states[p.State]++
	}
	for state, n := range states {
		send("peers", "BGP neighbours, by state.", float64(n), prometheus.Labels{"state": state})
	}
	for encap, n := range map[string]int{"direct": s.Routes.Direct, "ipip": s.Routes.IPIP, "vxlan": s.Routes.VXLAN, "gre": s.Routes.GRE, "none": s.Routes.Skipped} {
		send("routes", "Remote prefixes, by how packets get there; none: not used.", float64(n), prometheus.Labels{"encap": encap})
	}
	states = make(map[string]int)
	for _, p := range v.agent.Ports() {
		states[p.State]++
	}
	for state, n := range states {
		send("ports", "Ports of this host that endpoints have, by state.", float64(n), prometheus.Labels{"state": state})
	}
	v.strangers(out)
	v.fast(out)
	leases := make(map[string]int)
	for _, l := range v.agent.room.Ledger.Leases() {
		leases[l.Pool]++
	}
	for _, p := range s.Pools {
		send("leases", "Addresses in use, by pool.", float64(leases[p.Name]), prometheus.Labels{"pool": p.Name})
		for state, n := range map[string]int{"leased": p.Leased, "resting": p.Resting, "reserved": p.Reserved, "total": p.Size} {
			send("pool_addresses", "Addresses of this node's block, by pool and state.", float64(n), prometheus.Labels{"pool": p.Name, "state": state})
		}
	}
}

// strangers counts the encapsulated packets that were dropped because no node of ours sent them. The packet filter counts
// from when the rule was made.
func (v view) strangers(out chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	dropped, err := v.agent.room.Kernel.Filter.Dropped(ctx)
	if err != nil {
		return // a packet filter that can not be read is said by the pass
	}
	sums := make(map[string]uint64)
	for k, n := range dropped {
		if _, guarded := tunnelTypes()[tunnel.Encap(k.Name)]; guarded {
			sums[k.Name] += n
		}
	}
	d := prometheus.NewDesc("fairlead_tunnel_strangers_dropped_total", "Encapsulated packets from no node of ours, dropped.", []string{"encap"}, nil)
	for encap, n := range sums {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), encap)
	}
}

// ServeMetrics answers Prometheus on l until ctx ends.
func (a *Agent) ServeMetrics(ctx context.Context, l net.Listener) error {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(a.metrics.registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4, Timeout: 10 * time.Second}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		if s := a.Status(); !s.Ready {
			w.WriteHeader(http.StatusServiceUnavailable)
			for _, p := range s.Problems {
				_, _ = fmt.Fprintln(w, p)
			}
			return
		}
		_, _ = fmt.Fprintln(w, "ok")
	})
	s := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, WriteTimeout: 15 * time.Second, IdleTimeout: time.Minute}
	return serve(ctx, s, l)
}
