package endpoint

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// Links are the endpoints' veth pairs, seen from the host's network namespace: the one that NewLinks was called in.
//
// It is safe for use by several goroutines; calls for one key wait for each other. It holds no container's namespace.
type Links struct {
	home  namespace
	mu    sync.Mutex
	idle  []*wire        // into home
	long  map[string]Row // what did not fit into an alias, by host interface
	told  map[string]Row // what the aliases of the latest listing say, by alias
	turns [64]sync.Mutex // one call at a time for each host interface
	tails sync.WaitGroup // deletions that the kernel has not finished
	slots chan struct{}  // one for each of them
	bufs  sync.Pool      // of *[wireBuffer]byte
}

const (
	keptWires = 4
	maxTails  = 16
)

// NewLinks opens the host's side, in the network namespace of the calling thread.
func NewLinks() (*Links, error) {
	home, err := enterable(ownNetNS)
	if err != nil {
		return nil, fmt.Errorf("open own namespace: %w", err)
	}
	w, err := dial(make([]byte, wireBuffer))
	if err != nil {
		home.close()
		return nil, err
	}
	return &Links{home: home, idle: []*wire{w}, long: map[string]Row{}, slots: make(chan struct{}, maxTails)}, nil
}

// Close gives back sockets and files, after the kernel has finished what it was asked. What was attached stays so.
func (l *Links) Close() error {
	l.tails.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, w := range l.idle {
		w.close()
	}
	l.idle = nil
	l.home.close()
	return nil
}

// with runs fn with a wire into the host's namespace. A deletion waits long in the kernel, so calls do not share one.
func (l *Links) with(fn func(w *wire) error) error {
	w := l.take()
	if w == nil {
		err := l.home.do(func() (err error) { w, err = dial(l.buffer()); return err })
		if err != nil {
			return err
		}
	}
	err := fn(w)
	l.give(w, errors.Is(err, errWire))
	return err
}

// buffer is a wire's, used before or new. hangUp closes a wire and keeps its buffer.
func (l *Links) buffer() []byte {
	if b, ok := l.bufs.Get().(*[wireBuffer]byte); ok {
		return b[:]
	}
	return make([]byte, wireBuffer)
}

func (l *Links) hangUp(w *wire) {
	w.close()
	l.bufs.Put((*[wireBuffer]byte)(w.buf))
}

func (l *Links) take() *wire {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.idle) == 0 {
		return nil
	}
	w := l.idle[len(l.idle)-1]
	l.idle = l.idle[:len(l.idle)-1]
	return w
}

func (l *Links) give(w *wire, broken bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if broken || len(l.idle) >= keptWires {
		w.close()
		return
	}
	l.idle = append(l.idle, w)
}

// turn waits until no other call works on hostIf; the caller unlocks.
func (l *Links) turn(hostIf string) *sync.Mutex {
	var n uint
	for _, b := range []byte(hostIf) {
		n = n*31 + uint(b)
	}
	m := &l.turns[n%uint(len(l.turns))]
	m.Lock()
	return m
}

// List reports the pairs by what their host sides show: everything but MTU comes from the alias.
//
// A host side that is down, or whose hardware address or settings were changed, has MTU 0. One whose alias is gone but
// that still shows our mark (link group and hardware address) is a row with nothing but HostIf: Put mends it, Delete
// removes it. A link that only has a name like ours is not listed.
func (l *Links) List(ctx context.Context) (map[string]Row, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var veths []link
	err := l.with(func(w *wire) (err error) {
		veths, err = w.links("veth")
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list endpoints: %w", err)
	}
	return l.rows(veths), nil
}
