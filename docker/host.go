// Package docker speaks libnetwork's dialect: it is a network driver and an IPAM driver for Docker, on one socket.
//
// Every call is answered from local state; nothing that Docker waits for asks Docker. What Docker does not tell a driver,
// the names of containers and networks, is learnt afterwards from its API.
package docker

import (
	"context"
	"net/netip"

	"github.com/fairlead-net/fairlead/agent"
	"github.com/fairlead-net/fairlead/ipam"
)

// Addresses is what the IPAM driver needs of the daemon. Errors wrap agent's and ipam's sentinels.
type Addresses interface {
	// Pools are the ranges that all nodes share.
	Pools() []ipam.Pool
	// Gateway gives a link-local address that no other network of this host has: want, or any of the family when that is zero.
	Gateway(ctx context.Context, family int, want netip.Addr) (netip.Addr, error)
	// Address leases an address, durably. One that is asked for by name and that a guest has, or was leased for one, is
	// given again. One of the subnet outside of this host's block is given without a lease: a guest can not have it.
	Address(ctx context.Context, req agent.AddressRequest) (netip.Addr, error)
	// Return gives a gateway or an address back. One that nobody has, or that a guest still has, is success.
	Return(ctx context.Context, a netip.Addr) error
}

// Networks is what the driver needs to keep networks.
type Networks interface {
	// CreateNetwork makes it durable. The same again is success; another with the ID wraps agent.ErrConflict.
	CreateNetwork(ctx context.Context, n agent.Network) error
	// DeleteNetwork forgets one. Absent is success; one that has guests wraps agent.ErrConflict.
	DeleteNetwork(ctx context.Context, id string) error
	// Networks lists them by ID.
	Networks() ([]agent.Network, error)
}

// Guests is what the driver needs to keep the endpoints of containers.
type Guests interface {
	// Admit makes an endpoint durable, without a link. It binds the addresses, which Address must have given, to it. It
	// returns the endpoint, whose MAC is as asked for or chosen. The same again is success.
	Admit(ctx context.Context, req agent.GuestRequest) (agent.Endpoint, error)
	// HandOver makes the link and returns when the host routes to it. sandbox is told to people. Idempotent.
	HandOver(ctx context.Context, id, sandbox string) (agent.Handed, error)
	// Expose publishes ports: SPECs as in the contract. It returns when packets come through. What is exposed already and
	// not named ends.
	Expose(ctx context.Context, id string, specs []string) error
	// Retract ends all of them. Absent is success.
	Retract(ctx context.Context, id string) error
	// Dismiss takes the endpoint, its link and its ports away; its addresses wait for Return. Absent is success.
	Dismiss(ctx context.Context, id string) error
	// Guest is one of them, of whose link nothing is told. Absent wraps agent.ErrNotFound.
	Guest(ctx context.Context, id string) (agent.Guest, error)
	// Guests lists them.
	Guests(ctx context.Context) ([]agent.Guest, error)
}

// Learner is what is told after the fact.
type Learner interface {
	Networks
	Guests
	// Learn notes names and labels of guests and networks. What it knows already costs nothing.
	Learn(ctx context.Context, told []agent.Told, names map[string]string) error
	// Unbound lists addresses and gateways that were given and that no guest and no network has.
	Unbound() ([]netip.Addr, error)
	Return(ctx context.Context, a netip.Addr) error
}
