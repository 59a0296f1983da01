package agent

import (
	"context"
	"log/slog"

	"github.com/fairlead-net/fairlead/tunnel"
)

// What a trial that found nothing out rests, at first and in the end.
const (
	TrialRest    = trialRest
	LongestTrial = longestTrial
)

// Trial is trial.
type Trial struct{ t *trial }

func NewTrial(p Prober, log *slog.Logger) Trial { return Trial{newTrial(p, log)} }

func (t Trial) Offer(r tunnel.Rows)     { t.t.offer(r) }
func (t Trial) Run(ctx context.Context) { t.t.run(ctx) }
func (t Trial) Known() tunnel.Verdict   { return t.t.known() }
func (t Trial) Found() <-chan struct{}  { return t.t.found }
