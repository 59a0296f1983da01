package docker

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"github.com/fairlead-net/fairlead/agent"
)

// settle ends what is sure: what Docker has not goes, what only Docker has is made.
func (l *Looker) settle(ctx context.Context, s lookSuspect, held lookHeld, seen lookSeen) error {
	ctx, cancel := context.WithTimeout(ctx, l.driver.timeout)
	defer cancel()
	switch s.kind {
	case lookOrphan:
		i := slices.IndexFunc(held.guests, func(g agent.Guest) bool { return g.ID == s.id })
		return l.dismiss(ctx, held.guests[i])
	case lookUnowned:
		if err := l.learner.Return(ctx, s.address); err != nil {
			return fmt.Errorf("return %s: %w", s.address, err)
		}
		l.driver.log.Info("address released, docker does not have it", "address", s.address)
	case lookObsolete:
		if err := l.learner.DeleteNetwork(ctx, s.id); err != nil {
			return fmt.Errorf("delete network %s: %w", s.id, err)
		}
		l.driver.log.Info("network removed, docker does not have it", "network", s.id)
	case lookLost:
		i := slices.IndexFunc(seen.networks, func(n engineNetwork) bool { return n.ID == s.id })
		return l.restore(ctx, seen.networks[i], seen.containers)
	}
	return nil
}

// dismiss takes an endpoint away. Its addresses are without an owner since Docker has forgotten it, and go later, when nobody
// has taken them over: a container that starts with an address of its own choice may be about to.
func (l *Looker) dismiss(ctx context.Context, g agent.Guest) error {
	if err := l.learner.Dismiss(ctx, g.ID); err != nil {
		return fmt.Errorf("dismiss %s: %w", g.Name, err)
	}
	l.driver.log.Info("endpoint removed, docker does not have it", "endpoint", g.Name, "addresses", g.Addresses)
	orphan := lookSuspect{kind: lookOrphan, id: g.ID}
	for _, a := range g.Addresses {
		l.memory.since[lookSuspect{kind: lookUnowned, address: a}] = l.memory.at.Add(-orphan.grace(l.driver.timeout))
	}
	return nil
}

// restore makes a network again that only Docker has: our memory was lost. Its containers come back when they start again.
func (l *Looker) restore(ctx context.Context, n engineNetwork, containers []engineContainer) error {
	if n.IPAM.Driver != l.name {
		return fmt.Errorf("restore network %s: its IPAM driver is %q and not %q", n.Name, n.IPAM.Driver, l.name)
	}
	q, err := lookOrder(n, containers)
	if err != nil {
		return fmt.Errorf("restore network %s: %w", n.Name, err)
	}
	for _, p := range slices.Concat(q.IPv4Data, q.IPv6Data) {
		err := p.accept(l.driver.host.Addresses.Pools()) // before anything is leased
		if a := p.Gateway.Addr(); err == nil && a.IsValid() {
			_, err = l.driver.host.Addresses.Gateway(ctx, familyOf(a), a)
		}
		if err != nil {
			return fmt.Errorf("restore network %s: %w", n.Name, err)
		}
	}
	if _, err := l.driver.createNetwork(ctx, q); err != nil {
		return fmt.Errorf("restore network %s: %w", n.Name, err)
	}
	l.driver.log.Info("network restored, docker has it", "network", n.Name, "id", n.ID)
	return nil
}

// lookOrder is what Docker has asked for when the network was made, as far as Docker tells. A gateway that it does not
// tell is that of the network's containers, and is chosen anew when there are none.
func lookOrder(n engineNetwork, containers []engineContainer) (networkOrder, error) {
	q := networkOrder{NetworkID: n.ID, Options: networkOptions{IPv6: n.EnableIPv6, Internal: n.Internal, Generic: n.Options}}
	for _, p := range n.IPAM.Config {
		subnet, err := netip.ParsePrefix(p.Subnet)
		if err != nil {
			return q, fmt.Errorf("subnet: %w", err)
		}
		data := poolData{AddressSpace: addressSpace, Pool: subnet.Masked()}
		gateway := p.Gateway.Addr
		if !gateway.IsValid() {
			gateway = lookGateway(n.ID, familyOf(subnet.Addr()), containers)
		}
		if gateway.IsValid() {
			data.Gateway = netip.PrefixFrom(gateway, gateway.BitLen())
		}
		if subnet.Addr().Is4() {
			q.IPv4Data = append(q.IPv4Data, data)
		} else {
			q.IPv6Data = append(q.IPv6Data, data)
		}
	}
	return q, nil
}

// lookGateway is where containers of a network send what is for others, zero when none of them says it.
func lookGateway(network string, family int, containers []engineContainer) netip.Addr {
	for _, c := range containers {
		for _, e := range c.NetworkSettings.Networks {
			gateway := e.Gateway.Addr
			if family == 6 {
				gateway = e.IPv6Gateway.Addr
			}
			if e.NetworkID == network && gateway.IsValid() {
				return gateway
			}
		}
	}
	return netip.Addr{}
}
