package tunnel

import (
	"errors"
	"fmt"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

// Kernel reads and writes the tables of one network namespace: the one of the thread that opened it.
type Kernel struct {
	conn *conn
	ns   int // the namespace itself, for what is reached through files
	home namespace

	asked   sync.Mutex
	answers map[Encap]support // under asked

	foreign foreign
}

// namespace is the identity of a network namespace.
type namespace struct{ dev, inode uint64 }

// Open takes hold of the calling thread's network namespace. It needs CAP_NET_ADMIN.
func Open() (*Kernel, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	ns, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open network namespace: %w", err)
	}
	home, err := identity(ns)
	if err != nil {
		unix.Close(ns)
		return nil, fmt.Errorf("identify network namespace: %w", err)
	}
	c, err := dial()
	if err != nil {
		unix.Close(ns)
		return nil, err
	}
	return &Kernel{conn: c, ns: ns, home: home, answers: make(map[Encap]support)}, nil
}

// Close lets go of it. What was written stays.
func (k *Kernel) Close() error {
	return errors.Join(k.conn.close(), unix.Close(k.ns))
}

// inside runs fn on a thread in the kernel's namespace: /proc/sys/net shows every thread its own.
func (k *Kernel) inside(fn func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	here, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open network namespace: %w", err)
	}
	defer unix.Close(here)
	if id, err := identity(here); err == nil && id == k.home {
		return fn()
	}
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine, and serves nobody else
		if err := unix.Setns(k.ns, unix.CLONE_NEWNET); err != nil {
			result <- fmt.Errorf("enter network namespace: %w", err)
			return
		}
		result <- fn()
	}()
	return <-result
}

func identity(ns int) (namespace, error) {
	var st unix.Stat_t
	if err := unix.Fstat(ns, &st); err != nil {
		return namespace{}, err
	}
	return namespace{dev: st.Dev, inode: st.Ino}, nil
}
