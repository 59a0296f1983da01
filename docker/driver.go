package docker

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/fairlead-net/fairlead/agent"
	"github.com/fairlead-net/fairlead/ipam"
)

func (d *Driver) activate(context.Context, []byte) (any, error) {
	return struct{ Implements []string }{[]string{"NetworkDriver", "IpamDriver"}}, nil
}

// networkCapabilities: each host makes its networks itself, and they reach further than the host.
func (d *Driver) networkCapabilities(context.Context, []byte) (any, error) {
	return struct {
		Scope, ConnectivityScope string
		GwAllocChecker           bool
	}{"local", "global", true}, nil
}

// checkGateways is asked before a network is made, so that bad options are refused before anything is leased. A gateway is
// wanted always: an internal network, too, has its subnet behind one.
func (d *Driver) checkGateways(_ context.Context, q gatewayQuery) (any, error) {
	if err := q.Options.read(d.host.Addresses.Pools(), &agent.Network{}); err != nil {
		return nil, err
	}
	return struct{ SkipIPv4, SkipIPv6 bool }{}, nil
}

func (d *Driver) refuseSwarm(context.Context, []byte) (any, error) {
	return nil, errors.New("networks of a swarm are not supported: create the network on every host without --scope, with the same " +
		"subnet, and start containers by docker run or docker compose")
}

// ignoreNode hears of nodes of a swarm.
func (d *Driver) ignoreNode(context.Context, nodeNotice) (any, error) { return struct{}{}, nil }

func (d *Driver) createNetwork(ctx context.Context, q networkOrder) (any, error) {
	n := agent.Network{ID: q.NetworkID}
	pools := d.host.Addresses.Pools()
	subnets := q.subnets()
	for _, data := range [][]poolData{q.IPv4Data, q.IPv6Data} {
		if len(data) > 1 {
			return nil, fmt.Errorf("%d subnets of one family: a network has one of each: create a network for each subnet", len(data))
		}
		for _, p := range data {
			if p.AddressSpace != addressSpace {
				return nil, fmt.Errorf("the network's addresses are not fairlead's: name its IPAM driver too: %s", rightCommand(pools, subnets...))
			}
			if err := p.accept(pools); err != nil {
				return nil, err
			}
			n.Subnets = append(n.Subnets, agent.Subnet{CIDR: p.Pool, Range: p.Pool, Gateway: p.Gateway.Addr().Unmap()})
		}
	}
	if len(n.Subnets) == 0 {
		return nil, fmt.Errorf("the network has no subnet: %s", commandOf(pools, 4))
	}
	if err := q.Options.read(pools, &n); err != nil {
		return nil, err
	}
	chosen, err := d.chooseGateways(ctx, &n)
	if err == nil {
		err = d.host.Networks.CreateNetwork(ctx, n)
	}
	if err != nil {
		for _, gateway := range chosen {
			err = errors.Join(err, d.host.Addresses.Return(ctx, gateway))
		}
	}
	return struct{}{}, err
}

// accept checks what the IPAM driver has answered.
func (p poolData) accept(pools []ipam.Pool) error {
	switch {
	case len(poolsAround(pools, p.Pool)) == 0:
		return noPool(pools, p.Pool)
	case p.Gateway.IsValid() && (!linkLocal(p.Gateway.Addr().Unmap()) || familyOf(p.Gateway.Addr()) != familyOf(p.Pool.Addr())):
		return badGateway(p.Gateway.Addr())
	}
	return nil
}

// chooseGateways gives those that the engine did not ask for. A network that is there keeps what it has.
func (d *Driver) chooseGateways(ctx context.Context, n *agent.Network) (chosen []netip.Addr, err error) {
	if !slices.ContainsFunc(n.Subnets, func(s agent.Subnet) bool { return !s.Gateway.IsValid() }) {
		return nil, nil
	}
	known, err := d.host.Networks.Networks()
	if err != nil {
		return nil, err
	}
	var had []agent.Subnet
	if i := slices.IndexFunc(known, func(k agent.Network) bool { return k.ID == n.ID }); i >= 0 {
		had = known[i].Subnets
	}
	for i := range n.Subnets {
		s := &n.Subnets[i]
		if j := slices.IndexFunc(had, func(h agent.Subnet) bool { return h.CIDR == s.CIDR }); j >= 0 && !s.Gateway.IsValid() {
			s.Gateway = had[j].Gateway
		}
		if s.Gateway.IsValid() {
			continue
		}
		if s.Gateway, err = d.host.Addresses.Gateway(ctx, familyOf(s.CIDR.Addr()), netip.Addr{}); err != nil {
			return chosen, err
		}
		chosen = append(chosen, s.Gateway)
	}
	return chosen, nil
}

func (d *Driver) deleteNetwork(ctx context.Context, q networkRef) (any, error) {
	return struct{}{}, d.host.Networks.DeleteNetwork(ctx, q.NetworkID)
}
