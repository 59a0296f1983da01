package agent

import (
	"context"
	"sync"
)

// names lets one caller at a time work on a name.
type names struct {
	mu   sync.Mutex
	held map[string]chan struct{}
}

// lock waits for the name to be free. The caller calls unlock when done.
func (n *names) lock(ctx context.Context, name string) (unlock func(), err error) {
	for {
		n.mu.Lock()
		busy, ok := n.held[name]
		if !ok {
			mine := make(chan struct{})
			n.held[name] = mine
			n.mu.Unlock()
			return func() {
				n.mu.Lock()
				delete(n.held, name)
				n.mu.Unlock()
				close(mine)
			}, nil
		}
		n.mu.Unlock()
		select {
		case <-busy:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
