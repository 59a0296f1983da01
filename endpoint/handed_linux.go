package endpoint

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// offer makes a pair both ends of which are on the host, for another program to take the inside, or mends the host side of
// the one that is there, wherever its inside is by now.
func (l *Links) offer(w *wire, r Row) error {
	for range 2 {
		err := w.one(vethRequest(r, namespace{}))
		if err == nil {
			return l.present(w, r)
		}
		if !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("make veth pair: %w", err)
		}
		v, found, err := w.linkNamed(r.HostIf)
		switch {
		case err != nil:
			return err
		case !found:
			return fmt.Errorf("interface %s on the host has a name of ours but is %w; remove it: ip link del %s", r.IfName, ErrForeign, r.IfName)
		case !v.ours():
			return fmt.Errorf("interface %s (%s) on the host has a name of ours but is %w; remove it: ip link del %s", v.name, v.kind, ErrForeign, v.name)
		}
		if old, named := v.identity(); named && (old.IP4 != r.IP4 || old.IP6 != r.IP6 || old.MAC != r.MAC || !old.Handed()) {
			if err := l.remove(w, v.index); err != nil {
				return err
			}
			continue
		}
		return l.mendHost(w, v, r)
	}
	return fmt.Errorf("interface %s appeared on the host meanwhile: %w", r.HostIf, ErrForeign)
}

// present completes a pair that was just made, and removes it when it can not. Its inside stays down, quiet and without
// address until somebody takes it.
func (l *Links) present(w *wire, r Row) error {
	v, found, err := w.linkNamed(r.HostIf)
	if err == nil && !found {
		err = errors.New("the interface vanished while it was made")
	}
	if err != nil {
		return err
	}
	if err := l.mendHost(w, v, r); err != nil {
		return errors.Join(err, l.remove(w, v.index))
	}
	return nil
}

// Loose tells which of the pairs with these host sides no container has: they are not there, or both of their ends are on
// the host.
func (l *Links) Loose(ctx context.Context, hostIfs []string) (loose map[string]bool, err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	loose = make(map[string]bool)
	err = l.with(func(w *wire) error {
		for _, hostIf := range hostIfs {
			v, found, err := w.linkNamed(hostIf)
			if err != nil {
				return err
			}
			loose[hostIf] = !found || v.ours() && v.peerNS < 0
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("look where endpoint interfaces lead: %w", err)
	}
	return loose, nil
}
