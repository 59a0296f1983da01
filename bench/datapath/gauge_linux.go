package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/nettest"
)

// gauge tells what both ends of a load and all between them cost the processors: cycles that perf counts for the control
// group of the load, or where the machine has no counter of them, the time that the kernel charges to the group.
type gauge struct {
	event  string // of perf, "" for the group's processor time
	reason string // why there is no event
	group  string // below the mount point
	dir    *os.File
}

// newGauge makes the control group, and tries what can be counted here.
func newGauge(t nettest.T, event string) (*gauge, error) {
	mount, err := unified()
	if err != nil {
		return nil, err
	}
	g := &gauge{event: event, group: fmt.Sprintf("fairlead-lab-%d-load", os.Getpid())}
	path := filepath.Join(mount, g.group)
	if err := os.Mkdir(path, 0o755); err != nil {
		return nil, fmt.Errorf("make control group: %w", err)
	}
	t.Cleanup(func() { _ = unix.Rmdir(path) })
	if g.dir, err = os.Open(path); err != nil {
		return nil, err
	}
	t.Cleanup(func() { _ = g.dir.Close() })
	if err := g.try(); err != nil {
		g.event, g.reason = "", err.Error()
	}
	return g, nil
}

// unified is where version 2 of the control groups is mounted, see proc(5).
func unified() (string, error) {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(text)) {
		mount, kind, found := strings.Cut(line, " - ")
		if fields := strings.Fields(mount); found && len(fields) > 4 && strings.HasPrefix(kind, "cgroup2 ") {
			return fields[4], nil
		}
	}
	return "", errors.New("no control groups of version 2 are mounted")
}

// try counts what a process of the group does for a moment: a counter that is not there says so, or nothing.
func (g *gauge) try() error {
	c, err := g.start()
	if err != nil {
		return err
	}
	cmd := exec.Command("busybox", "seq", "100000")
	cmd.SysProcAttr = g.attributes()
	ran := cmd.Run()
	used, err := c.stop()
	if err == nil && ran == nil && used == 0 {
		err = fmt.Errorf("perf stat counts no %s for a process that ran", g.event)
	}
	return errors.Join(err, ran)
}

// counter is a reading that has begun.
type counter struct {
	gauge *gauge
	usage time.Duration // of the group at the beginning, without an event
	perf  *perf
}

// start begins a reading, which counts from begin on.
func (g *gauge) start() (*counter, error) {
	c := &counter{gauge: g}
	var err error
	if g.event != "" {
		if c.perf, err = startPerf(g.event, g.group); err == nil {
			err = c.perf.tell("enable")
		}
		return c, err
	}
	c.usage, err = g.used()
	return c, err
}

// stop is how many events there were since the start, or how many nanoseconds.
func (c *counter) stop() (float64, error) {
	if c.perf != nil {
		return c.perf.end()
	}
	now, err := c.gauge.used()
	return float64(now - c.usage), err
}

// used is the processor time that the group has used.
func (g *gauge) used() (time.Duration, error) {
	text, err := os.ReadFile(filepath.Join(g.dir.Name(), "cpu.stat"))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if value, found := strings.CutPrefix(line, "usage_usec "); found {
			usec, err := strconv.ParseInt(strings.TrimSpace(value), 10, 64)
			return time.Duration(usec) * time.Microsecond, err
		}
	}
	return 0, errors.New("cpu.stat of the control group has no usage_usec")
}

// attributes start a process in the group; it ends with this one.
func (g *gauge) attributes() *unix.SysProcAttr {
	return &unix.SysProcAttr{UseCgroupFD: true, CgroupFD: int(g.dir.Fd()), Pdeathsig: unix.SIGKILL}
}

// unit is of what a load costs.
func (g *gauge) unit() string {
	if g.event != "" {
		return g.event
	}
	return "ns of processor time"
}

// perf is a `perf stat` that counts for one control group on all processors, when it is told to.
type perf struct {
	cmd      *exec.Cmd
	out      bytes.Buffer
	commands *os.File
	answers  *bufio.Reader
	pipes    []*os.File
	cancel   context.CancelFunc
}

const perfTime = time.Minute // that a reading may take

func startPerf(event, group string) (*perf, error) {
	ctx, cancel := context.WithTimeout(context.Background(), perfTime)
	p := &perf{cancel: cancel}
	theirs, commands, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	answers, answer, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	p.pipes, p.commands, p.answers = []*os.File{commands, answers}, commands, bufio.NewReader(answers)
	p.cmd = exec.CommandContext(ctx, "perf", "stat", "-x", ",", "-D", "-1", "--control", "fd:3,4", "-a", "-e", event, "-G", group)
	p.cmd.ExtraFiles = []*os.File{theirs, answer}
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.out
	p.cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	err = p.cmd.Start()
	_, _ = theirs.Close(), answer.Close()
	if err != nil {
		p.close()
		return nil, fmt.Errorf("start perf stat: %w", err)
	}
	return p, nil
}

func (p *perf) close() {
	p.cancel()
	for _, f := range p.pipes {
		_ = f.Close()
	}
}

// tell gives a command and waits until it is followed.
func (p *perf) tell(command string) error {
	if _, err := fmt.Fprintln(p.commands, command); err != nil {
		return fmt.Errorf("tell perf stat: %w", err)
	}
	if _, err := p.answers.ReadString('\n'); err != nil {
		_ = p.cmd.Wait() // what it said tells more
		p.close()
		return fmt.Errorf("perf stat does not %s: %s", command, bytes.TrimSpace(p.out.Bytes()))
	}
	return nil
}

// end stops the counting, and returns what was counted.
func (p *perf) end() (float64, error) {
	defer p.close()
	if err := p.tell("disable"); err != nil {
		return 0, err
	}
	_ = p.cmd.Process.Signal(unix.SIGINT)
	_ = p.cmd.Wait() // it ends by the signal
	for line := range strings.Lines(p.out.String()) {
		value, rest, found := strings.Cut(strings.TrimSpace(line), ",")
		if !found {
			continue // it also says that it begins and ends
		}
		n, err := strconv.ParseFloat(value, 64)
		if err != nil { // then it is a word, such as <not supported>
			return 0, fmt.Errorf("perf stat says %q of %s", value, strings.Split(rest, ",")[1])
		}
		return n, nil
	}
	return 0, fmt.Errorf("perf stat counts nothing: %s", bytes.TrimSpace(p.out.Bytes()))
}
