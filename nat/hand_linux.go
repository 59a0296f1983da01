package nat

import (
	"context"
	"time"
)

// hand is iptables as one table of ours uses it: for both families, with the news of what others change there.
type hand struct {
	k       *Kernel
	at      site
	changed chan struct{}
	tools   map[int]*tool
	news    *news // nil until nf_tables is in use
}

func (k *Kernel) hand(at site) hand {
	return hand{k: k, at: at, changed: make(chan struct{}, 1), tools: make(map[int]*tool)}
}

// within has fn run iptables in the kernel's namespace, for a bounded time in all.
func (h *hand) within(ctx context.Context, fn func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, runsTime)
	defer cancel()
	return h.k.inside(func() error { return fn(ctx) })
}

// tool is iptables for a family. News of what it changes are heard from then on, and told where they unsettle.
func (h *hand) tool(ctx context.Context, family int, unsettled func() bool) (*tool, error) {
	t := h.tools[family]
	if t != nil && t.current() {
		return t, nil
	}
	t, err := find(family, h.at.table)
	if err != nil {
		return nil, err
	}
	t.k = h.k
	if err := h.k.identify(ctx, t); err != nil {
		return nil, err
	}
	if t.of == nfTables && h.news == nil {
		if h.news, err = listen(h.at); err != nil {
			return nil, err
		}
		h.k.tend(h.news, unsettled, h.poke)
	}
	h.tools[family] = t
	return t, nil
}

// identify asks the tool for its back end, once for all who use it.
func (k *Kernel) identify(ctx context.Context, t *tool) error {
	k.mu.Lock()
	of, known := k.of[t.real]
	k.mu.Unlock()
	if known {
		t.of = of
		return nil
	}
	if err := t.identify(ctx); err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.of[t.real] = t.of
	return nil
}

// concerned tells whether there is news of others.
func (h *hand) concerned() bool { return h.news != nil && h.news.concern() }

// forget drops the news of what we wrote ourselves.
func (h *hand) forget() {
	if h.news != nil {
		h.news.forget()
	}
}

// poke tells who listens to look again.
func (h *hand) poke() {
	select {
	case h.changed <- struct{}{}:
	default:
	}
}

// hung is a reading that took too long, for which the others of the same pass do not try again.
type hung struct {
	err error
	at  time.Time
}

func (h hung) still() bool { return h.err != nil && time.Since(h.at) < restTime }
