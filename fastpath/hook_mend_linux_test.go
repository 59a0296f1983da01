package fastpath

import (
	"context"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	bpflink "github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
)

// spoiled is a hook of p0 that is not as it should be, and what becomes of it.
type spoiled struct {
	name  string
	by    attachment
	spoil func(r *hookRig, h *hooks) // in the namespace, after the hooks were filled
	fault string
	twice bool // packets may meet two of ours until it is mended
	gap   bool // packets may meet none while it is mended
}

func spoils() []spoiled {
	return []spoiled{
		{name: "a second link of the same code", by: byTCX, fault: FaultTwice, twice: true, spoil: func(r *hookRig, h *hooks) {
			r.attach(r.hooks(byTCX, 1).programs["from_container"])
		}},
		{name: "a second link of other code", by: byTCX, fault: FaultTwice, twice: true, spoil: func(r *hookRig, h *hooks) {
			r.attach(r.hooks(byTCX, 2).programs["from_wire"])
		}},
		{name: "the program by a link that is not pinned, beside an old one", by: byTCX, fault: FaultTwice, twice: true, spoil: func(r *hookRig, h *hooks) {
			r.update(h, r.hooks(byTCX, 2).programs["from_container"])
			r.attach(h.programs["from_container"])
		}},
		{name: "four more", by: byTCX, fault: FaultTwice, twice: true, spoil: func(r *hookRig, h *hooks) {
			for version := 2; version < 6; version++ {
				r.attach(r.hooks(byTCX, version).programs["from_container"])
			}
		}},
		{name: "old code", by: byTCX, fault: FaultOld, spoil: func(r *hookRig, h *hooks) {
			r.update(h, r.hooks(byTCX, 2).programs["from_container"])
		}},
		{name: "not pinned", by: byTCX, fault: FaultLoose, spoil: func(r *hookRig, h *hooks) {
			r.keep(h)
			r.must(os.Remove(h.pinOf(place{r.index(), Ingress})))
		}},
		{name: "not pinned and old", by: byTCX, fault: FaultLoose, spoil: func(r *hookRig, h *hooks) {
			r.update(h, r.hooks(byTCX, 2).programs["from_container"])
			r.keep(h)
			r.must(os.Remove(h.pinOf(place{r.index(), Ingress})))
		}},
		{name: "without a link, of the same code", by: byTCX, fault: FaultLoose, twice: true, spoil: func(r *hookRig, h *hooks) {
			r.detach(h)
			r.attachBare(r.hooks(byTCX, 1).programs["from_container"])
		}},
		{name: "without a link, the same program", by: byTCX, fault: FaultLoose, gap: true, spoil: func(r *hookRig, h *hooks) {
			r.detach(h)
			r.attachBare(h.programs["from_container"])
		}},
		{name: "without a link, the same program, and an old link", by: byTCX, fault: FaultTwice, twice: true, spoil: func(r *hookRig, h *hooks) {
			r.update(h, r.hooks(byTCX, 2).programs["from_container"])
			r.attachBare(h.programs["from_container"])
		}},
		{name: "a filter", by: byTCX, fault: FaultKind, twice: true, spoil: func(r *hookRig, h *hooks) {
			r.detach(h)
			r.must(r.hooks(byClsact, 1).Put(r.t.Context(), Hook{"p0", Ingress}, Job{Program: "from_container"}))
		}},
		{name: "a filter beside", by: byTCX, fault: FaultTwice, twice: true, spoil: func(r *hookRig, h *hooks) {
			r.must(r.hooks(byClsact, 2).put(place{r.index(), Ingress}, "from_container"))
			r.attach(h.programs["from_wire"]) // a link again, which the table of filters took away
		}},
		{name: "a link", by: byClsact, fault: FaultTwice, twice: true, spoil: func(r *hookRig, h *hooks) {
			r.attach(r.hooks(byTCX, 1).programs["from_container"])
		}},
		{name: "two filters", by: byClsact, fault: FaultTwice, twice: true, spoil: func(r *hookRig, h *hooks) {
			r.must(netlink.FilterAdd(newFilter(place{r.index(), Ingress}, "from_container", h.programs["from_container"], 0)))
		}},
		{name: "two filters, one of other code", by: byClsact, fault: FaultTwice, twice: true, spoil: func(r *hookRig, h *hooks) {
			r.must(netlink.FilterAdd(newFilter(place{r.index(), Ingress}, "to_wire", r.hooks(byClsact, 2).programs["from_wire"], 0)))
		}},
		{name: "an old filter", by: byClsact, fault: FaultOld, spoil: func(r *hookRig, h *hooks) {
			r.must(r.hooks(byClsact, 2).put(place{r.index(), Ingress}, "from_container"))
		}},
		{name: "a filter that only matches", by: byClsact, fault: FaultOld, spoil: func(r *hookRig, h *hooks) {
			f := newFilter(place{r.index(), Ingress}, "from_container", h.programs["from_container"], 1)
			f.DirectAction = false
			r.must(netlink.FilterReplace(f))
		}},
	}
}

// attach attaches a program of ours to the way in of p0, by a link that is not pinned.
func (r *hookRig) attach(p *ebpf.Program) {
	r.t.Helper()
	l, err := bpflink.AttachTCX(bpflink.TCXOptions{Interface: r.index(), Program: p, Attach: Ingress.attachType()})
	r.must(err)
	r.t.Cleanup(func() { l.Close() })
}

func (r *hookRig) attachBare(p *ebpf.Program) {
	r.t.Helper()
	r.must(bpflink.RawAttachProgram(bpflink.RawAttachProgramOptions{Target: r.index(), Program: p, Attach: Ingress.attachType()}))
}

// keep holds the pinned link open for the rest of the test.
func (r *hookRig) keep(h *hooks) bpflink.Link {
	r.t.Helper()
	l, err := bpflink.LoadPinnedLink(h.pinOf(place{r.index(), Ingress}), nil)
	r.must(err)
	r.t.Cleanup(func() { l.Close() })
	return l
}

func (r *hookRig) update(h *hooks, p *ebpf.Program) { r.t.Helper(); r.must(r.keep(h).Update(p)) }
func (r *hookRig) detach(h *hooks)                  { r.t.Helper(); r.must(r.keep(h).Detach()) }

// TestFaultsAreSeenAndMended: whatever somebody did to a hook is one row with a fault, and one Put brings the hook to one
// program, while every packet meets one.
func TestFaultsAreSeenAndMended(t *testing.T) {
	for _, c := range spoils() {
		t.Run(string(c.by)+" "+c.name, func(t *testing.T) {
			r := newHookRig(t)
			h := r.hooks(c.by, 1)
			r.settle(h, containerHooks())
			r.within(func() { c.spoil(r, h) })
			have, err := h.List(t.Context())
			r.must(err)
			if got := have[Hook{"p0", Ingress}].Fault; got != c.fault || len(have) != 2 {
				t.Fatalf("listed as %v, want the fault %q", have, c.fault)
			}
			watch := r.watch()
			r.settle(h, containerHooks())
			watch.more()
			watch.end(c)
			ours := r.ours(Ingress)
			if len(ours) != 1 {
				t.Errorf("at the hook: %v", ours)
			}
			r.wantMet("mended", map[string]int{"from_container": 10, "to_container": 10})
			r.settle(h, map[Hook]Job{})
			if ours := r.ours(Ingress); len(ours) > 0 {
				t.Errorf("left at the hook: %v", ours)
			}
			if left := r.left(); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
		})
	}
}

// ours is what of ours stands at a hook.
func (r *hookRig) ours(way Way) []string {
	r.t.Helper()
	return slices.DeleteFunc(r.there(way), func(name string) bool {
		return !strings.Contains(name, namePrefix) && !strings.Contains(name, filterPrefix)
	})
}

// watch counts packets that come in by p0 all the time, before any program of ours does.
type watch struct {
	r     *hookRig
	first *ebpf.Program
	was   [2]uint64          // met by the first program, and by ours
	stop  context.CancelFunc // as the end of the test does
	done  chan error
}

func (r *hookRig) watch() *watch {
	r.t.Helper()
	ctx, stop := context.WithCancel(r.t.Context())
	w := &watch{r: r, first: r.theirs("first", slotTheirs), stop: stop, done: make(chan error, 1)}
	if r.tcx { // ahead of all links: what is attached by filter comes later in any case
		r.linkOfTheirs(w.first, Ingress, bpflink.Head())
	} else {
		r.filterOfTheirs(w.first, Ingress, 1, "first")
	}
	w.was = w.met()
	go func() {
		w.done <- r.b.Do(func() error {
			for ctx.Err() == nil {
				if err := sendFrames("p1", 50); err != nil {
					return err
				}
			}
			return nil
		})
	}()
	w.more()
	return w
}

// more waits until some more packets have come.
func (w *watch) more() {
	w.r.t.Helper()
	for was := w.met(); w.met()[0] < was[0]+5; {
		if len(w.done) > 0 {
			w.r.t.Fatal("the traffic has ended")
		}
	}
}

func (w *watch) met() [2]uint64 {
	ours := uint64(0)
	for _, slot := range hookSlots() {
		ours += w.r.read(w.r.counter, slot)
	}
	return [2]uint64{w.r.met(w.first, slotTheirs), ours}
}

// end tells how many packets came since, and how many met programs of ours.
func (w *watch) end(c spoiled) (came, met uint64) {
	w.r.t.Helper()
	w.stop()
	w.r.must(<-w.done)
	var now [2]uint64
	for range 100 { // frames that are still on their way
		before := now
		time.Sleep(2 * time.Millisecond)
		if now = w.met(); now == before {
			break
		}
	}
	came, met = now[0]-w.was[0], now[1]-w.was[1]
	if came == 0 || met < came && !c.gap || met > came && !c.twice {
		w.r.t.Errorf("%d packets came, ours met %d", came, met)
	}
	return came, met
}

// TestReplacingMissesNoPacket replaces programs a hundred times under traffic.
func TestReplacingMissesNoPacket(t *testing.T) {
	both(t, func(r *hookRig, h *hooks) {
		r.settle(h, containerHooks())
		tables := []*hooks{h, r.hooks(h.by, 2), r.hooks(h.by, 3)}
		w := r.watch()
		for n := range 100 {
			program := []string{"from_container", "from_wire"}[n/3%2]
			r.must(tables[n%3].Put(t.Context(), Hook{"p0", Ingress}, Job{Program: program}))
			w.more()
		}
		came, met := w.end(spoiled{})
		t.Logf("%d packets came, %d met ours", came, met)
		if ours := r.ours(Ingress); len(ours) != 1 {
			t.Errorf("at the hook: %v", ours)
		}
		r.settle(h, map[Hook]Job{})
	})
}
