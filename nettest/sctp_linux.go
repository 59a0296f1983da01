package nettest

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// SCTP is an error that says why this kernel has no SCTP sockets; nil when it has.
func SCTP() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_SCTP)
	if err != nil {
		return fmt.Errorf("open SCTP socket: %w", err)
	}
	return unix.Close(fd)
}

// listenSCTP listens in the one-to-one style of RFC 6458 section 4, which is TCP's but for the number of the protocol.
func listenSCTP(at netip.AddrPort) (net.Listener, error) {
	fd, err := openSCTP(at.Addr())
	if err != nil {
		return nil, err
	}
	if err = unix.Bind(fd, socketAddress(at)); err == nil {
		err = unix.Listen(fd, 128)
	}
	if err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	file := os.NewFile(uintptr(fd), "sctp")
	defer file.Close() // FileListener has its own
	return net.FileListener(file)
}

// dialSCTP connects within the given time.
func dialSCTP(to netip.AddrPort, patience time.Duration) (net.Conn, error) {
	fd, err := openSCTP(to.Addr())
	if err != nil {
		return nil, err
	}
	limit := unix.NsecToTimeval(max(patience, time.Millisecond).Nanoseconds())
	if err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &limit); err == nil {
		err = unix.Connect(fd, socketAddress(to))
	}
	if err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	file := os.NewFile(uintptr(fd), "sctp")
	defer file.Close() // FileConn has its own
	return net.FileConn(file)
}

func openSCTP(ip netip.Addr) (fd int, err error) {
	return unix.Socket(domain(ip), unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_SCTP)
}

func domain(ip netip.Addr) int {
	if ip.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

func socketAddress(at netip.AddrPort) unix.Sockaddr {
	if at.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(at.Port()), Addr: at.Addr().As16()}
}
