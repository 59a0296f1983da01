package docker

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/fairlead-net/fairlead/agent"
	"github.com/fairlead-net/fairlead/ipam"
)

// addressSpace is the one space of ours. Local and global networks have the same: every host has the same pools.
const addressSpace = "fairlead"

func (d *Driver) ipamCapabilities(context.Context, []byte) (any, error) {
	return struct{ RequiresMACAddress, RequiresRequestReplay bool }{RequiresRequestReplay: true}, nil
}

func (d *Driver) addressSpaces(context.Context, []byte) (any, error) {
	return struct{ LocalDefaultAddressSpace, GlobalDefaultAddressSpace string }{addressSpace, addressSpace}, nil
}

// requestPool checks a subnet. Two networks may have the same, since addresses are leased by host and not by network.
//
// Without a subnet none is chosen: an engine would ask again for as long as the answer overlaps a route of the host, and
// routes of the pools are what we make.
func (d *Driver) requestPool(_ context.Context, q poolOrder) (any, error) {
	pools := d.host.Addresses.Pools()
	family := 4
	if q.V6 {
		family = 6
	}
	switch {
	case q.AddressSpace != addressSpace:
		return nil, fmt.Errorf("address space %q is not fairlead's: %s", q.AddressSpace, commandOf(pools, family))
	case !q.Pool.IsValid():
		return nil, fmt.Errorf("no IPv%d subnet was asked for, and it has to be said: %s", family, commandOf(pools, family))
	case q.Pool.Addr().Is6() != q.V6:
		return nil, fmt.Errorf("subnet %s is not of IPv%d", q.Pool, family)
	case q.Pool != q.Pool.Masked():
		return nil, fmt.Errorf("subnet %s is not the beginning of its range: use --subnet %s", q.Pool, q.Pool.Masked())
	case q.SubPool.IsValid() && !within(q.SubPool.Masked(), q.Pool):
		return nil, fmt.Errorf("range %s is not a part of subnet %s", q.SubPool, q.Pool)
	}
	for name := range q.Options {
		if strings.HasPrefix(name, optionPrefix) {
			return nil, fmt.Errorf("option %s is not for the address driver: use -o instead of --ipam-opt", name)
		}
	}
	if len(poolsAround(pools, q.Pool)) == 0 {
		return nil, noPool(pools, q.Pool)
	}
	return struct {
		PoolID poolID
		Pool   netip.Prefix
		Data   struct{}
	}{PoolID: poolID{subnet: q.Pool, span: q.SubPool.Masked()}, Pool: q.Pool}, nil
}

func (d *Driver) releasePool(context.Context, poolRef) (any, error) { return struct{}{}, nil }

// requestAddress gives one address, of as many bits as it has: a container is alone with it.
func (d *Driver) requestAddress(ctx context.Context, q addressOrder) (any, error) {
	q.Address = q.Address.Unmap()
	give := d.leaseAddress
	if q.Options["RequestAddressType"] == gatewayLabel {
		give = d.leaseGateway
	}
	a, err := give(ctx, q)
	if err != nil {
		return nil, err
	}
	return struct {
		Address netip.Prefix
		Data    struct{}
	}{Address: netip.PrefixFrom(a, a.BitLen())}, nil
}

func (d *Driver) leaseAddress(ctx context.Context, q addressOrder) (netip.Addr, error) {
	if q.Address.IsValid() && !q.PoolID.subnet.Contains(q.Address) {
		return netip.Addr{}, fmt.Errorf("address %s is not in the network's subnet %s", q.Address, q.PoolID.subnet)
	}
	return d.host.Addresses.Address(ctx, agent.AddressRequest{CIDR: q.PoolID.subnet, Range: q.PoolID.span, Address: q.Address})
}

func (d *Driver) leaseGateway(ctx context.Context, q addressOrder) (netip.Addr, error) {
	family := familyOf(q.PoolID.subnet.Addr())
	if q.Address.IsValid() && (!linkLocal(q.Address) || familyOf(q.Address) != family) {
		return netip.Addr{}, badGateway(q.Address)
	}
	return d.host.Addresses.Gateway(ctx, family, q.Address)
}

func (d *Driver) releaseAddress(ctx context.Context, q addressRef) (any, error) {
	a := q.Address.Unmap()
	if !q.PoolID.subnet.Contains(a) && !linkLocal(a) {
		return nil, fmt.Errorf("address %s is not in the network's subnet %s", a, q.PoolID.subnet)
	}
	return struct{}{}, d.host.Addresses.Return(ctx, a)
}

func familyOf(a netip.Addr) int {
	if a.Is4() {
		return 4
	}
	return 6
}

// linkLocal tells whether a gateway may have the address: 169.254.0.0/16 or fe80::/10, which no router passes on.
func linkLocal(a netip.Addr) bool { return a.IsLinkLocalUnicast() && a.Zone() == "" }

func badGateway(a netip.Addr) error {
	return fmt.Errorf("gateway %s is not link-local: containers send to a link-local address of the host, and those of the subnet "+
		"are all for containers: leave --gateway out", a)
}

// poolsAround are the pools that a subnet is part of.
func poolsAround(pools []ipam.Pool, subnet netip.Prefix) []ipam.Pool {
	return slices.DeleteFunc(slices.Clone(pools), func(p ipam.Pool) bool { return !within(subnet, p.CIDR) })
}

func noPool(pools []ipam.Pool, subnet netip.Prefix) error {
	names := make([]string, 0, len(pools))
	for _, p := range pools {
		names = append(names, fmt.Sprintf("%s (%s)", p.Name, p.CIDR))
	}
	has := "it has none"
	if len(names) > 0 {
		has = "it has " + strings.Join(names, ", ")
	}
	return fmt.Errorf("subnet %s lies in no [[pool]] of fairlead's config: %s; choose a subnet of one, or add to the config of every "+
		"host: [[pool]] name = \"NAME\" cidr = \"%s\"", subnet, has, subnet.Masked())
}

// rightCommand is what to type to have a network with subnets, if it is one that can be had.
func rightCommand(pools []ipam.Pool, subnets ...netip.Prefix) string {
	family := 4
	for _, s := range subnets {
		if s.Addr().Is6() {
			family = 6
		}
	}
	if len(subnets) == 0 || slices.ContainsFunc(subnets, func(s netip.Prefix) bool { return len(poolsAround(pools, s)) == 0 }) {
		return commandOf(pools, family)
	}
	return networkCommand(subnets)
}

// commandOf shows the command for a network that has a family, with the first pools. IPv6 comes with IPv4 where it can: only
// engines of version 28 and later make networks without.
func commandOf(pools []ipam.Pool, family int) string {
	first := func(family int) (subnets []netip.Prefix) {
		for _, p := range pools {
			if familyOf(p.CIDR.Addr()) == family {
				return append(subnets, p.CIDR)
			}
		}
		return nil
	}
	subnets := first(family)
	if len(subnets) == 0 {
		return fmt.Sprintf("fairlead's config has no [[pool]] of IPv%d: add one on every host, then: %s", family, networkCommand(nil))
	}
	if family == 6 {
		subnets = append(first(4), subnets...)
	}
	return networkCommand(subnets)
}

func networkCommand(subnets []netip.Prefix) string {
	flags := ""
	for i, s := range subnets {
		switch {
		case !s.Addr().Is6():
		case i == 0:
			flags = " --ipv4=false --ipv6" + flags
		default:
			flags = " --ipv6" + flags
		}
		flags += " --subnet " + s.String()
	}
	if flags == "" {
		flags = " --subnet SUBNET"
	}
	return "docker network create -d fairlead --ipam-driver fairlead" + flags + " NAME"
}
