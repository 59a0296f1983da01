package nettest

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Trick is what a program may say of its socket to get at a port.
type Trick struct {
	Name          string
	level, option int
	value         int
}

// Tricks are those that the kernel knows, and none at all.
func Tricks() []Trick {
	return []Trick{
		{Name: "plain"},
		{"reuse address", unix.SOL_SOCKET, unix.SO_REUSEADDR, 1},
		{"reuse port", unix.SOL_SOCKET, unix.SO_REUSEPORT, 1},
		{"both families", unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 0},
		{"free bind", unix.IPPROTO_IP, unix.IP_FREEBIND, 1},
		{"transparent", unix.IPPROTO_IP, unix.IP_TRANSPARENT, 1},
	}
}

// Bind tries to get a port of the host, which it leaves at once, and tells how the kernel refuses; nil when it does not.
func (h *Host) Bind(proto string, at netip.AddrPort, trick Trick) error {
	return h.Do(func() error {
		fd, err := bind(proto, at, trick)
		if err == nil {
			err = unix.Close(fd)
		}
		return err
	})
}

func bind(proto string, at netip.AddrPort, trick Trick) (fd int, err error) {
	kind, number := unix.SOCK_STREAM, 0
	switch proto {
	case "udp":
		kind = unix.SOCK_DGRAM
	case "sctp":
		number = unix.IPPROTO_SCTP
	}
	if fd, err = unix.Socket(domain(at.Addr()), kind|unix.SOCK_CLOEXEC, number); err != nil {
		return 0, fmt.Errorf("open socket: %w", err)
	}
	if trick.option != 0 {
		err = unix.SetsockoptInt(fd, trick.level, trick.option, trick.value)
	}
	// An option that this kind of socket does not know is none to try.
	if errors.Is(err, unix.ENOPROTOOPT) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) {
		err = nil
	}
	if err == nil {
		err = unix.Bind(fd, socketAddress(at))
	}
	if err != nil {
		return 0, errors.Join(err, unix.Close(fd))
	}
	return fd, nil
}

// portsOf are the local ports of sockets.
func portsOf(fds []int) (ports []uint16, err error) {
	for _, fd := range fds {
		name, err := unix.Getsockname(fd)
		if err != nil {
			return nil, err
		}
		switch a := name.(type) {
		case *unix.SockaddrInet4:
			ports = append(ports, uint16(a.Port))
		case *unix.SockaddrInet6:
			ports = append(ports, uint16(a.Port))
		}
	}
	return ports, nil
}

// Drain has the kernel choose ports of the host until it has none left, and returns them in the order of its choice; then
// all are free again. The choice is made for sockets that bind to an address without a port, and for those that connect
// to a port without being bound.
func (h *Host) Drain(proto string, bound netip.Addr, connected netip.AddrPort) (ports []uint16, err error) {
	err = h.Do(func() error {
		var fds []int
		defer func() {
			for _, fd := range fds {
				_ = unix.Close(fd)
			}
		}()
		for range 1 << 16 {
			fd, err := choose(proto, bound, connected)
			if errors.Is(err, unix.EADDRINUSE) || errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.EAGAIN) {
				ports, err = portsOf(fds)
				return err
			}
			if err != nil {
				return fmt.Errorf("after %d ports: %w", len(fds), err)
			}
			fds = append(fds, fd)
		}
		return errors.New("there is no end of ports")
	})
	return ports, err
}

// choose opens a socket for which the kernel chooses the port.
func choose(proto string, bound netip.Addr, connected netip.AddrPort) (fd int, err error) {
	if bound.IsValid() {
		return bind(proto, netip.AddrPortFrom(bound, 0), Trick{})
	}
	kind := unix.SOCK_STREAM
	if proto == "udp" {
		kind = unix.SOCK_DGRAM
	}
	if fd, err = unix.Socket(domain(connected.Addr()), kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0); err != nil {
		return 0, fmt.Errorf("open socket: %w", err)
	}
	if err = unix.Connect(fd, socketAddress(connected)); err != nil && !errors.Is(err, unix.EINPROGRESS) {
		return 0, errors.Join(err, unix.Close(fd))
	}
	return fd, nil
}
