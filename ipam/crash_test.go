package ipam_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// lifeCalls are the system calls by which a life shows outside of its process: in its files, and by its answers.
var lifeCalls = []string{"pwrite64", "fdatasync", "write", "fsync", "ftruncate", "renameat2", "mkdirat"}

// straceOf is the command that kills and records lives.
func straceOf(t *testing.T) string {
	t.Helper()
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Fatalf("this test needs strace: make test installs it (apt-get install strace): %v", err)
	}
	return strace
}

// plain runs the test in a binary without the race detector, which would only make it several times slower: it starts
// a thousand processes, or has one goroutine. It tells whether the test is done with that.
func plain(t *testing.T) (done bool) {
	t.Helper()
	if !underRace {
		return false
	}
	binary := filepath.Join(t.TempDir(), "ipam.test")
	build := exec.CommandContext(t.Context(), "go", "test", "-c", "-o", binary, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build without the race detector: %v: %s", err, out)
	}
	args := []string{"-test.v", "-test.run=^" + t.Name() + "$", fmt.Sprintf("-test.short=%t", testing.Short())}
	out, err := exec.CommandContext(t.Context(), binary, args...).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Errorf("without the race detector: %v\n%s", err, out)
	}
	t.Logf("without the race detector:\n%s", out)
	return true
}

// TestKilledAtEveryWriteNothingIsLostOrDoubled kills a process that leases and releases, before each single write and
// sync of its life. What was answered is there; what was not is as if it had not been asked, or is the answer when it
// is asked again.
func TestKilledAtEveryWriteNothingIsLostOrDoubled(t *testing.T) {
	if plain(t) {
		return
	}
	strace := straceOf(t)
	want := 1000
	if testing.Short() {
		want = 100
	}
	first := rand.Uint64N(1 << 32)
	t.Logf("seeds from %d", first)
	points, lives := 0, 0
	for ; points < want && !t.Failed(); lives++ {
		seed := first + uint64(lives)
		c, err := undisturbed(filepath.Join(t.TempDir(), "fairlead.db"), seed)
		if err != nil {
			t.Fatal(err)
		}
		n := killEverywhere(t, strace, seed, c)
		if n < lifeSteps {
			t.Fatalf("only %d crash points in a life of %d steps: strace does not kill", n, lifeSteps)
		}
		points += n
	}
	t.Logf("%d crash points in %d lives", points, lives)
}

// killEverywhere kills a life at every one of its points, and returns how many those are.
func killEverywhere(t *testing.T, strace string, seed uint64, c course) (points int) {
	t.Helper()
	type point struct {
		call string
		n    int
	}
	var mu sync.Mutex
	next := point{lifeCalls[0], 0}
	survived := map[string]bool{}
	take := func() (point, bool) {
		mu.Lock()
		defer mu.Unlock()
		for survived[next.call] {
			i := slices.Index(lifeCalls, next.call) + 1
			if i == len(lifeCalls) {
				return next, false
			}
			next = point{lifeCalls[i], 0}
		}
		next.n++
		return next, true
	}
	var wg sync.WaitGroup
	for range min(4, 2*runtime.NumCPU()) {
		wg.Go(func() {
			for p, more := take(); more && !t.Failed(); p, more = take() {
				killed, err := killAt(t, strace, seed, c, p.call, p.n)
				mu.Lock()
				if killed {
					points++
				} else {
					survived[p.call] = true
				}
				mu.Unlock()
				if err != nil {
					t.Errorf("seed %d, killed at %s number %d: %v", seed, p.call, p.n, err)
				}
			}
		})
	}
	wg.Wait()
	return points
}

// killAt lives until the nth call of a kind, dies before it, and is resumed.
func killAt(t *testing.T, strace string, seed uint64, c course, call string, n int) (killed bool, err error) {
	dir, err := os.MkdirTemp(t.TempDir(), "")
	if err != nil {
		return false, err
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "state", "fairlead.db")
	cmd := exec.CommandContext(t.Context(), strace, "-f", "-qq", "-o", "/dev/null",
		"-e", "trace="+call, "-e", fmt.Sprintf("inject=%s:signal=KILL:when=%d", call, n),
		os.Args[0], childLife, path, strconv.FormatUint(seed, 10))
	var said, trouble bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &trouble
	died := cmd.Run()
	answers, err := answersIn(said.String())
	if err != nil {
		return false, err
	}
	for i, a := range answers {
		if want := c.answers[i]; a.Err != want.Err || !slices.Equal(a.Leases, want.Leases) {
			return false, fmt.Errorf("answer %+v, want %+v", a, want)
		}
	}
	if died == nil {
		if len(answers) != lifeSteps {
			return false, fmt.Errorf("it survived with %d answers", len(answers))
		}
		return false, c.resume(path, seed, lifeSteps)
	}
	if cmd.ProcessState.String() != "signal: killed" {
		return false, fmt.Errorf("%w: %s", died, trouble.String())
	}
	return true, c.resume(path, seed, len(answers))
}

func answersIn(said string) (all []answer, err error) {
	for line := range strings.Lines(said) {
		var a answer
		if err := json.Unmarshal([]byte(line), &a); err != nil {
			return nil, fmt.Errorf("answer %q: %w", line, err)
		}
		all = append(all, a)
	}
	return all, nil
}
