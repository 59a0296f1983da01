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

// try is lock for those who do not wait; free tells whether it was.
func (n *names) try(name string) (unlock func(), free bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if _, busy := n.held[name]; busy {
		return nil, false
	}
	mine := make(chan struct{})
	n.held[name] = mine
	return func() {
		n.mu.Lock()
		delete(n.held, name)
		n.mu.Unlock()
		close(mine)
	}, true
}

// lock waits for the name to be free. The caller calls unlock when done.
func (n *names) lock(ctx context.Context, name string) (unlock func(), err error) {
	for {
		if unlock, free := n.try(name); free {
			return unlock, nil
		}
		n.mu.Lock()
		busy, held := n.held[name]
		n.mu.Unlock()
		if !held {
			continue
		}
		select {
		case <-busy:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
