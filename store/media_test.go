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
		path := filepath.Join(mounted(t, 256<<10), "fairlead.db")
		db := open(t, path)
		want := map[string]fruit{}
		var err error
		for n := 0; err == nil; n++ {
			key := fmt.Sprint(n)
			v := fruit{strings.Repeat("melon ", 500), n}
			if err = db.Update(t.Context(), func(tx *store.Tx) error { return fruits().Put(tx, key, v) }); err == nil {
				want[key] = v
			}
			if n > 1000 {
				t.Fatal("the disk does not fill")
			}
		}
		if !errors.Is(err, store.ErrFull) {
			t.Fatalf("full disk: %v", err)
		}
		t.Log(err)
		rev := db.Revision()
		if diff := cmp.Diff(want, contents(t, db)); diff != "" {
			t.Errorf("after the failure: %s", diff)
		}
		// It goes on as soon as something is deleted, and an update that needs no more room is none the worse.
		for n := range 5 {
			key := fmt.Sprint(n)
			delete(want, key)
			if err := db.Update(t.Context(), func(tx *store.Tx) error { return fruits().Delete(tx, key) }); err != nil {
				t.Fatalf("delete on the full disk: %v", err)
			}
		}
		put(t, db, "small", fruit{"grape", 1})
		want["small"] = fruit{"grape", 1}
		if db.Revision() != rev+6 {
			t.Errorf("revision %d, want %d", db.Revision(), rev+6)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, contents(t, open(t, path))); diff != "" {
			t.Errorf("after reopening: %s", diff)
		}
	})
}

func TestNoRoomForTheFileIsACleanError(t *testing.T) {
	apart(t, func(t *testing.T) {
		dir := mounted(t, 8<<10)
		path := filepath.Join(dir, "fairlead.db")
		if _, err := store.Open(t.Context(), path, options()); !errors.Is(err, store.ErrFull) {
			t.Errorf("open on a full disk: %v", err)
		}
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("half a store was left: %v", err)
		}
		if err := unix.Mount("", dir, "", unix.MS_REMOUNT, "size=1m"); err != nil {
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
