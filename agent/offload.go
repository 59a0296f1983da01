package agent

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/fairlead-net/fairlead/tunnel"
)

const (
	trialPeers   = 3               // that one trial asks at most
	trialRest    = 2 * time.Second // from a trial that found nothing out to the next: hosts that start together are not ready at once
	longestTrial = time.Minute     // what the rest grows to
)

// Prober finds out whether a VXLAN device may leave checksums to the hardware.
type Prober interface {
	ProbeOffload(ctx context.Context, dev string, from, peer netip.Addr) (tunnel.Verdict, error)
}

// trial tests the checksum offload of VXLAN once in a daemon's life, beside the passes and not in them: it has to wait for
// answers. To the passes it is an input that says "changed" when it has found a fault.
//
// It begins when the first pass has put tunnels, since it needs peers, and is repeated while it finds nothing out.
type trial struct {
	prober Prober
	log    *slog.Logger
	asked  chan struct{} // poke: there are tunnels to be tested
	found  chan struct{} // poke: the verdict is bad

	mu      sync.Mutex
	ways    []way // as of the latest pass
	verdict tunnel.Verdict
}

// way is a VXLAN tunnel to one peer.
type way struct {
	dev        string
	from, peer netip.Addr
}

func newTrial(p Prober, log *slog.Logger) *trial {
	return &trial{
		prober: p, log: log, asked: make(chan struct{}, 1), found: make(chan struct{}, 1), verdict: tunnel.VerdictUnknown,
	}
}

// offer tells the trial what a pass has put.
func (t *trial) offer(r tunnel.Rows) {
	t.mu.Lock()
	defer t.mu.Unlock()
	before := t.ways
	t.ways = ways(r)
	if len(t.ways) > 0 && !slices.Equal(t.ways, before) {
		poke(t.asked)
	}
}

// ways are the tunnels of which something can be found out: those over IPv4 whose offload is on.
func ways(r tunnel.Rows) []way {
	var all []way
	for k, vtep := range r.FDB {
		if d := r.Devices[k.Dev]; d.Local.Is4() && vtep.Is4() && d.Offload == tunnel.OffloadOn {
			all = append(all, way{dev: k.Dev, from: d.Local, peer: vtep})
		}
	}
	slices.SortFunc(all, func(a, b way) int { return a.peer.Compare(b.peer) })
	return all
}

// known is what has been found out so far.
func (t *trial) known() tunnel.Verdict {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.verdict
}

// run tests until there is a verdict or ctx ends: when there is something new to be tested, and now and then.
func (t *trial) run(ctx context.Context) {
	var again <-chan time.Time
	wait := trialRest
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.asked:
			wait = trialRest
		case <-again:
			wait = min(2*wait, longestTrial)
		}
		if t.test(ctx) != tunnel.VerdictUnknown || !rest(ctx, trialRest) {
			return
		}
		again = time.After(wait - trialRest)
	}
}

// test asks some of the peers, others each time: where they stand may matter.
func (t *trial) test(ctx context.Context) tunnel.Verdict {
	t.mu.Lock()
	all := slices.Clone(t.ways)
	t.mu.Unlock()
	rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	verdict := tunnel.VerdictUnknown
	for _, w := range all[:min(len(all), trialPeers)] {
		v, err := t.prober.ProbeOffload(ctx, w.dev, w.from, w.peer)
		if err != nil {
			t.log.Debug("checksum offload could not be tested", "dev", w.dev, "peer", w.peer, "error", err)
		}
		if verdict = tunnel.Together(verdict, v); v == tunnel.VerdictBad {
			t.log.Warn("checksums that are left to the hardware arrive broken: offload is turned off", "dev", w.dev, "peer", w.peer)
			break
		}
	}
	t.mu.Lock()
	t.verdict = verdict
	t.mu.Unlock()
	if verdict == tunnel.VerdictBad {
		poke(t.found)
	}
	return verdict
}
