package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/fairlead-net/fairlead/nettest"
)

// lab is what nettest needs to know of its surroundings, outside a test.
type lab struct{ undo []func() }

func (l *lab) Helper()             {}
func (l *lab) Name() string        { return "bench-scale" }
func (l *lab) Logf(string, ...any) {}
func (l *lab) Failed() bool        { return false }
func (l *lab) Cleanup(f func())    { l.undo = append(l.undo, f) }

// Fatalf gives up on the round; one turns it into an error.
func (l *lab) Fatalf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }

func (l *lab) end() {
	for _, f := range slices.Backward(l.undo) {
		f()
	}
}

// process is a running daemon.
type process struct {
	host   *nettest.Host
	cmd    *exec.Cmd
	bin    string
	socket string
}

// daemon starts `fairlead run` on the host and waits until it is ready.
func (l *lab) daemon(h *nettest.Host, bin, dir string) (*process, error) {
	p := &process{host: h, bin: bin, socket: filepath.Join(dir, "run", "fairlead.sock")}
	file := filepath.Join(dir, "fairlead.toml")
	text := fmt.Sprintf(`[node]
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
`, daemonAddr, filepath.Join(dir, "state"), filepath.Join(dir, "run"), feederAddr)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return nil, err
	}
	p.cmd = h.Command(context.Background(), bin, "run", "--config", file)
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	l.Cleanup(func() { _ = p.cmd.Process.Signal(syscall.SIGTERM); _ = p.cmd.Wait() })
	ctx, cancel := context.WithTimeout(context.Background(), sessionTime)
	defer cancel()
	return p, until(ctx, func() bool { return p.ask("status", &struct{}{}) == nil })
}

// ask runs a fairlead command and reads its JSON.
func (p *process) ask(command string, into any) error {
	out, err := p.host.Try(p.bin, "--socket", p.socket, "-o", "json", command)
	if err != nil {
		return err
	}
	return json.Unmarshal([]byte(out), into)
}

// routes counts the remote blocks in the kernel.
func (p *process) routes() int {
	out, err := p.host.Try("ip", "route", "show", "proto", "88", "root", "10.88.0.0/16")
	if err != nil {
		return 0
	}
	return strings.Count(out, "/26 ")
}

// rows counts every route of ours in the kernel: the blocks, and the tunnel ends in their own table.
func (p *process) rows() int {
	out, err := p.host.Try("ip", "-o", "route", "show", "table", "all", "proto", "88")
	if err != nil {
		return 0
	}
	return strings.Count(out, "\n")
}

// installed counts the routes that the daemon itself says are in place.
func (p *process) installed() int {
	var all []struct{ Installed bool }
	if p.ask("routes", &all) != nil {
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
func (p *process) writes() (float64, error) {
	out, err := p.host.Try("curl", "-sf", "http://127.0.0.1:9478/metrics")
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
func (p *process) memory() int {
	time.Sleep(time.Second)
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	kib, _ := strconv.Atoi(strings.TrimSuffix(field(string(text), "VmRSS:"), " kB"))
	return kib
}
