package main

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The load is made by two processes of this program, one at each end, with one thread that does nothing else. Their
// sockets are plain ones, used by bare system calls: neither the runtime's poller nor its scheduler sees a packet. What
// both have done stands in memory that they share with the one who measures.

// kind is one kind of load.
type kind string

const (
	stream  kind = "TCP stream"
	tcpRR   kind = "TCP_RR"
	udpRR   kind = "UDP_RR"
	connect kind = "connect"
	packets kind = "small packets"
)

// role is what a process of the load does.
type role string

const (
	client role = "client"
	server role = "server"
)

const (
	writeSize = 128 << 10 // bytes, as iperf3 writes
	smallest  = 18        // bytes of a datagram that makes the smallest Ethernet frame
	batch     = 64        // datagrams for one system call
	lostAfter = 200_000   // microseconds without an answer: a datagram was lost, and is sent again
	wanted    = "reno"    // the congestion control: the default may be one that paces itself by the clock
)

// runLoad is the whole life of a process of the load; it ends by being killed.
func runLoad(args []string) error {
	if len(args) != 3 {
		return errors.New("a load has a role, a kind and an address")
	}
	runtime.LockOSThread()
	at, err := netip.ParseAddrPort(args[2])
	if err != nil {
		return err
	}
	b, err := openBoard(os.NewFile(3, "board"))
	if err != nil {
		return err
	}
	do := map[role]map[kind]func(*board, netip.AddrPort) error{
		client: {stream: send, tcpRR: askTCP, udpRR: askUDP, connect: reconnect, packets: shoot},
		server: {stream: drain, tcpRR: echoTCP, udpRR: echoUDP, connect: echoTCP, packets: count},
	}[role(args[0])][kind(args[1])]
	if do == nil {
		return fmt.Errorf("no load %q", args)
	}
	return do(b, at)
}

// send writes by TCP as fast as it goes.
func send(b *board, to netip.AddrPort) error {
	c, err := dial(to)
	if err != nil {
		return err
	}
	most, err := unix.GetsockoptInt(c, unix.IPPROTO_TCP, unix.TCP_MAXSEG)
	if err != nil {
		return fmt.Errorf("ask for the size of segments: %w", err)
	}
	b.most.Store(uint64(most))
	buf := make([]byte, writeSize)
	for {
		if _, err := call(unix.SYS_WRITE, c, buf); err != nil {
			return fmt.Errorf("send: %w", err)
		}
	}
}

// drain reads all that comes, and counts bytes.
func drain(b *board, at netip.AddrPort) error {
	buf := make([]byte, 4*writeSize)
	return serve(b, at, func(c int) {
		for {
			n, err := call(unix.SYS_READ, c, buf)
			if err != nil || n == 0 {
				return
			}
			b.done.Add(uint64(n))
		}
	})
}

// askTCP sends a byte and waits for one, again and again.
func askTCP(b *board, to netip.AddrPort) error {
	c, err := dial(to)
	if err != nil {
		return err
	}
	for {
		if err := exchange(c); err != nil {
			return err
		}
		b.done.Add(1)
	}
}

// reconnect does it once for each connection.
func reconnect(b *board, to netip.AddrPort) error {
	for {
		c, err := dial(to)
		if err != nil {
			return err
		}
		if err := exchange(c); err != nil {
			return err
		}
		hangUp(c)
		b.done.Add(1)
	}
}

// echoTCP answers each byte with one, of a connection after another.
func echoTCP(b *board, at netip.AddrPort) error {
	buf := make([]byte, 1)
	return serve(b, at, func(c int) {
		for {
			if n, err := call(unix.SYS_READ, c, buf); err != nil || n == 0 {
				return
			}
			if _, err := call(unix.SYS_WRITE, c, buf); err != nil {
				return // the asker sees that nothing comes
			}
		}
	})
}

// askUDP is askTCP with datagrams. One that is lost is sent again, and counts in the time.
func askUDP(b *board, to netip.AddrPort) error {
	c, err := datagrams(to, connectTo)
	if err != nil {
		return err
	}
	wait := unix.Timeval{Usec: lostAfter}
	if err := unix.SetsockoptTimeval(c, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait); err != nil {
		return fmt.Errorf("set up socket: %w", err)
	}
	for {
		switch err := exchange(c); {
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.ECONNREFUSED):
		case err != nil:
			return err
		default:
			b.done.Add(1)
		}
	}
}

func echoUDP(b *board, at netip.AddrPort) error {
	c, err := datagrams(at, bind)
	if err != nil {
		return err
	}
	b.ready.Store(1)
	var from unix.RawSockaddrInet4
	buf, size := make([]byte, 1), uint32(unix.SizeofSockaddrInet4)
	for {
		_, _, e := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(c), uintptr(unsafe.Pointer(&buf[0])), 1, 0,
			uintptr(unsafe.Pointer(&from)), uintptr(unsafe.Pointer(&size)))
		if e != 0 {
			continue
		}
		_, _, _ = unix.RawSyscall6(unix.SYS_SENDTO, uintptr(c), uintptr(unsafe.Pointer(&buf[0])), 1, 0,
			uintptr(unsafe.Pointer(&from)), uintptr(size)) // the asker sees that nothing comes
	}
}

// shoot sends datagrams as fast as it goes.
func shoot(_ *board, to netip.AddrPort) error {
	c, err := datagrams(to, connectTo)
	if err != nil {
		return err
	}
	all := newMessages()
	for {
		_, _, e := unix.RawSyscall6(unix.SYS_SENDMMSG, uintptr(c), uintptr(unsafe.Pointer(&all.headers[0])), batch, 0, 0, 0)
		if e != 0 && e != unix.ENOBUFS && e != unix.ECONNREFUSED && e != unix.EINTR { // a full queue is what is looked for
			return fmt.Errorf("send: %w", e)
		}
	}
}

// count counts the datagrams that arrive.
func count(b *board, at netip.AddrPort) error {
	c, err := datagrams(at, bind)
	if err != nil {
		return err
	}
	if err := unix.SetsockoptInt(c, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20); err != nil {
		return fmt.Errorf("set up socket: %w", err)
	}
	all := newMessages()
	b.ready.Store(1)
	for {
		n, _, e := unix.RawSyscall6(unix.SYS_RECVMMSG, uintptr(c), uintptr(unsafe.Pointer(&all.headers[0])), batch, unix.MSG_WAITFORONE, 0, 0)
		switch e {
		case 0:
			b.done.Add(uint64(n))
		case unix.EINTR:
		default:
			return fmt.Errorf("receive: %w", e)
		}
	}
}

// exchange sends one byte and waits for one.
func exchange(c int) error {
	buf := make([]byte, 1)
	if _, err := call(unix.SYS_WRITE, c, buf); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	switch n, err := call(unix.SYS_READ, c, buf); {
	case err != nil:
		return fmt.Errorf("receive: %w", err)
	case n == 0:
		return fmt.Errorf("receive: %w", unix.ECONNRESET)
	}
	return nil
}

// congestion is an error unless the socket has the congestion control that all are to have.
func congestion(c int) error {
	got, err := unix.GetsockoptString(c, unix.IPPROTO_TCP, unix.TCP_CONGESTION)
	if err == nil && strings.TrimRight(got, "\x00") != wanted {
		err = fmt.Errorf("congestion control is %q", got)
	}
	return err
}
