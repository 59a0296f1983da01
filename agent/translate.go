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
	tenants := tenantsOf(d.wanted(in.records))
	d.nat = nat.Plan(d.scene(in, tenants))
	d.keepApart(in)
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
		d.loopback["net/ipv4/conf/"+endpoint.HostIf(tenants[name].name)+"/route_localnet"] = "1"
	}
}

// stray tells whether an endpoint is of a network that is not known, as after the store was lost, until Docker tells of it.
func (in *inputs) stray(r record) bool {
	return r.Guest.Stage != "" && !slices.ContainsFunc(in.networks, func(n Network) bool { return n.ID == r.Network })
}

// keepApart leaves what keeps endpoints of unknown networks apart as the kernel has it.
func (d *desired) keepApart(in inputs) {
	strays := make(map[netip.Addr]bool)
	for _, r := range in.records {
		if in.stray(r) {
			for _, ip := range r.Addresses {
				strays[ip] = true
			}
		}
	}
	if len(strays) == 0 {
		return
	}
	maps.Copy(d.nat.Apart, in.have.fence)
	for m := range in.have.members {
		if m.Local() && (strays[m.IP] || m.IP.IsUnspecified()) {
			d.nat.Members[m] = ""
		}
	}
}

// wanted is the endpoints that shall have a link.
func (d *desired) wanted(records []record) (all []record) {
	for _, r := range records {
		if _, wanted := d.endpoints[endpoint.HostIf(r.Name)]; wanted {
			all = append(all, r)
		}
	}
	return all
}

// scene is this host as the plan of its address translation sees it.
func (d *desired) scene(in inputs, tenants map[string]tenant) nat.Input {
	scene := nat.Input{
		Node: []netip.Addr{in.underlay.Address, in.underlay.Address6}, Uplinks: slices.Clone(in.underlay.Uplinks),
		Hairpin: in.cfg.NAT.Hairpin, Mappings: in.mappings, Endpoints: make(map[string][]netip.Addr, len(in.records)),
	}
	for _, p := range in.cfg.Pools {
		// By GRE nodes tell their addresses of IPv4 alone: those of IPv6 could not be told from strangers', and nothing is hidden
		// between nodes.
		unknown := in.cfg.Tunnel.Mode == tunnel.ModeGRE && p.CIDR.Addr().Is6()
		hidden := slices.Contains(in.cfg.NAT.Hidden, p.CIDR) && !unknown
		scene.Pools = append(scene.Pools, nat.Pool{CIDR: p.CIDR, Outgoing: hidden, Blurred: unknown})
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
	for name, t := range tenants {
		scene.Endpoints[name] = t.addresses
	}
	for _, r := range d.wanted(in.records) {
		gateway := tunnel.Gateway()
		if !slices.ContainsFunc(r.Addresses, netip.Addr.Is4) {
			gateway = endpoint.Gateway6()
		}
		if !slices.Contains(scene.Gateways, gateway) {
			scene.Gateways = append(scene.Gateways, gateway)
		}
	}
	for _, n := range in.networks {
		scene.Networks = append(scene.Networks, n.around(d.wanted(in.records)))
	}
	return scene
}

// fences are the networks as the packet filter sees them, without endpoints.
func fences(all []Network) (seen []nat.Network) {
	for _, n := range all {
		seen = append(seen, n.around(nil))
	}
	return seen
}

// around is the network as the packet filter sees it, with those of the endpoints that are on it.
func (n Network) around(records []record) nat.Network {
	seen := nat.Network{ID: n.ID, Outgoing: n.Outgoing, Isolated: n.Isolated, Internal: n.Internal}
	for _, s := range n.Subnets {
		seen.Subnets = append(seen.Subnets, s.CIDR)
	}
	for _, r := range records {
		if r.Guest.Stage != "" && r.Network == n.ID {
			seen.Endpoints = append(seen.Endpoints, r.Addresses...)
		}
	}
	return seen
}
