package main

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// board is memory that both ends of a load share with the one who measures.
type board struct {
	ready atomic.Uint64 // 1 as soon as the server listens
	done  atomic.Uint64 // what is counted: bytes or datagrams that have arrived, answers, connections
	most  atomic.Uint64 // bytes that a segment of a stream may carry
}

const boardSize = 4096

// openBoard maps the file that holds a board.
func openBoard(f *os.File) (*board, error) {
	at, err := unix.MmapPtr(int(f.Fd()), 0, nil, boardSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map board: %w", err)
	}
	return (*board)(at), nil
}

// close unmaps the board.
func (b *board) close() {
	_ = unix.MunmapPtr(unsafe.Pointer(b), boardSize) // it is mapped
}

// newBoard makes a board and the file for the processes of the load.
func newBoard() (*board, *os.File, error) {
	fd, err := unix.MemfdCreate("board", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, nil, fmt.Errorf("make board: %w", err)
	}
	f := os.NewFile(uintptr(fd), "board")
	if err := f.Truncate(boardSize); err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	b, err := openBoard(f)
	return b, f, err
}

// call reads or writes past the scheduler, which would otherwise look at each call that waits. A signal is no reason to
// stop (signal(7)).
func call(number uintptr, fd int, buf []byte) (int, error) {
	for {
		n, _, e := unix.RawSyscall(number, uintptr(fd), uintptr(unsafe.Pointer(&buf[0])), uintptr(len(buf)))
		switch e {
		case 0:
			return int(n), nil
		case unix.EINTR:
		default:
			return 0, e
		}
	}
}

func raw(a netip.AddrPort) unix.RawSockaddrInet4 {
	port := a.Port()
	return unix.RawSockaddrInet4{Family: unix.AF_INET, Port: port<<8 | port>>8, Addr: a.Addr().As4()}
}

// dial makes a TCP connection. One that a signal has cut short is made anew.
func dial(to netip.AddrPort) (int, error) {
	address := raw(to)
	for {
		c, _, e := unix.RawSyscall(unix.SYS_SOCKET, unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if e != 0 {
			return -1, fmt.Errorf("make socket: %w", e)
		}
		_, _, e = unix.RawSyscall(unix.SYS_CONNECT, c, uintptr(unsafe.Pointer(&address)), unix.SizeofSockaddrInet4)
		if e == 0 {
			return int(c), nil
		}
		hangUp(int(c))
		if e != unix.EINTR {
			return -1, fmt.Errorf("connect to %v: %w", to, e)
		}
	}
}

func hangUp(c int) { _, _, _ = unix.RawSyscall(unix.SYS_CLOSE, uintptr(c), 0, 0) }

// serve accepts a connection after another.
func serve(b *board, at netip.AddrPort, each func(c int)) error {
	l, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("make socket: %w", err)
	}
	err = errors.Join(
		congestion(l),
		unix.SetsockoptInt(l, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
		unix.Bind(l, &unix.SockaddrInet4{Addr: at.Addr().As4(), Port: int(at.Port())}),
		unix.Listen(l, 128))
	if err != nil {
		return fmt.Errorf("listen at %v: %w", at, err)
	}
	b.ready.Store(1)
	for {
		c, _, e := unix.RawSyscall6(unix.SYS_ACCEPT4, uintptr(l), 0, 0, unix.SOCK_CLOEXEC, 0, 0)
		switch e {
		case 0:
			each(int(c))
			hangUp(int(c))
		case unix.EINTR, unix.ECONNABORTED:
		default:
			return fmt.Errorf("accept: %w", e)
		}
	}
}

func bind(fd int, a *unix.SockaddrInet4) error      { return unix.Bind(fd, a) }
func connectTo(fd int, a *unix.SockaddrInet4) error { return unix.Connect(fd, a) }

// datagrams makes a socket of UDP that is bound or connected to an address.
func datagrams(a netip.AddrPort, tie func(int, *unix.SockaddrInet4) error) (int, error) {
	c, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = tie(c, &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())})
	}
	if err != nil {
		return -1, fmt.Errorf("make socket for datagrams with %v: %w", a, err)
	}
	return c, nil
}

// messages are what sendmmsg(2) and recvmmsg(2) take.
type messages struct {
	headers [batch]struct {
		unix.Msghdr
		size uint32
		_    [4]byte
	}
	pieces [batch]unix.Iovec
	text   [batch][smallest]byte
}

func newMessages() *messages {
	m := new(messages)
	for i := range m.headers {
		m.pieces[i].Base = &m.text[i][0]
		m.pieces[i].SetLen(smallest)
		m.headers[i].Iov = &m.pieces[i]
		m.headers[i].SetIovlen(1)
	}
	return m
}
