package agent_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead-net/fairlead/agent"
	"github.com/fairlead-net/fairlead/tunnel"
)

// prober answers for peers by their addresses; one that it does not know is silent.
type prober struct {
	mu       sync.Mutex
	verdicts map[string]tunnel.Verdict
	asked    []string
}

func (p *prober) ProbeOffload(_ context.Context, dev string, from, peer netip.Addr) (tunnel.Verdict, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked = append(p.asked, fmt.Sprintf("%s %v %v", dev, from, peer))
	if v, ok := p.verdicts[peer.String()]; ok {
		return v, nil
	}
	return tunnel.VerdictUnknown, errors.New("silent")
}

func (p *prober) say(peer string, v tunnel.Verdict) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.verdicts[peer] = v
}

func (p *prober) questions() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string{}, p.asked...)
}

// tunnelsTo are rows with a tunnel to each peer.
func tunnelsTo(peers ...string) tunnel.Rows {
	r := tunnel.Rows{
		Devices: map[string]tunnel.Device{
			"flvxlan":  {Local: netip.MustParseAddr("192.0.2.1"), Offload: tunnel.OffloadOn},
			"flvxlan6": {Local: netip.MustParseAddr("2001:db8::1"), Offload: tunnel.OffloadOn},
		},
		FDB: make(map[tunnel.FDBKey]netip.Addr),
	}
	for _, p := range peers {
		dev, vtep := "flvxlan", netip.MustParseAddr(p)
		if vtep.Is6() {
			dev = "flvxlan6"
		}
		r.FDB[tunnel.FDBKey{Dev: dev, MAC: tunnel.VTEPMAC(vtep)}] = vtep
	}
	return r
}

// onTrial plays with a trial in a bubble with a clock of its own.
func onTrial(t *testing.T, p *prober, play func(t *testing.T, trial agent.Trial, log func() string)) {
	synctest.Test(t, func(t *testing.T) {
		var text strings.Builder
		ctx, end := context.WithCancel(t.Context())
		trial := agent.NewTrial(p, slog.New(slog.NewTextHandler(&text, nil)))
		done := make(chan struct{})
		go func() { trial.Run(ctx); close(done) }()
		play(t, trial, func() string { synctest.Wait(); return text.String() })
		end()
		<-done
	})
}

func found(trial agent.Trial) bool {
	synctest.Wait()
	select {
	case <-trial.Found():
		return true
	default:
		return false
	}
}

func TestATrialIsHeldOnceWhenThereArePeers(t *testing.T) {
	p := &prober{verdicts: map[string]tunnel.Verdict{"192.0.2.2": tunnel.VerdictGood, "192.0.2.3": tunnel.VerdictGood}}
	onTrial(t, p, func(t *testing.T, trial agent.Trial, log func() string) {
		trial.Offer(tunnelsTo())
		trial.Offer(tunnelsTo("2001:db8::2")) // of which nothing can be found out
		time.Sleep(time.Hour)
		if synctest.Wait(); len(p.questions()) != 0 || trial.Known() != tunnel.VerdictUnknown {
			t.Fatalf("without a peer: %v, %s", p.questions(), trial.Known())
		}
		for range 3 {
			trial.Offer(tunnelsTo("192.0.2.2", "192.0.2.3", "2001:db8::2"))
			time.Sleep(time.Hour)
		}
		if found(trial) || trial.Known() != tunnel.VerdictGood || len(p.questions()) != 2 || log() != "" {
			t.Errorf("%s, asked %v, log %q", trial.Known(), p.questions(), log())
		}
		for _, q := range p.questions() {
			if !strings.HasPrefix(q, "flvxlan 192.0.2.1 192.0.2.") {
				t.Errorf("asked %q", q)
			}
		}
	})
}

func TestOneBadPeerTurnsTheOffloadOff(t *testing.T) {
	p := &prober{verdicts: map[string]tunnel.Verdict{"192.0.2.2": tunnel.VerdictGood, "192.0.2.3": tunnel.VerdictBad}}
	onTrial(t, p, func(t *testing.T, trial agent.Trial, log func() string) {
		trial.Offer(tunnelsTo("192.0.2.2", "192.0.2.3", "192.0.2.4"))
		if !found(trial) || trial.Known() != tunnel.VerdictBad {
			t.Errorf("verdict %s", trial.Known())
		}
		if got := log(); strings.Count(got, "\n") != 1 || !strings.Contains(got, "level=WARN") || !strings.Contains(got, "peer=192.0.2.3") {
			t.Errorf("log:\n%s", got)
		}
		asked := len(p.questions())
		trial.Offer(tunnelsTo("192.0.2.2", "192.0.2.3"))
		time.Sleep(time.Hour)
		if found(trial) || len(p.questions()) != asked {
			t.Errorf("asked again: %v", p.questions())
		}
	})
}

func TestATrialThatFoundNothingOutIsRepeatedInPeace(t *testing.T) {
	p := &prober{verdicts: make(map[string]tunnel.Verdict)}
	onTrial(t, p, func(t *testing.T, trial agent.Trial, log func() string) {
		many := tunnelsTo("192.0.2.2", "192.0.2.3", "192.0.2.4", "192.0.2.5", "192.0.2.6")
		begun := time.Now()
		asked := func(want int) {
			t.Helper()
			if synctest.Wait(); len(p.questions()) != want {
				t.Fatalf("after %v: %d questions, want %d", time.Since(begun), len(p.questions()), want)
			}
		}
		for range 10 { // passes may come every moment, and change nothing
			trial.Offer(many)
			synctest.Wait()
		}
		asked(3)
		time.Sleep(agent.TrialRest)
		asked(6)
		time.Sleep(2*agent.TrialRest - time.Millisecond)
		asked(6)
		time.Sleep(time.Millisecond)
		asked(9)
		time.Sleep(time.Hour)
		synctest.Wait()
		if n := len(p.questions()); n < 3*55 || n > 3*70 {
			t.Errorf("%d questions in an hour", n)
		}
		for peer := range many.FDB {
			p.say(many.FDB[peer].String(), tunnel.VerdictGood)
		}
		time.Sleep(agent.LongestTrial)
		synctest.Wait()
		if trial.Known() != tunnel.VerdictGood || log() != "" {
			t.Errorf("%s, log %q", trial.Known(), log())
		}
	})
}

func TestADeviceWhoseOffloadComesOnIsTestedSoon(t *testing.T) {
	p := &prober{verdicts: map[string]tunnel.Verdict{"192.0.2.2": tunnel.VerdictGood}}
	onTrial(t, p, func(t *testing.T, trial agent.Trial, log func() string) {
		off := tunnelsTo("192.0.2.2")
		d := off.Devices["flvxlan"]
		d.Offload = tunnel.OffloadOff
		off.Devices["flvxlan"] = d
		trial.Offer(off)
		time.Sleep(time.Hour)
		if synctest.Wait(); len(p.questions()) != 0 {
			t.Fatalf("tested while it is off: %v", p.questions())
		}
		trial.Offer(tunnelsTo("192.0.2.2"))
		if synctest.Wait(); trial.Known() != tunnel.VerdictGood || log() != "" {
			t.Errorf("%s, log %q", trial.Known(), log())
		}
	})
}
