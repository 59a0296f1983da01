package agent_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-net/fairlead/agent"
	"github.com/fairlead-net/fairlead/endpoint"
	"github.com/fairlead-net/fairlead/nettest"
)

// attempt is an attach of web that is under way, in an agent that does not run.
type attempt struct {
	agent *agent.Agent
	ended chan struct{}
	got   agent.Endpoint
	err   error
}

func begin(ctx context.Context, a *agent.Agent, netns string) *attempt {
	at := &attempt{agent: a, ended: make(chan struct{})}
	go func() {
		defer close(at.ended)
		at.got, _, at.err = a.Attach(ctx, agent.AttachRequest{Name: "web", NetNS: netns})
	}()
	return at
}

// finish makes the passes that the attempt asks for, until it ends.
func (at *attempt) finish(t *testing.T) (agent.Endpoint, error) {
	t.Helper()
	for {
		select {
		case <-at.agent.Asked():
			at.agent.Pass(t.Context())
		case <-at.ended:
			return at.got, at.err
		}
	}
}

// vanish ends a namespace, and with it the link that leads there.
func vanish(t *testing.T, w *world, box *nettest.Host) {
	t.Helper()
	if err := errors.Join(nettest.Remove(box.Path), w.endpoints.Delete(t.Context(), endpoint.HostIf("web"))); err != nil {
		t.Error(err)
	}
}

// attached is an agent that does not run, and its endpoint web. Its clock stands still.
func attached(t *testing.T, w *world) (a *agent.Agent, web agent.Endpoint, box *nettest.Host) {
	t.Helper()
	w.clock.advance(0)
	a = prepare(t, w, config("10.88.1.0/24"), &source{})
	box = nettest.NewHost(t, "former")
	web, err := begin(t.Context(), a, box.Path).finish(t)
	if err != nil {
		t.Fatal(err)
	}
	return a, web, box
}

// nothing wants no trace of web.
func nothing(t *testing.T, w *world, a *agent.Agent) {
	t.Helper()
	if all, err := a.Endpoints(); err != nil || len(all) != 0 {
		t.Errorf("endpoints left behind: %+v, %v", all, err)
	}
	if n := a.Status().Pools[0].Leased; n != 0 {
		t.Errorf("%d addresses are still leased", n)
	}
	for line := range strings.Lines(w.text()) {
		if strings.Contains(line, endpoint.HostIf("web")) {
			t.Errorf("left in the kernel: %s", line)
		}
	}
}

func TestWhatIsGoneForLongEnoughIsCollected(t *testing.T) {
	w := newWorld()
	a, _, box := attached(t, w)
	vanish(t, w, box)
	for range 3 {
		a.Pass(t.Context())
		if n := a.Status().Pools[0].Leased; n != 1 {
			t.Errorf("collected too early")
		}
		w.clock.advance(agent.GoneGrace / 3)
	}
	a.Pass(t.Context())
	nothing(t, w, a)
}

// TestAnEndpointWithALinkIsNotGone: a process elsewhere can hold a namespace whose path is gone. Even one that was taken
// for gone is not, as soon as its link is seen.
func TestAnEndpointWithALinkIsNotGone(t *testing.T) {
	w := newWorld()
	a, _, box := attached(t, w)
	hostIf := endpoint.HostIf("web")
	row := w.endpoints.table[hostIf]
	vanish(t, w, box)
	a.Pass(t.Context())
	if err := w.endpoints.Put(t.Context(), hostIf, row); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		w.clock.advance(agent.GoneGrace)
		a.Pass(t.Context())
	}
	if n := a.Status().Pools[0].Leased; n != 1 || w.endpoints.table[hostIf] != row {
		t.Errorf("%d addresses are leased, the kernel has\n%s", n, w.text())
	}
}

// TestAnAttachIsNeverTakenBackByAnOldLook: a container that is started again under its old name races the end of its
// former life. Whoever comes first, what the new one was given is its own.
func TestAnAttachIsNeverTakenBackByAnOldLook(t *testing.T) {
	for name, race := range map[string]func(t *testing.T, w *world, a *agent.Agent, netns string, chores func()) error{
		"not committed yet": func(t *testing.T, w *world, a *agent.Agent, netns string, chores func()) error {
			working, on := make(chan struct{}), make(chan struct{})
			w.clock.interrupt(func() { close(working); <-on })
			at := begin(t.Context(), a, netns)
			<-working
			chores()
			close(on)
			_, err := at.finish(t)
			return err
		},
		"committed and waiting for a pass": func(t *testing.T, _ *world, a *agent.Agent, netns string, chores func()) error {
			at := begin(t.Context(), a, netns)
			<-a.Asked()
			chores()
			a.Pass(t.Context())
			_, err := at.finish(t)
			return err
		},
		"committed and no longer waited for": func(t *testing.T, _ *world, a *agent.Agent, netns string, chores func()) error {
			ctx, giveUp := context.WithCancel(t.Context())
			at := begin(ctx, a, netns)
			<-a.Asked()
			giveUp()
			if _, err := at.finish(t); !errors.Is(err, context.Canceled) {
				return fmt.Errorf("attach that was given up: %w", err)
			}
			chores()
			a.Pass(t.Context())
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld()
			a, before, former := attached(t, w)
			vanish(t, w, former)
			a.Pass(t.Context())
			w.clock.advance(agent.GoneGrace)
			old, err := a.Look(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			box := nettest.NewHost(t, "next")
			err = race(t, w, a, box.Path, func() {
				if changed, err := old(); changed || err != nil {
					t.Errorf("an old look changed something: %t, %v", changed, err)
				}
			})
			if err != nil {
				t.Error(err)
			}
			for range 2 { // time that the former life was away must not count against the new one
				w.clock.advance(agent.GoneGrace)
				a.Pass(t.Context())
			}
			all, err := a.Endpoints()
			if err != nil || len(all) != 1 || all[0].NetNS != box.Path || !slices.Equal(all[0].Addresses, before.Addresses) {
				t.Errorf("endpoints %+v, %v; want web in %s with %v", all, err, box.Path, before.Addresses)
			}
			if n := a.Status().Pools[0].Leased; n != 1 {
				t.Errorf("%d addresses are leased", n)
			}
			_, inode, err := endpoint.Resolve(box.Path, 0)
			if row := w.endpoints.table[endpoint.HostIf("web")]; row.NSInode != inode || row.IP4 != before.Addresses[0] || err != nil {
				t.Errorf("the kernel has %+v, %v", row, err)
			}
		})
	}
}

// TestANamespaceThatVanishesInTheMidstOfAnAttach: the error says so, and nothing is left.
func TestANamespaceThatVanishesInTheMidstOfAnAttach(t *testing.T) {
	for _, c := range []struct {
		when   string
		attach func(t *testing.T, w *world, a *agent.Agent, box *nettest.Host) *attempt
		want   []error
	}{
		{"before the commit", func(t *testing.T, w *world, a *agent.Agent, box *nettest.Host) *attempt {
			w.clock.interrupt(func() { vanish(t, w, box) })
			return begin(t.Context(), a, box.Path)
		}, []error{endpoint.ErrGone, agent.ErrConflict}},
		{"before the pass", func(t *testing.T, w *world, a *agent.Agent, box *nettest.Host) *attempt {
			at := begin(t.Context(), a, box.Path)
			<-a.Asked()
			vanish(t, w, box)
			a.Pass(t.Context())
			return at
		}, []error{endpoint.ErrGone, agent.ErrConflict}},
		{"in the pass", func(t *testing.T, w *world, a *agent.Agent, box *nettest.Host) *attempt {
			w.endpoints.refuse = func(string) error {
				if err := nettest.Remove(box.Path); err != nil {
					t.Error(err)
				}
				return fmt.Errorf("enter namespace %s: %w", box.Path, endpoint.ErrGone)
			}
			return begin(t.Context(), a, box.Path)
		}, []error{endpoint.ErrGone}},
	} {
		t.Run(c.when, func(t *testing.T) {
			w := newWorld()
			a := prepare(t, w, config("10.88.1.0/24"), &source{})
			box := nettest.NewHost(t, "box")
			_, err := c.attach(t, w, a, box).finish(t)
			for _, want := range c.want {
				if !errors.Is(err, want) || !strings.Contains(err.Error(), box.Path) {
					t.Errorf("attach: %v; want %v", err, want)
				}
			}
			nothing(t, w, a)
		})
	}
}

// TestAFailedReplacementLeavesTheFormerLife: somebody still holds the former namespace, so its link and address are in
// use, whatever becomes of the one that was to take its place.
func TestAFailedReplacementLeavesTheFormerLife(t *testing.T) {
	w := newWorld()
	a, web, former := attached(t, w)
	if err := nettest.Remove(former.Path); err != nil { // not the link
		t.Fatal(err)
	}
	before := w.text()
	next := nettest.NewHost(t, "next")
	at := begin(t.Context(), a, next.Path)
	<-a.Asked()
	if err := nettest.Remove(next.Path); err != nil {
		t.Fatal(err)
	}
	a.Pass(t.Context())
	if _, err := at.finish(t); !errors.Is(err, agent.ErrConflict) || !errors.Is(err, endpoint.ErrGone) {
		t.Errorf("attach: %v", err)
	}
	if diff := cmp.Diff(before, w.text()); diff != "" {
		t.Error(diff)
	}
	all, err := a.Endpoints()
	if err != nil || len(all) != 1 || !slices.Equal(all[0].Addresses, web.Addresses) || a.Status().Pools[0].Leased != 1 {
		t.Errorf("endpoints %+v, %v", all, err)
	}
}
