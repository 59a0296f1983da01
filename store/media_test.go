package store_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/store"
)

// apart runs the test once more in a process with a mount namespace of its own, in which body runs. What body mounts
// goes with that process.
func apart(t *testing.T, body func(t *testing.T)) {
	t.Helper()
	const inside = "FAIRLEAD_TEST_APART"
	if os.Getenv(inside) == t.Name() {
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			t.Fatal(err)
		}
		body(t)
		return
	}
	child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	child.Env = append(os.Environ(), inside+"="+t.Name())
	child.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	out, err := child.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Errorf("in a mount namespace: %v\n%s", err, out)
	}
}

// mounted is a directory with a file system of this many bytes.
func mounted(t *testing.T, size int) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("fairlead-test", dir, "tmpfs", 0, fmt.Sprintf("size=%d", size)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

func TestFullDiskIsACleanError(t *testing.T) {
	apart(t, func(t *testing.T) {
		dir := mounted(t, 3<<20)
		ballast := filepath.Join(dir, "ballast")
		path := filepath.Join(dir, "fairlead.db")
		db := open(t, path)
		for n := 1 << 20; n > 0; n /= 2 { // to the last page
			f, err := os.OpenFile(ballast, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
			if err != nil {
				t.Fatal(err)
			}
			for err == nil {
				_, err = f.Write(make([]byte, n))
			}
			_ = f.Close()
		}
		want := map[string]fruit{}
		fill(t, db, want)
		if len(want) < 200 {
			t.Errorf("the room of the store held %d values", len(want))
		}
		rev := db.Revision()
		if diff := cmp.Diff(want, contents(t, db)); diff != "" {
			t.Errorf("after the failure: %s", diff)
		}
		if err := os.Remove(ballast); err != nil {
			t.Fatal(err)
		}
		put(t, db, "small", fruit{"grape", 1})
		want["small"] = fruit{"grape", 1}
		if db.Revision() != rev+1 {
			t.Errorf("revision %d, want %d", db.Revision(), rev+1)
		}
		fill(t, db, want) // once more, now to the end of the disk
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, contents(t, open(t, path))); diff != "" {
			t.Errorf("after reopening: %s", diff)
		}
	})
}

// fill puts values until the disk is full, and notes those that were answered.
func fill(t *testing.T, db *store.DB, want map[string]fruit) {
	t.Helper()
	var err error
	for err == nil {
		key := fmt.Sprint(len(want))
		v := fruit{strings.Repeat("melon ", 500), len(want)}
		err = db.Update(t.Context(), func(tx *store.Tx) error { return fruits().Put(tx, key, v) })
		if err == nil {
			want[key] = v
		}
		if len(want) > 3000 {
			t.Fatal("the disk does not fill")
		}
	}
	if !errors.Is(err, store.ErrFull) {
		t.Fatalf("full disk: %v", err)
	}
	t.Log(err)
}

func TestNoRoomForTheFileIsACleanError(t *testing.T) {
	apart(t, func(t *testing.T) {
		dir := mounted(t, 64<<10)
		path := filepath.Join(dir, "fairlead.db")
		if _, err := store.Open(t.Context(), path, options()); !errors.Is(err, store.ErrFull) {
			t.Errorf("open on a full disk: %v", err)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
		if err := unix.Mount("", dir, "", unix.MS_REMOUNT, "size=2m"); err != nil {
			t.Fatal(err)
		}
		put(t, open(t, path), "a", fruit{"apple", 3})
	})
}

func TestReadOnlyIsSaid(t *testing.T) {
	apart(t, func(t *testing.T) {
		dir := mounted(t, 4<<20)
		path := filepath.Join(dir, "fairlead.db")
		db := open(t, path)
		put(t, db, "a", fruit{"apple", 3})
		_ = db.Close()
		image, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		refused := func(what, path string) {
			t.Helper()
			_, err := store.Open(t.Context(), path, options())
			if !errors.Is(err, store.ErrReadOnly) || !strings.Contains(err.Error(), "state_dir") {
				t.Errorf("%s: %v", what, err)
			}
		}
		if err := os.Chmod(path, 0o400); err != nil {
			t.Fatal(err)
		}
		refused("mode 0400", path)
		if err := os.Chmod(path, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
			t.Fatal(err)
		}
		refused("read-only file system", path)
		refused("new file on a read-only file system", filepath.Join(dir, "other.db"))
		refused("new directory on a read-only file system", filepath.Join(dir, "other", "other.db"))
		if _, err := store.SetAside(path); !errors.Is(err, store.ErrReadOnly) {
			t.Errorf("set aside: %v", err)
		}
		unchanged(t, path, image)
	})
}
