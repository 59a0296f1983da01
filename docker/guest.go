package docker

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/fairlead-net/fairlead/agent"
)

// macLabel holds the hardware address that the user asked for, in base64.
const macLabel = "com.docker.network.endpoint.macaddress"

// createEndpoint makes the endpoint durable. Its link waits for the container: a name that is taken, or a command that does
// not exist, fails between the two.
func (d *Driver) createEndpoint(ctx context.Context, q endpointOrder) (any, error) {
	for _, name := range slices.Sorted(maps.Keys(q.Options)) {
		if strings.HasPrefix(name, optionPrefix) {
			return nil, fmt.Errorf("option %s is one of networks: use -o with docker network create", name)
		}
	}
	req := agent.GuestRequest{ID: q.EndpointID, Network: q.NetworkID}
	for _, p := range []netip.Prefix{q.Interface.Address, q.Interface.AddressIPv6} {
		if p.IsValid() {
			req.Addresses = append(req.Addresses, p.Addr().Unmap())
		}
	}
	if len(req.Addresses) == 0 {
		return nil, errors.New("the endpoint has no address: its network was made without --ipam-driver fairlead")
	}
	var err error
	if req.MAC, err = q.mac(); err != nil {
		return nil, err
	}
	made, err := d.host.Guests.Admit(ctx, req)
	if err != nil {
		return nil, err
	}
	if q.Interface.MacAddress != "" {
		return struct{}{}, nil // an engine takes what it knows already for a change
	}
	return struct {
		Interface struct{ MacAddress string }
	}{struct{ MacAddress string }{made.MAC}}, nil
}

// mac is what was asked for, "" when nothing was.
func (q endpointOrder) mac() (string, error) {
	text := q.Interface.MacAddress
	if option, given := q.Options[macLabel]; given && text == "" {
		coded, _ := option.(string)
		mac, err := base64.StdEncoding.DecodeString(coded)
		if err != nil || coded == "" {
			return "", fmt.Errorf("%w: %s is not base64", errMalformed, macLabel)
		}
		text = net.HardwareAddr(mac).String()
	}
	if text == "" {
		return "", nil
	}
	return hardwareAddress(text)
}

func (d *Driver) deleteEndpoint(ctx context.Context, q endpointRef) (any, error) {
	return struct{}{}, d.host.Guests.Dismiss(ctx, q.EndpointID)
}

// endpointInfo has nothing to tell, not even of an endpoint that is not known: an error would keep the container from
// starting, and an engine has no use for a driver's ports.
func (d *Driver) endpointInfo(context.Context, endpointRef) (any, error) {
	return struct{ Value struct{} }{}, nil
}

// joined is what an engine has to do with the link: move it, name it, and give it routes.
type joined struct {
	InterfaceName struct{ SrcName, DstPrefix string }
	Gateway       string `json:",omitempty"`
	GatewayIPv6   string `json:",omitempty"`
	StaticRoutes  []staticRoute
}

type staticRoute struct {
	Destination netip.Prefix
	RouteType   int    // 0 via NextHop, 1 on the link
	NextHop     string `json:",omitempty"`
}

func (d *Driver) join(ctx context.Context, q joinOrder) (any, error) {
	g, err := d.guest(ctx, q.NetworkID, q.EndpointID)
	if err != nil {
		return nil, err
	}
	h, err := d.host.Guests.HandOver(ctx, q.EndpointID, q.SandboxKey)
	if err != nil {
		return nil, err
	}
	answer := joined{StaticRoutes: []staticRoute{}}
	answer.InterfaceName.SrcName, answer.InterfaceName.DstPrefix = h.IfName, "eth"
	for _, s := range h.Network.Subnets {
		// An endpoint may be without IPv6 on a network that has it: its container would not start with a route of that family.
		if slices.ContainsFunc(g.Addresses, s.CIDR.Contains) {
			answer.route(s, h)
		}
	}
	return answer, nil
}

// guest is an endpoint that must be there, and on the network.
func (d *Driver) guest(ctx context.Context, network, id string) (agent.Guest, error) {
	g, err := d.host.Guests.Guest(ctx, id)
	if err == nil && (g.ID != id || g.Network != network) {
		err = fmt.Errorf("%w: endpoint %s of network %s", agent.ErrNotFound, abridge(id), abridge(network))
	}
	return g, err
}

// route leads to the subnet through the gateway. The gateway is on the link by a route of its own, without which an engine
// takes it for unreachable; the subnet has some, too, since another network of the container may have the default route.
func (j *joined) route(s agent.Subnet, h agent.Handed) {
	gateway := s.Gateway.String()
	j.StaticRoutes = append(j.StaticRoutes, staticRoute{Destination: netip.PrefixFrom(s.Gateway, s.Gateway.BitLen()), RouteType: 1})
	for _, p := range waysTo(s.CIDR, h.Elsewhere) {
		j.StaticRoutes = append(j.StaticRoutes, staticRoute{Destination: p, NextHop: gateway})
	}
	switch {
	case h.Network.Internal:
	case s.Gateway.Is4():
		j.Gateway = gateway
	default:
		j.GatewayIPv6 = gateway
	}
}

// expose is called on the endpoint by which the container leaves, and again when that changes.
func (d *Driver) expose(ctx context.Context, q portOrder) (any, error) {
	g, err := d.guest(ctx, q.NetworkID, q.EndpointID)
	if err != nil {
		return nil, err
	}
	specs, left := portSpecs(q.Options.Map, g.Addresses)
	for _, b := range left {
		d.log.Warn("port not published: its endpoint has no address of that family", "endpoint", g.Name, "port", b.spec())
	}
	return struct{}{}, d.host.Guests.Expose(ctx, q.EndpointID, specs)
}

// retract closes the ports. Engines of version 29 do not revoke those of endpoints that were there before a restart, hence
// Leave does it too.
func (d *Driver) retract(ctx context.Context, q endpointRef) (any, error) {
	return struct{}{}, d.host.Guests.Retract(ctx, q.EndpointID)
}
