package agent_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/agent"
	"github.com/fairlead-net/fairlead/nettest"
)

// hooked is an agent with hooks: shell scripts in a directory that they know as DIR.
type hooked struct {
	*agent.Agent
	t    *testing.T
	w    *world
	log  *journal
	dir  string
	box  string // a namespace for all endpoints: the kernel is not a real one
	src  *source
	stop func() // ends the agent
}

// hookedUp runs an agent whose hooks are scripts, "" = none.
func hookedUp(t *testing.T, onAttach, onDetach string, timeout time.Duration) *hooked {
	t.Helper()
	h := &hooked{t: t, w: newWorld(), log: new(journal), dir: t.TempDir(), box: nettest.NewHost(t, "box").Path}
	h.w.log = h.log
	cfg := config("10.88.1.0/24")
	cfg.Hooks = agent.Hooks{OnAttach: h.script("attach", onAttach), OnDetach: h.script("detach", onDetach), Timeout: timeout}
	cfg.Pools[0].Block = netip.MustParsePrefix("10.88.0.0/20")
	h.src = &source{cfg: cfg}
	h.Agent = prepare(t, h.w, cfg, h.src)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- h.Run(ctx) }()
	h.stop = sync.OnceFunc(func() {
		cancel()
		<-ended
	})
	t.Cleanup(h.stop)
	return h
}

// script writes a program and returns its path.
func (h *hooked) script(name, text string) string {
	h.t.Helper()
	if text == "" {
		return ""
	}
	path := filepath.Join(h.dir, name)
	text = "#!/bin/sh\nDIR=" + h.dir + "\n" + text + "\n"
	if err := os.WriteFile(path, []byte(text), 0o700); err != nil {
		h.t.Fatal(err)
	}
	return path
}

func (h *hooked) attach(name string) agent.Endpoint {
	h.t.Helper()
	e, _, err := h.Attach(h.t.Context(), agent.AttachRequest{Name: name, NetNS: h.box})
	if err != nil {
		h.t.Error(err)
	}
	return e
}

// runs is how many events came to such an end.
func (h *hooked) runs(hook, result string) int {
	h.t.Helper()
	return int(metric(h.t, h.Agent, "fairlead_hook_runs_total", "hook="+hook, "result="+result))
}

// await waits for so many events to come to such an end.
func (h *hooked) await(hook, result string, n int) {
	h.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); h.runs(hook, result) < n; time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			h.t.Fatalf("%s: %d %s, want %d; log: %q", hook, h.runs(hook, result), result, n, h.log.said())
		}
	}
}

// lines are those of a file of the directory; none when it is not there.
func (h *hooked) lines(name string) []string {
	h.t.Helper()
	text, err := os.ReadFile(filepath.Join(h.dir, name))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		h.t.Fatal(err)
	}
	return slices.Collect(strings.Lines(string(text)))
}

// pid is a process that a script has noted.
func (h *hooked) pid(name string) int {
	h.t.Helper()
	eventually(h.t, name, func() bool { return len(h.lines(name)) == 1 })
	pid, err := strconv.Atoi(strings.TrimSpace(h.lines(name)[0]))
	if err != nil {
		h.t.Fatal(err)
	}
	return pid
}

// ended tells whether a process has ended. A zombie has, and is its parent's business.
func ended(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true
	}
	_, state, _ := strings.Cut(string(stat), ") ")
	return strings.HasPrefix(state, "Z")
}

// said is what was logged about hooks.
func (j *journal) said() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(j.lines), func(l string) bool { return !strings.Contains(l, "hook") })
}

// noZombie wants no child of this process that has ended and was not waited for.
func noZombie(t *testing.T) {
	t.Helper()
	var info unix.Siginfo
	err := unix.Waitid(unix.P_ALL, 0, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
	if err != nil && !errors.Is(err, unix.ECHILD) {
		t.Fatal(err)
	}
	if info.Signo != 0 {
		t.Error("there is a zombie")
	}
}

func TestAHookGetsTheEventAndNothingElse(t *testing.T) {
	h := hookedUp(t, `tr '\0' '\n' </proc/$$/environ >$DIR/environ; pwd >$DIR/pwd; echo $# >$DIR/arguments; cat >$DIR/event`, "", 5*time.Second)
	t.Setenv("FAIRLEAD_BGP_ASN", "64513")
	web := h.attach("web")
	h.await("on_attach", "ok", 1)
	var e agent.Event
	line := h.lines("event")
	if len(line) != 1 || json.Unmarshal([]byte(line[0]), &e) != nil || e.Event != "endpoint-attached" || e.Endpoint.ID != web.ID {
		t.Errorf("standard input: %q", line)
	}
	for file, want := range map[string]string{
		"environ":   "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n",
		"pwd":       "/\n",
		"arguments": "0\n",
	} {
		if got := strings.Join(h.lines(file), ""); got != want {
			t.Errorf("%s: %q, want %q", file, got, want)
		}
	}
	if err := h.Detach(t.Context(), "web"); err != nil {
		t.Error(err)
	}
	if said := h.log.said(); len(said) > 0 {
		t.Errorf("a hook that works is logged: %q", said)
	}
	h.stop()
	noZombie(t)
}

// TestEventsOfAnEndpointReachHooksInOrder: also when each run takes another time.
func TestEventsOfAnEndpointReachHooksInOrder(t *testing.T) {
	const note = `read -r e; sleep 0.0$(($$ % 5)); echo "$e" >>$DIR/all`
	h := hookedUp(t, note, note, 10*time.Second)
	names, rounds := []string{"a", "b", "c", "d", "e", "f"}, 6
	var all sync.WaitGroup
	for _, name := range names {
		all.Go(func() {
			for range rounds {
				h.attach(name)
				if err := h.Detach(t.Context(), name); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	h.await("on_attach", "ok", len(names)*rounds)
	h.await("on_detach", "ok", len(names)*rounds)
	got := map[string][]string{}
	for _, line := range h.lines("all") {
		var e agent.Event
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		got[e.Endpoint.Name] = append(got[e.Endpoint.Name], fmt.Sprintf("%s %d", e.Event, e.Revision))
		if n := len(got[e.Endpoint.Name]); (n%2 == 1) != (e.Event == "endpoint-attached") {
			t.Fatalf("%s: out of order: %q", e.Endpoint.Name, got[e.Endpoint.Name])
		}
	}
	if len(got) != len(names) {
		t.Errorf("got %v", got)
	}
}

func TestAHookThatHangsEndsWithAllThatItStarted(t *testing.T) {
	h := hookedUp(t, `sleep 600 & echo $! >$DIR/child; echo $$ >$DIR/self; echo "waiting for the moon"; exec sleep 600`, "", 400*time.Millisecond)
	h.attach("web")
	self, child := h.pid("self"), h.pid("child")
	if ended(self) || ended(child) {
		t.Error("it does not run at all")
	}
	h.await("on_attach", "timeout", 1)
	eventually(t, "the group is dead", func() bool { return ended(self) && ended(child) })
	said := h.log.said()
	if len(said) != 1 || !strings.Contains(said[0], "timeout") || !strings.Contains(said[0], "said=waiting for the moon") || !strings.Contains(said[0], "endpoint=web") {
		t.Errorf("log: %q", said)
	}
	noZombie(t)
}

func TestWhatAHookLeavesBehindEndsWithIt(t *testing.T) {
	h := hookedUp(t, `sleep 600 & echo $! >$DIR/child; setsid sh -c 'echo $$ >'$DIR'/stray; exec sleep 3' & sleep 0.2`, "", 5*time.Second)
	begun := time.Now()
	h.attach("web")
	child, stray := h.pid("child"), h.pid("stray")
	h.await("on_attach", "ok", 1)
	// One that left the group holds the pipe; it is not waited for.
	if took := time.Since(begun); took > 2500*time.Millisecond || ended(stray) {
		t.Errorf("a stray process is waited for: %v", took)
	}
	eventually(t, "its child is dead", func() bool { return ended(child) })
	_ = unix.Kill(stray, unix.SIGKILL)
}

func TestAHookThatFailsIsNamed(t *testing.T) {
	h := hookedUp(t, `echo; printf 'no route to\033[2J the controller\nsecond line\n' >&2; exit 3`, "exit 0", 5*time.Second)
	h.attach("web")
	h.await("on_attach", "failed", 1)
	if said := h.log.said(); len(said) != 1 || !strings.Contains(said[0], "exit status 3 said=no route to[2J the controller") || strings.Contains(said[0], "second") {
		t.Errorf("log: %q", said)
	}
	if err := os.Remove(filepath.Join(h.dir, "detach")); err != nil {
		t.Fatal(err)
	}
	if err := h.Detach(t.Context(), "web"); err != nil {
		t.Error(err)
	}
	h.await("on_detach", "failed", 1)
	if said := h.log.said(); len(said) != 2 || !strings.Contains(said[1], "no such file") {
		t.Errorf("log: %q", said)
	}
}

// TestAHookNeedNotReadAndMayTalk: neither a large event that nobody reads nor a flood of words holds anything up.
func TestAHookNeedNotReadAndMayTalk(t *testing.T) {
	h := hookedUp(t, `head -c 20000000 /dev/zero; head -c 20000000 /dev/zero >&2`, "", 20*time.Second)
	labels := map[string]string{}
	for i := range 64 {
		labels[fmt.Sprint("k", i)] = strings.Repeat("<", 1000) // six bytes each in JSON
	}
	if _, _, err := h.Attach(t.Context(), agent.AttachRequest{Name: "web", NetNS: h.box, Labels: labels}); err != nil {
		t.Fatal(err)
	}
	h.await("on_attach", "ok", 1)
}

// TestAFloodOfAttachesDoesNotWaitForHooks: a thousand attaches while every hook hangs. The rest is dropped, and said so.
func TestAFloodOfAttachesDoesNotWaitForHooks(t *testing.T) {
	const flood = 1000
	h := hookedUp(t, `: >$DIR/run-$$; while ! [ -e $DIR/gate ]; do sleep 0.05; done`, "", time.Minute)
	var all sync.WaitGroup
	names := make(chan string, flood)
	for i := range flood {
		names <- fmt.Sprint("web", i)
	}
	close(names)
	begun := time.Now()
	for range 32 {
		all.Go(func() {
			for name := range names {
				h.attach(name)
			}
		})
	}
	all.Wait()
	t.Logf("%d attaches took %v", flood, time.Since(begun))
	h.await("on_attach", "dropped", flood-agent.HooksAtOnce-agent.HooksQueued)
	atOnce, err := filepath.Glob(filepath.Join(h.dir, "run-*"))
	if err != nil || len(atOnce) != agent.HooksAtOnce || h.runs("on_attach", "ok") != 0 {
		t.Errorf("%d hooks run at once and %d have ended: %v", len(atOnce), h.runs("on_attach", "ok"), err)
	}
	if err := os.WriteFile(filepath.Join(h.dir, "gate"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	h.await("on_attach", "ok", agent.HooksAtOnce+agent.HooksQueued)
	if n := h.runs("on_attach", "dropped"); n != flood-agent.HooksAtOnce-agent.HooksQueued {
		t.Errorf("%d dropped", n)
	}
	want := []string{
		"too many events wait for hooks: events are dropped waiting=256",
		fmt.Sprintf("no event waits for a hook any more dropped=%d", flood-agent.HooksAtOnce-agent.HooksQueued),
	}
	if diff := cmp.Diff(want, h.log.said()); diff != "" {
		t.Errorf("log: want -, got +:\n%s", diff)
	}
}

func TestAReloadChangesHooks(t *testing.T) {
	h := hookedUp(t, `echo old >>$DIR/all`, "", 5*time.Second)
	second := h.script("second", `echo new >>$DIR/all`)
	reload := func(onAttach string) {
		t.Helper()
		h.src.mu.Lock()
		h.src.cfg.Hooks.OnAttach = onAttach
		h.src.mu.Unlock()
		if _, err := h.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	h.attach("a")
	h.await("on_attach", "ok", 1)
	reload("")
	h.attach("b")
	reload("") // and by now a later pass is over
	reload(second)
	h.attach("c")
	h.await("on_attach", "ok", 2)
	if diff := cmp.Diff([]string{"old\n", "new\n"}, h.lines("all")); diff != "" {
		t.Errorf("want -, got +:\n%s", diff)
	}
}

func TestTheDaemonsEndEndsHooks(t *testing.T) {
	h := hookedUp(t, `echo $$ >$DIR/run-$$; exec sleep 600`, "", time.Minute)
	for i := range 2 * agent.HooksAtOnce {
		h.attach(fmt.Sprint("web", i))
	}
	var running []string
	eventually(t, "hooks run", func() bool {
		running, _ = filepath.Glob(filepath.Join(h.dir, "run-*"))
		return len(running) == agent.HooksAtOnce
	})
	begun := time.Now()
	h.stop()
	if took := time.Since(begun); took > 3*time.Second {
		t.Errorf("the daemon ended after %v", took)
	}
	for _, run := range running {
		if pid := h.pid(filepath.Base(run)); !ended(pid) {
			t.Errorf("%d still runs", pid)
		}
	}
	noZombie(t)
	if got := h.runs("on_attach", "dropped"); got != agent.HooksAtOnce {
		t.Errorf("%d dropped, want those that waited", got)
	}
	if got := h.runs("on_attach", "failed"); got != agent.HooksAtOnce {
		t.Errorf("%d failed, want those that were cut off", got)
	}
}
