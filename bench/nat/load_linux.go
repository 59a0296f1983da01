package main

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/nettest"
)

// The sockets are plain blocking ones on threads that stay on one processor, the same for client and server: what waking
// another processor takes is no matter of the rules.

const (
	cpu      = 0
	patience = 5 // seconds
)

// sample is what one measurement came to.
type sample struct {
	rate     float64       // in a second
	p50, p99 time.Duration // of one
	cost     time.Duration // processor time of one, of both ends and all between
}

// connections opens a connection, sends one byte, waits for one back, closes, and so on.
func (s site) connections(to netip.AddrPort, server thread, d time.Duration) (sample, error) {
	return s.repeat(d, server, func() error {
		c, err := connect(to)
		if err != nil {
			return err
		}
		return errors.Join(exchange(c), unix.Close(c))
	})
}

// exchanges does the same over one connection.
func (s site) exchanges(to netip.AddrPort, server thread, d time.Duration) (got sample, err error) {
	var c int
	if err := s.client.Do(func() (err error) { c, err = connect(to); return err }); err != nil {
		return got, err
	}
	defer unix.Close(c)
	return s.repeat(d, server, func() error { return exchange(c) })
}

// repeat does something on the client, again and again.
func (s site) repeat(d time.Duration, server thread, do func() error) (got sample, err error) {
	took := make([]time.Duration, 0, 1<<16)
	var whole, used time.Duration
	err = pinned(s.client, func() error {
		client := thread(unix.Gettid())
		used = client.used() + server.used()
		begun := time.Now()
		for last := begun; whole < d; {
			if err := do(); err != nil {
				return err
			}
			now := time.Now()
			took = append(took, now.Sub(last))
			whole, last = now.Sub(begun), now
		}
		used = client.used() + server.used() - used
		return nil
	})
	if err != nil {
		return got, err
	}
	slices.Sort(took)
	return sample{
		rate: float64(len(took)) / whole.Seconds(), p50: took[len(took)/2], p99: took[len(took)*99/100],
		cost: used / time.Duration(len(took)),
	}, nil
}

// thread is one of this process, by its number.
type thread int

// used is the processor time that it has used, with that of packets which went on their way while it ran.
func (t thread) used() time.Duration {
	const perThread, scheduled = 4, 2 // CPUCLOCK_PERTHREAD_MASK and CPUCLOCK_SCHED, linux/posix-timers.h
	var ts unix.Timespec
	_ = unix.ClockGettime(int32(^int(t)<<3|perThread|scheduled), &ts) // it is there as long as the server is
	return time.Duration(ts.Nano())
}

// pinned runs fn on a host by a thread that stays on one processor meanwhile.
func pinned(h *nettest.Host, fn func() error) error {
	return h.Do(func() error {
		var before, one unix.CPUSet
		if err := unix.SchedGetaffinity(0, &before); err != nil {
			return fmt.Errorf("ask for processors: %w", err)
		}
		one.Set(cpu)
		if err := unix.SchedSetaffinity(0, &one); err != nil {
			return fmt.Errorf("choose a processor: %w", err)
		}
		defer func() { _ = unix.SchedSetaffinity(0, &before) }()
		return fn()
	})
}

// connect makes a TCP connection from the calling thread's namespace. One that a signal has cut short is made anew.
func connect(to netip.AddrPort) (c int, err error) {
	for range 10 {
		if c, err = socket(); err != nil {
			return -1, err
		}
		if err = unix.Connect(c, address(to)); err == nil {
			return c, nil
		}
		unix.Close(c)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	return -1, fmt.Errorf("connect to %v: %w", to, err)
}

// exchange sends one byte and waits for one. A signal is no reason to stop (signal(7)).
func exchange(c int) error {
	buf := make([]byte, 1)
	if _, err := again(func() (int, error) { return unix.Write(c, buf) }); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	n, err := again(func() (int, error) { return unix.Read(c, buf) })
	if err == nil && n == 0 {
		err = unix.ECONNRESET
	}
	if err != nil {
		return fmt.Errorf("receive: %w", err)
	}
	return nil
}

func again(do func() (int, error)) (n int, err error) {
	for {
		if n, err = do(); !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

func socket() (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("make socket: %w", err)
	}
	err = errors.Join(
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: patience}),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &unix.Timeval{Sec: patience}))
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("set up socket: %w", err)
	}
	return fd, nil
}

func address(a netip.AddrPort) *unix.SockaddrInet4 {
	return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
}

// serve answers each byte with one, a connection after another, until the play ends.
func serve(t nettest.T, h *nettest.Host, at netip.AddrPort) (thread, error) {
	var l int
	err := h.Do(func() (err error) {
		if l, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		return errors.Join(unix.SetsockoptInt(l, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1), unix.Bind(l, address(at)), unix.Listen(l, 128))
	})
	if err != nil {
		return 0, fmt.Errorf("serve at %v: %w", at, err)
	}
	done, who := make(chan struct{}), make(chan thread, 1)
	go func() {
		defer close(done)
		defer close(who)
		_ = pinned(h, func() error { who <- thread(unix.Gettid()); return answer(l) }) // the client sees that nothing comes
	}()
	t.Cleanup(func() {
		_ = unix.Shutdown(l, unix.SHUT_RDWR)
		<-done
		_ = unix.Close(l)
	})
	return <-who, nil
}

func answer(l int) error {
	buf := make([]byte, 1)
	for {
		c, err := again(func() (int, error) {
			c, _, err := unix.Accept4(l, unix.SOCK_CLOEXEC)
			return c, err
		})
		if err != nil {
			return err // it was shut
		}
		for {
			if n, err := again(func() (int, error) { return unix.Read(c, buf) }); n != 1 || err != nil {
				break
			}
			_, _ = unix.Write(c, buf)
		}
		unix.Close(c)
	}
}
