package docker_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/docker"
)

// TestListeningDaemon is the daemon of the other tests, in a process of its own.
func TestListeningDaemon(t *testing.T) {
	path := os.Getenv("FAIRLEAD_TEST_LISTEN")
	if path == "" {
		return
	}
	if err := listening(path); err != nil {
		t.Fatal(err)
	}
}

// listening answers each call with how often this process has been executed. On /anew it is executed once more, and whoever
// asked for it sees the connection end when nothing is listened on here.
func listening(path string) error {
	l, err := docker.Listen(path)
	if err != nil {
		return err
	}
	strays, err := docker.Strays(path)
	if err != nil {
		return err
	}
	var refusals errgroup.Group
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	for _, stray := range strays {
		refusals.Go(func() error { return docker.Refuse(ctx, stray, "Docker's driver is elsewhere") })
	}
	again, life := make(chan struct{}), len(os.Args)-1
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/anew" {
			close(again)
			<-r.Context().Done()
		}
		fmt.Fprint(w, "life ", life)
	})}
	go func() { _ = s.Serve(l) }()
	<-again
	cancel()
	if err := errors.Join(refusals.Wait(), s.Close(), docker.PassOn()); err != nil {
		return err
	}
	return syscall.Exec("/proc/self/exe", append(os.Args, "again"), os.Environ())
}

// listenDaemon starts that process; with listeners, as systemd would hand them over. It ends with the test.
func listenDaemon(t *testing.T, path string, handed ...*net.UnixListener) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// The number of the process is known only to itself, and exec keeps it.
	c := exec.Command("/bin/sh", "-c", `export LISTEN_PID=$$; exec "$0" -test.run='^TestListeningDaemon$'`, exe)
	c.Env = append(os.Environ(), "FAIRLEAD_TEST_LISTEN="+path)
	names := make([]string, len(handed))
	for i, l := range handed {
		names[i] = "docker"
		f, err := l.File()
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		c.ExtraFiles = append(c.ExtraFiles, f)
	}
	if len(handed) > 0 {
		c.Env = append(c.Env, fmt.Sprintf("LISTEN_FDS=%d", len(handed)), "LISTEN_FDNAMES="+strings.Join(names, ":"))
	}
	var said strings.Builder
	c.Stdout, c.Stderr = &said, &said
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Process.Kill()
		_ = c.Wait()
		if t.Failed() && said.Len() > 0 {
			t.Log(said.String())
		}
	})
	return c
}

// listenAsk calls a socket as Docker does, and waits for one that is not there yet.
func listenAsk(t *testing.T, path, call string) (int, string) {
	t.Helper()
	answer, err := listenCall(path, call)
	if err != nil {
		t.Fatalf("%s on %s: %v", call, path, err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, string(body)
}

// listenAnew has the daemon be executed anew.
func listenAnew(t *testing.T, path string) {
	t.Helper()
	if answer, err := listenCall(path, "anew"); err == nil {
		defer answer.Body.Close()
		t.Fatalf("the daemon is still there: %s", answer.Status)
	}
}

func listenCall(path, call string) (*http.Response, error) {
	client := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			for {
				c, err := new(net.Dialer).DialContext(ctx, "unix", path)
				if err == nil || !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ECONNREFUSED) {
					return c, err
				}
				select {
				case <-ctx.Done():
					return nil, err
				case <-time.After(5 * time.Millisecond):
				}
			}
		},
	}}
	return client.Post("http://plugin/"+call, "", nil)
}

// listenHeld is a socket as systemd holds it.
func listenHeld(t *testing.T, path string) *net.UnixListener {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func listenInode(t *testing.T, path string) uint64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Ino
}

// TestHeldSocketOutlivesDaemons: callers wait while no daemon is there, and each one answers: the first, the one that it
// executes in its own place, and the next process.
func TestHeldSocketOutlivesDaemons(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fairlead.sock")
	l := listenHeld(t, path)
	file := listenInode(t, path)
	early := make(chan string, 1)
	go func() {
		_, said := listenAsk(t, path, "early")
		early <- said
	}()
	select {
	case said := <-early:
		t.Fatalf("%q is said before there is a daemon", said)
	case <-time.After(100 * time.Millisecond):
	}
	first := listenDaemon(t, path, l)
	if said := <-early; said != "life 1" {
		t.Errorf("a call from before the daemon: %q", said)
	}
	for life := 2; life <= 4; life++ {
		listenAnew(t, path)
		if _, said := listenAsk(t, path, "call"); said != fmt.Sprint("life ", life) {
			t.Errorf("in its life %d it says %q", life, said)
		}
	}
	if err := first.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = first.Wait()
	listenDaemon(t, path, l)
	if _, said := listenAsk(t, path, "call"); said != "life 1" {
		t.Errorf("the next daemon says %q", said)
	}
	if listenInode(t, path) != file {
		t.Error("the file of the held socket is another one")
	}
}

// TestStraySocketIsRefused: what is held where the daemon does not serve is answered at once, and in Docker's words.
func TestStraySocketIsRefused(t *testing.T) {
	dir := t.TempDir()
	path, stray := filepath.Join(dir, "own.sock"), filepath.Join(dir, "stray.sock")
	listenDaemon(t, path, listenHeld(t, stray))
	for life := 1; life <= 2; life++ {
		if code, said := listenAsk(t, stray, "Plugin.Activate"); code != 503 || said != `{"Err":"Docker's driver is elsewhere"}` {
			t.Errorf("the stray socket says %d %q", code, said)
		}
		if _, said := listenAsk(t, path, "call"); said != fmt.Sprint("life ", life) {
			t.Errorf("in its life %d it says %q", life, said)
		}
		listenAnew(t, path)
	}
}

// TestHeldByAnotherPath: the directory of the config may be a link to the one of the unit.
func TestHeldByAnotherPath(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "run"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("run", filepath.Join(dir, "var")); err != nil {
		t.Fatal(err)
	}
	l := listenHeld(t, filepath.Join(dir, "run/f.sock"))
	listenDaemon(t, filepath.Join(dir, "var/f.sock"), l)
	if code, said := listenAsk(t, filepath.Join(dir, "run/f.sock"), "call"); code != 200 || said != "life 1" {
		t.Errorf("%d %q", code, said)
	}
}

// TestSocketOfItsOwn is made for root alone, replaces what a dead daemon left, and stays for Docker to find.
func TestSocketOfItsOwn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run/docker/plugins/fairlead.sock")
	for life := range 2 {
		c := listenDaemon(t, path)
		if _, said := listenAsk(t, path, "call"); said != "life 1" {
			t.Errorf("daemon %d says %q", life, said)
		}
		for file, want := range map[string]os.FileMode{path: os.ModeSocket | 0o600, filepath.Dir(path): os.ModeDir | 0o700} {
			if info, err := os.Stat(file); err != nil || info.Mode() != want {
				t.Errorf("%s: %v, %v, want %v", file, info.Mode(), err, want)
			}
		}
		if err := c.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = c.Wait()
	}
	l, err := docker.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Errorf("after the end of the listener: %v", err)
	}
}

// TestListenTakesNothingFromOthers: neither a socket that answers, nor one that is busy, nor a file.
func TestListenTakesNothingFromOthers(t *testing.T) {
	dir := t.TempDir()
	answers, file, busy := filepath.Join(dir, "answers"), filepath.Join(dir, "file"), filepath.Join(dir, "busy")
	listenHeld(t, answers)
	if err := os.WriteFile(file, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	listenCrowd(t, busy)
	comm, err := os.ReadFile("/proc/self/comm")
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		answers: fmt.Sprintf("another program, %s (pid %d), answers there", strings.TrimSpace(string(comm)), os.Getpid()),
		file:    "a file that is no socket",
		busy:    "another program may answer there",
	} {
		before := listenInode(t, path)
		_, err := docker.Listen(path)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "[docker] socket") && path != busy {
			t.Errorf("%s: %v, want %q", path, err, want)
		}
		if listenInode(t, path) != before {
			t.Errorf("%s was replaced", path)
		}
	}
}

// listenCrowd makes a listener that takes no more connections.
func listenCrowd(t *testing.T, path string) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrUnix{Name: path}), unix.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	for {
		c, err := net.DialTimeout("unix", path, time.Second)
		if err != nil {
			return
		}
		t.Cleanup(func() { _ = c.Close() })
	}
}

// TestPresent finds Docker by each of its signs alone, on a host that has nothing else.
func TestPresent(t *testing.T) {
	program := func(name string, mode os.FileMode) func(*testing.T, string) {
		return func(t *testing.T, root string) {
			path := filepath.Join(root, name)
			if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte("#!/bin/sh\n"), mode)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, c := range map[string]struct {
		make func(t *testing.T, root string)
		want string
	}{
		"nothing":                    {func(*testing.T, string) {}, "false"},
		"a program in PATH":          {program("opt/dockerd", 0o755), "true"},
		"a program beside PATH":      {program("usr/sbin/dockerd", 0o755), "true"},
		"a file that can not be run": {program("usr/sbin/dockerd", 0o644), "false"},
		"a socket of the API":        {func(t *testing.T, root string) { listenHeld(t, filepath.Join(root, "docker.sock")) }, "true"},
		"a file in its place":        {program("docker.sock", 0o644), "false"},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			c.make(t, root)
			if got := listenPresent(t, root); got != c.want {
				t.Errorf("present: %s, want %s", got, c.want)
			}
		})
	}
	t.Run("a socket that systemd holds", func(t *testing.T) {
		root := t.TempDir()
		f, err := listenHeld(t, filepath.Join(t.TempDir(), "fairlead.sock")).File()
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if got := listenPresent(t, root, f); got != "true" {
			t.Errorf("present: %s", got)
		}
	})
}

// listenPresent asks a process for which root is the top of all files.
func listenPresent(t *testing.T, root string, handed ...*os.File) string {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.CommandContext(t.Context(), "/bin/sh", "-c", `export LISTEN_PID=$$ PATH=/opt; exec "$0" -test.run='^TestRootedProcess$' -test.v`, exe)
	c.Env = append(os.Environ(), "FAIRLEAD_TEST_ROOT="+root, fmt.Sprintf("LISTEN_FDS=%d", len(handed)), "LISTEN_FDNAMES=docker")
	c.ExtraFiles = handed
	out, err := c.CombinedOutput()
	_, said, found := strings.Cut(string(out), "present=")
	if err != nil || !found {
		t.Fatalf("%v: %s", err, out)
	}
	said, _, _ = strings.Cut(said, "\n")
	return said
}

// TestRootedProcess is that process.
func TestRootedProcess(t *testing.T) {
	root := os.Getenv("FAIRLEAD_TEST_ROOT")
	if root == "" {
		return
	}
	if err := unix.Chroot(root); err != nil {
		t.Fatal(err)
	}
	fmt.Printf("present=%t\n", docker.Present("/docker.sock"))
}
