package docker

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// lookRun runs a looker until the test ends, or until the function that it returns is called.
func lookRun(t *testing.T, l *Looker) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		l.Run(ctx)
	}()
	stop = func() {
		cancel()
		select {
		case <-ended:
		case <-time.After(5 * time.Second):
			t.Error("it still runs")
		}
	}
	t.Cleanup(stop)
	return stop
}

// lookUntil waits for something to be so.
func lookUntil(t *testing.T, what string, so func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !so(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within 10 s", what)
		}
	}
}

// tell has all who listen hear of an event; it says how many do.
func (d *lookDocker) tell(text string) (heard int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for listener := range d.events {
		select {
		case listener <- text:
			heard++
		case <-time.After(10 * time.Millisecond):
		}
	}
	return heard
}

func (h *lookHost) called(id string) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.told[lookID(id)].Container
}

// TestLookRun follows a Docker that starts late, renames a container, ends and comes back.
func TestLookRun(t *testing.T) {
	t.Parallel()
	w := shop(t)
	socket := filepath.Join(t.TempDir(), "docker.sock")
	w.looker.api, w.looker.engine = socket, newEngine(socket)
	start := func() (stop func()) {
		l, err := net.Listen("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		s := &httptest.Server{Listener: l, Config: &http.Server{Handler: w.docker}}
		s.Start()
		t.Cleanup(s.Close)
		return func() {
			s.CloseClientConnections()
			s.Close()
		}
	}
	stop := lookRun(t, w.looker)
	lookUntil(t, "no Docker", func() bool { return strings.Contains(w.log.String(), "docker does not answer") })
	end := start()
	lookUntil(t, "Docker has started", func() bool { return w.host.called("e1") == "web" })
	w.docker.change(func() { w.docker.containers[0].Names = []string{"/front"} })
	began := time.Now()
	lookUntil(t, "an event", func() bool { return w.docker.tell(`{"Action":"rename"}`) > 0 })
	lookUntil(t, "a new name", func() bool { return w.host.called("e1") == "front" })
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("a name was learnt after %s", took)
	}
	w.docker.change(func() { w.docker.containers[0].Names = []string{"/back"} })
	end()
	end = start()
	lookUntil(t, "Docker has come back", func() bool { return w.host.called("e1") == "back" })
	stop()
	end()
	if text := w.log.String(); strings.Contains(text, "level=WARN") || strings.Contains(text, "level=INFO") {
		t.Errorf("what is usual is told\n%s", text)
	}
}

// TestLookRunNobody has nobody to ask.
func TestLookRunNobody(t *testing.T) {
	w := newLookWorld(t)
	l := NewLooker(w.looker.driver, w.host, "", "fairlead")
	l.Run(t.Context())
	if text := w.log.String(); text != "" {
		t.Errorf("log\n%s", text)
	}
}

// TestLookFlood has more events than one can look after: most of them are left alone.
func TestLookFlood(t *testing.T) {
	t.Parallel()
	w := shop(t)
	lookRun(t, w.looker)
	lookUntil(t, "the first look", func() bool { return w.host.called("e1") == "web" })
	w.docker.paths()
	told, began := 0, time.Now()
	for time.Since(began) < 1500*time.Millisecond {
		told += w.docker.tell(strings.Repeat("x", 1000))
	}
	looks := 0
	for _, p := range w.docker.paths() {
		if p == "/containers/json" {
			looks++
		}
	}
	if most := int(time.Since(began)/lookSettle) + 1; told < 10*most || looks > most || looks < 2 {
		t.Errorf("%d looks after %d events, want 2 to %d", looks, told, most)
	}
}

// TestLookHung ends at once when asked to, whatever Docker does.
func TestLookHung(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"/events", "/networks", "/containers/json"} {
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			w := shop(t)
			hung := make(chan struct{}, 1)
			w.serve(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				if r.URL.Path == path {
					hung <- struct{}{}
					<-r.Context().Done()
					return
				}
				w.docker.ServeHTTP(rw, r)
			}), "fairlead")
			stop := lookRun(t, w.looker)
			<-hung
			began := time.Now()
			stop()
			if took := time.Since(began); took > time.Second {
				t.Errorf("it ended after %s", took)
			}
			if text := w.log.String(); strings.Contains(text, "level=WARN") {
				t.Errorf("its own end is told as a failure\n%s", text)
			}
		})
	}
}

// TestLookLost tells what keeps Docker from answering, once, and not at all when it does not run.
func TestLookLost(t *testing.T) {
	cases := []struct {
		err  error
		warn int
	}{
		{fmt.Errorf("ask: %w", fs.ErrNotExist), 0},
		{fmt.Errorf("ask: %w", syscall.ECONNREFUSED), 0},
		{errEngineAsleep, 0},
		{fmt.Errorf("ask: %w", os.ErrPermission), 1},
		{context.DeadlineExceeded, 1},
		{errors.New("500"), 1},
	}
	for _, c := range cases {
		w := newLookWorld(t)
		w.log = &lookLog{}
		w.looker.driver.log = w.log.logger(slog.LevelDebug)
		for range 3 {
			w.looker.memory.since = map[lookSuspect]time.Time{{}: {}}
			w.looker.lost(fmt.Errorf("%w: EOF", errLookEnded))
			w.looker.lost(c.err)
			if w.looker.memory.since != nil {
				t.Errorf("%v: what was seen before still counts", c.err)
			}
		}
		if n := strings.Count(w.log.String(), "level=WARN"); n != c.warn || strings.Count(w.log.String(), "docker does not answer") != 1 {
			t.Errorf("%v: %d warnings, want %d\n%s", c.err, n, c.warn, w.log)
		}
		w.looker.answers()
		w.looker.lost(errors.New("500"))
		if n := strings.Count(w.log.String(), "level=WARN"); n != c.warn+1 {
			t.Errorf("%v: what comes after an answer is not told\n%s", c.err, w.log)
		}
	}
}

// TestLookOwnEnd has the daemon fail at a look since it ends: nobody is told of that.
func TestLookOwnEnd(t *testing.T) {
	w := newLookWorld(t)
	ctx, cancel := context.WithCancel(t.Context())
	w.looker.trouble(ctx, []error{errors.New("the disk is full")})
	cancel()
	w.looker.trouble(ctx, []error{errors.New("learn: context canceled")})
	if text := w.log.String(); !strings.Contains(text, "the disk is full") || strings.Contains(text, "canceled") {
		t.Errorf("log\n%s", text)
	}
}
