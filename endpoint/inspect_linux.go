package endpoint

import (
	"context"
	"errors"
	"fmt"
)

// Inspect looks inside the namespaces of rows and returns the host interfaces of those that lack something: an address,
// a route, a neighbour, MTU, name or hardware address of the interface, or the link being up.
//
// It reads only. A namespace that is gone and a pair that is not there have not drifted: Alive and List tell of those.
func (l *Links) Inspect(ctx context.Context, rows []Row) (drifted []string, err error) {
	pairs := map[string]link{}
	err = l.with(func(w *wire) error {
		for _, r := range rows {
			if v, found, err := w.linkNamed(r.HostIf); err != nil {
				return err
			} else if found && v.ours() {
				pairs[r.HostIf] = v
			}
		}
		greet, err := w.greeters(rows)
		if err != nil {
			return err
		}
		for _, r := range rows {
			v, found := pairs[r.HostIf]
			mute := found && !greet(v.index, r.Greets())
			if mute {
				drifted = append(drifted, r.HostIf)
			}
			if mute || r.Handed() { // what became of its inside is the business of who has it
				delete(pairs, r.HostIf)
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("inspect endpoints: %w", err)
	}
	err = abroad(func(enter func(namespace) error) (err error) {
		buf := l.buffer()
		defer l.bufs.Put((*[wireBuffer]byte)(buf))
		for _, r := range rows {
			v, found := pairs[r.HostIf]
			if !found || ctx.Err() != nil {
				continue
			}
			fine, inspectErr := r.fine(v, enter, buf)
			if inspectErr != nil {
				err = errors.Join(err, fmt.Errorf("inspect endpoint %s in %s: %w", r.Name, r.NetNS, inspectErr))
			} else if !fine {
				drifted = append(drifted, r.HostIf)
			}
		}
		return err
	})
	return drifted, errors.Join(err, ctx.Err())
}

// fine says whether the inside of the pair with host side v is as r says, as far as there is an inside. It leaves its
// thread there.
func (r Row) fine(v link, enter func(namespace) error, buf []byte) (bool, error) {
	ns, err := r.open()
	if errors.Is(err, ErrGone) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	defer ns.close()
	if err := enter(ns); err != nil {
		return false, err
	}
	w, err := dial(buf)
	if err != nil {
		return false, err
	}
	defer w.close()
	in, err := survey(w, v)
	if errors.Is(err, errNotInside) {
		return false, nil
	}
	return err == nil && !in.lacks(r, false), err
}

// Mend puts back what is missing inside, and on the host side; it is Put under the name that goes with Inspect.
func (l *Links) Mend(ctx context.Context, r Row) error { return l.Put(ctx, r.HostIf, r) }
