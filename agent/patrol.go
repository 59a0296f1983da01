package agent

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/fairlead-net/fairlead/endpoint"
)

// patrolEvery is how far apart looks into the endpoints' namespaces are at least. A look costs some system calls for
// each endpoint, under a lock that whoever attaches needs too, so it goes in small groups, and the rest after each is
// restShare times what the group took.
const (
	patrolEvery = 400 * time.Millisecond
	patrolGroup = 16
	restShare   = 4
)

// patrol looks into the endpoints' namespaces, beside the passes and not in them: the host's tables do not show what is
// inside, and an attach must not wait for a look at all others. To the passes it is an input that says "changed", and a
// table in which a row that drifted is absent.
type patrol struct {
	insides Insides
	log     *slog.Logger
	asked   chan struct{} // poke: something may have changed inside
	found   chan struct{} // poke: something has drifted

	mu      sync.Mutex
	rows    map[string]endpoint.Row // what the insides should be, as of the latest pass
	drifted map[string]bool         // by host link
}

func newPatrol(insides Insides, log *slog.Logger) *patrol {
	return &patrol{
		insides: insides, log: log, asked: make(chan struct{}, 1), found: make(chan struct{}, 1),
		drifted: make(map[string]bool),
	}
}

// ask wants a look soon.
func (p *patrol) ask() { poke(p.asked) }

func poke(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// run looks whenever it is asked to, and every interval, until ctx ends.
func (p *patrol) run(ctx context.Context, interval func() time.Duration) {
	p.ask()
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.asked:
		case <-time.After(interval()):
		}
		p.look(ctx)
		if !rest(ctx, patrolEvery) {
			return
		}
	}
}

// rest waits; it tells whether ctx goes on.
func rest(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// look notes which endpoints have drifted inside.
func (p *patrol) look(ctx context.Context) {
	p.mu.Lock()
	rows := slices.Collect(maps.Values(p.rows))
	p.mu.Unlock()
	for group := range slices.Chunk(rows, patrolGroup) {
		begun := time.Now()
		drifted, err := p.insides.Inspect(ctx, group)
		if err != nil && ctx.Err() == nil {
			p.log.Warn("can not look into all namespaces", "error", err)
		}
		p.note(drifted)
		if !rest(ctx, restShare*time.Since(begun)) {
			return
		}
	}
}

func (p *patrol) note(drifted []string) {
	if len(drifted) == 0 {
		return
	}
	p.mu.Lock()
	for _, hostIf := range drifted {
		p.drifted[hostIf] = true
	}
	p.mu.Unlock()
	poke(p.found)
}

// expect tells the patrol what the insides should be from now on.
func (p *patrol) expect(rows map[string]endpoint.Row) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rows = rows
	maps.DeleteFunc(p.drifted, func(hostIf string, _ bool) bool { _, ok := rows[hostIf]; return !ok })
}

// sound is rows less those that the latest look found drifted.
func (p *patrol) sound(rows map[string]endpoint.Row) map[string]endpoint.Row {
	p.mu.Lock()
	defer p.mu.Unlock()
	have := maps.Clone(rows)
	for hostIf := range p.drifted {
		delete(have, hostIf)
	}
	return have
}

// List shows what is expected, less what drifted.
func (p *patrol) List(context.Context) (map[string]endpoint.Row, error) {
	p.mu.Lock()
	rows := p.rows
	p.mu.Unlock()
	return p.sound(rows), nil
}

// Put mends the inside of one endpoint.
func (p *patrol) Put(ctx context.Context, hostIf string, r endpoint.Row) error {
	if err := p.insides.Mend(ctx, r); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.drifted, hostIf)
	return nil
}

// Delete has nothing to do: the inside goes with the endpoint.
func (p *patrol) Delete(context.Context, string) error { return nil }
