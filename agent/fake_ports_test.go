package agent_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/fairlead-net/fairlead/agent"
	"github.com/fairlead-net/fairlead/nat"
	"github.com/fairlead-net/fairlead/store"
)

// watched is a table in memory that nobody else changes.
type watched[K, V comparable] struct{ rows[K, V] }

func (w *watched[K, V]) Changed() <-chan struct{} { return nil }

// binds is ports that are held in memory. Programs of the host have some.
type binds struct {
	rows[nat.Port, nat.Fault]
	taken map[uint16]bool
	left  int // claims that are not settled

	meanwhile func() // what happens during the next claim
}

func (h *binds) Claim(_ context.Context, ports ...nat.Port) error {
	h.mu.Lock()
	meanwhile := h.meanwhile
	h.meanwhile = nil
	h.mu.Unlock()
	if meanwhile != nil {
		meanwhile()
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, p := range ports {
		if h.taken[p.Number] {
			return fmt.Errorf("%w: %s is in use by nginx (process 77)", nat.ErrTaken, p)
		}
	}
	h.left += len(ports)
	return nil
}

func (h *binds) Settle(ports ...nat.Port) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.left -= len(ports)
}

func (h *binds) Release(ports ...nat.Port) { h.Settle(ports...) }

func (h *binds) Weak() string { return "" }

// translation is what a host translates addresses by, in memory.
type translation struct {
	holds    binds
	ports    watched[nat.Port, nat.Rule]
	outgoing watched[nat.EntryKey, nat.Entry]
	forward  watched[nat.EntryKey, nat.Entry]
	fence    watched[nat.EntryKey, nat.Entry]
}

func (t *translation) tables() agent.NATTables {
	return agent.NATTables{Holds: &t.holds, Ports: &t.ports, Outgoing: &t.outgoing, Forward: &t.forward, Apart: &t.fence}
}

func (t *translation) text() []string {
	return slices.Concat(t.holds.text("hold"), t.ports.text("port"), t.outgoing.text("outgoing"), t.forward.text("forward"), t.fence.text("fence"))
}

// book is the ports that a store knows, held in the world.
func (w *world) book(t testing.TB, db *store.DB) *nat.Book {
	t.Helper()
	book, err := nat.NewBook(db, &w.holds, w.clock.now, rand.IntN)
	if err != nil {
		t.Fatal(err)
	}
	return book
}
