package config

import (
	"github.com/fairlead-net/fairlead/agent"
	"github.com/fairlead-net/fairlead/bgp"
	"github.com/fairlead-net/fairlead/fastpath"
	"github.com/fairlead-net/fairlead/ipam"
	"github.com/fairlead-net/fairlead/nat"
	"github.com/fairlead-net/fairlead/tunnel"
)

// Agent is the config in the words of the rooms below.
func (c Config) Agent() agent.Config {
	a := agent.Config{
		File: c.File,
		Node: agent.Node{Name: c.Node.Name, Address: c.Node.Address, MTU: c.Node.MTU},
		BGP:  c.BGP.speaker(),
		Tunnel: tunnel.Config{
			Mode: tunnel.Mode(c.Tunnel.Mode), VNI: c.Tunnel.VNI, Port: int(c.Tunnel.VXLANPort), Accept: tunnel.Accept(c.Tunnel.Accept),
		},
		Interval:  c.Reconcile.Interval,
		Socket:    c.API.Socket,
		Fast:      agent.FastMode(c.Fastpath.Mode),
		FastSizes: c.Fastpath.sizes(),
		Hooks:     agent.Hooks{OnAttach: c.Hooks.OnAttach, OnDetach: c.Hooks.OnDetach, Timeout: c.Hooks.Timeout},
	}
	a.NAT = agent.NAT{Backend: nat.Backend(c.NAT.Backend), Random: nat.Range(c.NAT.PortRange), Hairpin: c.NAT.Hairpin}
	for _, e := range c.Endpoints {
		a.NAT.Published = append(a.NAT.Published, agent.Published{Endpoint: e.Name, Specs: e.Publish})
	}
	if c.API.Metrics.IsValid() {
		a.Metrics = c.API.Metrics.String()
	}
	for _, p := range c.Pools {
		a.Pools = append(a.Pools, ipam.Pool{
			Name: p.Name, CIDR: p.CIDR, Block: p.Block, Reserve: p.Reserve, ReuseDelay: p.ReuseDelay,
		})
		if p.NATOutgoing {
			a.NAT.Hidden = append(a.NAT.Hidden, p.CIDR)
		}
	}
	return a
}

func (b BGP) speaker() bgp.Config {
	s := bgp.Config{
		ASN: b.ASN, RouterID: b.RouterID, Listen: b.Listen, Port: b.Port, HoldTime: b.HoldTime,
		GracefulRestart: b.GracefulRestart, RestartTime: b.RestartTime, MaxPrefixes: b.MaxPrefixes,
	}
	for _, p := range b.Peers {
		s.Peers = append(s.Peers, bgp.PeerConfig{
			Address: p.Address, Role: bgp.Role(p.Role), ASN: p.ASN, Password: string(p.Password),
			TTLSecurity: p.TTLSecurity, HoldTime: p.HoldTime, MaxPrefixes: b.MaxPrefixes,
		})
	}
	return s
}

func (f Fastpath) sizes() fastpath.Sizes {
	return fastpath.Sizes{Endpoints: f.MaxEndpoints, Routes: f.MaxRoutes, Flows: f.MaxFlows, Connections: f.MaxConnections}
}
