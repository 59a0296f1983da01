package main

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/nettest"
)

// The sockets are plain blocking ones on threads of their own: the runtime's poller would add its cost to every packet,
// and the more so the cheaper the path is.

const (
	port      = 7100
	writeSize = 128 << 10 // bytes, as iperf3 writes
	smallest  = 18        // bytes of a datagram that makes the smallest Ethernet frame
	patience  = 5 * time.Second
)

// ends are the two that talk: near begins.
type ends struct {
	near, far    *nettest.Host
	nearIP, far4 netip.Addr
}

// sample is what one measurement came to.
type sample struct {
	rate float64       // bytes, packets or answers in a second
	cpu  time.Duration // busy time of all processors for each gigabyte; of the stream only
}

// stream sends by TCP as fast as it goes.
func (e ends) stream(d time.Duration) (s sample, err error) {
	c, far, err := e.connect()
	if err != nil {
		return s, err
	}
	defer unix.Close(c)
	defer unix.Close(far)
	done := make(chan int, 1)
	go onCPU(1, func() { done <- drain(far) })
	busy, begun := busyTime(), time.Now()
	onCPU(0, func() {
		buf := make([]byte, writeSize)
		for err == nil && time.Since(begun) < d {
			_, err = write(c, buf)
		}
	})
	_ = unix.Shutdown(c, unix.SHUT_WR)
	got := <-done
	took := time.Since(begun)
	used := busyTime() - busy
	if err != nil {
		return s, fmt.Errorf("write: %w", err)
	}
	s.rate = float64(got) / took.Seconds()
	s.cpu = time.Duration(float64(used) / (float64(got) / 1e9))
	return s, nil
}

// read and write go on after a signal: the runtime sends them to its threads, and a socket with a time limit is not
// restarted by the kernel (signal(7)).
func read(fd int, b []byte) (n int, err error) {
	for {
		if n, err = unix.Read(fd, b); err != unix.EINTR {
			return n, err
		}
	}
}

func write(fd int, b []byte) (n int, err error) {
	for {
		if n, err = unix.Write(fd, b); err != unix.EINTR {
			return n, err
		}
	}
}

// drain reads until the other side has ended.
func drain(fd int) (sum int) {
	buf := make([]byte, 4*writeSize)
	for {
		n, err := read(fd, buf)
		if n <= 0 || err != nil {
			return sum
		}
		sum += n
	}
}

// packets sends the smallest UDP datagrams as fast as it goes and counts those that arrive.
func (e ends) packets(d time.Duration) (s sample, err error) {
	out, err := e.socket(e.near, unix.SOCK_DGRAM, e.nearIP, 0)
	if err != nil {
		return s, err
	}
	defer unix.Close(out)
	in, err := e.socket(e.far, unix.SOCK_DGRAM, e.far4, port)
	if err != nil {
		return s, err
	}
	defer unix.Close(in)
	if err := unix.Connect(out, address(e.far4, port)); err != nil {
		return s, fmt.Errorf("connect: %w", err)
	}
	done := make(chan int, 1)
	go onCPU(1, func() { done <- count(in) })
	begun := time.Now()
	onCPU(0, func() {
		buf := make([]byte, smallest)
		for time.Since(begun) < d {
			for range 64 {
				_, _ = write(out, buf) // a full queue is what is looked for
			}
		}
	})
	s.rate = float64(<-done) / d.Seconds()
	return s, nil
}

// count reads datagrams until none comes for some time.
func count(fd int) (n int) {
	buf := make([]byte, 64)
	for {
		if _, err := read(fd, buf); err != nil {
			return n
		}
		n++
	}
}

// turns sends one byte by TCP, waits for one back, and so on. Both ends share a processor: what waking another one takes
// is no matter of the path.
func (e ends) turns(d time.Duration) (s sample, err error) {
	c, far, err := e.connect()
	if err != nil {
		return s, err
	}
	defer unix.Close(c)
	defer unix.Close(far)
	done := make(chan struct{})
	go onCPU(0, func() {
		defer close(done)
		buf := make([]byte, 1)
		for {
			if n, err := read(far, buf); n != 1 || err != nil {
				return
			}
			_, _ = write(far, buf) // the asker sees that nothing comes
		}
	})
	begun, n := time.Now(), 0
	onCPU(0, func() {
		buf := make([]byte, 1)
		for err == nil && time.Since(begun) < d {
			if _, err = write(c, buf); err == nil {
				_, err = read(c, buf)
			}
			n++
		}
	})
	took := time.Since(begun)
	_ = unix.Shutdown(c, unix.SHUT_WR)
	<-done
	s.rate = float64(n) / took.Seconds()
	return s, err
}

// connect makes a TCP connection and returns both its ends. One that a signal has cut short is made anew.
func (e ends) connect() (c, far int, err error) {
	for range 10 {
		if c, far, err = e.connectOnce(); !errors.Is(err, unix.EINTR) {
			break
		}
	}
	return c, far, err
}

func (e ends) connectOnce() (c, far int, err error) {
	l, err := e.socket(e.far, unix.SOCK_STREAM, e.far4, port)
	if err != nil {
		return -1, -1, err
	}
	defer unix.Close(l)
	if c, err = e.socket(e.near, unix.SOCK_STREAM, e.nearIP, 0); err != nil {
		return -1, -1, err
	}
	err = errors.Join(unix.Listen(l, 1), unix.Connect(c, address(e.far4, port)))
	if err == nil {
		far, _, err = unix.Accept(l)
	}
	if err != nil {
		unix.Close(c)
		return -1, -1, fmt.Errorf("connect %v to %v: %w", e.nearIP, e.far4, err)
	}
	return c, far, nil
}

// socket is bound to an address of a host. What waits for longer than the patience fails.
func (e ends) socket(h *nettest.Host, kind int, ip netip.Addr, port uint16) (fd int, err error) {
	err = h.Do(func() (err error) {
		if fd, err = unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		wait := unix.NsecToTimeval(patience.Nanoseconds())
		if kind == unix.SOCK_DGRAM {
			wait = unix.NsecToTimeval((300 * time.Millisecond).Nanoseconds())
			err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20)
		} else {
			// The default here may be one that paces itself by the clock, which would measure the clock.
			err = errors.Join(unix.SetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION, "reno"),
				unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1))
		}
		return errors.Join(err, unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
			unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait),
			unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &wait),
			unix.Bind(fd, address(ip, port)))
	})
	if err != nil {
		return -1, fmt.Errorf("make socket on %s: %w", h.Name, err)
	}
	return fd, nil
}

func address(ip netip.Addr, port uint16) *unix.SockaddrInet4 {
	return &unix.SockaddrInet4{Addr: ip.As4(), Port: int(port)}
}

// onCPU runs fn on a thread of its own that stays on one processor.
func onCPU(cpu int, fn func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		var set unix.CPUSet
		set.Set(cpu % runtime.NumCPU())
		_ = unix.SchedSetaffinity(0, &set) // without it the figures are less steady, and as true
		fn()
	}()
	<-done
}

// busyTime is the time that all processors have spent on anything, /proc/stat of proc(5).
func busyTime() time.Duration {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0
	}
	var user, nice, system, idle, wait, irq, softirq int64
	_, _ = fmt.Fscan(bytes.NewReader(bytes.TrimPrefix(text, []byte("cpu"))), &user, &nice, &system, &idle, &wait, &irq, &softirq)
	const tick = 10 * time.Millisecond // USER_HZ is 100 on every architecture that we build for
	return time.Duration(user+nice+system+irq+softirq) * tick
}
