package nat

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"sync"
)

// Holds is the table of the ports of this host that no program can bind, since they are mapped.
//
// Where the kernel allows it, programs of ours look at every bind on the host (cgroup/bind4 and bind6 at the root of the
// control groups). They and what they know are pinned below a directory and outlive the daemon; no socket is open. Where
// it does not, the daemon itself keeps a socket bound to each port, and Weak says so.
type Holds struct {
	k   *Kernel
	dir string

	mu      sync.Mutex
	warden  warden            // nil until it is needed
	claimed map[Port]struct{} // and not settled yet: a pass that runs now does not know of them
	listed  map[Port]struct{} // by the latest List
	spared  map[Port]struct{} // of these, those claimed since: who has the list may not know that they are wanted again
}

// warden keeps programs from binding ports.
type warden interface {
	// list reads which ports are kept, and what is wrong with each.
	list(ctx context.Context) (map[Port]Fault, error)
	// take keeps ports from now on, fresh of them not before, and tells which of them somebody has already. What binds
	// them at this very moment is kept out until they are settled.
	take(ctx context.Context, ports []Port) (fresh []Port, failed map[Port]error)
	settle(ports []Port)
	// drop lets everybody have them again.
	drop(ctx context.Context, ports []Port) map[Port]error
	// weak is why ports are not kept while no daemon runs.
	weak() string
	close() error
}

// together is how many ports are taken at once: each of them needs a socket for a moment.
const together = 256

// Holds is the table of the ports that are held, with pins below dir. Nothing is asked of the kernel yet.
func (k *Kernel) Holds(dir string) *Holds {
	return &Holds{k: k, dir: dir, claimed: make(map[Port]struct{}), spared: make(map[Port]struct{})}
}

// Close lets go of the table. Ports are held on, but where Weak says that they are not.
func (h *Holds) Close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.warden == nil {
		return nil
	}
	warden := h.warden
	h.warden = nil
	return warden.close()
}

// Weak is why ports are not held while the daemon is down, "" when they are, or when none has been held yet.
func (h *Holds) Weak() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.warden == nil {
		return ""
	}
	return h.warden.weak()
}

// Claim holds all of the ports or none: from its success on no program can bind them. Until Settle they are invisible to
// List and Delete. The error wraps ErrTaken and names the program where one has a port, or where another claim has.
func (h *Holds) Claim(ctx context.Context, ports ...Port) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, p := range ports {
		for c := range h.claimed {
			if p.Overlaps(c) {
				return fmt.Errorf("%w: %s is being mapped by this daemon (process %d)", ErrTaken, p.label(), os.Getpid())
			}
		}
	}
	warden, err := h.open(ctx)
	if err != nil {
		return fmt.Errorf("claim ports: %w", err)
	}
	fresh, failed := warden.take(ctx, ports)
	for _, p := range ports {
		if err := failed[p]; err != nil {
			warden.settle(ports)
			undone := warden.drop(context.WithoutCancel(ctx), fresh)
			return errors.Join(append([]error{err}, slices.Collect(maps.Values(undone))...)...)
		}
	}
	for _, p := range ports {
		h.claimed[p] = struct{}{}
		if _, old := h.listed[p]; old {
			h.spared[p] = struct{}{}
		}
	}
	return nil
}

// Settle ends claims: what became of them is in the store, so from now on the ports are listed and deleted like others.
func (h *Holds) Settle(ports ...Port) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, p := range ports {
		delete(h.claimed, p)
	}
	if h.warden != nil {
		h.warden.settle(ports)
	}
}

// Release ends claims of which nothing came: the ports are free again.
func (h *Holds) Release(ports ...Port) {
	h.Settle(ports...)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.warden != nil && len(ports) > 0 {
		h.warden.drop(context.Background(), ports) // what fails stays listed, and a pass tries again
	}
}

// open chooses who keeps the ports, once.
func (h *Holds) open(ctx context.Context) (warden, error) {
	if h.warden != nil {
		return h.warden, nil
	}
	p, err := openPinned(ctx, h.k, h.dir)
	switch {
	case errors.Is(err, errBusy) || ctx.Err() != nil:
		return nil, err
	case err != nil:
		h.warden = newSockets(h.k, err.Error())
	default:
		h.warden = p
	}
	return h.warden, nil
}

// List reads the ports that are held, without those whose claim is not settled.
func (h *Holds) List(ctx context.Context) (map[Port]Fault, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.warden == nil && !pinnedAt(h.dir) {
		return map[Port]Fault{}, nil
	}
	warden, err := h.open(ctx)
	if err != nil {
		return nil, err
	}
	have, err := warden.list(ctx)
	maps.DeleteFunc(have, func(p Port, _ Fault) bool { return h.isClaimed(p) })
	// Those that are settled by now are in the store, which is read after this.
	h.listed, h.spared = make(map[Port]struct{}, len(have)), make(map[Port]struct{})
	for p := range have {
		h.listed[p] = struct{}{}
	}
	return have, err
}

func (h *Holds) isClaimed(p Port) bool {
	_, found := h.claimed[p]
	return found
}

// Put holds a port. One that a program has already is held against all others, and the error wraps ErrTaken and names
// the program.
func (h *Holds) Put(ctx context.Context, p Port, _ Fault) error {
	return h.Apply(ctx, map[Port]Fault{p: ""}, nil)[p]
}

// Delete lets go of a port, but not of one that was claimed since it was listed.
func (h *Holds) Delete(ctx context.Context, p Port) error {
	return h.Apply(ctx, nil, []Port{p})[p]
}

// Apply does that with many ports.
func (h *Holds) Apply(ctx context.Context, puts map[Port]Fault, deletes []Port) map[Port]error {
	h.mu.Lock()
	defer h.mu.Unlock()
	failed := make(map[Port]error)
	all := slices.Concat(slices.Collect(maps.Keys(puts)), deletes)
	if len(all) == 0 || len(puts) == 0 && h.warden == nil && !pinnedAt(h.dir) {
		return failed
	}
	warden, err := h.open(ctx)
	if err != nil {
		for _, p := range all {
			failed[p] = err
		}
		return failed
	}
	for part := range slices.Chunk(slices.SortedFunc(maps.Keys(puts), Port.Compare), together) {
		_, wrong := warden.take(ctx, part)
		warden.settle(slices.DeleteFunc(part, h.isClaimed))
		maps.DeleteFunc(wrong, func(_ Port, err error) bool { return errors.Is(err, errAbsent) }) // the address may come yet
		maps.Copy(failed, wrong)
	}
	deletes = slices.DeleteFunc(slices.Clone(deletes), func(p Port) bool {
		_, spared := h.spared[p]
		return spared || h.isClaimed(p)
	})
	if len(deletes) > 0 {
		maps.Copy(failed, warden.drop(ctx, deletes))
	}
	return failed
}
