package docker

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Present tells whether this host has Docker: its program, a socket at api, "" for none, or that systemd holds the plugin's
// socket for it, which somebody has then asked for. Docker may be installed later, and started by another path.
func Present(api string) bool {
	for _, file := range []string{"dockerd", "/usr/bin/dockerd", "/usr/sbin/dockerd", "/usr/local/bin/dockerd"} {
		if _, err := exec.LookPath(file); err == nil {
			return true
		}
	}
	return isSocket(api) || len(listenHanded()) > 0
}

// Listen opens the socket that Docker calls. What systemd holds for this path is taken, and stays open when the listener is
// closed: calls wait there for the next daemon. Otherwise a socket is made, for root alone. One that nobody listens on is
// replaced, one that answers is not.
//
// The file of a socket that was made stays when the listener is closed: a daemon that ends late would take its successor's
// away. To Docker it makes no difference: whether there is no file or nobody listens, it tries a call again for 15 s.
func Listen(path string) (net.Listener, error) {
	for _, fd := range listenHanded() {
		l, err := listenOn(fd)
		if err != nil {
			return nil, err
		}
		if sameSocket(l.Addr().String(), path) {
			return l, nil
		}
		_ = l.Close()
	}
	// Docker closes its own directory to others, too.
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("make directory of socket: %w", err)
	}
	if err := listenClear(path); err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	old := unix.Umask(0o177)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	unix.Umask(old)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	l.SetUnlinkOnClose(false)
	return l, nil
}

// Strays are the sockets that systemd holds for Docker's calls elsewhere than at path, "" where there is to be none. Docker
// would wait for an answer there for ever: Refuse gives it one.
func Strays(path string) (strays []net.Listener, err error) {
	for _, fd := range listenHanded() {
		l, err := listenOn(fd)
		if err != nil {
			return strays, err
		}
		if path != "" && sameSocket(l.Addr().String(), path) {
			_ = l.Close()
			continue
		}
		strays = append(strays, l)
	}
	return strays, nil
}

// PassOn lets the sockets that systemd handed over survive an exec, by which this process becomes a new daemon: it keeps its
// number, by which the new one knows that they are meant for it.
func PassOn() error {
	for _, fd := range listenHanded() {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, 0); err != nil {
			return fmt.Errorf("pass on the socket of Docker's calls: %w", err)
		}
	}
	return nil
}

// listenName is what fairlead.socket calls its descriptors.
const listenName = "docker"

// listenHanded are the descriptors that systemd handed over for Docker's calls, sd_listen_fds(3). They stay open as long
// as the process, and are closed to the programs that it starts. The variables stay too: who inherits them has another
// number.
func listenHanded() (fds []int) {
	const first = 3
	if pid, err := strconv.Atoi(os.Getenv("LISTEN_PID")); err != nil || pid != os.Getpid() {
		return nil
	}
	n, err := strconv.Atoi(os.Getenv("LISTEN_FDS"))
	if err != nil {
		return nil
	}
	for i, name := range strings.Split(os.Getenv("LISTEN_FDNAMES"), ":") {
		if i >= n || name != listenName {
			continue
		}
		unix.CloseOnExec(first + i)
		fds = append(fds, first+i)
	}
	return fds
}

// listenOn makes a listener of a copy of the descriptor.
func listenOn(fd int) (net.Listener, error) {
	dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("take the socket of Docker's calls from systemd: %w", err)
	}
	f := os.NewFile(uintptr(dup), listenName)
	defer f.Close()
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("take the socket of Docker's calls from systemd: %w", err)
	}
	return l, nil
}

// sameSocket compares the files, since /var/run leads to /run. One that is gone is not the same: nobody finds it.
func sameSocket(a, b string) bool {
	x, errX := os.Stat(a)
	y, errY := os.Stat(b)
	return errX == nil && errY == nil && os.SameFile(x, y)
}

func isSocket(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode()&fs.ModeSocket != 0
}

var errListenKept = errors.New("systemd holds it for fairlead.service: start that one, or run systemctl stop fairlead.socket, or set [docker] socket")

// listenKept tells whether systemd listens. Whoever connects, to find that out, has it start fairlead.service.
func listenKept(path string) bool {
	first, err := os.ReadFile("/proc/1/comm")
	return err == nil && strings.TrimSpace(string(first)) == "systemd" && engineHeld("/proc/1/fd", engineListening("/proc", path))
}

// listenClear removes a socket that nobody listens on, and complains of anything else that is there.
func listenClear(path string) error {
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if !isSocket(path) {
		return errors.New("there is a file that is no socket: remove it, or set [docker] socket")
	}
	if listenKept(path) {
		return errListenKept
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	c, err := new(net.Dialer).DialContext(ctx, "unix", path)
	switch {
	case err == nil:
		defer c.Close()
		return listenOwner(c)
	case !errors.Is(err, unix.ECONNREFUSED): // such as one that is so busy that it takes no more
		return fmt.Errorf("another program may answer there: %w", err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove stale socket: %w", err)
	}
	return nil
}

// listenOwner complains of who listens at the other end.
func listenOwner(c net.Conn) error {
	unknown := errors.New("another program answers there: stop it, or set [docker] socket")
	u, ok := c.(*net.UnixConn)
	if !ok {
		return unknown
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return unknown
	}
	pid := int32(0)
	_ = raw.Control(func(fd uintptr) {
		if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			pid = cred.Pid
		}
	})
	comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	name := strings.TrimSpace(string(comm))
	switch {
	case pid <= 0 || err != nil:
		return unknown
	case pid == 1 && name == "systemd":
		return errListenKept
	}
	return fmt.Errorf("another program, %s (pid %d), answers there: stop it, or set [docker] socket", name, pid)
}
