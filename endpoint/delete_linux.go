package endpoint

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// Delete removes the pair with this host side. None of ours there is success.
func (l *Links) Delete(ctx context.Context, hostIf string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	defer l.turn(hostIf).Unlock()
	err := l.with(func(w *wire) error {
		v, found, err := w.linkNamed(hostIf)
		if err != nil || !found || !v.ours() {
			return err
		}
		return l.remove(w, v.index)
	})
	if err != nil {
		return fmt.Errorf("delete endpoint interface %s: %w", hostIf, err)
	}
	l.mu.Lock()
	delete(l.long, hostIf)
	l.mu.Unlock()
	return nil
}

// remove deletes a link, and with it the pair. One that is gone already is success.
//
// A veth's deletion takes effect in about a millisecond, and then holds its caller for some twenty more, until every CPU
// has let go of the memory. Nobody needs to wait for that: remove returns when the link can not be found any more, which
// the kernel answers under the lock that the deletion holds while it takes addresses, routes and neighbours away.
func (l *Links) remove(w *wire, index int) error {
	l.slots <- struct{}{}
	done := make(chan error, 1)
	l.tails.Go(func() {
		defer func() { <-l.slots }()
		done <- l.with(func(own *wire) error { return own.one(delLink(index)) })
	})
	for pause := 50 * time.Microsecond; ; pause *= 2 {
		select {
		case err := <-done:
			return deleted(err)
		case <-time.After(pause):
		}
		if _, found, err := w.linkAt(index); err == nil && !found {
			return nil
		} else if err != nil {
			return deleted(<-done)
		}
	}
}

func deleted(err error) error {
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("delete link: %w", err)
	}
	return nil
}
