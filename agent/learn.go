package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"

	"github.com/fairlead-net/fairlead/nat"
)

// Told is what is learnt of an endpoint after it was made.
type Told struct {
	ID        string // as in GuestRequest
	Network   string // ID, "" when it is not told
	Container string // name
	Labels    map[string]string
}

// Learn notes what guests and networks are called, names by the networks' IDs. What is known already costs nothing.
func (a *Agent) Learn(ctx context.Context, told []Told, names map[string]string) error {
	err := a.learnNames(ctx, names)
	for _, t := range told {
		if one := a.learn(ctx, t); one != nil {
			err = errors.Join(err, fmt.Errorf("learn of endpoint %s: %w", short(t.ID), one))
		}
	}
	return err
}

func (a *Agent) learn(ctx context.Context, t Told) error {
	r, found, unlock, err := a.grasp(ctx, t.ID)
	if err != nil {
		return err
	}
	defer unlock()
	if !found || t.is(r) || !PlainName(t.Container) {
		return nil
	}
	// One that was found in the kernel has the beginning of its ID alone, and no network.
	r.ID, r.Network = t.ID, cmp.Or(r.Network, t.Network)
	r.Guest.Container, r.Labels = t.Container, t.Labels
	return errors.Join(a.keep(ctx, r), a.awake(ctx, r))
}

// is tells whether the endpoint is kept as it is told.
func (t Told) is(r record) bool {
	return t.ID == r.ID && (r.Network != "" || t.Network == "") && t.Container == r.Guest.Container && maps.Equal(t.Labels, r.Labels)
}

// awake has the ports that wait for a container of this name lead to it.
func (a *Agent) awake(ctx context.Context, r record) error {
	if len(a.room.Ports.Of(r.Guest.Container)) == 0 {
		return nil
	}
	unlock, err := a.lockTitle(ctx, r)
	if err != nil {
		return err
	}
	defer unlock()
	if _, taken, err := a.record(r.Guest.Container); taken || err != nil {
		return err
	}
	draft, err := a.plan(ctx, nat.Order{Owner: r.Guest.Container, Origin: nat.OriginAttach, Families: familiesOf(r.Addresses)})
	if err == nil {
		err = draft.Commit(ctx)
	}
	a.ask()
	return err
}
