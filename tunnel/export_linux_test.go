package tunnel

import (
	"context"
	"time"
)

// WatchWith is Watch with a receive buffer of a given size, so that a test can make it overflow.
func (k *Kernel) WatchWith(ctx context.Context, room int) (Pokes, error) {
	return k.watch(ctx, room)
}

// Requests is how many messages were sent to the kernel.
func (k *Kernel) Requests() uint32 {
	k.conn.mu.Lock()
	defer k.conn.mu.Unlock()
	return k.conn.seq
}

// Age makes what is known of foreign routes older.
func (k *Kernel) Age(by time.Duration) {
	k.foreign.mu.Lock()
	defer k.foreign.mu.Unlock()
	k.foreign.at = k.foreign.at.Add(-by)
}
