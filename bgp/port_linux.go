package bgp

import (
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// checkPort says why we could not listen there.
//
// It binds and never listens: whoever connects before we have anything to tell is refused at once and tries again. A
// listener that nobody serves yet would accept and close instead, and GoBGP's side of that rests for seconds.
func checkPort(at netip.AddrPort) error {
	domain, sa := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Port: int(at.Port()), Addr: at.Addr().As16()})
	if at.Addr().Is4() {
		domain, sa = unix.AF_INET, &unix.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().As4()}
	}
	fd, err := unix.Socket(domain, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	if err != nil {
		return fmt.Errorf("listen on %v: open socket: %w", at, err)
	}
	defer unix.Close(fd)
	// As Go's own listener does: connections that linger from before must not keep us off the port.
	if err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err == nil {
		err = unix.Bind(fd, sa)
	}
	if err != nil {
		return fmt.Errorf("listen on %v: %w", at, err)
	}
	return nil
}
