package story_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/agent"
	"github.com/fairlead-net/fairlead/nettest"
)

// watcher is a `fairlead trace --live` that runs.
type watcher struct {
	cmd   *exec.Cmd
	lines chan agent.Sighting
	fault strings.Builder
}

// watch starts one and waits until the daemon tells it of packets, which the caller sends.
func watch(t *testing.T, n *nettest.Node, args ...string) *watcher {
	t.Helper()
	w := &watcher{lines: make(chan agent.Sighting, 1024)}
	w.cmd = exec.CommandContext(t.Context(), binary, append([]string{"trace", "--live", "-o", "json", "--socket", n.Socket()}, args...)...)
	w.cmd.Stderr = &w.fault
	out, err := w.cmd.StdoutPipe()
	if err == nil {
		err = w.cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.cmd.Process.Kill() })
	go func() {
		defer close(w.lines)
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			var s agent.Sighting
			if json.Unmarshal(lines.Bytes(), &s) == nil {
				w.lines <- s
			}
		}
		_, _ = io.Copy(io.Discard, out)
	}()
	return w
}

// sees sends packets until the watcher is told of one that is as wanted.
func (w *watcher) sees(t *testing.T, from, to *nettest.Container, good func(agent.Sighting) bool) {
	t.Helper()
	var all []agent.Sighting
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if _, err := from.Ask(to.IP4); err != nil {
			t.Fatal(err)
		}
		for done := false; !done; {
			select {
			case s, open := <-w.lines:
				if !open {
					t.Fatalf("it ended: %s", &w.fault)
				}
				if all = append(all, s); good(s) {
					return
				}
			default:
				done = true
			}
		}
	}
	t.Fatalf("what was waited for was not told: %+v: %s", all, &w.fault)
}

// TestTraceFollowsPackets: each packet of the pair is told with its way, and of no other; a follower that is killed, and a
// daemon that is killed, leave nobody followed.
func TestTraceFollowsPackets(t *testing.T) {
	l := running(t, nettest.LabOptions{Nodes: []string{"n1", "n2"}, Fastpath: "on"})
	n1 := l.Nodes[0]
	web, near, far := n1.Attach("web"), n1.Attach("near"), l.Nodes[1].Attach("far")
	for _, c := range []*nettest.Container{web, near, far} {
		c.Serve(c.IP4)
	}
	l.WaitFast(fastSoon)
	mapped := fmt.Sprintf("udp/%d", mirrorPort)
	first := watch(t, n1, "web", "near", mapped)
	first.sees(t, web, near, func(s agent.Sighting) bool {
		return s.From == web.IP4 && s.To == near.IP4 && s.Way == "fast-local" && s.Proto == "udp" && s.ToPort == mirrorPort && s.Length > 42 && time.Since(s.Time).Abs() < time.Minute
	})
	first.sees(t, web, near, func(s agent.Sighting) bool { return s.From == near.IP4 && s.FromPort == mirrorPort })
	if _, err := web.Ask(far.IP4); err != nil {
		t.Fatal(err)
	}
	first.sees(t, web, near, func(s agent.Sighting) bool {
		if s.From == far.IP4 || s.To == far.IP4 {
			t.Errorf("told of a packet of another pair: %+v", s)
		}
		return true
	})

	second := n1.CLI("trace", "--live", "web", far.IP4.String())
	if second.Code != 1 || !strings.Contains(second.Stderr, "end the other fairlead trace --live first") {
		t.Errorf("a second follower: exit code %d: %s", second.Code, second.Stderr)
	}
	if err := first.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	third := again(t, n1, "web", far.IP4.String())
	third.sees(t, web, far, func(s agent.Sighting) bool { return s.To == far.IP4 && s.Way == "fast-direct" })
	third.sees(t, web, far, func(s agent.Sighting) bool {
		return s.From == far.IP4 && s.Way == "fast-from-direct" && s.Link == "eth0"
	})

	n1.Kill()
	n1.Start()
	n1.WaitReady(20 * time.Second)
	fourth := again(t, n1, "web", "near", "--count", "3")
	count := 0
	fourth.sees(t, web, near, func(agent.Sighting) bool { count++; return count == 3 })
	if err := fourth.cmd.Wait(); err != nil {
		t.Errorf("after --count packets: %v: %s", err, &fourth.fault)
	}
}

// again follows as soon as nobody else does.
func again(t *testing.T, n *nettest.Node, args ...string) *watcher {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
		w := watch(t, n, args...)
		select {
		case _, open := <-w.lines:
			if open {
				return w
			}
			_ = w.cmd.Wait()
		case <-time.After(500 * time.Millisecond):
			return w
		}
	}
	t.Fatal("somebody is followed for ever")
	return nil
}
