package main

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/fairlead-net/fairlead/nettest"
)

// carried is how many packets of the lane's containers took the fast path, and how many were left to the kernel, as the
// daemons tell it by their metrics.
type carried struct{ fast, kernel float64 }

// proven waits until the fast path carries what do sends: it may be attached after the first packets.
func (l lane) proven(t nettest.T, do func() error) error {
	t.Helper()
	nettest.Eventually(t, readyTime, func() error {
		before := l.carried()
		if err := do(); err != nil {
			return err
		}
		after := l.carried()
		if fast := after.fast - before.fast; fast <= 0 || fast < after.kernel-before.kernel {
			return fmt.Errorf("the fast path carries %.0f packets, the kernel %.0f", fast, after.kernel-before.kernel)
		}
		return nil
	})
	return nil
}

// carried is what has been counted until now. A daemon that does not tell has carried nothing.
func (l lane) carried() (c carried) {
	for _, n := range l.fast {
		text, err := n.Metrics()
		if err != nil {
			continue
		}
		c.fast += sum(text, "fairlead_fastpath_endpoint_packets_total{", `way="out"`) + sum(text, "fairlead_fastpath_endpoint_packets_total{", `way="in"`)
		c.kernel += sum(text, "fairlead_fastpath_endpoint_packets_total{", `way="kernel"`)
	}
	return c
}

// sum adds up the series of a metric that have a label.
func sum(text, metric, label string) (all float64) {
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, metric) && strings.Contains(line, label) {
			if v, err := strconv.ParseFloat(strings.TrimSpace(line[strings.LastIndexByte(line, '}')+1:]), 64); err == nil {
				all += v
			}
		}
	}
	return all
}

// carriers notes what took the fast path during the rounds, while the daemons are there to be asked.
func (r *result) carriers() {
	var b strings.Builder
	for _, w := range r.ways {
		if w.missing != nil || len(w.fast) == 0 {
			continue
		}
		now := w.carried()
		fast, kernel := now.fast-w.before.fast, now.kernel-w.before.kernel
		fmt.Fprintf(&b, "| %s | %.0f | %.0f | %.2f %% |\n", w.name, fast, kernel, 100*fast/max(1, fast+kernel))
	}
	if b.Len() > 0 {
		r.proof = "\n## What the fast path carried\n\nPackets of the measured containers, in both directions, by the counters of its programs.\n\n" +
			"| way | fast path | left to the kernel | |\n| --- | --- | --- | --- |\n" + b.String()
	}
}
