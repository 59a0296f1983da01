package fastpath

import (
	"context"
	"maps"
	"time"
)

// lookAgain is how often the hooks are looked at: the kernel tells nobody that a program was detached.
const lookAgain = 4 * time.Second

// Changed pokes when what stands at the hooks is not what it was.
func (k *Kernel) Changed() <-chan struct{} { return k.changed }

// watch looks at the hooks until ctx ends.
func (k *Kernel) watch(ctx context.Context) {
	tick := time.NewTicker(lookAgain)
	defer tick.Stop()
	var seen map[Hook]Job
	var known uint64
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		written := k.written.Load()
		now, err := k.Hooks().List(ctx)
		if err != nil {
			continue // the next pass says so
		}
		// What came by our own hands since the last look may have gone again.
		if written != known || !maps.Equal(seen, now) {
			select {
			case k.changed <- struct{}{}:
			default:
			}
		}
		seen, known = now, written
	}
}
