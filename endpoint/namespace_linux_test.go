package endpoint_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/endpoint"
	"github.com/fairlead-net/fairlead/nettest"
)

func TestResolveFindsANamespace(t *testing.T) {
	c := nettest.NewHost(t, "web")
	pid := sleeper(t, c)
	name := netnsName(c)
	var st unix.Stat_t
	if err := unix.Stat(c.Path, &st); err != nil {
		t.Fatal(err)
	}
	soft := filepath.Join(t.TempDir(), "soft")
	if err := os.Symlink(c.Path, soft); err != nil {
		t.Fatal(err)
	}
	for _, try := range []struct {
		netns string
		pid   int
		want  string
	}{
		{netns: name, want: c.Path},
		{netns: c.Path, want: c.Path},
		{netns: "/run/../run//netns/" + name, want: c.Path},
		{netns: soft, want: soft},
		{pid: pid, want: fmt.Sprintf("/proc/%d/ns/net", pid)},
		{netns: fmt.Sprintf("/proc/%d/ns/net", pid), want: fmt.Sprintf("/proc/%d/ns/net", pid)},
	} {
		path, inode, err := endpoint.Resolve(try.netns, try.pid)
		if path != try.want || inode != st.Ino || err != nil {
			t.Errorf("Resolve(%q, %d) = %q, %d, %v; want %q, %d", try.netns, try.pid, path, inode, err, try.want, st.Ino)
		}
	}
}

func TestResolveRefuses(t *testing.T) {
	files := openFiles(t)
	dir := t.TempDir()
	plain, pipe := filepath.Join(dir, "plain"), filepath.Join(dir, "pipe")
	if err := errors.Join(os.WriteFile(plain, nil, 0o644), unix.Mkfifo(pipe, 0o600)); err != nil {
		t.Fatal(err)
	}
	ended := ended(t)
	for _, try := range []struct {
		netns string
		pid   int
		want  string
		gone  bool
	}{
		{want: "give a path"},
		{netns: "web", pid: 7, want: "not both"},
		{pid: -1, want: "not one"},
		{netns: "../etc/passwd", want: "absolute path"},
		{netns: "..", want: "absolute path"},
		{netns: "a\x00b", want: "absolute path"},
		{netns: "no-such-namespace", want: "ip netns list", gone: true},
		{netns: "/no/such/path", want: "no such file", gone: true},
		{pid: ended, want: fmt.Sprintf("process %d has ended", ended), gone: true},
		{netns: plain, want: "no namespace is mounted on it"},
		{netns: pipe, want: "no namespace is mounted on it"},
		{netns: dir, want: "no namespace is mounted on it"},
		{netns: "/proc/self/ns/uts", want: "not a network namespace"},
		{netns: "/proc/self/ns/net", want: "the host's own"},
		{pid: os.Getpid(), want: "the host's own"},
	} {
		path, inode, err := endpoint.Resolve(try.netns, try.pid)
		if err == nil || !strings.Contains(err.Error(), try.want) || errors.Is(err, endpoint.ErrGone) != try.gone {
			t.Errorf("Resolve(%q, %d) = %q, %d, %v; want %q, gone %v", try.netns, try.pid, path, inode, err, try.want, try.gone)
		}
	}
	if now := openFiles(t); now != files {
		t.Errorf("%d files open, then %d", files, now)
	}
}

// ended is the id of a process that is no more.
func ended(t *testing.T) int {
	t.Helper()
	h := nettest.NewHost(t, "ended")
	cmd := h.Command(t.Context(), "true")
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	return cmd.Process.Pid
}

func TestAlive(t *testing.T) {
	l := newLab(t)
	c := l.container("web")
	r := l.row("web", c, 1)
	another := r
	another.NSInode++
	plain := r
	plain.NetNS = filepath.Join(t.TempDir(), "umounted")
	if err := os.WriteFile(plain.NetNS, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for name, try := range map[string]struct {
		row  endpoint.Row
		want bool
	}{"there": {r, true}, "another inode": {another, false}, "a plain file": {plain, false}} {
		if got := endpoint.Alive(try.row); got != try.want {
			t.Errorf("%s: Alive = %v", name, got)
		}
	}
}
