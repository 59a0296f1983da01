package nat

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// errAbsent is an address that is not the host's own at this time.
var errAbsent = errors.New("is no address of this host")

// openSocket gives a socket that could bind a port; those of IPv6 keep to IPv6. Where the kernel has no such sockets nobody
// can bind the port: then there is no error, and fd is -1.
func openSocket(p Port) (fd int, err error) {
	family, kind, number := unix.AF_INET6, unix.SOCK_STREAM, unix.IPPROTO_TCP
	if p.IP.Is4() {
		family = unix.AF_INET
	}
	switch p.Proto {
	case "udp":
		kind, number = unix.SOCK_DGRAM, unix.IPPROTO_UDP
	case "sctp":
		number = unix.IPPROTO_SCTP
	}
	fd, err = unix.Socket(family, kind|unix.SOCK_CLOEXEC, number)
	if errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.ESOCKTNOSUPPORT) {
		return -1, nil // this kernel has no such sockets
	}
	if err != nil {
		return -1, fmt.Errorf("open socket: %w", err)
	}
	// What comes for it before it is settled is nobody's, and takes no room.
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 0)
	if family == unix.AF_INET6 {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1); err != nil {
			unix.Close(fd)
			return -1, fmt.Errorf("keep socket to IPv6: %w", err)
		}
	}
	return fd, nil
}

// bindSocket binds it. A port that something has wraps ErrTaken, and an address that is not here errAbsent.
func bindSocket(fd int, p Port) error {
	var at unix.Sockaddr = &unix.SockaddrInet6{Port: int(p.Number), Addr: p.IP.As16()}
	if p.IP.Is4() {
		at = &unix.SockaddrInet4{Port: int(p.Number), Addr: p.IP.As4()}
	}
	switch err := unix.Bind(fd, at); {
	case errors.Is(err, unix.EADDRINUSE):
		return ErrTaken
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return fmt.Errorf("%s %w", p.IP, errAbsent)
	case err != nil:
		return fmt.Errorf("bind %s: %w", p.label(), err)
	}
	return nil
}

// occupy binds a port in the thread's network namespace as a program would, and so finds out whether one could. The
// error says who has it otherwise. What is left of connections that are over keeps nobody from the port: it is there for
// a minute more, and programs that listen say so (SO_REUSEADDR). Excuse is told of the socket before it is bound.
func occupy(p Port, excuse func(cookie uint64) error) (fd int, err error) {
	fd, err = attempt(p, 0, excuse)
	if !errors.Is(err, ErrTaken) {
		return fd, err
	}
	users, known := usersOf(p)
	if known == nil && len(users) > 0 && allOver(users) {
		if fd, err := attempt(p, unix.SO_REUSEADDR, excuse); err == nil {
			return fd, nil
		}
	}
	return -1, inUse(p, users)
}

func inUse(p Port, users []user) error {
	return fmt.Errorf("%w: %s is in use%s", ErrTaken, p.label(), name(users))
}

func attempt(p Port, option int, excuse func(cookie uint64) error) (fd int, err error) {
	fd, err = openSocket(p)
	if err != nil || fd < 0 {
		return fd, err
	}
	if option != 0 {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, option, 1)
	}
	var cookie uint64
	if err == nil {
		cookie, err = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE)
	}
	if err == nil {
		err = excuse(cookie)
	}
	if err == nil {
		err = bindSocket(fd, p)
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// family is 4 or 6.
func family(ip netip.Addr) uint8 {
	if ip.Is4() {
		return 4
	}
	return 6
}
