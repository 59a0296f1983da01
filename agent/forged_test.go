package agent_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"unicode"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-net/fairlead/agent"
	"github.com/fairlead-net/fairlead/bgp"
	"github.com/fairlead-net/fairlead/ipam"
)

// journal keeps what is logged as it was given: a handler that writes text would quote it.
type journal struct {
	slog.Handler
	mu    sync.Mutex
	lines []string
}

func (j *journal) Enabled(context.Context, slog.Level) bool { return true }

func (j *journal) Handle(_ context.Context, r slog.Record) error {
	line := r.Message
	r.Attrs(func(a slog.Attr) bool {
		line += fmt.Sprintf(" %s=%v", a.Key, a.Value.Any())
		return true
	})
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, line)
	return nil
}

// TestNoNameFromAPeerForgesALine: a node's name is whatever its host says, and must not be able to end a line, move a
// cursor or turn a text around, wherever it is shown.
func TestNoNameFromAPeerForgesALine(t *testing.T) {
	const (
		evil  = "n2\nerror=nil\r\x1b[2J\x00\x7f\u0085\u2028\u2029\u200b\u202e\ufeff\xff"
		plain = "n2error=nil[2J\ufffd"
	)
	w, log := newWorld(), new(journal)
	w.log = log
	named := func(name, prefix, via string) bgp.Route {
		r := route(prefix, via)
		r.Node = name
		return r
	}
	w.hear(
		named(evil, "10.88.1.0/24", "192.0.2.2"),   // the rival of our own block
		named(evil, "10.88.2.0/24", "192.0.2.2"),   // used
		named(evil, "203.0.113.0/24", "192.0.2.2"), // refused
		named("\n\x1b\x00", "10.88.3.0/24", "192.0.2.3"),
	)
	a := start(t, w, config("10.88.1.0/24"))
	if err := a.Settled(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	got := make(map[string]string)
	for _, r := range a.Routes() {
		got[r.Prefix.String()] = r.Node
	}
	want := map[string]string{
		"10.88.1.0/24": plain, "10.88.2.0/24": plain, "203.0.113.0/24": plain, "10.88.3.0/24": "192.0.2.3",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	_, err := a.LeaseAddress(t.Context(), agent.LeaseRequest{Owner: "vm"})
	if !errors.Is(err, ipam.ErrHeld) {
		t.Errorf("lease: %v", err)
	}
	shown := a.Status().Problems
	shown = append(shown, fmt.Sprint(err), a.Status().Pools[0].Held)
	for _, line := range shown {
		if !strings.Contains(line, plain+" (192.0.2.2)") {
			t.Errorf("%q does not name the rival", line)
		}
	}
	log.mu.Lock()
	defer log.mu.Unlock()
	if len(log.lines) == 0 {
		t.Error("nothing was logged")
	}
	for _, line := range append(shown, log.lines...) {
		if i := strings.IndexFunc(line, func(c rune) bool { return !unicode.IsGraphic(c) }); i >= 0 {
			t.Errorf("%q has a sign that is none at byte %d", line, i)
		}
	}
}
