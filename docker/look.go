package docker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"slices"
	"syscall"
	"time"

	"github.com/fairlead-net/fairlead/agent"
)

const (
	lookSettle    = 100 * time.Millisecond // after an event: Docker writes down a bit later what it tells, and events come in bursts
	lookRest      = 4                      // times as long as the latest look took, between looks while events keep coming
	lookEvery     = time.Minute            // without any event
	lookRetry     = time.Second            // before Docker is tried again, twice as long each time
	lookRetryMost = 10 * time.Second
	lookTroubles  = 100 // failures that are remembered
)

// errLookEnded says that Docker, which answered, has ended its stream of events: most often it ends, or starts again.
var errLookEnded = errors.New("docker's events end")

// Looker follows Docker from outside of its calls: it learns what Docker tells no driver, and takes back what Docker has
// forgotten, since a driver that is not there when a container ends is not told later. Without Docker it does nothing, and
// nothing that it does is waited for.
type Looker struct {
	driver  *Driver
	learner Learner
	api     string // path of Docker's own socket
	name    string // of the driver
	engine  *engine

	memory   lookMemory            // of what is suspect
	stranded map[string]lookStrand // by the containers' IDs
	silent   string                // why Docker does not answer, "" while it does
	troubled []string              // what the daemon failed at since a look went well
}

// NewLooker makes one. api is the path of the socket behind which Docker's API is, "" when nobody is to be asked, and name is
// what Docker knows the driver by: the file name of the driver's own socket, without suffix.
func NewLooker(d *Driver, l Learner, api, name string) *Looker {
	return &Looker{driver: d, learner: l, api: api, name: name, engine: newEngine(api)}
}

// Run follows Docker until the context ends; with nobody to ask it returns at once. Docker may come, go and hang meanwhile.
func (l *Looker) Run(ctx context.Context) {
	if l.api == "" {
		return
	}
	defer l.engine.client.CloseIdleConnections()
	for wait := lookRetry; ; wait = min(2*wait, lookRetryMost) {
		began := time.Now()
		err := errEngineAsleep
		if !engineAsleep("/proc", l.api) {
			err = l.follow(ctx)
		}
		if ctx.Err() != nil {
			return
		}
		l.lost(err)
		if time.Since(began) > lookEvery {
			wait = lookRetry
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// follow looks at once, after events and now and then, until Docker can not be asked.
func (l *Looker) follow(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	stream, err := l.engine.events(ctx)
	if err != nil {
		cancel()
		return err
	}
	pokes, ended := make(chan struct{}, 1), make(chan error, 1)
	go func() { ended <- lookListen(stream, pokes) }()
	defer func() {
		cancel()
		stream.Close()
		<-ended
	}()
	due := time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for rest := lookSettle; ; {
		select {
		case err := <-ended:
			ended <- nil
			return fmt.Errorf("%w: %w", errLookEnded, err)
		case <-pokes:
			if soon := time.Now().Add(rest); soon.Before(due) {
				due = soon
				timer.Reset(rest)
			}
		case <-timer.C:
			began := time.Now()
			next, err := l.look(ctx, began)
			if err != nil {
				return err
			}
			// A host with so much to look at that it takes long shall do something else most of the time.
			rest = lookSettle + lookRest*time.Since(began)
			due = time.Now().Add(next)
			timer.Reset(next)
		}
	}
}

// lookListen pokes for whatever comes, until the stream ends. What an event says is not read: a look sees it.
func lookListen(stream io.Reader, pokes chan<- struct{}) error {
	for buffer := make([]byte, 4<<10); ; {
		n, err := stream.Read(buffer)
		if n > 0 {
			select {
			case pokes <- struct{}{}:
			default:
			}
		}
		if err != nil {
			return err
		}
	}
}

// look compares the daemon with Docker once, and says when to look again. The error says that Docker can not be asked.
func (l *Looker) look(ctx context.Context, now time.Time) (time.Duration, error) {
	// What we have is read first: an endpoint that comes meanwhile is then in Docker's list alone, which harms nobody.
	held, err := l.held(ctx)
	if err != nil {
		l.forget()
		l.trouble(ctx, []error{err})
		return lookAgain, nil
	}
	seen, err := l.seen(ctx, held)
	if err != nil {
		return 0, err
	}
	l.answers()
	var failures []error
	told, names := lookTold(seen)
	if err := l.learner.Learn(ctx, told, names); err != nil {
		failures = append(failures, err)
	}
	unkept, failed := l.setAside(ctx, held, seen)
	failures = append(failures, failed...)
	stranded := l.strand(held, seen, now)
	var sure []lookSuspect
	sure, l.memory = compare(held, seen, l.memory, now, l.driver.timeout)
	for _, s := range sure {
		if err := l.settle(ctx, s, held, seen); err != nil {
			failures = append(failures, err)
		}
	}
	l.trouble(ctx, failures)
	if unkept || stranded || len(sure)+len(l.memory.since) > 0 {
		return lookAgain, nil
	}
	return lookEvery, nil
}

func (l *Looker) held(ctx context.Context) (held lookHeld, err error) {
	if held.guests, err = l.learner.Guests(ctx); err != nil {
		return held, err
	}
	if held.unbound, err = l.learner.Unbound(); err != nil {
		return held, err
	}
	held.networks, err = l.learner.Networks()
	return held, err
}

// seen asks Docker. Containers that are just starting are in no list but in those of each network's endpoints, which are
// asked for only when something has no owner otherwise.
func (l *Looker) seen(ctx context.Context, held lookHeld) (seen lookSeen, err error) {
	all, err := l.engine.networks(ctx)
	if err != nil {
		return seen, err
	}
	// Who made the socket of the driver known to Docker by a second name has networks of that name too.
	seen.networks = slices.DeleteFunc(all, func(n engineNetwork) bool {
		return n.Driver != l.name && !slices.ContainsFunc(held.networks, func(h agent.Network) bool { return h.ID == n.ID })
	})
	if seen.containers, err = l.engine.containers(ctx); err != nil {
		return seen, err
	}
	if len(lookSuspects(held, seen)) == 0 {
		return seen, nil
	}
	for i, n := range seen.networks {
		full, err := l.engine.network(ctx, n.ID)
		if errors.Is(err, errEngineUnknown) {
			continue // gone since it was listed
		} else if err != nil {
			return seen, err
		}
		seen.networks[i].Containers = full.Containers
	}
	return seen, nil
}

// lost notes that Docker can not be asked: nothing that was seen before counts any more.
func (l *Looker) lost(err error) {
	l.forget()
	level := slog.LevelWarn
	switch {
	case l.silent != "":
		return
	case errors.Is(err, errLookEnded):
		l.driver.log.Debug("docker ends", "err", err)
		return // whether it answers, the next attempt tells
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, errEngineAsleep):
		level = slog.LevelDebug // where Docker does not run, nobody has to be told so
	}
	l.silent = err.Error()
	l.driver.log.Log(context.Background(), level, "docker does not answer", "err", err)
}

// forget takes what was seen before for not seen. What people were told of stays told.
func (l *Looker) forget() {
	l.memory = lookMemory{}
	maps.DeleteFunc(l.stranded, func(_ string, s lookStrand) bool { return !s.told })
}

func (l *Looker) answers() {
	if l.silent != "" {
		l.silent = ""
		l.driver.log.Debug("docker answers")
	}
}

// trouble notes what the daemon did not do with a look: each failure once, until a look goes well.
func (l *Looker) trouble(ctx context.Context, failures []error) {
	if ctx.Err() != nil {
		return // it is the end of the daemon that failed
	}
	if len(failures) == 0 || len(l.troubled) > lookTroubles {
		l.troubled = nil
	}
	for _, err := range failures {
		if text := err.Error(); !slices.Contains(l.troubled, text) {
			l.troubled = append(l.troubled, text)
			l.driver.log.Warn("what docker says can not be followed", "err", err)
		}
	}
}
