package agent

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/fairlead-net/fairlead/endpoint"
	"github.com/fairlead-net/fairlead/nat"
	"github.com/fairlead-net/fairlead/tunnel"
)

// translate plans the ports and the way out, and adds what both need of the tables that others write too.
func (d *desired) translate(in inputs) {
	d.nat = nat.Plan(d.scene(in))
	maps.Copy(d.members, d.nat.Members)
	maps.Copy(d.filter, d.nat.Input)
	// A tunnelled host that asks for a port of this one does so outside of the tunnel, and its answer goes through it, as all
	// that a container sends there. A strict filter would throw the question away.
	tunnelled := slices.ContainsFunc(slices.Collect(maps.Keys(d.Rules)), func(from netip.Prefix) bool { return from.Addr().Is4() })
	if tunnelled && len(d.nat.Ports) > 0 {
		for _, dev := range in.underlay.Strict {
			d.Sysctls["net/ipv4/conf/"+dev+"/rp_filter"] = "2"
		}
	}
	d.loopback = make(map[string]string, len(d.nat.Loopback))
	for _, name := range d.nat.Loopback {
		d.loopback["net/ipv4/conf/"+endpoint.HostIf(name)+"/route_localnet"] = "1"
	}
}

// scene is this host as the plan of its address translation sees it.
func (d *desired) scene(in inputs) nat.Input {
	scene := nat.Input{
		Node: []netip.Addr{in.underlay.Address, in.underlay.Address6}, Uplinks: slices.Clone(in.underlay.Uplinks),
		Hairpin: in.cfg.NAT.Hairpin, Mappings: in.mappings, Endpoints: make(map[string][]netip.Addr, len(in.records)),
	}
	for _, p := range in.cfg.Pools {
		// By GRE nodes tell their addresses of IPv4 alone: those of IPv6 could not be told from strangers', and nothing is hidden
		// between nodes.
		unknown := in.cfg.Tunnel.Mode == tunnel.ModeGRE && p.CIDR.Addr().Is6()
		hidden := slices.Contains(in.cfg.NAT.Hidden, p.CIDR) && !unknown
		scene.Pools = append(scene.Pools, nat.Pool{CIDR: p.CIDR, Outgoing: hidden})
	}
	for _, p := range d.Paths {
		if p.Reason == "" {
			scene.Nodes = append(scene.Nodes, p.Via...)
		}
	}
	for _, hop := range in.hops {
		if hop.Reachable {
			scene.Uplinks = append(scene.Uplinks, hop.Dev)
		}
	}
	slices.Sort(scene.Uplinks)
	scene.Uplinks = slices.Compact(scene.Uplinks)
	for _, r := range in.records {
		if _, wanted := d.endpoints[endpoint.HostIf(r.Name)]; !wanted {
			continue
		}
		scene.Endpoints[r.Name] = r.Addresses
		gateway := tunnel.Gateway()
		if r.row().Greets() {
			gateway = endpoint.Gateway6()
		}
		if !slices.Contains(scene.Gateways, gateway) {
			scene.Gateways = append(scene.Gateways, gateway)
		}
	}
	return scene
}
