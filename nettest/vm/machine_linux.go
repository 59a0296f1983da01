// Package vm runs programs on another kernel than this machine's: a Debian kernel with all its modules for networks, in
// QEMU, emulated in software, so that it runs where there is no virtualization and finds what the kernel here lacks.
//
// Emulation costs a factor of ten in computing, and starting a process some 25 ms. Everything inside is in memory.
// Processors that are emulated interrupt each other at great cost: two machines with one do more than one with two.
package vm

import (
	"bufio"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/nettest"
)

const (
	bootTime = 2 * time.Minute // it takes 6 s on a machine that is not busy
	memory   = "2048"          // MiB
	// Three features that are slow to emulate: copying byte by byte, and another level of page tables.
	cpu = "max,erms=off,fsrm=off,la57=off"
	// The clock is the processor's: it runs evenly here, though the kernel can not prove that, and every other one costs
	// an exit. Programs are always at the same addresses, because translated code is kept by address: each process would
	// be translated anew. Pages are not cleared twice, and nobody inside has secrets from another.
	parameters = "console=ttyS0 loglevel=5 panic=-1 oops=panic tsc=reliable norandmaps init_on_alloc=0 mitigations=off"
)

// Machine is a kernel that runs, and a shell on it that waits for commands.
type Machine struct {
	cmd     *exec.Cmd
	done    chan struct{} // closed when it has stopped
	console *console
	port    net.Conn
	answers *bufio.Reader
}

// Boot starts a machine, which lives as long as the test and the time given. It is killed with this process, too.
func (i *Image) Boot(t nettest.T, life time.Duration) *Machine {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(context.Background(), life, fmt.Errorf("its %v are over", life))
	m, err := i.start(ctx)
	if err != nil {
		cancel()
		t.Fatalf("start machine: %v", err)
	}
	t.Cleanup(func() {
		cancel()
		<-m.done
		_ = m.port.Close()
		if t.Failed() {
			t.Logf("console of the machine:\n%s", m.console)
		}
	})
	ready, giveUp := context.WithTimeout(ctx, bootTime)
	defer giveUp()
	if _, err := m.Run(ready, ":", io.Discard); err != nil {
		t.Fatalf("boot machine: %v", err)
	}
	return m
}

func (i *Image) start(ctx context.Context) (*Machine, error) {
	port, theirs, err := pair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	m := &Machine{done: make(chan struct{}), console: &console{}, port: port, answers: bufio.NewReader(port)}
	m.cmd = exec.CommandContext(ctx, "qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", cpu,
		"-smp", strconv.Itoa(cmp.Or(i.Processors, 2)), "-m", memory,
		"-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio",
		"-device", "virtio-serial-pci", "-chardev", "socket,id=port,fd=3", "-device", "virtserialport,chardev=port",
		"-kernel", i.kernel, "-initrd", i.initrd, "-append", parameters)
	m.cmd.ExtraFiles = []*os.File{theirs} // 3
	m.cmd.Stdout, m.cmd.Stderr = m.console, m.console
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := m.cmd.Start(); err != nil {
		_ = port.Close()
		return nil, err
	}
	go func() {
		_ = m.cmd.Wait() // how it ended is in m.cmd.ProcessState
		if ctx.Err() != nil {
			fmt.Fprintf(m.console, "\nkilled: %v\n", context.Cause(ctx))
		}
		close(m.done)
	}()
	return m, nil
}

// pair are the two ends of a connection: ours, and one to be handed on.
func pair() (net.Conn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make pair of sockets: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "port"), os.NewFile(uintptr(fds[1]), "port of the machine")
	defer ours.Close() // FileConn has its own
	conn, err := net.FileConn(ours)
	if err != nil {
		_ = theirs.Close()
		return nil, nil, fmt.Errorf("make connection of a socket: %w", err)
	}
	return conn, theirs, nil
}

// Run has the machine's shell run a command of one line, writes what it prints on both outputs to out, and returns its
// exit code. One command runs at a time.
//
// After an error the machine is off: it has stopped, or the command did not end before ctx did. The error shows the end
// of what the console said.
func (m *Machine) Run(ctx context.Context, command string, out io.Writer) (code int, err error) {
	if strings.Contains(command, "\n") {
		return 0, fmt.Errorf("run %q: more than one line", command)
	}
	hangUp := context.AfterFunc(ctx, func() { _ = m.port.SetDeadline(time.Now()) })
	defer hangUp()
	code, err = m.ask(command, out)
	if err == nil {
		return code, nil
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	_ = m.cmd.Process.Kill() // it may have ended
	<-m.done
	return 0, fmt.Errorf("run %q: %w; the machine is off, its console said:\n%s", command, err, m.console)
}

func (m *Machine) ask(command string, out io.Writer) (code int, err error) {
	mark := rand.Text()
	if _, err := fmt.Fprintln(m.port, mark, command); err != nil {
		return 0, err
	}
	end := "\036" + mark + " " // as init writes it
	for {
		line, err := m.answers.ReadString('\n')
		text, result, ended := strings.Cut(line, end)
		if _, failed := io.WriteString(out, text); failed != nil {
			return 0, failed
		}
		if errors.Is(err, io.EOF) {
			return 0, errors.New("it stopped")
		}
		if err != nil {
			return 0, err
		}
		if ended {
			_, err := fmt.Sscan(result, &code)
			return code, err
		}
	}
}
