package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/fairlead-net/fairlead/nettest"
)

// daemon is a running one and its host.
type daemon struct{ *nettest.Node }

// start starts `fairlead run` on the host and waits until it answers.
func start(t nettest.T, h *nettest.Host, binary, dir string) daemon {
	d := daemon{nettest.NewNode(h, binary, dir)}
	d.WriteConfig(fmt.Sprintf(`[node]
name = "node"
address = %q
state_dir = %q
run_dir = %q
[[pool]]
cidr = "10.88.0.0/16"
name = "default"
block = "10.88.0.0/24"
[bgp]
hold_time = "90s"
[[bgp.peer]]
address = %q
[fastpath]
pin_dir = %q
`, daemonAddr, d.StateDir(), d.RunDir(), feederAddr, filepath.Join(nettest.MountPins(t, dir), "fairlead")))
	d.Start()
	nettest.Eventually(t, sessionTime, func() error { return d.Get("status", &struct{}{}) })
	return d
}

// routes counts the remote blocks in the kernel.
func (d daemon) routes() int {
	out, err := d.Try("ip", "route", "show", "proto", "88", "root", "10.88.0.0/16")
	if err != nil {
		return 0
	}
	return strings.Count(out, "/26 ")
}

// rows counts every route of ours in the kernel: the blocks, and the tunnel ends in their own table.
func (d daemon) rows() int {
	out, err := d.Try("ip", "-o", "route", "show", "table", "all", "proto", "88")
	if err != nil {
		return 0
	}
	return strings.Count(out, "\n")
}

// installed counts the routes that the daemon itself says are in place.
func (d daemon) installed() int {
	var all []struct{ Installed bool }
	if d.Get("routes", &all) != nil {
		return 0
	}
	n := 0
	for _, r := range all {
		if r.Installed {
			n++
		}
	}
	return n
}

// writes is how many routes the daemon has written so far, from its metrics.
func (d daemon) writes() (float64, error) {
	out, err := d.Metrics()
	if err != nil {
		return 0, fmt.Errorf("read metrics: %w", err)
	}
	v := field(out, `fairlead_reconcile_writes_total{table="route"}`)
	if v == "" {
		return 0, nil
	}
	return strconv.ParseFloat(v, 64)
}

// memory is the daemon's resident memory in KiB, after it has had time to settle.
func (d daemon) memory() int {
	time.Sleep(time.Second)
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", d.Pid()))
	if err != nil {
		return 0
	}
	kib, _ := strconv.Atoi(strings.TrimSuffix(field(string(text), "VmRSS:"), " kB"))
	return kib
}
