package docker_test

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/fairlead-net/fairlead/agent"
)

func (h *driverHost) Guest(ctx context.Context, id string) (agent.Guest, error) {
	all, err := h.Guests(ctx)
	if err != nil {
		return agent.Guest{}, err
	}
	i := slices.IndexFunc(all, func(g agent.Guest) bool { return g.ID == id })
	if i < 0 {
		return agent.Guest{}, fmt.Errorf("%w: endpoint %s", agent.ErrNotFound, id)
	}
	return all[i], nil
}

func (h *driverHost) Guests(ctx context.Context) ([]agent.Guest, error) {
	leave, err := h.enter(ctx, "Guests")
	defer leave()
	if err != nil {
		return nil, err
	}
	var all []agent.Guest
	for _, id := range slices.Sorted(maps.Keys(h.guests)) {
		g := h.guests[id]
		all = append(all, agent.Guest{ID: id, Name: "docker-" + id[:16], Network: g.req.Network, Addresses: g.req.Addresses, Loose: !g.link})
	}
	return all, nil
}
