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
	rows    map[string]endpoint.Row // what the insides should be, as of the pass under way or else the latest
	climbed map[string]endpoint.Row // the same as of the latest pass that has ended: these have been put
	looking map[string]endpoint.Row // what is being inspected and nobody has changed meanwhile
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
	links := slices.Collect(maps.Keys(p.rows))
	p.mu.Unlock()
	for group := range slices.Chunk(links, patrolGroup) {
		begun := time.Now()
		drifted, err := p.insides.Inspect(ctx, p.take(group))
		if err != nil && ctx.Err() == nil {
			p.log.Warn("can not look into all namespaces", "error", err)
		}
		p.note(drifted)
		if !rest(ctx, restShare*time.Since(begun)) {
			return
		}
	}
}

// take is what the insides of some host links should be now. Those that a pass is just changing are left out: half of
// the old and half of the new would look like drift.
func (p *patrol) take(links []string) []endpoint.Row {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.looking = make(map[string]endpoint.Row, len(links))
	for _, hostIf := range links {
		if r, wanted := p.rows[hostIf]; wanted && p.climbed[hostIf] == r {
			p.looking[hostIf] = r
		}
	}
	return slices.Collect(maps.Values(p.looking))
}

// note believes of an inspection only what is about rows that are still what they were when it began.
func (p *patrol) note(drifted []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, hostIf := range drifted {
		if _, same := p.looking[hostIf]; same {
			p.drifted[hostIf] = true
			poke(p.found)
		}
	}
	p.looking = nil
}

// expect tells the patrol what a pass is about to make of the insides. What was found about rows that it changes is void:
// they are put with their host links.
func (p *patrol) expect(rows map[string]endpoint.Row) {
	p.mu.Lock()
	defer p.mu.Unlock()
	maps.DeleteFunc(p.drifted, func(hostIf string, _ bool) bool {
		r, wanted := rows[hostIf]
		return !wanted || r != p.rows[hostIf]
	})
	maps.DeleteFunc(p.looking, func(hostIf string, r endpoint.Row) bool { return rows[hostIf] != r })
	p.rows = rows
}

// settle tells the patrol that the pass has ended. After the first one it looks at what happened while no daemon ran.
func (p *patrol) settle() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.climbed == nil {
		p.ask()
	}
	p.climbed = p.rows
}

// List shows what the pass expects, less what drifted. So nothing is ever pruned: the inside goes with the endpoint.
func (p *patrol) List(context.Context) (map[string]endpoint.Row, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	have := maps.Clone(p.rows)
	for hostIf := range p.drifted {
		delete(have, hostIf)
	}
	return have, nil
}

// Put mends the inside of one endpoint.
func (p *patrol) Put(ctx context.Context, hostIf string, r endpoint.Row) error {
	if err := p.insides.Mend(ctx, r); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.drifted, hostIf)
	delete(p.looking, hostIf)
	return nil
}

// Delete has nothing to do: the inside goes with the endpoint.
func (p *patrol) Delete(context.Context, string) error { return nil }
