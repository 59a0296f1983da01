package nat_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-net/fairlead/nat"
	"github.com/fairlead-net/fairlead/reconcile"
)

// stirred tells whether there is a poke within a time.
func stirred(s *nat.Sets, within time.Duration) bool {
	select {
	case <-s.Changed():
		return true
	case <-time.After(within):
		return false
	}
}

// TestWhatOthersDoToTheSetsIsTold: the kernel says nothing of it. What we do ourselves is no news. These tests mostly wait,
// each in a namespace of its own, so they wait together.
func TestWhatOthersDoToTheSetsIsTold(t *testing.T) {
	t.Parallel()
	for _, hand := range []string{
		"flush", "flush fairlead-peers6", "del fairlead-peers4 192.0.0.1", "destroy fairlead-peers6", "destroy",
		"add fairlead-peers6 2001:db8::77",
	} {
		t.Run(hand, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			h.Run("ipset", "create", "others", "hash:ip")
			sets := h.k.Sets()
			table := reconcile.NewTable("source", sets)
			for _, n := range []int{0, 3, 300, 2, 3} {
				settle(t, table, members(n))
			}
			h.Run("ipset", "add", "others", "203.0.113.9")
			if stirred(sets, 2500*time.Millisecond) {
				t.Error("poked, and nobody did anything to our sets")
			}
			h.Run(append([]string{"ipset"}, strings.Fields(hand)...)...)
			if !stirred(sets, 3*time.Second) {
				t.Errorf("no poke for %s", hand)
			}
			// Until it is listed again there is nothing more to tell.
			if stirred(sets, 1500*time.Millisecond) {
				t.Errorf("poked twice for %s", hand)
			}
			if r := settle(t, table, members(3)); r.Total() == 0 {
				t.Errorf("nothing mended after %s", hand)
			}
			// A new daemon puts nothing, since all is there, and is told all the same.
			again := open(t, h.Host).Sets()
			_, err := again.List(t.Context())
			must(t, err)
			h.Run("ipset", "flush", peers4)
			if !stirred(again, 3*time.Second) {
				t.Error("no poke for who has only listed")
			}
		})
	}
}

// TestNobodyWatchesSetsThatAreNotWanted: with the last of ours goes whoever looks.
func TestNobodyWatchesSetsThatAreNotWanted(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	sets := h.k.Sets()
	table := reconcile.NewTable("source", sets)
	for range 2 {
		settle(t, table, members(2))
		settle(t, table, map[nat.Member]nat.Fault{})
		if stirred(sets, 2500*time.Millisecond) {
			t.Error("poked for what we took out ourselves")
		}
	}
	settle(t, table, members(1))
	h.Run("ipset", "destroy")
	if !stirred(sets, 3*time.Second) {
		t.Error("no poke after sets were put again")
	}
}

// TestSetsAreWatchedWhileTheyChange has many members come and go for some seconds, in which nobody else does a thing, and
// the kernel closed in the middle of it.
func TestSetsAreWatchedWhileTheyChange(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	var k *nat.Kernel
	must(t, h.Do(func() (err error) { k, err = nat.Open(); return err }))
	sets := k.Sets()
	table := reconcile.NewTable("source", sets)
	for begun, n := time.Now(), 0; time.Since(begun) < 2500*time.Millisecond; n++ {
		r := reconcile.Climb(t.Context(), table.Rung(members(n%200), nil))
		if !r.Clean() {
			t.Fatal(r.Err())
		}
	}
	if stirred(sets, 100*time.Millisecond) {
		t.Error("poked for what we did ourselves")
	}
	wrong := nat.Member{Set: peers4, IP: netip.MustParseAddr("2001:db8::1")}
	if failed := sets.Apply(t.Context(), map[nat.Member]nat.Fault{wrong: ""}, nil); len(failed) != 1 {
		t.Errorf("failed: %v", failed)
	}
	if stirred(sets, 1500*time.Millisecond) {
		t.Error("poked for what could not be put")
	}
	must(t, k.Close())
	h.Run("ipset", "flush")
	if stirred(sets, 1500*time.Millisecond) {
		t.Error("poked by a kernel that is closed")
	}
	if got := fmt.Sprint(h.ipset(peers4)); got != "[]" {
		t.Errorf("ipset shows %s", got)
	}
}
