package fastpath

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	bpflink "github.com/cilium/ebpf/link"
	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"github.com/fairlead-net/fairlead/nettest"
	"github.com/fairlead-net/fairlead/reconcile"
)

func TestHooksAreFilledReplacedAndEmptied(t *testing.T) {
	both(t, func(r *hookRig, h *hooks) {
		r.want(h, map[Hook]Job{})
		r.settle(h, containerHooks())
		r.wantMet("filled", map[string]int{"from_container": 10, "to_container": 10})
		r.settle(h, wireHooks())
		r.wantMet("replaced", map[string]int{"from_wire": 10, "to_wire": 10})
		one := map[Hook]Job{{"p0", Egress}: {Program: "to_wire"}}
		r.settle(h, one)
		r.wantMet("one of them left", map[string]int{"to_wire": 10})
		r.settle(h, map[Hook]Job{})
		r.wantMet("emptied", map[string]int{})
		r.nothing()
		r.must(h.Delete(t.Context(), Hook{"p0", Ingress})) // absent is success
		r.must(h.Delete(t.Context(), Hook{"absent", Egress}))
	})
}

// TestNextDaemonAdopts: one with the same code has nothing to do, one with other code or other maps replaces what is there.
func TestNextDaemonAdopts(t *testing.T) {
	both(t, func(r *hookRig, h *hooks) {
		r.settle(h, containerHooks())
		r.want(r.hooks(h.by, 1), containerHooks())
		next := r.hooks(h.by, 2)
		old := map[Hook]Job{
			{"p0", Ingress}: {Program: "from_container", Fault: FaultOld},
			{"p0", Egress}:  {Program: "to_container", Fault: FaultOld},
		}
		r.want(next, old)
		before := r.left()
		r.settle(next, containerHooks())
		r.want(h, old)
		if diff := cmp.Diff(before, r.left()); diff != "" {
			t.Errorf("pins: %s", diff)
		}
		r.must(r.counter.Close())
		var err error
		r.counter, err = ebpf.NewMap(counterSpec())
		r.must(err)
		moved := r.hooks(h.by, 2)
		r.want(moved, old)
		r.settle(moved, containerHooks())
		r.wantMet("with another map", map[string]int{"from_container": 10, "to_container": 10})
		r.settle(moved, map[Hook]Job{})
		r.nothing()
	})
}

func TestWhatOthersHaveAtAHookStays(t *testing.T) {
	both(t, func(r *hookRig, h *hooks) {
		before, behind := r.theirs("fl_annel", slotTheirs), r.theirs("their_late", slotTheirs+1)
		filter, late := r.theirs("fl_from_wire", slotTheirs+2), r.theirs("filter_late", slotTheirs+3)
		if r.tcx {
			r.linkOfTheirs(before, Ingress, bpflink.Tail())
		}
		r.filterOfTheirs(filter, Ingress, 7, "fairlead:not")
		r.a.Run("tc", "filter", "add", "dev", "p0", "ingress", "prio", "5", "protocol", "arp", "u32", "match", "u32", "0", "0", "classid", "1:1")
		r.settle(h, containerHooks())
		if r.tcx {
			r.linkOfTheirs(behind, Ingress, bpflink.Tail())
		}
		r.filterOfTheirs(late, Ingress, filterPriority, "calico")
		want := []string{"fl_annel", "fl_from_contain", "their_late", "filter fairlead:not", "filter calico"}
		if h.by == byClsact {
			want = []string{"fl_annel", "their_late", "filter fairlead:not", "filter fairlead:from_container", "filter calico"}
		}
		if !r.tcx {
			want = want[2:]
		}
		if diff := cmp.Diff(want, sortedTail(want, r.there(Ingress))); diff != "" {
			t.Errorf("at the hook (-want +have):\n%s", diff)
		}
		r.wantMet("among others", map[string]int{"from_container": 10, "to_container": 10})
		r.settle(h, wireHooks())
		r.settle(r.hooks(h.by, 2), wireHooks())
		r.settle(h, map[Hook]Job{})
		want = slices.DeleteFunc(want, func(s string) bool { return strings.Contains(s, "from_contain") })
		if diff := cmp.Diff(want, r.there(Ingress)); diff != "" {
			t.Errorf("at the hook after we have gone (-want +have):\n%s", diff)
		}
		if qdiscs := r.a.Run("tc", "qdisc", "show", "dev", "p0"); !strings.Contains(qdiscs, "clsact") {
			t.Error("the qdisc of others has gone")
		}
		was := r.met(late, slotTheirs+3)
		r.send(r.b, "p1", 100)
		for _, p := range []struct {
			name string
			met  func() uint64
		}{
			{"before", func() uint64 { return r.met(before, slotTheirs) }},
			{"behind", func() uint64 { return r.met(behind, slotTheirs+1) }},
			{"filter", func() uint64 { return r.met(filter, slotTheirs+2) }},
			{"late filter", func() uint64 { return r.met(late, slotTheirs+3) }},
		} {
			if !r.tcx && !strings.Contains(p.name, "filter") {
				continue
			}
			if n := p.met(); n < was+100 {
				t.Errorf("the program of others %s met %d packets, want %d and more", p.name, n, was+100)
			}
		}
	})
}

// sortedTail puts filters of one priority in the order of want, which the kernel does not promise.
func sortedTail(want, have []string) []string {
	slices.SortStableFunc(have, func(a, b string) int { return slices.Index(want, a) - slices.Index(want, b) })
	return have
}

// TestQdiscOfOursWithTheirFilterStays: it stays while somebody else has a filter below it, and is then theirs.
func TestQdiscOfOursWithTheirFilterStays(t *testing.T) {
	r := newHookRig(t)
	h := r.hooks(byClsact, 1)
	r.settle(h, containerHooks())
	r.filterOfTheirs(r.theirs("theirs", slotTheirs), Egress, 1, "theirs")
	r.settle(h, map[Hook]Job{})
	if diff := cmp.Diff([]string{"filter theirs"}, r.there(Egress)); diff != "" {
		t.Error(diff)
	}
	if left := r.left(); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// TestIngressQdiscOfOthers has no hook for what goes out, and shows its filters for either way.
func TestIngressQdiscOfOthers(t *testing.T) {
	r := newHookRig(t)
	h := r.hooks(byClsact, 1)
	r.a.Run("tc", "qdisc", "add", "dev", "p0", "ingress")
	r.must(h.Put(t.Context(), Hook{"p0", Ingress}, Job{Program: "from_wire"}))
	err := h.Put(t.Context(), Hook{"p0", Egress}, Job{Program: "to_wire"})
	if err == nil || !strings.Contains(err.Error(), "qdisc ingress of somebody else") {
		t.Errorf("put at the way out: %v", err)
	}
	r.want(h, map[Hook]Job{{"p0", Ingress}: {Program: "from_wire"}})
	r.wantMet("below it", map[string]int{"from_wire": 10})
	r.settle(h, map[Hook]Job{})
	if qdiscs := r.a.Run("tc", "qdisc", "show", "dev", "p0"); !strings.Contains(qdiscs, "ingress") {
		t.Errorf("the qdisc has gone: %s", qdiscs)
	}
}

// TestALinkIsPavedBeforeItsPrograms: the qdisc of a new link is there once, and stays with the link when the programs go.
func TestALinkIsPavedBeforeItsPrograms(t *testing.T) {
	both(t, func(r *hookRig, h *hooks) {
		for range 2 {
			r.must(h.pave("p0"))
		}
		r.must(h.pave("gone"))
		want := 0
		if h.by == byClsact {
			want = 1
		}
		count := func() int { return strings.Count(r.a.Run("tc", "qdisc", "show", "dev", "p0"), "clsact") }
		if n := count(); n != want {
			t.Errorf("%s: %d qdiscs, not %d", h.by, n, want)
		}
		r.settle(h, containerHooks())
		r.settle(h, map[Hook]Job{})
		if n := count(); n != want || len(r.left()) > 0 {
			t.Errorf("%s, after programs: %d qdiscs, not %d; left: %v", h.by, n, want, r.left())
		}
	})
}

func TestPutWaitsForItsLink(t *testing.T) {
	both(t, func(r *hookRig, h *hooks) {
		err := h.Put(t.Context(), Hook{"later", Ingress}, Job{Program: "from_wire"})
		if !errors.Is(err, reconcile.ErrWaits) {
			t.Errorf("put: %v", err)
		}
		err = h.Put(t.Context(), Hook{"p0", Ingress}, Job{Program: "unheard"})
		if err == nil || errors.Is(err, reconcile.ErrWaits) {
			t.Errorf("put of an unknown program: %v", err)
		}
	})
}

// TestLinkThatGoes takes its hooks along, and List what is pinned for it; another of the name is filled anew.
func TestLinkThatGoes(t *testing.T) {
	both(t, func(r *hookRig, h *hooks) {
		r.settle(h, containerHooks())
		r.a.IP("link del p0")
		if len(r.left()) == 0 {
			t.Fatal("nothing is pinned or marked for a link")
		}
		r.want(h, map[Hook]Job{})
		if left := r.left(); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
		r.wire()
		r.settle(h, wireHooks())
		r.a.IP("link set p0 down")    // before Linux 6.2 one that is up keeps its name
		r.a.IP("link set p0 name q0") // the rows follow the name, the programs the link
		r.want(h, map[Hook]Job{{"q0", Ingress}: {Program: "from_wire"}, {"q0", Egress}: {Program: "to_wire"}})
	})
}

// TestLinkWithTheNumberOfAnother: a pin of the link that had the number is not taken for the new one's.
func TestLinkWithTheNumberOfAnother(t *testing.T) {
	both(t, func(r *hookRig, h *hooks) {
		r.a.IP("link add n0 index 777 type veth peer name n1")
		want := map[Hook]Job{{"n0", Ingress}: {Program: "from_container"}}
		r.settle(h, want)
		r.a.IP("link del n0")
		r.a.IP("link add m0 index 777 type veth peer name m1")
		r.must(h.Put(t.Context(), Hook{"m0", Ingress}, Job{Program: "from_wire"})) // before any List
		want = map[Hook]Job{{"m0", Ingress}: {Program: "from_wire"}}
		r.settle(h, want)
		r.settle(h, map[Hook]Job{})
		if left := r.left(); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
	})
}

func TestDetachedByHandIsSeenAtOnce(t *testing.T) {
	out := map[Hook]Job{{"p0", Egress}: {Program: "to_container"}}
	for _, c := range []struct {
		name string
		by   attachment
		hand func(r *hookRig, pin string)
		want map[Hook]Job
	}{
		{"link", byTCX, func(r *hookRig, pin string) {
			l, err := bpflink.LoadPinnedLink(pin, nil)
			r.must(err)
			defer l.Close()
			r.must(l.Detach())
		}, out},
		{"bpftool", byTCX, func(r *hookRig, pin string) { r.a.Run("bpftool", "link", "detach", "pinned", pin) }, out},
		{"filter", byClsact, func(r *hookRig, _ string) { r.a.Run("tc", "filter", "del", "dev", "p0", "ingress") }, out},
		{"qdisc", byClsact, func(r *hookRig, _ string) { r.a.Run("tc", "qdisc", "del", "dev", "p0", "clsact") }, map[Hook]Job{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newHookRig(t)
			h := r.hooks(c.by, 1)
			r.settle(h, containerHooks())
			c.hand(r, h.pinOf(place{r.index(), Ingress}))
			r.want(h, c.want)
			r.settle(h, containerHooks())
			r.wantMet("put back", map[string]int{"from_container": 10, "to_container": 10})
			r.settle(h, map[Hook]Job{})
			r.nothing()
		})
	}
}

// TestPinTakenByHand: the kernel detaches the link at some time soon.
func TestPinTakenByHand(t *testing.T) {
	r := newHookRig(t)
	h := r.hooks(byTCX, 1)
	r.settle(h, containerHooks())
	held, err := bpflink.LoadPinnedLink(h.pinOf(place{r.index(), Ingress}), nil)
	r.must(err)
	r.must(os.Remove(h.pinOf(place{r.index(), Ingress})))
	want := containerHooks()
	want[Hook{"p0", Ingress}] = Job{Program: "from_container", Fault: FaultLoose}
	r.want(h, want) // since somebody else still has it open
	r.settle(h, containerHooks())
	r.must(held.Close())
	r.must(os.Remove(h.pinOf(place{r.index(), Egress})))
	nettest.Eventually(t, 5*time.Second, func() error {
		if n := len(r.there(Egress)); n > 0 {
			return errors.New("still attached")
		}
		return nil
	})
	r.settle(h, containerHooks())
	r.must(os.RemoveAll(r.dir))
	nettest.Eventually(t, 5*time.Second, func() error {
		if n := len(r.there(Ingress)) + len(r.there(Egress)); n > 0 {
			return errors.New("still attached")
		}
		return nil
	})
	r.settle(h, containerHooks())
	r.wantMet("pinned again", map[string]int{"from_container": 10, "to_container": 10})
}

// TestWhatIsHalfMadeIsSweptAway: it is what is left by who was killed between the two, and of a qdisc that went with all its filters.
func TestWhatIsHalfMadeIsSweptAway(t *testing.T) {
	r := newHookRig(t)
	h := r.hooks(byClsact, 1)
	mark := h.markOf(r.index())
	r.must(os.Mkdir(mark, 0o700))
	r.want(h, map[Hook]Job{})
	r.nothing()
	r.must(os.Mkdir(mark, 0o700))
	index := r.index()
	r.must(r.a.Do(func() error { return netlink.QdiscAdd(clsact(index)) }))
	r.want(h, map[Hook]Job{})
	r.nothing()
	r.must(os.Mkdir(mark, 0o700))
	r.settle(h, containerHooks())
	r.settle(h, map[Hook]Job{})
	r.nothing()
	pin := h.pinOf(place{index, Ingress})
	r.must(h.programs["to_wire"].Pin(pin)) // something else where a link should be
	r.want(r.hooks(byTCX, 1), map[Hook]Job{})
	if left := r.left(); slices.Contains(left, filepath.Base(pin)) {
		t.Errorf("left: %v", left)
	}
}

func TestUnreadableIsNoAbsence(t *testing.T) {
	r := newHookRig(t)
	h := r.hooks(byTCX, 1)
	r.settle(h, containerHooks())
	pin := h.pinOf(place{r.index(), Ingress})
	r.must(os.Rename(pin, pin+"x"))
	r.must(os.Mkdir(pin, 0o700)) // EACCES
	if _, err := h.List(t.Context()); err == nil {
		t.Error("a pin that can not be opened is taken for none")
	}
}
