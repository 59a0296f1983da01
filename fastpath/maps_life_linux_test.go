package fastpath

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/fairlead-net/fairlead/reconcile"
)

// dirVariable makes this binary a daemon that only adopts the maps that are pinned below that directory.
const dirVariable = "FASTPATH_ADOPT"

// TestKilledWhileMapsAreMadeAnew ends a daemon at each call that makes, fills, or moves a pin. Whatever it has done until
// then, the next one finds every row and every flow.
func TestKilledWhileMapsAreMadeAnew(t *testing.T) {
	strace, err := exec.LookPath("strace")
	mustBe(t, err)
	r := newTableRig(t)
	sizes := Sizes{Endpoints: 16, Routes: 16, Flows: 1024}
	tb := r.open(sizes)
	check := populated(t, r, tb)
	mustBe(t, tb.close())
	kills := 0
	for _, call := range []string{"renameat", "renameat2", "bpf"} {
		ended, step := false, 1
		for n := 1; !ended; n += step {
			if call == "bpf" && n > 40 {
				step = 7 // each map is made anew in the same way
			}
			cmd := exec.CommandContext(t.Context(), "nsenter", "--net="+r.Path, "--", strace, "-f", "-qq", "-o", "/dev/null",
				"-e", "trace="+call, "-e", fmt.Sprintf("inject=%s:signal=KILL:when=%d", call, n), os.Args[0], "-test.run=^TestAdoptsForAnother$")
			cmd.Env = append(os.Environ(), dirVariable+"="+r.pins)
			out, err := cmd.CombinedOutput()
			if ended = err == nil; !ended {
				kills++
				if status, is := cmd.ProcessState.Sys().(syscall.WaitStatus); !is || status.Signal() != syscall.SIGKILL {
					t.Fatalf("%s %d: %v: %s", call, n, err, out)
				}
			}
			next := r.open(sizes) // what was made anew already is made again as it was
			check(t, next)
			mustBe(t, next.close())
			for name := range r.pinned() {
				if strings.HasSuffix(name, beside) {
					t.Errorf("%s %d left %s", call, n, name)
				}
			}
			if t.Failed() {
				t.Fatalf("after %s %d", call, n)
			}
		}
	}
	if kills < 50 {
		t.Errorf("killed %d times only", kills)
	}
	t.Logf("killed %d times", kills)
}

// TestAdoptsForAnother is the daemon that is killed. By itself it adopts for nobody.
func TestAdoptsForAnother(t *testing.T) {
	pins := os.Getenv(dirVariable)
	if pins == "" {
		pins = newTableRig(t).pins
	}
	// One thread makes all calls, so that they are counted together.
	err := apart(func() error {
		dir, err := dirHere(pins)
		if err != nil {
			return err
		}
		lock, err := lockDir(dir)
		if err != nil {
			return err
		}
		defer lock.Close()
		spec, err := loadDatapath()
		if err != nil {
			return err
		}
		tb, err := openTables(dir, spec, Sizes{Endpoints: 32, Routes: 32, Flows: 2048})
		if err != nil {
			return err
		}
		return tb.close()
	})
	mustBe(t, err)
}

// TestDirectoriesAreOfTheirNamespaces, and one is worked at by one daemon at a time.
func TestDirectoriesAreOfTheirNamespaces(t *testing.T) {
	t.Parallel() // it waits
	a, b := newTableRig(t), newTableRig(t)
	b.pins = a.pins
	if a.dir() == b.dir() || !strings.HasPrefix(filepath.Base(a.dir()), "fast-") || filepath.Dir(a.dir()) != a.pins {
		t.Errorf("%s and %s", a.dir(), b.dir())
	}
	ta, tb := a.open(Sizes{}), b.open(Sizes{})
	settle(t, ta.Nodes(), map[netip.Addr]Node{ip("192.0.2.2"): {}})
	holds(t, tb.Nodes(), nil)
	lock, err := lockDir(a.dir())
	mustBe(t, err)
	if _, err := lockDir(a.dir()); !errors.Is(err, errBusy) {
		t.Errorf("locked twice: %v", err)
	}
	mustBe(t, lock.Close())
	lock, err = lockDir(a.dir())
	mustBe(t, err)
	mustBe(t, lock.Close())
	if _, err := lockDir(t.TempDir()); err == nil {
		t.Error("pins go where there can be none")
	}
}

// TestListsWhileOthersWrite have every row that was there all the time.
func TestListsWhileOthersWrite(t *testing.T) {
	r := newTableRig(t)
	tb := r.open(Sizes{Endpoints: 8, Routes: 4000, Flows: 8})
	keep, noise := make(map[netip.Addr]Node), make([]netip.Addr, 0, 1000)
	for i := range 1000 {
		keep[netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)})] = Node{}
		noise = append(noise, netip.AddrFrom4([4]byte{10, 2, byte(i >> 8), byte(i)}))
	}
	none(t, bulk(t, tb.Nodes())(keep))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		ones := slices.Repeat([]uint32{known}, len(noise))
		for ctx.Err() == nil {
			tb.nodes().write(ctx, noise, ones)
			tb.nodes().erase(ctx, noise)
		}
	}()
	for range 50 {
		have, err := tb.Nodes().List(t.Context())
		mustBe(t, err)
		for a := range keep {
			if _, there := have[a]; !there {
				t.Fatalf("%v is not listed, of %d", a, len(have))
			}
		}
	}
	cancel()
	<-done
	table := reconcile.NewTable("node", tb.Nodes())
	if r := reconcile.Climb(t.Context(), table.Rung(keep, nil)); !r.Clean() {
		t.Error(r.Err())
	}
	equals(t, tb.Nodes(), keep)
}
