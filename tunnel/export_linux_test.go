package tunnel

import "context"

// WatchWith is Watch with a receive buffer of a given size, so that a test can make it overflow.
func (k *Kernel) WatchWith(ctx context.Context, room int) (Pokes, error) {
	return k.watch(ctx, room)
}
