package tunnel

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const (
	icmpFilter   = 1    // ICMP_FILTER, include/uapi/linux/icmp.h: a set bit blocks a type
	icmp6Filter  = 1    // ICMPV6_FILTER, include/uapi/linux/icmpv6.h: the same
	unreachable  = 3    // ICMP type, RFC 792
	needsPieces  = 4    // its code "fragmentation needed"
	tooBig       = 2    // ICMPv6 type "packet too big", RFC 4443 section 3.2
	fewErrors    = 4096 // bytes of the receive buffer: one poke stands for all that came meanwhile
	longestError = 2048
)

// hearErrors pokes when a router says that a packet of this host was too big, until ctx ends. The kernel notes it as what
// the path carries, and tells nobody; a route through a tunnel must then say so to the containers.
func (w *watcher) hearErrors(ctx context.Context) error {
	for _, listen := range []func() (int, error){listenICMP, listenICMP6, listenIPIP} {
		var fd int
		err := w.k.inside(func() (err error) {
			fd, err = listen()
			return err
		})
		// A host without IPv6, or a daemon without CAP_NET_RAW: what routers say is then found by the next pass that
		// something else asks for.
		if errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EPERM) {
			continue
		}
		if err != nil {
			return fmt.Errorf("listen to ICMP errors: %w", err)
		}
		file := os.NewFile(uintptr(fd), "icmp")
		stop := context.AfterFunc(ctx, func() { file.Close() })
		go func() {
			defer stop()
			defer file.Close()
			w.readErrors(ctx, file)
		}()
	}
	return nil
}

func (w *watcher) readErrors(ctx context.Context, file *os.File) {
	buf := make([]byte, longestError)
	for {
		n, err := file.Read(buf)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return // closed, since ctx has ended
		}
		if !aboutSize(buf[:n]) {
			continue
		}
		// The raw socket hears of it before the kernel has noted it.
		select {
		case <-ctx.Done():
			return
		case <-time.After(quiet):
			w.beneath.poke()
		}
	}
}

// aboutSize tells whether an ICMP message says that a packet was too big. IPv4 comes with its header, ICMPv6 without.
func aboutSize(b []byte) bool {
	if len(b) > 0 && b[0] == tooBig {
		return true
	}
	if len(b) < 20 || b[0]>>4 != 4 {
		return false
	}
	b = b[min(int(b[0]&15)*4, len(b)):]
	return len(b) > 1 && b[0] == unreachable && b[1] == needsPieces
}

func listenICMP() (int, error) {
	return listenRaw(unix.AF_INET, unix.IPPROTO_ICMP, func(fd int) error {
		return unix.SetsockoptInt(fd, unix.SOL_RAW, icmpFilter, ^(1 << unreachable))
	})
}

// listenIPIP hears nothing. A kernel without a device for IPIP does not listen to what routers say of such packets, but for the
// sake of a raw socket of that protocol it notes what the path carries: raw_err in net/ipv4/raw.c.
func listenIPIP() (int, error) {
	return listenRaw(unix.AF_INET, unix.IPPROTO_IPIP, func(fd int) error {
		nothing := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K}
		return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &nothing})
	})
}

func listenICMP6() (int, error) {
	return listenRaw(unix.AF_INET6, unix.IPPROTO_ICMPV6, func(fd int) error {
		filter := unix.ICMPv6Filter{}
		for i := range filter.Data {
			filter.Data[i] = ^uint32(0)
		}
		filter.Data[0] &^= 1 << tooBig
		return unix.SetsockoptICMPv6Filter(fd, unix.IPPROTO_ICMPV6, icmp6Filter, &filter)
	})
}

func listenRaw(family, protocol int, filter func(fd int) error) (int, error) {
	fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol)
	if err != nil {
		return -1, fmt.Errorf("open raw socket: %w", err)
	}
	err = errors.Join(filter(fd), unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, fewErrors))
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}
