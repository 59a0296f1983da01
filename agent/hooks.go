package agent

import (
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	hooksAtOnce = 4
	hooksQueued = 256
	hooksEnd    = time.Second // what hooks still get when the daemon ends
)

// The results of an event for a hook, as the metric counts them.
const (
	hookOK      = "ok"
	hookFailed  = "failed"
	hookTimeout = "timeout"
	hookDropped = "dropped"
)

var errOverdue = errors.New("killed: it took longer than [hooks] timeout")

// of is the hook that an event is for, by its key in the config, and its program; "" when there is none.
func (h Hooks) of(event string) (hook, program string) {
	switch event {
	case eventAttached:
		return "on_attach", h.OnAttach
	case eventDetached:
		return "on_detach", h.OnDetach
	}
	return "", ""
}

// hooks runs programs beside the passes, some at once. The events of one endpoint reach them one after the other, in
// their order; those that more than fill the queue are dropped, so that no pass ever waits for a program.
type hooks struct {
	inForce func() Hooks
	runs    *prometheus.CounterVec
	log     *slog.Logger
	kill    chan struct{} // closed when what still runs must end
	running sync.WaitGroup

	mu      sync.Mutex
	most    int             // that run at once
	waiting []Event         // in their order
	busy    map[string]bool // endpoints whose event a program has now
	dropped int             // since the queue was last empty
}

func newHooks(inForce func() Hooks, runs *prometheus.CounterVec, log *slog.Logger) *hooks {
	for _, hook := range []string{"on_attach", "on_detach"} {
		for _, result := range []string{hookOK, hookFailed, hookTimeout, hookDropped} {
			runs.WithLabelValues(hook, result) // a counter that is not there yet hides its first step
		}
	}
	return &hooks{
		inForce: inForce, runs: runs, log: log, kill: make(chan struct{}), most: hooksAtOnce, busy: make(map[string]bool),
	}
}

// programs is what a reload may change at any time.
func (a *Agent) programs() Hooks {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.state.cfg.Hooks
}

// tell queues the events that there is a hook for.
func (h *hooks) tell(events []Event) {
	if len(events) == 0 {
		return
	}
	programs := h.inForce()
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, e := range events {
		hook, program := programs.of(e.Event)
		switch {
		case program == "":
		case len(h.waiting) == hooksQueued:
			h.drop(hook)
		default:
			h.waiting = append(h.waiting, e)
			h.begin() // at once, so that the queue holds those only that must wait
		}
	}
}

// drop counts an event that finds no room, and says so once. mu is held.
func (h *hooks) drop(hook string) {
	h.runs.WithLabelValues(hook, hookDropped).Inc()
	if h.dropped == 0 {
		h.log.Warn("too many events wait for hooks: events are dropped", "waiting", len(h.waiting))
	}
	h.dropped++
}

// begin starts what may run now: the first that waits whose endpoint is not in hand. mu is held.
func (h *hooks) begin() {
	free := func(e Event) bool { return !h.busy[e.Endpoint.Name] }
	for len(h.busy) < h.most {
		i := slices.IndexFunc(h.waiting, free)
		if i < 0 {
			break
		}
		e := h.waiting[i]
		h.waiting = slices.Delete(h.waiting, i, i+1)
		h.busy[e.Endpoint.Name] = true
		h.running.Go(func() {
			h.run(e)
			h.done(e.Endpoint.Name)
		})
	}
	if len(h.waiting) == 0 && h.dropped > 0 {
		h.log.Warn("no event waits for a hook any more", "dropped", h.dropped)
		h.dropped = 0
	}
}

func (h *hooks) done(endpoint string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.busy, endpoint)
	h.begin()
}

// run gives one event to the program that is in force now.
func (h *hooks) run(e Event) {
	programs := h.inForce()
	hook, path := programs.of(e.Event)
	if path == "" {
		return // a reload took it away while the event waited
	}
	line, err := json.Marshal(e)
	said := ""
	if err == nil {
		said, err = execute(path, append(line, '\n'), programs.Timeout, h.kill)
	}
	result := hookOK
	switch {
	case errors.Is(err, errOverdue):
		result = hookTimeout
	case err != nil:
		result = hookFailed
	}
	h.runs.WithLabelValues(hook, result).Inc()
	if err != nil {
		h.log.Warn("hook failed", "hook", hook, "program", path, "endpoint", e.Endpoint.Name, "error", err, "said", said)
	}
}

// end lets what runs and waits come to its end, for a short time. Then what runs is killed and what waits is dropped.
func (h *hooks) end() {
	ended := make(chan struct{})
	go func() {
		h.running.Wait() // until nothing waits either: whatever ends begins the next
		close(ended)
	}()
	select {
	case <-ended:
		return
	case <-time.After(hooksEnd):
	}
	h.cut()
	select {
	case <-ended:
	case <-time.After(hooksEnd): // not even a kill reaches a program that waits for a dead disk
	}
}

func (h *hooks) cut() {
	programs := h.inForce()
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, e := range h.waiting {
		hook, _ := programs.of(e.Event)
		h.runs.WithLabelValues(hook, hookDropped).Inc()
	}
	if n := len(h.waiting); n > 0 {
		h.log.Warn("the daemon ends: events that wait for hooks are dropped", "waiting", n)
	}
	h.waiting, h.dropped, h.most = nil, 0, 0
	close(h.kill)
}
