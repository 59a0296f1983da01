package main

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/nettest"
)

// path is a way from a client to a server.
type path struct {
	from, to *nettest.Host  // where the two run
	ask      netip.AddrPort // what the client asks for
	at       netip.AddrPort // what the server listens at
}

// port is what servers listen at.
const port = 7100

// straight is a path without a translation between.
func straight(from, to *nettest.Host, ip netip.Addr) path {
	at := netip.AddrPortFrom(ip, port)
	return path{from: from, to: to, ask: at, at: at}
}

// sample is what one measurement came to.
type sample struct {
	rate float64 // in a second
	cost float64 // of one, in the unit of the gauge
	most float64 // bytes in a segment; of the stream only
}

// meter measures loads on paths.
type meter struct {
	gauge   *gauge
	program string
	warm    time.Duration // before the measurement
	length  time.Duration
}

const startTime = 5 * time.Second // that a process of the load may take until it works

// processors are those of client and server. A stream and a flood have one each; where both wait for each other they share
// one: what waking another takes is no matter of the path.
func processors(k kind) (client, server int) {
	if k == stream || k == packets {
		return 0, 1
	}
	return 0, 0
}

// measure runs a load for a time.
func (m *meter) measure(p path, k kind) (s sample, err error) {
	b, file, err := newBoard()
	if err != nil {
		return s, err
	}
	defer file.Close()
	defer b.close()
	near, far := processors(k)
	server, err := m.begin(file, p.to, far, server, k, p.at)
	if err != nil {
		return s, err
	}
	defer server.end()
	if err := wait(server, func() bool { return b.ready.Load() > 0 }); err != nil {
		return s, err
	}
	client, err := m.begin(file, p.from, near, client, k, p.ask)
	if err != nil {
		return s, err
	}
	defer client.end()
	if err := wait(client, func() bool { return b.done.Load() > 0 }); err != nil {
		return s, errors.Join(err, server.said())
	}
	time.Sleep(m.warm)
	counter, err := m.gauge.start()
	if err != nil {
		return s, err
	}
	begun, before := time.Now(), b.done.Load()
	time.Sleep(m.length)
	done, took := b.done.Load()-before, time.Since(begun)
	cost, err := counter.stop()
	if err = errors.Join(err, client.said(), server.said()); err != nil {
		return s, err
	}
	if done == 0 {
		return s, errors.New("nothing has arrived")
	}
	return sample{rate: float64(done) / took.Seconds(), cost: cost / float64(done), most: float64(b.most.Load())}, nil
}

// process is one end of a load.
type process struct {
	cmd  *exec.Cmd
	out  bytes.Buffer
	done chan struct{}
}

// begin starts an end of a load on a host, in the control group, on one processor.
func (m *meter) begin(board *os.File, h *nettest.Host, cpu int, r role, k kind, at netip.AddrPort) (*process, error) {
	p := &process{cmd: exec.Command(m.program, loadCommand, string(r), string(k), at.String()), done: make(chan struct{})}
	p.cmd.ExtraFiles = []*os.File{board}
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.out
	p.cmd.SysProcAttr = m.gauge.attributes()
	// Nothing of the runtime's is to run beside the load: no collection of garbage, no signals that cut calls short.
	p.cmd.Env = append(os.Environ(), "GOGC=off", "GODEBUG=asyncpreemptoff=1")
	err := h.Do(func() error { return on(cpu, p.cmd.Start) })
	if err != nil {
		return nil, fmt.Errorf("start %s of %s on %s: %w", r, k, h.Name, err)
	}
	go func() {
		defer close(p.done)
		_ = p.cmd.Wait() // what it said tells why it ended
	}()
	return p, nil
}

// on runs fn by the calling thread on one processor.
func on(cpu int, fn func() error) error {
	var before, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		return fmt.Errorf("ask for processors: %w", err)
	}
	one.Set(cpu)
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		return fmt.Errorf("choose a processor: %w", err)
	}
	err := fn()
	return errors.Join(err, unix.SchedSetaffinity(0, &before))
}

func (p *process) end() {
	_ = p.cmd.Process.Kill() // it may have ended
	<-p.done
}

// said is an error when the process has ended.
func (p *process) said() error {
	select {
	case <-p.done:
		return fmt.Errorf("the load has ended: %v: %s", p.cmd.ProcessState, strings.TrimSpace(p.out.String()))
	default:
		return nil
	}
}

func wait(p *process, until func() bool) error {
	for begun := time.Now(); !until(); time.Sleep(time.Millisecond) {
		if err := p.said(); err != nil {
			return err
		}
		if time.Since(begun) > startTime {
			return fmt.Errorf("nothing has come through for %v", startTime)
		}
	}
	return nil
}

// forget has hosts forget all connections that they track: those of one measurement must not burden the next.
func forget(hosts []*nettest.Host) error {
	for _, h := range hosts {
		if err := h.Do(func() error { return netlink.ConntrackTableFlush(netlink.ConntrackTable) }); err != nil {
			return fmt.Errorf("forget connections of %s: %w", h.Name, err)
		}
	}
	return nil
}
