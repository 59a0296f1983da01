package vm_test

import (
	"encoding/json"
	"io"
	"strings"
	"sync"
	"testing"
)

// event is one line of `go tool test2json`.
type event struct {
	Action  string  // run, pause, cont, output, pass, fail, skip
	Test    string  // "" is the whole program
	Output  string  // of output
	Elapsed float64 // of pass, fail and skip; seconds
}

// feed is what was heard of one test, kept until somebody asks for it.
type feed struct {
	name   string
	events chan event // with room for all
}

// replay tells what tests said that ran elsewhere, while they run: each becomes a subtest of the same name.
type replay struct {
	mu    sync.Mutex
	feeds map[string]*feed
}

// heard is more than any test says: a test with more lines would wait until some of them are told.
const heard = 1 << 14

func newReplay() *replay {
	r := &replay{feeds: make(map[string]*feed)}
	r.open("")
	return r
}

func (r *replay) open(name string) *feed {
	r.mu.Lock()
	defer r.mu.Unlock()
	f := &feed{name: name, events: make(chan event, heard)}
	r.feeds[name] = f
	return f
}

func (r *replay) feed(name string) *feed {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.feeds[name]
}

// parent is the test that ran a test. A slash in a name does not always begin a subtest's.
func (r *replay) parent(name string) *feed {
	for {
		name = name[:max(0, strings.LastIndexByte(name, '/'))]
		if f := r.feed(name); f != nil {
			return f
		}
	}
}

// listen reads events until there are no more.
func (r *replay) listen(events io.Reader) error {
	defer r.end()
	for decoder := json.NewDecoder(events); ; {
		var e event
		if err := decoder.Decode(&e); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		if e.Action == "run" {
			r.open(e.Test)
			r.parent(e.Test).events <- e
		} else if f := r.feed(e.Test); f != nil {
			f.events <- e
		}
	}
}

// end lets nobody wait for more.
func (r *replay) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, f := range r.feeds {
		close(f.events)
	}
}

// tell is the test t until the other one ends.
func (r *replay) tell(t *testing.T, f *feed) {
	var said strings.Builder
	for e := range f.events {
		switch e.Action {
		case "run":
			name := strings.TrimPrefix(strings.TrimPrefix(e.Test, f.name), "/")
			t.Run(name, func(t *testing.T) { r.tell(t, r.feed(e.Test)) })
		case "pause":
			t.Parallel() // it goes on when its parent has ended, here as there
		case "output":
			if !strings.HasPrefix(e.Output, "=== ") && !strings.HasPrefix(strings.TrimSpace(e.Output), "--- ") {
				said.WriteString(e.Output)
			}
		case "pass", "fail", "skip":
			t.Logf("%s in the machine, %.2f s\n%s", e.Action, e.Elapsed, &said)
			if e.Action == "fail" {
				t.Fail()
			} else if e.Action == "skip" {
				t.SkipNow()
			}
			return
		}
	}
	t.Errorf("it did not end; it said\n%s", &said)
}
