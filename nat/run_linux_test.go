package nat_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/nat"
	"github.com/fairlead-net/fairlead/nettest"
	"github.com/fairlead-net/fairlead/reconcile"
)

// trap puts programs before iptables and ip6tables that hang for the seconds in the file "hang" while it is there, and
// then say nothing, and else become the real one.
// They note their process in "pid" and each run in "runs".
func trap(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	for _, name := range []string{"iptables", "ip6tables"} {
		real, err := exec.LookPath(name)
		must(t, err)
		script := fmt.Sprintf("#!/bin/sh\necho $$ > %[1]s/pid\necho run >> %[1]s/runs\n[ -e %[1]s/hang ] && exec sleep $(cat %[1]s/hang)\nexec %[2]s \"$@\"\n", dir, real)
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755))
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	return dir
}

// TestIPTablesThatHangsIsEnded: it holds up neither the pass, for longer than the pass will wait, nor what comes after it.
func TestIPTablesThatHangsIsEnded(t *testing.T) {
	use(t, "nft")
	dir := trap(t)
	h := newHost(t)
	guard(t, h)
	chain := h.k.Input(0)
	settle(t, reconcile.NewTable("guard", chain), rules())
	hang := filepath.Join(dir, "hang")
	must(t, os.WriteFile(hang, []byte("60"), 0o600))
	for what, act := range map[string]func(ctx context.Context) error{
		"list": func(ctx context.Context) error { _, err := chain.List(ctx); return err },
		"put": func(ctx context.Context) error {
			return chain.Put(ctx, nat.EntryKey{Name: "gre", Family: 6}, nat.Drop("-p 47"))
		},
		"delete": func(ctx context.Context) error { return chain.Delete(ctx, nat.EntryKey{Name: "gre", Family: 4}) },
		"count":  func(ctx context.Context) error { _, err := chain.Dropped(ctx); return err },
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		begun := time.Now()
		err := act(ctx)
		cancel()
		if took := time.Since(begun); !errors.Is(err, context.DeadlineExceeded) || took > 5*time.Second {
			t.Errorf("%s: %v after %v", what, err, took)
		}
		checkEnded(t, dir)
	}
	must(t, os.Remove(hang))
	settle(t, reconcile.NewTable("guard", chain), rules())
}

// TestIPTablesThatIsSlowHoldsAPassUpOnce: each run ends, but all that a pass would like to read, and to read again, would
// outlast the patience of who supervises the daemon.
func TestIPTablesThatIsSlowHoldsAPassUpOnce(t *testing.T) {
	use(t, "nft")
	dir := trap(t)
	h := newHost(t)
	guard(t, h)
	chain := h.k.Input(0)
	table := reconcile.NewTable("guard", chain)
	settle(t, table, rules())
	hang := filepath.Join(dir, "hang")
	must(t, os.WriteFile(hang, []byte("3"), 0o600))
	begun := time.Now()
	_, first := chain.List(t.Context())
	if took := time.Since(begun); !errors.Is(first, context.DeadlineExceeded) || took > 11*time.Second {
		t.Fatalf("list: %v after %v", first, took)
	}
	checkEnded(t, dir)
	must(t, os.Remove(filepath.Join(dir, "runs")))
	r := reconcile.Climb(t.Context(), table.Known(nil, rules(), nil))
	if _, again := chain.List(t.Context()); !errors.Is(again, first) || r.Clean() || !strings.Contains(r.Err().Error(), first.Error()) {
		t.Errorf("list: %v, and its rung: %v; at first: %v", again, r.Err(), first)
	}
	if _, err := os.Stat(filepath.Join(dir, "runs")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("iptables ran again at once: %v", err)
	}
	// It is tried again, and when it is quick by then all is well.
	must(t, os.Remove(hang))
	nettest.Eventually(t, 10*time.Second, func() error {
		_, err := chain.List(t.Context())
		return err
	})
	settle(t, table, rules())
	must(t, os.WriteFile(hang, []byte("3"), 0o600))
	begun = time.Now()
	failed := chain.Apply(t.Context(), map[nat.EntryKey]nat.Entry{{Name: "x", Family: 4}: nat.Drop("-p 47")}, []nat.EntryKey{{Name: "y", Family: 6}})
	if took := time.Since(begun); len(failed) != 2 || took > 11*time.Second {
		t.Errorf("apply: %v after %v", failed, took)
	}
	must(t, os.Remove(hang))
	settle(t, table, rules())
}

// checkEnded sees to it that the program which was started last is no more.
func checkEnded(t *testing.T, dir string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "pid"))
	must(t, err)
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	must(t, err)
	if err := unix.Kill(pid, 0); !errors.Is(err, unix.ESRCH) {
		t.Errorf("process %d is still there: %v", pid, err)
	}
}

func TestDroppedCounts(t *testing.T) {
	backends(t, func(t *testing.T, h host) {
		settle(t, reconcile.NewTable("source", h.k.Sets()), members(0))
		chain := h.k.Input(time.Hour)
		want := map[nat.EntryKey]nat.Entry{
			{Name: "vxlan", Family: 4}: nat.Drop("-p 17 -m udp --dport 4789 -m set ! --match-set fairlead-peers4 src"),
			{Name: "vxlan", Family: 6}: nat.Drop("-p 17 -m udp --dport 4789 -m set ! --match-set fairlead-peers6 src"),
		}
		settle(t, reconcile.NewTable("guard", chain), want)
		for _, to := range []string{"127.0.0.1/4789", "127.0.0.1/4789", "::1/4789", "127.0.0.1/4790"} {
			h.Run("bash", "-c", "echo x > /dev/udp/"+to)
		}
		dropped, err := chain.Dropped(t.Context())
		must(t, err)
		expect := map[nat.EntryKey]uint64{{Name: "vxlan", Family: 4}: 2, {Name: "vxlan", Family: 6}: 1}
		if diff := cmp.Diff(expect, dropped); diff != "" {
			t.Error(diff)
		}
		if out := h.iptables("-nvL FAIRLEAD-INPUT"); !strings.Contains(out, "/* vxlan */") {
			t.Errorf("people see:\n%s", out)
		}
	})
}

// TestCountersAreReadOnceForMany: whoever asks for the metrics, and however often, iptables runs rarely.
func TestCountersAreReadOnceForMany(t *testing.T) {
	use(t, "nft")
	dir := trap(t)
	h := newHost(t)
	settle(t, reconcile.NewTable("source", h.k.Sets()), members(0))
	chain := h.k.Input(time.Hour)
	table := reconcile.NewTable("guard", chain)
	want := rules()
	settle(t, table, want)
	must(t, os.Remove(filepath.Join(dir, "runs")))
	begun := time.Now()
	var askers sync.WaitGroup
	for range 8 {
		askers.Go(func() {
			for range 5 {
				if dropped, err := chain.Dropped(t.Context()); err != nil || len(dropped) != len(want) {
					t.Errorf("dropped %v, %v", dropped, err)
				}
			}
		})
	}
	askers.Wait()
	text, err := os.ReadFile(filepath.Join(dir, "runs"))
	must(t, err)
	// Twice, once for each family; and again for each two seconds that a slow machine took.
	if n := strings.Count(string(text), "run"); n < 2 || n > 2+2*int(time.Since(begun)/(2*time.Second)) {
		t.Errorf("%d runs of iptables in %v", n, time.Since(begun))
	}
	// What was counted meanwhile is told in the end, and what counts anew at once.
	vxlan := nat.EntryKey{Name: "vxlan", Family: 6}
	h.Run("bash", "-c", "echo x > /dev/udp/::1/4789")
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		dropped, err := chain.Dropped(t.Context())
		must(t, err)
		if dropped[vxlan] == 1 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("dropped %v", dropped)
		}
	}
	drain(chain)
	h.ip6tables("-F FAIRLEAD-INPUT")
	if !poked(chain) {
		t.Fatal("no poke")
	}
	settle(t, table, want)
	if dropped, err := chain.Dropped(t.Context()); err != nil || dropped[vxlan] != 0 {
		t.Errorf("dropped %v, %v", dropped, err)
	}
}
