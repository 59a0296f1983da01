package nat

import (
	"context"
	"errors"

	"golang.org/x/sys/unix"
)

// sockets keep ports by being bound to them, for as long as the daemon runs.
type sockets struct {
	k    *Kernel
	why  string       // nothing better is to be had
	held map[Port]int // -1: this kernel has no sockets that could bind it
}

func newSockets(k *Kernel, why string) *sockets {
	return &sockets{k: k, why: why, held: make(map[Port]int)}
}

func (s *sockets) weak() string { return s.why }

// isNeeded tells whether a socket keeps any port: where there are no such sockets, none needs to.
func (s *sockets) isNeeded() bool {
	for _, fd := range s.held {
		if fd >= 0 {
			return true
		}
	}
	return false
}

func (s *sockets) settle([]Port) {}

func (s *sockets) list(context.Context) (map[Port]Fault, error) {
	have := make(map[Port]Fault, len(s.held))
	for p := range s.held {
		have[p] = ""
	}
	return have, nil
}

func (s *sockets) take(_ context.Context, ports []Port) (fresh []Port, failed map[Port]error) {
	failed = make(map[Port]error)
	err := s.k.inside(func() error {
		for _, p := range ports {
			if _, there := s.held[p]; there {
				continue
			}
			fd, err := attempt(p, 0, func(uint64) error { return nil })
			if errors.Is(err, ErrTaken) {
				users, _ := usersOf(p) // without them it is a program that can not be seen
				err = inUse(p, users)
			}
			if err != nil {
				failed[p] = err
				continue
			}
			s.held[p] = fd
			fresh = append(fresh, p)
		}
		return nil
	})
	return fresh, allFailed(failed, ports, err)
}

// allFailed adds an error to those of all ports, if there is one.
func allFailed(failed map[Port]error, ports []Port, err error) map[Port]error {
	for _, p := range ports {
		if err != nil && failed[p] == nil {
			failed[p] = err
		}
	}
	return failed
}

func (s *sockets) drop(_ context.Context, ports []Port) map[Port]error {
	failed := make(map[Port]error)
	for _, p := range ports {
		fd, there := s.held[p]
		delete(s.held, p)
		if there && fd >= 0 {
			if err := unix.Close(fd); err != nil {
				failed[p] = err
			}
		}
	}
	return failed
}

func (s *sockets) close() error {
	var errs []error
	for p, fd := range s.held {
		delete(s.held, p)
		if fd >= 0 {
			errs = append(errs, unix.Close(fd))
		}
	}
	return errors.Join(errs...)
}
