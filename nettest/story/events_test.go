package story_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/agent"
	"github.com/fairlead-net/fairlead/nettest"
)

// follower is a `fairlead events` that runs.
type follower struct {
	t      *testing.T
	cmd    *exec.Cmd
	stderr bytes.Buffer
	ended  chan struct{}

	mu   sync.Mutex
	seen []agent.Event
	from int // of those, the ones that expect has passed
}

// following starts a follower and waits until the daemon counts one more.
func following(t *testing.T, n *nettest.Node, flags ...string) *follower {
	t.Helper()
	readers := n.Metric("fairlead_event_readers")
	f := &follower{t: t, ended: make(chan struct{})}
	f.cmd = n.Command(t.Context(), append([]string{binary, "--socket", n.Socket(), "events"}, flags...)...)
	f.cmd.Stderr = &f.stderr
	out, err := f.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := f.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go f.read(bufio.NewScanner(out))
	t.Cleanup(func() {
		_ = f.cmd.Process.Kill()
		<-f.ended
	})
	nettest.Eventually(t, 10*time.Second, func() error {
		select {
		case <-f.ended:
			t.Fatalf("fairlead events ended at once: %s", f.stderr.String())
		default:
		}
		if now := n.Metric("fairlead_event_readers"); now != readers+1 {
			return fmt.Errorf("%v readers", now)
		}
		return nil
	})
	return f
}

func (f *follower) read(lines *bufio.Scanner) {
	defer close(f.ended)
	for lines.Scan() {
		var e agent.Event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil || e.Node != "n1" || e.Time.IsZero() || e.Revision == 0 {
			f.t.Errorf("%v: %s", err, lines.Text())
		}
		f.mu.Lock()
		f.seen = append(f.seen, e)
		f.mu.Unlock()
	}
	_ = f.cmd.Wait() // the exit code is in cmd.ProcessState
}

// expect waits for an event, and wants nothing but what it allows before it.
func (f *follower) expect(patience time.Duration, what string, is func(agent.Event) bool, allowed ...string) agent.Event {
	f.t.Helper()
	var found agent.Event
	nettest.Eventually(f.t, patience, func() error {
		f.mu.Lock()
		defer f.mu.Unlock()
		for f.from < len(f.seen) {
			e := f.seen[f.from]
			f.from++
			if is(e) {
				found = e
				return nil
			}
			if !strings.Contains(strings.Join(allowed, " "), e.Event) {
				f.t.Errorf("before %s: %s", what, told(e))
			}
		}
		return fmt.Errorf("%s was not told", what)
	})
	return found
}

// told is an event as it stands in the stream.
func told(e agent.Event) string {
	line, err := json.Marshal(e)
	if err != nil {
		return err.Error()
	}
	return string(line)
}

// end waits for the end of the process and returns its exit code.
func (f *follower) end() int {
	f.t.Helper()
	select {
	case <-f.ended:
	case <-time.After(10 * time.Second):
		f.t.Fatal("fairlead events goes on")
	}
	return f.cmd.ProcessState.ExitCode()
}

func attached(name string) func(agent.Event) bool {
	return func(e agent.Event) bool { return e.Event == "endpoint-attached" && e.Endpoint.Name == name }
}

func ofPeer(word string, n *nettest.Node) func(agent.Event) bool {
	return func(e agent.Event) bool { return e.Event == word && e.Peer.Address == n.Address() }
}

func ofRoute(word, prefix string) func(agent.Event) bool {
	return func(e agent.Event) bool { return e.Event == word && e.Route.Prefix.String() == prefix }
}

func TestWhoFollowsTheEventsSeesWhatHappens(t *testing.T) {
	l := lab(t, nettest.LabOptions{Nodes: []string{"n1", "n2", "n3"}, Pools: []string{pool4, pool6}})
	n, near, far := l.Node("n1"), l.Node("n2"), l.Node("n3")
	hook := filepath.Join(n.Dir, "hook")
	if err := os.WriteFile(hook, []byte("#!/bin/sh\ncat >>"+hook+".log\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	n.WriteConfig(n.Config() + fmt.Sprintf("\n[hooks]\non_attach = %q\n", hook))
	l.Start()
	nearBlock, farBlock := block(t, near, pool4).String(), block(t, far, pool4).String()
	f := following(t, n)

	n.Attach("web", "--label", "tier=front")
	e := f.expect(soon, "the attach", attached("web"))
	if e.Endpoint.Labels["tier"] != "front" || e.Endpoint.ID != show[agent.Endpoint](t, n, "endpoints/web").ID {
		t.Errorf("attached: %s", told(e))
	}
	n.Fairlead("detach", "web")
	f.expect(soon, "the detach", func(e agent.Event) bool { return e.Event == "endpoint-detached" && e.Endpoint.Name == "web" })

	n.IP("route del " + nearBlock)
	e = f.expect(soon, "the repair", func(e agent.Event) bool { return e.Event == "repaired" })
	if e.Repaired["route"] != 1 || len(e.Repaired) != 1 {
		t.Errorf("repaired: %s", told(e))
	}

	near.Kill() // its routes are kept for its return
	f.expect(3*time.Second, "the end of the session", ofPeer("peer-down", near))
	near.Start()
	e = f.expect(20*time.Second, "the new session", ofPeer("peer-up", near))
	if e.Peer.State != "established" || e.Peer.Node != "n2" {
		t.Errorf("up: %s", told(e))
	}
	near.WaitConverged(20 * time.Second)

	far.Unplug()
	e = f.expect(10*time.Second, "the end of the session", ofPeer("peer-down", far))
	if !strings.Contains(e.Peer.LastError, "hold timer") {
		t.Errorf("down: %s", told(e))
	}
	f.expect(3*time.Second, "the end of the route", ofRoute("route-removed", farBlock), "route-removed")
	far.Plug()
	f.expect(20*time.Second, "the route", ofRoute("route-added", farBlock), "route-removed peer-up route-added")
	n.WaitConverged(20 * time.Second)

	n.Kill()
	if code := f.end(); code != 1 || !strings.Contains(f.stderr.String(), "the daemon at "+n.Socket()+" has ended") {
		t.Errorf("the daemon is gone: exit code %d: %s", code, f.stderr.String())
	}
	restartIsQuiet(t, l, n)
	nettest.Eventually(t, 5*time.Second, func() error {
		if got := named(t, hook+".log"); got != "web last" {
			return fmt.Errorf("the hook ran for %q", got)
		}
		return nil
	})
}

// restartIsQuiet starts the daemon again: of all that it finds as it left it, a follower hears nothing.
func restartIsQuiet(t *testing.T, l *nettest.Lab, n *nettest.Node) {
	t.Helper()
	n.Start()
	nettest.Eventually(t, 10*time.Second, func() error {
		var s agent.Status
		return n.Get("status", &s)
	})
	f := following(t, n)
	detached := following(t, n, "--types", "endpoint-detached")
	for _, node := range l.Nodes {
		node.WaitConverged(20 * time.Second)
	}
	n.Attach("last")
	f.expect(soon, "the attach", attached("last"), "peer-up")
	n.Fairlead("detach", "last")
	detached.expect(soon, "the detach", func(e agent.Event) bool { return e.Event == "endpoint-detached" })
	for who, s := range map[*follower]os.Signal{f: syscall.SIGINT, detached: syscall.SIGTERM} {
		if err := who.cmd.Process.Signal(s); err != nil {
			t.Fatal(err)
		}
		if code := who.end(); code != 0 || who.stderr.Len() > 0 {
			t.Errorf("%v: exit code %d: %s", s, code, who.stderr.String())
		}
	}
}

// named is the endpoints of the events in a file.
func named(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for line := range strings.Lines(string(text)) {
		names = append(names, decode[agent.Event](t, line).Endpoint.Name)
	}
	return strings.Join(names, " ")
}
