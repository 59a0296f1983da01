package nettest

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"
)

// driverSocket is where a Docker daemon looks for Fairlead.
const driverSocket = "/run/docker/plugins/fairlead.sock"

// HoldSocket makes the socket of Docker's calls as systemd does at boot, and hands it over to every Fairlead that is
// started after that. Calls wait there while no Fairlead runs.
func (n *Node) HoldSocket() {
	n.lab.t.Helper()
	err := n.machine.do(func() error {
		if err := os.MkdirAll(filepath.Dir(driverSocket), 0o700); err != nil {
			return err
		}
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: driverSocket})
		if err != nil {
			return err
		}
		defer l.Close()
		l.SetUnlinkOnClose(false)
		n.machine.held, err = l.File()
		return err
	})
	if err != nil {
		n.lab.t.Fatalf("%s: hold the socket of Docker's calls: %v", n.Name, err)
	}
	n.lab.t.Cleanup(func() { _ = n.machine.held.Close() })
}

// taking is a command line that takes over what is held, see sd_listen_fds(3): only the program itself knows its number.
func (m *machine) taking(argv []string) []string {
	if m == nil || m.held == nil {
		return argv
	}
	return append([]string{"sh", "-c", `LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=docker exec "$@"`, "sh"}, argv...)
}

// hand gives a program what is held.
func (m *machine) hand(cmd *exec.Cmd) {
	if m != nil && m.held != nil {
		cmd.ExtraFiles = []*os.File{m.held}
	}
}

// do runs fn on a thread that sees the machine's files. The thread ends with it.
func (m *machine) do(fn func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		result <- m.doHere(fn)
	}()
	return <-result
}

func (m *machine) doHere(fn func() error) error {
	ns, err := unix.Open(m.mounts(), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open namespace of mounts: %w", err)
	}
	defer unix.Close(ns)
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("leave the other threads' root: %w", err)
	}
	if err := unix.Setns(ns, unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("enter namespace of mounts: %w", err)
	}
	return fn()
}
