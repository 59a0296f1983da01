package endpoint

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	nsfsMagic = 0x6e736673 // statfs(2) of a namespace file
	getNSType = 0xb703     // NS_GET_NSTYPE, ioctl_ns(2)
	ownNetNS  = "/proc/thread-self/ns/net"
	pidNetNS  = "/proc/%d/ns/net"
)

// errNotNamespace is what is left of `ip netns add` when its mount is gone, or is in a mount namespace out of sight.
var errNotNamespace = errors.New("a file, but no namespace is mounted on it where this process can see it")

// Resolve finds a network namespace by path, by a bare name below /run/netns, or by the id of a process in it.
//
// It returns the path to keep and the inode that tells this namespace from a later one under the same path. The host's
// own namespace is refused: a default route through us would cut the host off.
func Resolve(netns string, pid int) (path string, inode uint64, err error) {
	path, err = locate(netns, pid)
	if err != nil {
		return "", 0, err
	}
	ns, err := enterable(path)
	if err != nil {
		return "", 0, fmt.Errorf("find namespace %s: %w", path, explain(err, pid))
	}
	defer ns.close()
	for _, own := range []string{ownNetNS, fmt.Sprintf(pidNetNS, 1)} {
		if home, err := inodeOf(own); err == nil && home == ns.inode {
			return "", 0, fmt.Errorf("find namespace %s: it is the host's own; give the container's", path)
		}
	}
	return path, ns.inode, nil
}

// locate turns what the user gave into a path.
func locate(netns string, pid int) (string, error) {
	switch {
	case netns != "" && pid != 0:
		return "", errors.New("find namespace: give a path or a process id, not both")
	case pid < 0:
		return "", fmt.Errorf("find namespace: process id %d is not one", pid)
	case pid > 0:
		return fmt.Sprintf(pidNetNS, pid), nil
	case netns == "":
		return "", errors.New("find namespace: give a path, a name below /run/netns, or a process id")
	case filepath.IsAbs(netns):
		return filepath.Clean(netns), nil
	case strings.ContainsRune(netns, '/') || netns == "." || netns == ".." || strings.ContainsRune(netns, 0):
		return "", fmt.Errorf("find namespace %q: give an absolute path, or a bare name below %s", netns, namedNetNS)
	}
	return filepath.Join(namedNetNS, netns), nil
}

// explain adds the cure to an error that has a common cause.
func explain(err error, pid int) error {
	switch {
	case pid != 0 && errors.Is(err, ErrGone):
		return fmt.Errorf("process %d has ended or never was: %w", pid, err)
	case errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("%w; `ip netns list` shows the named ones", err)
	}
	return err
}

// Alive says whether the namespace at r.NetNS is still the one that r was attached to.
//
// It is false only on evidence: a path that can not be looked at counts as alive. A namespace whose path was removed can
// live on in its processes, still using the address: then its pair is still listed.
func Alive(r Row) bool {
	if lives(r.NetNS, r.NSInode) {
		return true
	}
	ns, err := enterable(r.NetNS)
	if err != nil {
		return !errors.Is(err, ErrGone) && !errors.Is(err, errNotNamespace)
	}
	defer ns.close()
	return ns.inode == r.NSInode
}

// lives says whether path is a namespace file with this inode: two system calls, for a question that each pass asks
// about each endpoint. All kinds of namespaces share one set of inodes, so it is a network namespace if it was one.
func lives(path string, inode uint64) bool {
	var st unix.Stat_t
	var fs unix.Statfs_t
	return unix.Stat(path, &st) == nil && st.Ino == inode && unix.Statfs(path, &fs) == nil && fs.Type == nsfsMagic
}

// namespace is an open network namespace. It keeps the namespace alive: close it soon.
type namespace struct {
	fd    int
	inode uint64
}

// enterable opens the namespace file at path. ErrGone: there is none. Anything else that may be there is not opened for
// real, since opening a device or a pipe has effects of its own.
func enterable(path string) (namespace, error) {
	look, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	switch err {
	case nil:
	case unix.ENOENT, unix.ESRCH, unix.ENOTDIR:
		return namespace{}, fmt.Errorf("%w: %w", err, ErrGone)
	default:
		return namespace{}, err
	}
	defer unix.Close(look)
	var fs unix.Statfs_t
	if err := unix.Fstatfs(look, &fs); err != nil {
		return namespace{}, err
	}
	if fs.Type != nsfsMagic {
		return namespace{}, errNotNamespace
	}
	return reopen(look)
}

// reopen opens what look points to for entering.
func reopen(look int) (namespace, error) {
	fd, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", look), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return namespace{}, err
	}
	ns := namespace{fd: fd}
	if kind, err := unix.IoctlRetInt(fd, getNSType); err != nil || kind != unix.CLONE_NEWNET {
		ns.close()
		return namespace{}, errors.New("a namespace, but not a network namespace")
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		ns.close()
		return namespace{}, err
	}
	ns.inode = st.Ino
	return ns, nil
}

func (ns namespace) close() { _ = unix.Close(ns.fd) }

func inodeOf(path string) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return 0, err
	}
	return st.Ino, nil
}

// do runs fn on a thread that is in the namespace: sockets that fn opens are there, and so is /proc/sys/net.
func (ns namespace) do(fn func() error) error {
	if done, err := ns.here(fn); done {
		return err
	}
	return abroad(func(enter func(namespace) error) error {
		if err := enter(ns); err != nil {
			return err
		}
		return fn()
	})
}

// here runs fn at once if the thread is in the namespace already, as every thread of the daemon is in the host's.
func (ns namespace) here(fn func() error) (done bool, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if inode, err := inodeOf(ownNetNS); err != nil || inode != ns.inode {
		return false, nil
	}
	return true, fn()
}

// abroad runs fn on a thread of its own, which fn may take into namespaces, and which is brought home after it.
func abroad(fn func(enter func(namespace) error) error) error {
	result := make(chan error, 1)
	go func() { result <- travel(fn) }()
	return <-result
}

// travel must run on a goroutine of its own: a thread that can not go home stays locked to it, and ends with it.
//
// The main thread stays at home, since /proc/PID/ns/net shows what it does to everybody: while it is kept here, another
// goroutine gets another thread.
func travel(fn func(enter func(namespace) error) error) error {
	runtime.LockOSThread()
	if unix.Gettid() == unix.Getpid() {
		defer runtime.UnlockOSThread()
		return abroad(fn)
	}
	home, err := unix.Open(ownNetNS, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open own namespace: %w", err)
	}
	defer unix.Close(home)
	err = fn(func(ns namespace) error {
		if err := unix.Setns(ns.fd, unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter namespace: %w", err)
		}
		return nil
	})
	if unix.Setns(home, unix.CLONE_NEWNET) == nil {
		runtime.UnlockOSThread()
	}
	return err
}
