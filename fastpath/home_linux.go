package fastpath

import (
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

const ownNamespace = "/proc/thread-self/ns/net"

// home is the network namespace that tables belong to, whichever thread reads or writes them.
type home struct {
	ns    int
	inode uint64
}

// openHome takes hold of the calling thread's network namespace.
func openHome() (*home, error) {
	ns, err := unix.Open(ownNamespace, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open network namespace: %w", err)
	}
	inode, err := identity(ns)
	if err != nil {
		unix.Close(ns)
		return nil, fmt.Errorf("identify network namespace: %w", err)
	}
	return &home{ns: ns, inode: inode}, nil
}

func (h *home) close() error { return unix.Close(h.ns) }

// inside runs fn on a thread in the namespace: the kernel looks for a program's link in that of the thread that asks.
func (h *home) inside(fn func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	here, err := unix.Open(ownNamespace, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open network namespace: %w", err)
	}
	defer unix.Close(here)
	if inode, err := identity(here); err == nil && inode == h.inode {
		return fn()
	}
	return apart(func() error {
		if err := unix.Setns(h.ns, unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace: %w", err)
		}
		return fn()
	})
}

// apart runs fn on a thread of its own, which ends with it: whatever fn does to the thread concerns nobody else.
func apart(fn func() error) error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		result <- fn()
	}()
	return <-result
}

// identity is the namespace's inode. Those of all namespaces are on one file system.
func identity(ns int) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Fstat(ns, &st); err != nil {
		return 0, err
	}
	return st.Ino, nil
}
