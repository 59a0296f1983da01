package bgp

import (
	"fmt"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// reserve holds a port without listening on it, until the returned file is closed.
//
// Whoever connects meanwhile is refused at once and tries again. A listener that nobody serves yet would accept and
// close instead, and GoBGP's side of it then rests for seconds.
func reserve(at netip.AddrPort) (*os.File, error) {
	domain, sa := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Port: int(at.Port()), Addr: at.Addr().As16()})
	if at.Addr().Is4() {
		domain, sa = unix.AF_INET, &unix.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().As4()}
	}
	fd, err := unix.Socket(domain, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	if err != nil {
		return nil, fmt.Errorf("listen on %v: open socket: %w", at, err)
	}
	file := os.NewFile(uintptr(fd), at.String())
	// As Go's own listener: connections that linger from before must not keep us off the port.
	if err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err == nil {
		err = unix.Bind(fd, sa)
	}
	if err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("listen on %v: %w", at, err)
	}
	return file, nil
}
