package nat_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/nat"
	"github.com/fairlead-net/fairlead/nettest"
	"github.com/fairlead-net/fairlead/reconcile"
)

func TestDaemonsShareTheirPins(t *testing.T) {
	a, b, dir := newHost(t), newHost(t), pinFS(t)
	holdsA, holdsB := a.holds(t, dir), b.holds(t, dir)
	p := port("0.0.0.0:8000", "tcp")
	must(t, holdsA.Put(t.Context(), p, ""))
	must(t, holdsB.Put(t.Context(), port("0.0.0.0:9000", "tcp"), ""))
	theft{"0.0.0.0:8000", "tcp", 0, nil}.refused(t, a)
	theft{"0.0.0.0:8000", "tcp", 0, nil}.allowed(t, b)
	theft{"0.0.0.0:9000", "tcp", 0, nil}.allowed(t, a)
	theft{"0.0.0.0:9000", "tcp", 0, nil}.refused(t, b)
	must(t, holdsB.Delete(t.Context(), p)) // not b's
	settle(t, reconcile.NewTable("port", holdsB), map[nat.Port]nat.Fault{})
	theft{"0.0.0.0:9000", "tcp", 0, nil}.allowed(t, b)
	theft{"0.0.0.0:8000", "tcp", 0, nil}.refused(t, a)
	settle(t, reconcile.NewTable("port", holdsA), map[nat.Port]nat.Fault{})
	if _, err := os.Lstat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the pins are left: %v", err)
	}
	must(t, holdsA.Put(t.Context(), p, ""))
	must(t, holdsB.Delete(t.Context(), p)) // b has been open all the time, with what is pinned no more
	if _, err := os.Lstat(dir); err != nil {
		t.Errorf("b took the pins of a: %v", err)
	}
	must(t, holdsB.Put(t.Context(), p, ""))
	theft{"0.0.0.0:8000", "tcp", 0, nil}.refused(t, b)
	theft{"0.0.0.0:8000", "tcp", 0, nil}.refused(t, a)
}

// TestDaemonsComeAndGo has daemons of four hosts hold and let go of their last port all the time: who goes last takes the
// pins away from under nobody.
func TestDaemonsComeAndGo(t *testing.T) {
	dir, p := pinFS(t), port("0.0.0.0:8000", "tcp")
	var all sync.WaitGroup
	for range 4 {
		h := newHost(t)
		holds := h.holds(t, dir)
		all.Go(func() {
			for range 5 {
				if err := holds.Claim(t.Context(), p); err != nil {
					t.Error(err)
				}
				theft{"0.0.0.0:8000", "tcp", 0, nil}.refused(t, h)
				holds.Settle(p)
				theft{"0.0.0.0:8000", "tcp", 0, nil}.refused(t, h)
				if err := holds.Delete(t.Context(), p); err != nil {
					t.Error(err)
				}
				theft{"0.0.0.0:8000", "tcp", 0, nil}.allowed(t, h)
			}
		})
	}
	all.Wait()
	if _, err := os.Lstat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the pins are left: %v", err)
	}
}

// TestAPortFoundTakenIsReportedUntilItIsFree also over a restart: what the program has it had before.
func TestAPortFoundTakenIsReportedUntilItIsFree(t *testing.T) {
	h, dir := newHost(t), pinFS(t)
	fd := theft{"0.0.0.0:8000", "tcp", 0, map[int]int{unix.SO_REUSEPORT: 1}}.kept(t, h)
	want := map[nat.Port]nat.Fault{port("0.0.0.0:8000", "tcp"): "", port("0.0.0.0:8001", "tcp"): ""}
	for range 2 {
		table := reconcile.NewTable("port", h.holds(t, dir)).Alone()
		for range 2 {
			r := reconcile.Climb(t.Context(), table.Rung(want, nil))
			if len(r.Failures) != 1 || !errors.Is(r.Err(), nat.ErrTaken) || !strings.Contains(r.Err().Error(), fmt.Sprintf("8000/tcp is in use by nat.test (process %d)", os.Getpid())) {
				t.Fatalf("the pass says %v", r.Err())
			}
			theft{"0.0.0.0:8000", "tcp", 0, map[int]int{unix.SO_REUSEPORT: 1}}.refused(t, h) // nobody joins it
		}
	}
	must(t, unix.Close(fd))
	table := reconcile.NewTable("port", h.holds(t, dir))
	settle(t, table, want)
	theft{"0.0.0.0:8000", "tcp", 0, nil}.refused(t, h)
}

// TestWhatHappensToThePinsIsMended breaks them in every way, with the daemon running or before the next one starts.
func TestWhatHappensToThePinsIsMended(t *testing.T) {
	unpin := func(names ...string) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			for _, name := range names {
				must(t, os.Remove(filepath.Join(dir, name)))
			}
		}
	}
	all := []string{"hold-bind4-1", "hold-bind6-1", "hold-ports-1", "hold-excused-1"}
	for _, c := range []struct {
		name  string
		when  []string // another program in its place is noticed at the start only
		spoil func(t *testing.T, dir string)
		left  int // rows that a daemon finds which starts after that
	}{
		{"one link unpinned", []string{"running"}, unpin(all[0]), 2},
		{"the map unpinned", []string{"not running"}, unpin(all[2]), 0},
		{"everything unpinned", []string{"running"}, unpin(all...), 0},
		{"a link detached", []string{"running", "not running"}, func(t *testing.T, dir string) {
			l, err := link.LoadPinnedLink(filepath.Join(dir, all[1]), nil)
			must(t, err)
			must(t, l.Detach())
			must(t, l.Close())
		}, 2},
		{"another program in the link", []string{"not running"}, func(t *testing.T, dir string) {
			l, err := link.LoadPinnedLink(filepath.Join(dir, all[0]), nil)
			must(t, err)
			lax, err := ebpf.NewProgram(&ebpf.ProgramSpec{
				Type: ebpf.CGroupSockAddr, AttachType: ebpf.AttachCGroupInet4Bind, License: "GPL",
				Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()},
			})
			must(t, err)
			must(t, l.Update(lax))
			must(t, errors.Join(lax.Close(), l.Close()))
		}, 2},
	} {
		for _, when := range c.when {
			t.Run(c.name+", daemon "+when, func(t *testing.T) {
				h, dir := newHost(t), pinFS(t)
				holds := h.k.Holds(dir)
				want := map[nat.Port]nat.Fault{port("0.0.0.0:8000", "tcp"): "", port("[::]:8000", "tcp"): ""}
				table := reconcile.NewTable("port", holds)
				settle(t, table, want)
				if when == "running" {
					c.spoil(t, dir)
				} else {
					must(t, holds.Close())
					c.spoil(t, dir)
					holds = h.holds(t, dir)
					if have, err := holds.List(t.Context()); err != nil || len(have) != c.left {
						t.Errorf("after a start: %v, %v", have, err)
					}
					table = reconcile.NewTable("port", holds)
				}
				settle(t, table, want)
				theft{"0.0.0.0:8000", "tcp", 0, nil}.refused(t, h)
				theft{"[::]:8000", "tcp", 1, nil}.refused(t, h)
				if pins, err := os.ReadDir(dir); err != nil || len(pins) != len(all) {
					t.Errorf("pins: %v, %v", pins, err)
				}
				settle(t, table, map[nat.Port]nat.Fault{})
				theft{"0.0.0.0:8000", "tcp", 0, nil}.allowed(t, h)
				must(t, holds.Close())
			})
		}
	}
}

func TestWithoutPinsTheDaemonItselfHoldsThePorts(t *testing.T) {
	h, dir := newHost(t), nettest.NewDir(t, "") // an ordinary directory
	holds := h.holds(t, filepath.Join(dir, "fairlead"))
	p := port("0.0.0.0:8000", "tcp")
	must(t, holds.Claim(t.Context(), p, port("[::]:8000", "tcp"), port("127.0.0.1:8001", "udp")))
	if why := holds.Weak(); why != dir+"/fairlead is in no bpf file system" {
		t.Errorf("weak: %q", why)
	}
	both := map[int]int{unix.SO_REUSEADDR: 1, unix.SO_REUSEPORT: 1}
	theft{"0.0.0.0:8000", "tcp", 0, both}.refused(t, h)
	theft{"[::]:8000", "tcp", 0, both}.refused(t, h)
	theft{"0.0.0.0:8001", "udp", 0, both}.refused(t, h)
	if have, err := holds.List(t.Context()); err != nil || len(have) != 0 {
		t.Errorf("claimed ports are listed: %v, %v", have, err)
	}
	holds.Settle(p, port("[::]:8000", "tcp"), port("127.0.0.1:8001", "udp"))
	fd := theft{"0.0.0.0:8002", "tcp", 0, nil}.kept(t, h)
	defer unix.Close(fd)
	if err := holds.Claim(t.Context(), port("0.0.0.0:8003", "tcp"), port("0.0.0.0:8002", "tcp")); !errors.Is(err, nat.ErrTaken) || !strings.Contains(err.Error(), fmt.Sprintf("(process %d)", os.Getpid())) {
		t.Errorf("claim of a taken port: %v", err)
	}
	theft{"0.0.0.0:8003", "tcp", 0, nil}.allowed(t, h)
	if err := holds.Put(t.Context(), port("0.0.0.0:8002", "tcp"), ""); !errors.Is(err, nat.ErrTaken) {
		t.Errorf("put of a taken port: %v", err)
	}
	table := reconcile.NewTable("port", holds)
	settle(t, table, map[nat.Port]nat.Fault{p: ""})
	theft{"[::]:8000", "tcp", 1, nil}.allowed(t, h)
	theft{"0.0.0.0:8000", "tcp", 0, nil}.refused(t, h)
	said := killedHolder(t, newHost(t), filepath.Join(dir, "other"))
	if !strings.Contains(said, "is in no bpf file system") {
		t.Errorf("another holder says %q", said)
	}
	settle(t, table, map[nat.Port]nat.Fault{})
	theft{"0.0.0.0:8000", "tcp", 0, nil}.allowed(t, h)
}
