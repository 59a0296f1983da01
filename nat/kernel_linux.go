package nat

import (
	"errors"
	"fmt"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

// Kernel reads and writes the packet filter of one network namespace: the one of the thread that opened it.
type Kernel struct {
	ns     int
	inode  uint64         // of the namespace
	end    chan struct{}  // closed with the kernel
	others sync.WaitGroup // who look at the kernel beside the passes

	mu   sync.Mutex
	wire *wire              // under mu; nil until it is needed
	of   map[string]backend // under mu; of each iptables that was asked, by its file
	news []*news            // under mu
}

// Open takes hold of the calling thread's network namespace. Nothing is asked of the kernel yet: a host without a
// packet filter can open it too.
func Open() (*Kernel, error) {
	ns, err := unix.Open(ownNamespace, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open network namespace: %w", err)
	}
	inode, err := identity(ns)
	if err != nil {
		unix.Close(ns)
		return nil, fmt.Errorf("identify network namespace: %w", err)
	}
	return &Kernel{ns: ns, inode: inode, end: make(chan struct{}), of: make(map[string]backend)}, nil
}

const ownNamespace = "/proc/thread-self/ns/net"

// Close lets go of it. What was written stays.
func (k *Kernel) Close() error {
	k.mu.Lock()
	close(k.end)
	k.mu.Unlock()
	k.others.Wait() // they ask the kernel by the socket
	k.mu.Lock()
	wire, all := k.wire, k.news
	k.wire, k.news = nil, nil
	k.mu.Unlock()
	var errs []error
	if wire != nil {
		errs = append(errs, wire.close())
	}
	for _, n := range all {
		errs = append(errs, n.close())
	}
	return errors.Join(append(errs, unix.Close(k.ns))...)
}

// beside runs fn, which returns soon after the end, in a goroutine of its own. After Close nothing is run.
func (k *Kernel) beside(fn func(end <-chan struct{})) {
	k.mu.Lock()
	defer k.mu.Unlock()
	select {
	case <-k.end:
	default:
		k.others.Go(func() { fn(k.end) })
	}
}

// inside runs fn on a thread in the kernel's namespace. A program that fn starts is in it too.
func (k *Kernel) inside(fn func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	here, err := unix.Open(ownNamespace, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open network namespace: %w", err)
	}
	defer unix.Close(here)
	if inode, err := identity(here); err == nil && inode == k.inode {
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

// identity is the namespace's inode. Those of all namespaces are on one file system.
func identity(ns int) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Fstat(ns, &st); err != nil {
		return 0, err
	}
	return st.Ino, nil
}
