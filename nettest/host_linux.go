// Package nettest builds hosts out of network namespaces, for tests, the demonstration and the comparisons only.
//
// A host is a named network namespace; what a program does "on" it is done by a thread or a child process inside it.
// Nothing it makes outlives the test: every object is removed on cleanup, and what a killed run left behind is swept by
// the next one.
package nettest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// T is the part of testing.TB that the laboratory needs; a program has a Stage.
type T interface {
	Helper()
	Name() string
	Fatalf(format string, args ...any)
	Logf(format string, args ...any)
	Cleanup(func())
	Failed() bool
}

const (
	runDir = "/run/netns"
	prefix = "flt" // every namespace made here is flt-<pid>-<n>-<name>
)

var (
	sweepOnce sync.Once
	serial    atomic.Uint64
)

// Host is one network namespace and the host name that programs started in it see.
type Host struct {
	Name string // as programs on the host see it
	Path string // the namespace file below /run/netns
	t    T
}

// NewHost makes a namespace with its loopback up; it goes with the test.
func NewHost(t T, name string) *Host {
	t.Helper()
	sweepOnce.Do(sweep)
	return newHost(t, name, fmt.Sprintf("%s-%d-%d-%s", prefix, os.Getpid(), serial.Add(1), name))
}

// newHost makes the namespace ns.
func newHost(t T, name, ns string) *Host {
	t.Helper()
	if out, err := exec.Command("ip", "netns", "add", ns).CombinedOutput(); err != nil {
		t.Fatalf("make namespace %s: %v: %s", ns, err, out)
	}
	h := &Host{Name: name, Path: filepath.Join(runDir, ns), t: t}
	t.Cleanup(func() { _ = Remove(h.Path) })
	h.IP("link set lo up")
	return h
}

// Remove takes the namespace file away; the kernel ends the namespace when nobody is in it any more.
func Remove(path string) error {
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && err != unix.EINVAL && err != unix.ENOENT {
		return fmt.Errorf("unmount %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("remove %s: %w", path, err)
	}
	return nil
}

// sweep removes namespaces, directories and control groups of earlier runs whose process is gone.
func sweep() {
	removeDead(runDir, prefix+"-", Remove)
	removeDead(os.TempDir(), labDir, RemoveDir)
	for _, root := range cgroupRoots() {
		removeDead(root, labDir, removeCgroup)
	}
}

// removeDead removes what begins with the prefix and the id of a process that has ended.
func removeDead(dir, prefix string, remove func(path string) error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return // nothing is there to be swept
	}
	for _, e := range entries {
		rest, ours := strings.CutPrefix(e.Name(), prefix)
		owner, _, _ := strings.Cut(rest, "-")
		pid, err := strconv.Atoi(owner)
		if ours && err == nil && unix.Kill(pid, 0) == unix.ESRCH {
			_ = remove(filepath.Join(dir, e.Name())) // the next run tries again
		}
	}
}

// Do runs fn on a thread that is inside the host's network namespace. Sockets that fn opens stay there after it.
func (h *Host) Do(fn func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		home, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			result <- fmt.Errorf("open own namespace: %w", err)
			return
		}
		defer unix.Close(home)
		ns, err := unix.Open(h.Path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			result <- fmt.Errorf("open namespace of %s: %w", h.Name, err)
			return
		}
		defer unix.Close(ns)
		if err := unix.Setns(ns, unix.CLONE_NEWNET); err != nil {
			result <- fmt.Errorf("enter %s: %w", h.Name, err)
			return
		}
		err = fn()
		// A thread that can not go home must not serve other goroutines: it stays locked and ends with this one.
		if unix.Setns(home, unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
		result <- err
	}()
	return <-result
}

// Command is a program to be started on the host, with the host's name as its host name.
//
// It enters the network namespace by nsenter, since `ip netns exec` remounts /sys and hides bpffs. The child is the
// program itself (every wrapper execs), so its process id can be signalled.
func (h *Host) Command(ctx context.Context, argv ...string) *exec.Cmd {
	wrapped := append([]string{
		"--net=" + h.Path, "--", "unshare", "--uts", "--", "sh", "-c", `hostname "$0" && exec "$@"`, h.Name,
	}, argv...)
	return exec.CommandContext(ctx, "nsenter", wrapped...)
}

// Run runs a program on the host and returns what it printed; a failure ends the test.
func (h *Host) Run(argv ...string) string {
	h.t.Helper()
	out, err := h.Try(argv...)
	if err != nil {
		h.t.Fatalf("%s: %s: %v: %s", h.Name, strings.Join(argv, " "), err, out)
	}
	return out
}

// Try runs a program on the host and returns what it printed: if it failed, on both outputs. To ask for a name of each
// namespace, ip reads the directory where others make and remove theirs meanwhile, and complains of those it can not open.
func (h *Host) Try(argv ...string) (string, error) {
	wrapped := append([]string{"--net=" + h.Path, "--"}, argv...)
	out, err := exec.Command("nsenter", wrapped...).Output()
	if failed := (*exec.ExitError)(nil); errors.As(err, &failed) {
		out = append(out, failed.Stderr...)
	}
	return string(out), err
}

// IP runs iproute2's ip on the host: h.IP("addr add 192.0.2.1/24 dev eth0").
func (h *Host) IP(args string) string {
	h.t.Helper()
	return h.Run(append([]string{"ip"}, strings.Fields(args)...)...)
}

// Batch runs lines of iproute2's ip on the host, those that begin with -6 after the others, in two processes at most.
func (h *Host) Batch(lines ...string) {
	h.t.Helper()
	var plain, six []string
	for _, line := range lines {
		if rest, found := strings.CutPrefix(line, "-6 "); found {
			six = append(six, rest)
		} else {
			plain = append(plain, line)
		}
	}
	h.batch(plain)
	h.batch(six, "-6")
}

func (h *Host) batch(lines []string, options ...string) {
	h.t.Helper()
	if len(lines) == 0 {
		return
	}
	argv := append([]string{"--net=" + h.Path, "--", "ip"}, options...)
	cmd := exec.Command("nsenter", append(argv, "-batch", "-")...)
	cmd.Stdin = strings.NewReader(strings.Join(lines, "\n") + "\n")
	out, err := cmd.CombinedOutput()
	if err == nil {
		return
	}
	var number int
	if _, at, found := strings.Cut(string(out), "Command failed -:"); found {
		_, _ = fmt.Sscan(at, &number) // 0 when it is not there: then all lines are shown
	}
	if number > 0 && number <= len(lines) {
		lines = lines[number-1 : number]
	}
	h.t.Fatalf("%s: ip: %v: %s\n%s", h.Name, err, out, strings.Join(lines, "\n"))
}

// Sysctl sets a kernel parameter of the host's namespace, given as a path below /proc/sys.
func (h *Host) Sysctl(path, value string) {
	h.t.Helper()
	err := h.Do(func() error { return os.WriteFile("/proc/sys/"+path, []byte(value), 0o644) })
	if err != nil {
		h.t.Fatalf("%s: set %s: %v", h.Name, path, err)
	}
}

// Wire joins two hosts by a cable: a veth pair, both ends up.
func Wire(t T, a *Host, aIf string, b *Host, bIf string) {
	t.Helper()
	a.IP(fmt.Sprintf("link add %s type veth peer name %s netns %s", aIf, bIf, filepath.Base(b.Path)))
	a.IP("link set " + aIf + " up")
	b.IP("link set " + bIf + " up")
}
