package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/fairlead-net/fairlead/store"
)

// sound is the image of a store with enough values for a tree of several pages.
func sound(t *testing.T) (image []byte, want map[string]fruit) {
	t.Helper()
	path := tempPath(t)
	db := open(t, path)
	err := db.Update(t.Context(), func(tx *store.Tx) error {
		for i := range 300 {
			key := fmt.Sprintf("key %03d", i)
			if err := fruits().Put(tx, key, fruit{strings.Repeat("apple ", i%7), i}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	put(t, db, "last", fruit{"pear", 1}) // so that one meta page is older than the other
	want = contents(t, db)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if image, err = os.ReadFile(path); err != nil {
		t.Fatal(err)
	}
	return image, want
}

// refused opens a file with this image and wants the error, with the file and its directory as they were.
func refused(t *testing.T, image []byte, want error) error {
	t.Helper()
	path := filepath.Join(t.TempDir(), "fairlead.db")
	if err := os.WriteFile(path, image, 0o600); err != nil {
		t.Fatal(err)
	}
	db, err := store.Open(t.Context(), path, options())
	if !errors.Is(err, want) {
		t.Fatalf("error %v, want %v", err, want)
	}
	if db != nil {
		t.Error("a store was returned all the same")
	}
	unchanged(t, path, image)
	return err
}

func unchanged(t *testing.T, path string, image []byte) {
	t.Helper()
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, image) {
		t.Errorf("the file was changed (%d bytes, %v)", len(got), err)
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 1 {
		t.Errorf("the directory has %v, %v", entries, err)
	}
}

func TestDamagedFileIsRefusedAndLeftAlone(t *testing.T) {
	image, _ := sound(t)
	used := len(bytes.TrimRight(image, "\x00"))
	page := os.Getpagesize()
	broken := func(at int, with string) []byte {
		b := bytes.Clone(image)
		copy(b[at:], with)
		return b
	}
	cases := []struct {
		name  string
		image []byte
		says  string
	}{
		{"empty", nil, "it is empty"},
		{"one byte", image[:1], ""},
		{"one page", image[:page], ""},
		{"two pages", image[:2*page], ""},
		{"cut in the middle", image[:used/2/page*page], "cut off"},
		{"cut within a page", image[:used/2/page*page+100], "cut off"},
		{"cut at the last page", image[:used/page*page-page], "cut off"},
		{"text", []byte(strings.Repeat("not a database\n", 3000)), ""},
		{"zeros", make([]byte, len(image)), ""},
		{"both metas gone", broken(0, string(make([]byte, 2*page))), ""},
		{"a page of rubbish", broken(used/2/page*page, strings.Repeat("\xff", page)), ""},
		{"a letter of a value", broken(bytes.Index(image, []byte("apple apple"))+2, "q"), "checksum"},
		{"a letter of a key", broken(bytes.Index(image, []byte("key 007"))+6, "5"), ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			err := refused(t, c.image, store.ErrCorrupt)
			t.Log(err)
			if !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), "--recover") {
				t.Errorf("error %q does not say %q and the cure", err, c.says)
			}
		})
	}
}

// TestNoFlippedByteGoesUnnoticed changes single bytes all over the file. Either the file is refused, or what is read
// is right: the byte meant nothing. Only a damaged meta page may bring back the state before the last commit, since
// that is how a commit that a power failure cut short looks, too.
func TestNoFlippedByteGoesUnnoticed(t *testing.T) {
	image, want := sound(t)
	before := make(map[string]fruit, len(want))
	for k, v := range want {
		if k != "last" {
			before[k] = v
		}
	}
	used := len(bytes.TrimRight(image, "\x00"))
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	flips := 100
	if testing.Short() {
		flips = 50
	}
	refusals := 0
	for n := range flips {
		at, bit := rng.IntN(used), rng.IntN(8)
		if n%2 == 0 { // the heads of pages and the index at their beginning decide over the most
			at = at/os.Getpagesize()*os.Getpagesize() + rng.IntN(64)
		}
		b := bytes.Clone(image)
		b[at] ^= 1 << bit
		got, err := reopened(t, b)
		if errors.Is(err, store.ErrCorrupt) {
			refusals++
			continue
		}
		if err != nil {
			t.Fatalf("byte %d bit %d: %v", at, bit, err)
		}
		if meta := at < 2*os.Getpagesize(); !cmp.Equal(got, want) && !(meta && cmp.Equal(got, before)) {
			t.Errorf("byte %d bit %d: other contents\n%s", at, bit, cmp.Diff(want, got))
		}
	}
	t.Logf("%d flips of %d bytes, %d refused", flips, used, refusals)
}

// reopened is what a store with this image has to say; a refused one must be left as it was.
func reopened(t *testing.T, image []byte) (map[string]fruit, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "fairlead.db")
	if err := os.WriteFile(path, image, 0o600); err != nil {
		t.Fatal(err)
	}
	db, err := store.Open(t.Context(), path, options())
	if err != nil {
		unchanged(t, path, image)
		return nil, err
	}
	defer db.Close()
	return contents(t, db), nil
}

func TestSoundFileMayOnlyBeWrittenByOne(t *testing.T) {
	path := tempPath(t)
	put(t, open(t, path), "a", fruit{"apple", 3}) // open in this process
	_, err := store.Open(t.Context(), path, options())
	if !errors.Is(err, store.ErrLocked) || !strings.Contains(err.Error(), "systemctl stop fairlead") {
		t.Errorf("second open: %v", err)
	}
	if _, err := store.SetAside(path); !errors.Is(err, store.ErrLocked) {
		t.Errorf("set aside: %v", err)
	}

	path = tempPath(t)
	child := exec.CommandContext(t.Context(), os.Args[0], childLock, path)
	child.Stderr = os.Stderr
	in, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 8)); err != nil {
		t.Fatal(err)
	}
	image, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	refusedAt := func() error {
		_, err := store.Open(t.Context(), path, options())
		return err
	}
	if err := refusedAt(); !errors.Is(err, store.ErrLocked) {
		t.Errorf("open while another process has it: %v", err)
	}
	unchanged(t, path, image)
	_ = in.Close()
	if err := child.Wait(); err != nil {
		t.Fatal(err)
	}
	if err := open(t, path).Close(); err != nil {
		t.Errorf("open after the other process: %v", err)
	}
}

func TestCheckThatCanNotRunIsNoDamage(t *testing.T) {
	path := tempPath(t)
	_ = open(t, path).Close()
	o := options()
	o.Check = []string{"/nonexistent/fairlead", "verify"}
	_, err := store.Open(t.Context(), path, o)
	if err == nil || errors.Is(err, store.ErrCorrupt) || !strings.Contains(err.Error(), "/nonexistent/fairlead") {
		t.Errorf("no such command: %v", err)
	}
	begun := filepath.Join(t.TempDir(), "begun")
	if err := unix.Mkfifo(begun, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		_, _ = os.ReadFile(begun)
		cancel()
	}()
	o.Check = []string{"sh", "-c", "echo > " + begun + "; exec sleep 60"}
	if _, err = store.Open(ctx, path, o); !errors.Is(err, context.Canceled) || errors.Is(err, store.ErrCorrupt) {
		t.Errorf("canceled: %v", err)
	}
}

// TestOnlyDamageIsCalledDamage has the check end in every way it can. `run --recover` sets the file aside after
// ErrCorrupt, so what came over the check from outside must be told apart from what it met in the file.
func TestOnlyDamageIsCalledDamage(t *testing.T) {
	path := tempPath(t)
	_ = open(t, path).Close()
	image, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	shell := func(line string) []string { return []string{"sh", "-c", "ulimit -c 0; " + line} }
	cases := []struct {
		name    string
		check   []string
		limit   time.Duration
		corrupt bool
		says    string
	}{
		{"killed, as by the OOM killer", shell("kill -KILL $$"), time.Minute, false, "signal: killed"},
		{"terminated", shell("echo reading >&2; kill -TERM $$"), time.Minute, false, "signal: terminated"},
		{"over its time", shell("exec sleep 60"), 50 * time.Millisecond, false, "did not end within 50ms"},
		{"in circles", shell("while :; do :; done"), 2 * time.Second, true, "in circles for 2s"},
		{"its verdict", shell("echo cut off >&2; exit 1"), time.Minute, true, "cut off"},
		{"panic", []string{os.Args[0], childPanics}, time.Minute, true, "panic: page 7"},
		{"panic that dumps core", append([]string{"env", "GOTRACEBACK=crash"}, shell("exec "+os.Args[0]+" "+childPanics+" x")...), time.Minute, true, "panic: page 7"},
		{"read beyond the end", shell("kill -BUS $$"), time.Minute, true, "signal: bus error"},
		{"wild pointer", shell("kill -SEGV $$"), time.Minute, true, "signal: segmentation fault"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			err := store.VerifyApart(t.Context(), path, c.check, c.limit)
			t.Log(err)
			if err == nil || errors.Is(err, store.ErrCorrupt) != c.corrupt || !strings.Contains(err.Error(), c.says) {
				t.Errorf("error %v, want corrupt %t and %q", err, c.corrupt, c.says)
			}
			advice := "try again"
			if c.corrupt {
				advice = "--recover"
			}
			if !strings.Contains(fmt.Sprint(err), advice) || strings.Contains(fmt.Sprint(err), "--recover") != c.corrupt {
				t.Errorf("error %v does not advise %q", err, advice)
			}
			unchanged(t, path, image)
		})
	}
}

func TestSetAsideKeepsEveryBadFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fairlead.db")
	seen := map[string]bool{}
	for i := range 3 {
		image := fmt.Appendf(nil, "bad file %d", i)
		if err := os.WriteFile(path, image, 0o600); err != nil {
			t.Fatal(err)
		}
		moved, err := store.SetAside(path)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(moved); err != nil || !bytes.Equal(got, image) || seen[moved] {
			t.Errorf("moved to %s: %q, %v", moved, got, err)
		}
		if !strings.HasPrefix(moved, path+".bad-") {
			t.Errorf("moved to %s", moved)
		}
		seen[moved] = true
	}
	put(t, open(t, path), "a", fruit{"apple", 3})
	if _, err := store.SetAside(path + ".none"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("set nothing aside: %v", err)
	}
}
