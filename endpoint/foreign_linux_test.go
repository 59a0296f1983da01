package endpoint_test

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/endpoint"
)

// A link that only has a name like ours is neither listed nor changed nor deleted.
func TestForeignLinkIsLeftAlone(t *testing.T) {
	for name, kind := range map[string]string{"veth": "type veth peer name other", "bridge": "group 88 type bridge"} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			c := l.container("web")
			r := l.row("web", c, 1)
			l.host.IP("link add " + r.HostIf + " " + kind)
			l.host.IP("link set " + r.HostIf + " address 02:46:4c:00:00:01")
			before := snapshot(l.host, c)
			if got, there := l.list(r); there {
				t.Errorf("listed: %+v", got)
			}
			err := l.links.Put(t.Context(), r.HostIf, r)
			if !errors.Is(err, endpoint.ErrForeign) || !strings.Contains(err.Error(), "ip link del "+r.HostIf) {
				t.Errorf("Put = %v, want ErrForeign and the cure", err)
			}
			if err := l.links.Delete(t.Context(), r.HostIf); err != nil {
				t.Errorf("Delete = %v", err)
			}
			if diff := cmp.Diff(before, snapshot(l.host, c)); diff != "" {
				t.Errorf("host (-before +after):\n%s", diff)
			}
		})
	}
}

// The alias of one endpoint's link, copied to another link, does not make that one ours.
func TestCopiedAliasIsNotOurs(t *testing.T) {
	l := newLab(t)
	c := l.container("web")
	r := l.row("web", c, 1)
	l.put(r)
	other := endpoint.HostIf("db")
	l.host.IP("link add " + other + " type veth peer name other")
	_, alias, _ := strings.Cut(show(l.host, "link show "+r.HostIf), "alias ")
	l.host.Run("ip", "link", "set", other, "alias", strings.TrimSpace(alias))
	rows, err := l.links.List(t.Context())
	if err != nil || len(rows) != 1 {
		t.Errorf("List = %v, %v", rows, err)
	}
}

// A process killed between making the pair and naming it leaves a pair without an alias. It is ours, and mended.
func TestHalfMadePair(t *testing.T) {
	l := newLab(t)
	c := l.container("web")
	r := l.row("web", c, 1)
	half := func() {
		l.host.IP("link add " + r.HostIf + " address 02:46:4c:00:00:01 group 88 type veth peer name eth0 netns " + netnsName(c))
	}
	half()
	got, _ := l.list(r)
	sameRow(t, endpoint.Row{HostIf: r.HostIf}, got)
	l.put(r)
	got, _ = l.list(r)
	sameRow(t, r, got)
	if diff := cmp.Diff(wantInside(r), routesInside(c)); diff != "" {
		t.Errorf("inside (-want +got):\n%s", diff)
	}
	if err := l.links.Delete(t.Context(), r.HostIf); err != nil {
		t.Fatal(err)
	}
	half()
	if err := l.links.Delete(t.Context(), r.HostIf); err != nil {
		t.Fatal(err)
	}
	if got, there := l.list(r); there {
		t.Errorf("still listed: %+v", got)
	}
}

// Names and paths that an alias can not hold are known to the process that put them, and taken for another's until it
// has put them once more after a restart; then nothing is written.
func TestLongNames(t *testing.T) {
	l := newLab(t)
	c := l.container("web")
	dir := filepath.Join(t.TempDir(), strings.Repeat("long/", 40))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "netns")
	if err := os.Symlink(c.Path, path); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"web", strings.Repeat("w", 64), strings.Repeat("w", 300)} {
		r := l.row(name, c, 1)
		r.NetNS = path
		l.put(r)
		got, _ := l.list(r)
		sameRow(t, r, got)
		later := reopen(t, l)
		got, there := later.list(r)
		if !there || got == r || got.HostIf != r.HostIf || got.IP4 != r.IP4 || got.NSInode != r.NSInode {
			t.Errorf("after a restart: %+v", got)
		}
		quiet := watch(t, l.host, c)
		later.put(r)
		quiet()
		got, _ = later.list(r)
		sameRow(t, r, got)
		if err := later.links.Delete(t.Context(), r.HostIf); err != nil {
			t.Fatal(err)
		}
	}
}

// reopen is the lab as a restarted process sees it.
func reopen(t *testing.T, l *lab) *lab {
	t.Helper()
	later := &lab{t: t, host: l.host}
	err := l.host.Do(func() (err error) { later.links, err = endpoint.NewLinks(); return err })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = later.links.Close() })
	return later
}

// What a restarted process reads from the kernel is everything that was put.
func TestRowsComeBackFromTheKernel(t *testing.T) {
	l := newLab(t)
	want := map[string]endpoint.Row{}
	for i, name := range []string{"web", "a name with spaces", "größe/ü%20", strings.Repeat("0123456789abcdef", 4)} {
		c := l.container("c")
		r := l.row(name, c, i)
		if i == 1 {
			r.IP6 = netip.Addr{}
		}
		l.put(r)
		want[r.HostIf] = r
	}
	got, err := reopen(t, l).links.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for hostIf, r := range want {
		sameRow(t, r, got[hostIf])
	}
}

// Where /proc/sys can not be written, the attempt ends with a clear error and nothing left behind.
func TestReadOnlySysctl(t *testing.T) {
	l := newLab(t)
	c := l.container("web")
	r := l.row("web", c, 1)
	before := snapshot(l.host, c)
	err := <-lastThread(func() error {
		for _, step := range []error{
			unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS),
			unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
			unix.Mount("/proc/sys", "/proc/sys", "", unix.MS_BIND, ""),
			unix.Mount("", "/proc/sys", "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""),
			enter(l.host.Path),
		} {
			if step != nil {
				return step
			}
		}
		err := l.links.Put(t.Context(), r.HostIf, r)
		if !errors.Is(err, unix.EROFS) || !strings.Contains(err.Error(), "net.ipv6.conf."+r.HostIf) {
			t.Errorf("Put = %v, want EROFS and the setting", err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, snapshot(l.host, c)); diff != "" {
		t.Errorf("what is left (-before +after):\n%s", diff)
	}
}

// lastThread runs fn on a thread that ends after it, and so takes its view of the world along. It is not the main one,
// which does not end.
func lastThread(fn func() error) <-chan error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			defer runtime.UnlockOSThread()
			result <- <-lastThread(fn)
			return
		}
		result <- fn()
	}()
	return result
}

func enter(path string) error {
	ns, err := os.Open(path)
	if err != nil {
		return err
	}
	defer ns.Close()
	return unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
}
