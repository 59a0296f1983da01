package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"sync"
	"time"

	"github.com/fairlead-net/fairlead/store"
	"github.com/fairlead-net/fairlead/tunnel"
)

const (
	undoPatience = 10 * time.Second       // to take back what could not be finished
	calm         = 200 * time.Millisecond // from a pass to one that events of our objects ask for: our own writes are events too
	breath       = 50 * time.Millisecond  // from a pass to one that events of the network beneath ask for
	firstRetry   = 250 * time.Millisecond
	longestRetry = 30 * time.Second
	housekeeping = 3 // times that a pass reads again because its own chores changed the store
)

// ErrUninstalled ends Run after everything of ours has been taken out of the kernel.
var ErrUninstalled = errors.New("uninstalled")

// ErrStopped is the answer to whoever waits for a pass of a daemon that ends.
var ErrStopped = errors.New("the daemon is stopping")

// Run makes passes until ctx ends. It leaves the kernel as it is: traffic flows on.
func (a *Agent) Run(ctx context.Context) error {
	defer close(a.stopped)
	kernel, err := a.room.Underlay.Watch(ctx)
	if err != nil {
		return fmt.Errorf("watch the kernel: %w", err)
	}
	w := newWaker(a.interval())
	defer w.stop()
	feed := ticker(a.room.Watchdog / 3)
	defer feed.Stop()
	ctx, stop := context.WithCancel(ctx)
	var beside sync.WaitGroup
	beside.Go(func() { a.patrol.run(ctx, a.interval) })
	beside.Go(func() { a.trial.run(ctx) })
	beside.Go(func() { a.trailer.run(ctx, a.interval) })
	beside.Go(func() { a.sweep(ctx) })
	defer a.news.hooks.end()
	defer beside.Wait()
	defer stop()
	for {
		if err := a.pass(ctx, w); err != nil {
			return err
		}
		a.room.Notify("WATCHDOG=1")
		if a.wait(ctx, kernel, w, feed); ctx.Err() != nil {
			return nil
		}
	}
}

// wait sleeps until a pass is due. The loop that does the work is also the one that feeds the watchdog.
func (a *Agent) wait(ctx context.Context, kernel tunnel.Pokes, w *waker, feed *time.Ticker) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-feed.C:
			a.room.Notify("WATCHDOG=1")
			continue
		case <-a.asked:
		case <-a.room.Speaker.Changed():
		case <-a.patrol.found:
		case <-a.trial.found:
		case <-a.room.DB.Unsure():
		case <-w.retry.C:
		case <-w.tick.C:
		case <-w.later.C:
		case <-kernel.Own:
			a.patrol.ask()
			if !w.now(calm) {
				continue
			}
		case <-kernel.Beneath:
			if !w.now(breath) {
				continue
			}
		case <-a.room.Kernel.Filter.Changed():
			if !w.now(calm) {
				continue
			}
		case <-a.room.Kernel.Members.Changed():
			if !w.now(calm) {
				continue
			}
		case <-a.room.Kernel.NAT.Ports.Changed():
			if !w.now(breath) {
				continue
			}
		case <-a.room.Kernel.NAT.Outgoing.Changed():
			if !w.now(breath) {
				continue
			}
		case <-a.room.Kernel.NAT.Forward.Changed():
			if !w.now(breath) {
				continue
			}
		case <-a.room.Kernel.NAT.Apart.Changed():
			if !w.now(breath) {
				continue
			}
		}
		return
	}
}

// pass makes one pass, publishes what came of it and plans the retry of what failed.
func (a *Agent) pass(ctx context.Context, w *waker) error {
	begun := time.Now()
	w.later.Stop() // what it would look at is looked at now
	w.due = time.Time{}
	o := a.converge(ctx)
	if ctx.Err() != nil {
		return nil // half a pass because of the end is nobody's failure
	}
	if o.bare() {
		o.err = a.forget(ctx, &o.in)
	}
	a.metrics.pass(&o, time.Since(begun))
	a.mu.Lock()
	before := a.state.last
	a.mu.Unlock()
	a.tell(&before, &o)
	if o.sound() && !o.in.lived && !o.in.uninstall {
		if err := a.live(ctx); err != nil {
			a.room.Log.Warn("can not write to the store", "error", err)
		}
	}
	if o.sound() && !o.in.uninstall {
		a.trial.offer(o.desired.Rows)
	}
	a.trailer.offer(&o) // before anybody hears that the pass is done
	a.publish(o)
	a.news.tell(&o, a.room.Speaker)
	w.passed = time.Now()
	w.plan(o.clean(), a.again(&o))
	if err := a.follow(&o.in); err != nil {
		return err
	}
	if a.move.to.IsValid() {
		w.by(time.Now().Add(a.move.left(a.room.Now())))
	}
	w.tick.Reset(a.interval())
	if errors.Is(o.problem(), store.ErrUnsure) {
		return fmt.Errorf("read inputs: %w", o.problem()) // only a new start can find out what the disk has
	}
	if o.bare() {
		return ErrUninstalled
	}
	return nil
}

// converge reads the inputs and brings the kernel to what follows from them.
func (a *Agent) converge(ctx context.Context) outcome {
	in, err := a.read(ctx)
	var fault error // a chore that can not be done now keeps nobody from the rest
	for range housekeeping {
		if err != nil {
			break
		}
		var changed bool
		if changed, fault = a.keepHouse(ctx, in); fault != nil || !changed {
			break
		}
		in, err = a.read(ctx)
	}
	in.fault = errors.Join(in.fault, fault)
	o := outcome{rev: in.rev, in: in, finished: a.room.Now()}
	if err != nil {
		o.err = err
		return o
	}
	o.desired = desire(in)
	if errors.Is(in.fault, tunnel.ErrAddressGone) {
		withoutSources(o.desired.Routes) // what is known of the addresses is old
	}
	if err := a.remember(ctx, in, o.desired.Sysctls); err != nil {
		o.in.fault = errors.Join(o.in.fault, err)
		// What can not be remembered could not be put back: it is left alone.
		maps.DeleteFunc(o.desired.Sysctls, func(path, _ string) bool { _, kept := in.known[path]; return !kept })
	}
	o.report = a.ladder.apply(ctx, o.desired, in.have, in.complete || in.uninstall)
	o.desired.lack(o.report)
	if err := a.shadows(ctx, o.desired.routes); err != nil {
		o.err = err
	}
	o.finished = a.room.Now()
	return o
}

// shadows marks the routes that are in the kernel and yet not used, since somebody else's wins over them. Foreign routes
// are never touched, so it is all that can be done.
func (a *Agent) shadows(ctx context.Context, routes []Route) error {
	var ours []netip.Prefix
	for _, r := range routes {
		if r.Installed {
			ours = append(ours, r.Prefix)
		}
	}
	shadowed, err := a.room.Underlay.Shadowed(ctx, ours)
	if err != nil {
		return fmt.Errorf("look for foreign routes: %w", err)
	}
	for i := range routes {
		if _, ok := shadowed[routes[i].Prefix]; ok {
			routes[i].Installed, routes[i].Reason = false, tunnel.ReasonForeign
		}
	}
	return nil
}

// again is when to look again though nothing may poke: a wait that is bounded by time. Zero: nothing is waited for.
func (a *Agent) again(o *outcome) time.Duration {
	if len(a.gone) > 0 || !o.in.settled || !o.in.complete {
		return time.Second
	}
	return 0
}

// tell logs what changed. A converged host logs nothing.
func (a *Agent) tell(before, o *outcome) {
	if was, is := fmt.Sprint(before.problem()), fmt.Sprint(o.problem()); was != is {
		if o.clean() {
			a.room.Log.Info("all is as wanted again", "rev", o.rev)
		} else {
			a.room.Log.Warn("not all is as wanted", "rev", o.rev, "error", o.problem())
		}
	}
	if o.sound() && !before.sound() {
		a.room.Notify("READY=1")
	}
	if o.report == nil || o.report.Total() == 0 {
		return
	}
	a.room.Log.Info("converged", "rev", o.rev, "writes", o.report.Writes, "repaired", o.report.Repaired)
}

func (a *Agent) interval() time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.state.cfg.Interval
}

// waker holds the timers of the loop.
type waker struct {
	tick  *time.Ticker
	retry *time.Timer
	later *time.Timer   // a pass that a kernel event asked for too early
	due   time.Time     // when later goes off; zero: never
	wait  time.Duration // before the next retry

	passed time.Time // when the latest pass ended
}

func newWaker(interval time.Duration) *waker {
	w := &waker{tick: time.NewTicker(interval), retry: time.NewTimer(0), later: time.NewTimer(0), wait: firstRetry}
	w.retry.Stop()
	w.later.Stop()
	return w
}

func (w *waker) stop() {
	w.tick.Stop()
	w.retry.Stop()
	w.later.Stop()
}

// plan sets the retry: soon after the first failure, then less and less often; again asks for a look at a known time.
func (w *waker) plan(clean bool, again time.Duration) {
	w.retry.Stop()
	switch {
	case !clean:
		w.retry.Reset(w.wait)
		w.wait = min(2*w.wait, longestRetry)
	case again > 0:
		w.retry.Reset(again)
	}
	if clean {
		w.wait = firstRetry
	}
}

// now tells whether a kernel event leads to a pass at once. Soon after a pass an event of our own objects is most likely an
// echo of what that pass wrote, so a pass is planned instead, which any other pass before it makes needless.
func (w *waker) now(rest time.Duration) bool {
	if time.Since(w.passed) >= rest {
		return true
	}
	w.by(w.passed.Add(rest))
	return false
}

// by plans a pass for a time, unless one is planned for an earlier one.
func (w *waker) by(at time.Time) {
	if w.due.IsZero() || at.Before(w.due) {
		w.due = at
		w.later.Reset(time.Until(at))
	}
}

// ticker is a ticker that never ticks when the interval is 0.
func ticker(d time.Duration) *time.Ticker {
	if d <= 0 {
		t := time.NewTicker(time.Hour)
		t.Stop()
		return t
	}
	return time.NewTicker(d)
}
