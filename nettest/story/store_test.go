package story_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/agent"
	"github.com/fairlead-net/fairlead/nettest"
	"github.com/fairlead-net/fairlead/store"
)

func storeFile(n *nettest.Node) string { return filepath.Join(n.StateDir(), "fairlead.db") }

// stopped is a host whose daemon has handed out an address and has ended.
func stopped(t *testing.T) (*nettest.Node, *nettest.Container) {
	t.Helper()
	l := lab(t, nettest.LabOptions{Nodes: []string{"n1"}, Pools: []string{pool4, pool6}})
	n := l.Node("n1")
	n.Start()
	n.WaitReady(10 * time.Second)
	c := n.Attach("web")
	c.Serve(c.IP4)
	n.Stop()
	return n, c
}

// rewrite changes the store's bytes.
func rewrite(t *testing.T, n *nettest.Node, change func([]byte) []byte) {
	t.Helper()
	old, err := os.ReadFile(storeFile(n))
	if err == nil {
		err = os.WriteFile(storeFile(n), change(old), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// live is the size of the part of the store that holds something; the file ends with room for more.
func live(b []byte) int { return len(bytes.TrimRight(b, "\x00")) }

// refusesToStart holds a daemon to end at once with an error that holds all parts, and to leave its store as it is.
func refusesToStart(t *testing.T, n *nettest.Node, parts ...string) {
	t.Helper()
	before, err := os.ReadFile(storeFile(n))
	if err != nil {
		t.Fatal(err)
	}
	said := len(n.Log())
	n.Start()
	if code := n.WaitExit(15 * time.Second); code != 1 {
		t.Errorf("exit code %d", code)
	}
	text := n.Log()[said:]
	for _, part := range append(parts, storeFile(n)) {
		if !strings.Contains(text, part) {
			t.Errorf("no %q in: %s", part, text)
		}
	}
	if strings.Contains(text, "goroutine ") {
		t.Errorf("the daemon panicked: %s", text)
	}
	if after, err := os.ReadFile(storeFile(n)); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the store was changed (%d to %d bytes), %v", len(before), len(after), err)
	}
}

func TestADamagedStoreIsRefusedAndLeftAlone(t *testing.T) {
	for name, harm := range map[string]func([]byte) []byte{
		"noise in the middle": func(b []byte) []byte {
			for i, end := live(b)/4, live(b); i < end; i++ {
				b[i] = byte(i * 31)
			}
			return b
		},
		"zeroes from the start": func(b []byte) []byte {
			clear(b[:min(len(b), 8192)])
			return b
		},
		"truncated": func(b []byte) []byte { return b[:live(b)-1] },
		"empty":     func([]byte) []byte { return nil },
		"text":      func([]byte) []byte { return []byte("this is not a database\n") },
	} {
		t.Run(name, func(t *testing.T) {
			n, c := stopped(t)
			rewrite(t, n, harm)
			refusesToStart(t, n, "--recover")
			if _, err := n.Ask(c.IP4); err != nil {
				t.Errorf("the container is cut off: %v", err)
			}
		})
	}
}

func TestAStoreOfANewerFairleadIsRefused(t *testing.T) {
	n, _ := stopped(t)
	db, err := store.Open(t.Context(), storeFile(n), store.Options{Check: []string{binary, "check-store"}})
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(context.Background(), func(tx *store.Tx) error {
		return store.Bucket[uint64]{Name: "meta"}.Put(tx, "schema", 99)
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	refusesToStart(t, n, "newer", "99")
}

func TestAStoreInUseIsRefused(t *testing.T) {
	n, _ := stopped(t)
	db, err := store.Open(t.Context(), storeFile(n), store.Options{Check: []string{binary, "check-store"}})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	refusesToStart(t, n, "in use")
}

// onMedium puts the host's state on a file system of its own.
func onMedium(t *testing.T, n *nettest.Node, options string) {
	t.Helper()
	saved, err := os.ReadFile(storeFile(n))
	if err != nil {
		t.Fatal(err)
	}
	mount(t, "-t", "tmpfs", "-o", options, "tmpfs", n.StateDir())
	t.Cleanup(func() { mount(t, "--umount", n.StateDir()) })
	err = os.WriteFile(storeFile(n), saved[:live(saved)], 0o600)
	if err == nil {
		err = os.Truncate(storeFile(n), int64(len(saved))) // with the same holes as before
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestAStoreOnAReadOnlyDiskIsRefused(t *testing.T) {
	n, _ := stopped(t)
	onMedium(t, n, "size=8m,mode=0700")
	mount(t, "-o", "remount,ro", n.StateDir())
	refusesToStart(t, n, "read-only")
}

func TestAFullDiskEndsAnAttachAndNothingElse(t *testing.T) {
	n, c := stopped(t)
	onMedium(t, n, "size=1m,mode=0700")
	n.Start()
	t.Cleanup(n.Kill) // before the disk is taken away
	n.WaitReady(10 * time.Second)
	filler := filepath.Join(n.StateDir(), "filler")
	file, err := os.Create(filler)
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = file.Write(make([]byte, 4096))
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	var refused string
	for i := range 200 { // until the file has no free page left
		h := nettest.NewHost(t, fmt.Sprintf("c%d", i))
		if r := n.CLI("attach", fmt.Sprintf("c%d", i), "--netns", h.Path); r.Code != 0 {
			refused = r.Stderr
			break
		}
	}
	if !strings.Contains(refused, "full") && !strings.Contains(refused, "no space") {
		t.Errorf("on a full disk attach says: %q", refused)
	}
	if _, err := n.Ask(c.IP4); err != nil {
		t.Error(err)
	}
	have := len(show[[]agent.Endpoint](t, n, "endpoints"))
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	n.Attach("later")
	n.Kill()
	n.Start()
	n.WaitReady(10 * time.Second)
	if now := len(show[[]agent.Endpoint](t, n, "endpoints")); now != have+1 {
		t.Errorf("%d endpoints, want %d", now, have+1)
	}
}

func mount(t *testing.T, args ...string) {
	t.Helper()
	name := "mount"
	if args[0] == "--umount" {
		name, args = "umount", args[1:]
	}
	if out, err := command(name, args...); err != nil {
		t.Errorf("%s %q: %v: %s", name, args, err, out)
	}
}

func TestRecoverRebuildsLeasesFromTheKernel(t *testing.T) {
	l := running(t, nettest.LabOptions{Nodes: []string{"n1", "n2", "n3"}, Pools: []string{pool4, pool6}})
	n := l.Node("n1")
	a, b := n.Attach("n1a"), n.Attach("n1b", "--ifname", "net1")
	other := l.Node("n3").Attach("n3a")
	other.Serve(other.IP4)
	probe := a.Probe(other.IP4, 500)
	leases, blocks := holders(t, n), []string{block(t, n, pool4).String(), block(t, n, pool6).String()}
	n.Kill()
	rewrite(t, n, func(b []byte) []byte {
		clear(b[live(b)/8:])
		return b
	})
	damaged, err := os.ReadFile(storeFile(n))
	if err != nil {
		t.Fatal(err)
	}
	n.Start("--recover")
	n.WaitConverged(30 * time.Second)
	if now := holders(t, n); !slices.Equal(leases, now) {
		t.Errorf("leases were %q and are %q", leases, now)
	}
	if now := []string{block(t, n, pool4).String(), block(t, n, pool6).String()}; !slices.Equal(blocks, now) {
		t.Errorf("blocks were %q and are %q", blocks, now)
	}
	if c := n.Attach("n1c"); c.IP4 == a.IP4 || c.IP4 == b.IP4 {
		t.Errorf("%s was handed out again", c.IP4)
	}
	a.Reattach()
	if e := show[agent.Endpoint](t, n, "endpoints/n1b"); e.IfName != "net1" || e.NetNS != b.Path || !slices.Equal(e.Addresses, b.Addresses()) {
		t.Errorf("rebuilt: %+v", e)
	}
	if got := probe.Stop(); got.Lost != 0 {
		t.Error(got)
	}
	aside, err := filepath.Glob(storeFile(n) + ".bad*")
	if err != nil || len(aside) != 1 {
		t.Fatalf("set aside: %q, %v", aside, err)
	}
	if kept, err := os.ReadFile(aside[0]); err != nil || !bytes.Equal(kept, damaged) {
		t.Errorf("what was set aside is not the damaged store, %v", err)
	}
	n.Fairlead("detach", "n1a", "n1b", "n1c")
	if left := holders(t, n); len(left) != 0 {
		t.Errorf("after detach there are leases: %q", left)
	}
}

// holders lists who has which address.
func holders(t *testing.T, n *nettest.Node) []string {
	t.Helper()
	var all []string
	for _, l := range show[[]agent.Lease](t, n, "leases") {
		all = append(all, fmt.Sprintf("%s %s %s %s", l.Address, l.Owner, l.Pool, l.Policy))
	}
	slices.Sort(all)
	return all
}
