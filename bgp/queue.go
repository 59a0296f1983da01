package bgp

import "sync"

// queue is an unbounded list with a poke. GoBGP's callbacks put and never wait, since its one loop stands still while
// they run; one goroutine of ours takes everything at once.
type queue[T any] struct {
	poke chan struct{} // capacity 1

	mu    sync.Mutex
	items []T
}

func newQueue[T any]() *queue[T] {
	return &queue[T]{poke: make(chan struct{}, 1)}
}

func (q *queue[T]) put(v T) {
	q.mu.Lock()
	q.items = append(q.items, v)
	q.mu.Unlock()
	poke(q.poke)
}

func (q *queue[T]) take() []T {
	q.mu.Lock()
	defer q.mu.Unlock()
	items := q.items
	q.items = nil
	return items
}

func poke(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
