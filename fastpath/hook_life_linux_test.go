package fastpath

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	bpflink "github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// What another process is told: the namespace, the directory of pins, the way to attach, the pinned counter and the version
// of its programs; and whether it attaches one without pinning it.
const (
	lifeOrders = "FAIRLEAD_TEST_HOOKS"
	lifeLoose  = "loose"
)

// again starts the test's own program as another process, which ends with the test at the latest.
func again(t *testing.T, env ...string) *exec.Cmd {
	t.Helper()
	child := exec.CommandContext(t.Context(), os.Args[0])
	child.Env = append(os.Environ(), env...)
	return child
}

// daemon is what that process does: it fills and empties hooks, in another order each time, until it is killed.
func daemon(orders string) error {
	var ns, dir, by, counter string
	var version int
	if _, err := fmt.Sscan(orders, &ns, &dir, &by, &counter, &version); err != nil {
		return err
	}
	runtime.LockOSThread()
	fd, err := unix.Open(ns, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
		return err
	}
	home, err := openHome()
	if err != nil {
		return err
	}
	m, err := ebpf.LoadPinnedMap(counter, nil)
	if err != nil {
		return err
	}
	all, err := countingAll(m, version)
	if err != nil {
		return err
	}
	if by == lifeLoose {
		return looseEnd(all["from_container"])
	}
	h, err := newHooks(dir, all, home, attachment(by))
	if err != nil {
		return err
	}
	fmt.Println("ready")
	return stir(h)
}

// looseEnd attaches a program by a link that it does not pin, and waits for its end.
func looseEnd(p *ebpf.Program) error {
	index, err := deviceIndex("p0")
	if err != nil {
		return err
	}
	l, err := bpflink.AttachTCX(bpflink.TCXOptions{Interface: index, Program: p, Attach: Ingress.attachType()})
	if err != nil {
		return err
	}
	fmt.Println("ready")
	time.Sleep(time.Minute)
	return l.Close()
}

func stir(h *hooks) error {
	ctx := context.Background()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); {
		hook := Hook{"p0", ways()[rand.IntN(2)]}
		var err error
		switch rand.IntN(5) {
		case 0:
			err = h.Delete(ctx, hook)
		case 1:
			_, err = h.List(ctx)
		default:
			err = h.Put(ctx, hook, Job{Program: []string{"from_container", "to_container", "from_wire"}[rand.IntN(3)]})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// start starts such a process and waits until it is at work. What it says after that comes from said.
func (r *hookRig) start(by string, version int) (child *exec.Cmd, said *bufio.Reader) {
	r.t.Helper()
	pin := filepath.Join(filepath.Dir(r.dir), "counter")
	if _, err := os.Lstat(pin); err != nil {
		r.must(r.counter.Pin(pin))
	}
	child = again(r.t, fmt.Sprintf("%s=%s %s %s %s %d", lifeOrders, r.a.Path, r.dir, by, pin, version))
	child.Stderr = os.Stderr
	out, err := child.StdoutPipe()
	r.must(err)
	r.must(child.Start())
	said = bufio.NewReader(out)
	if line, err := said.ReadString('\n'); line != "ready\n" {
		_ = child.Process.Kill()
		_ = child.Wait()
		r.t.Fatalf("the other process says %q, %v", line, err)
	}
	return child, said
}

// kill ends it; whatever it said since it was ready is an error.
func (r *hookRig) kill(child *exec.Cmd, said *bufio.Reader) {
	r.t.Helper()
	_ = child.Process.Kill()
	words, _ := io.ReadAll(said)
	_ = child.Wait()
	if text := strings.TrimSpace(string(words)); text != "" {
		r.t.Errorf("the other process says %q", text)
	}
}

// TestOneProgramAfterFiftyKilledDaemons has daemons killed wherever they are, half of them with other code than the last,
// and each time the next one take over: then there is one program at each hook, whatever it found there.
func TestOneProgramAfterFiftyKilledDaemons(t *testing.T) {
	const rounds = 50
	both(t, func(r *hookRig, h *hooks) {
		seed := rand.Uint64()
		t.Logf("seed %d", seed)
		random := rand.New(rand.NewPCG(seed, 0))
		for round := range rounds {
			child, said := r.start(string(h.by), 1+random.IntN(2))
			time.Sleep(time.Duration(random.IntN(10_000)) * time.Microsecond)
			r.kill(child, said)
			next := r.hooks(h.by, 1+random.IntN(2))
			r.settle(next, containerHooks())
			for _, way := range ways() {
				if there := r.there(way); len(there) != 1 {
					t.Fatalf("round %d: at %s: %v", round, way, there)
				}
			}
			want := map[attachment]int{byTCX: 2, byClsact: 1}[h.by]
			if left := r.left(); len(left) != want {
				t.Fatalf("round %d: pins and marks: %v", round, left)
			}
		}
		r.settle(h, containerHooks())
		r.wantMet("after the last round", map[string]int{"from_container": 10, "to_container": 10})
		r.settle(h, map[Hook]Job{})
		r.nothing()
	})
}

// TestLinkThatIsNotPinnedEndsWithItsProcess: who is killed between attaching and pinning leaves nothing at the hook.
func TestLinkThatIsNotPinnedEndsWithItsProcess(t *testing.T) {
	r := newHookRig(t)
	h := r.hooks(byTCX, 1)
	child, said := r.start(lifeLoose, 1)
	r.want(h, map[Hook]Job{{"p0", Ingress}: {Program: "from_container", Fault: FaultLoose}})
	r.kill(child, said)
	r.want(h, map[Hook]Job{})
	r.nothing()
	child, said = r.start(lifeLoose, 2)
	r.settle(h, containerHooks()) // adopts it while the other process still has it open
	r.kill(child, said)
	r.want(h, containerHooks())
	r.wantMet("adopted", map[string]int{"from_container": 10, "to_container": 10})
}
