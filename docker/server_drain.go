package docker

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"
)

// drainLook is the time between two looks at whether all calls are answered.
const drainLook = 2 * time.Millisecond

// serveUntil answers calls on l until ctx ends, and after that those whose connection was taken before, for at most patience.
//
// http.Server.Shutdown alone drops a call that is read after it has begun, and an engine sends what was dropped again with an
// empty body (moby#39331). Hence the listener is closed first: who calls from then on waits for the next daemon.
func serveUntil(ctx context.Context, s *http.Server, l net.Listener, patience time.Duration) error {
	var busy drainCrowd
	s.ConnState = busy.note
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(l) }()
	select {
	case err := <-ended:
		return fmt.Errorf("serve %s: %w", l.Addr(), err)
	case <-ctx.Done():
	}
	_ = l.Close()
	<-ended // from here on every connection that was taken is noted
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	busy.wait(ctx)
	if err := s.Shutdown(ctx); err != nil {
		_ = s.Close()
	}
	return nil
}

// drainCrowd is the connections on which a call is to come, or to be answered.
type drainCrowd struct {
	mu   sync.Mutex
	busy map[net.Conn]struct{}
}

// note is the hook of an http.Server.
func (c *drainCrowd) note(conn net.Conn, state http.ConnState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch state {
	case http.StateNew, http.StateActive:
		if c.busy == nil {
			c.busy = make(map[net.Conn]struct{})
		}
		c.busy[conn] = struct{}{}
	default:
		delete(c.busy, conn)
	}
}

// wait returns when nobody is left, or when ctx ends.
func (c *drainCrowd) wait(ctx context.Context) {
	for {
		c.mu.Lock()
		left := len(c.busy)
		c.mu.Unlock()
		if left == 0 {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(drainLook):
		}
	}
}
