package vm_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/nettest"
	"github.com/fairlead-net/fairlead/nettest/vm"
)

// job is tests of one room to be run in the machine.
type job struct {
	name  string
	room  string        // its directory
	tests string        // a regular expression
	env   string        // words of a shell
	limit time.Duration // after which the tests say where they are, and fail
}

// dying is how long tests that have reached their limit may take to say so.
const dying = 20 * time.Second

// run runs the job, each of its tests as a subtest.
func (j job) run(t *testing.T, m *vm.Machine) {
	ctx, cancel := context.WithTimeout(t.Context(), j.limit+dying)
	defer cancel()
	// It turns what a test prints into events, as `go test -json` does.
	converter := exec.CommandContext(ctx, "go", "tool", "test2json", "-t")
	in, err := converter.StdinPipe()
	check(t, err)
	events, err := converter.StdoutPipe()
	check(t, err)
	check(t, converter.Start())
	ended := make(chan error, 1)
	go func() {
		code, err := m.Run(ctx, j.command(), in)
		if err == nil && code != 0 {
			err = fmt.Errorf("exit code %d", code)
		}
		_ = in.Close() // the last event comes now
		ended <- err
	}()
	r := newReplay()
	heard := make(chan error, 1)
	go func() { heard <- r.listen(events) }()
	r.tell(t, r.feed(""))
	if err := <-heard; err != nil {
		t.Error(err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	check(t, converter.Wait())
	if len(r.feeds) == 1 {
		t.Errorf("%s has no test %s", j.room, j.tests)
	}
}

// command is the job for the machine's shell.
func (j job) command() string {
	return fmt.Sprintf("cd %s && BUILT=%s %s ./%s.test -test.v=test2json -test.count=1 -test.timeout=%v -test.run='%s'",
		inside(j.room), binary, j.env, path.Base(j.room), j.limit, j.tests)
}

const (
	top    = "../.."          // of the tree, from here
	binary = "/fairlead/main" // in the machine
)

// inside is where the machine has the directory of a room.
func inside(room string) string { return "/fairlead/" + room }

// build makes what the jobs need: the program, and of each room the tests and what they read. What has no libraries runs
// anywhere.
func build(t *testing.T, jobs []job) map[string]string {
	t.Helper()
	dir := nettest.NewDir(t, "")
	files := map[string]string{binary: os.Getenv("BUILT")}
	if files[binary] == "" {
		files[binary] = filepath.Join(dir, "fairlead")
		compile(t, "build", "-ldflags=-s -w", "-o", files[binary], ".")
	}
	for _, j := range jobs {
		program := inside(j.room) + "/" + path.Base(j.room) + ".test"
		if files[program] != "" {
			continue
		}
		files[program] = filepath.Join(dir, path.Base(program))
		compile(t, "test", "-c", "-ldflags=-s -w", "-o", files[program], "./"+j.room)
		if data := filepath.Join(top, j.room, "testdata"); exists(data) {
			files[inside(j.room)+"/testdata"] = data
		}
	}
	return files
}

func compile(t *testing.T, args ...string) {
	t.Helper()
	cmd := exec.Command("go", args...)
	cmd.Dir, cmd.Env = top, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

func exists(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
