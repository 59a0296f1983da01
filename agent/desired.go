package agent

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
	"unicode"

	"github.com/fairlead-net/fairlead/bgp"
	"github.com/fairlead-net/fairlead/endpoint"
	"github.com/fairlead-net/fairlead/fastpath"
	"github.com/fairlead-net/fairlead/ipam"
	"github.com/fairlead-net/fairlead/nat"
	"github.com/fairlead-net/fairlead/reconcile"
	"github.com/fairlead-net/fairlead/tunnel"
)

// desired is what the kernel and the peers should hold. It is a function of the inputs and of nothing else.
type desired struct {
	tunnel.Rows
	endpoints map[string]endpoint.Row
	members   map[nat.Member]nat.Fault   // who may send into the tunnels
	filter    map[nat.EntryKey]nat.Entry // what keeps others from it, and from this host
	nat       nat.Rows
	loopback  map[string]string // kernel parameters of endpoints' links, which go with them
	fast      fastpath.Rows
	announce  []bgp.Announcement
	mtu       int     // of containers' links, in bytes
	routes    []Route // every route heard, used or not
}

// The reasons for which a route is heard and not used.
const (
	reasonDefault  = "default-route"
	reasonOutside  = "outside-pools"
	reasonUnderlay = "underlay"
	reasonOwn      = "own-block"
	reasonWhole    = "whole-pool"
	reasonMissing  = "not-in-kernel" // the kernel did not take it as it should be: what the pass failed at says why
)

func desire(in inputs) desired {
	if in.uninstall {
		return desired{Rows: tunnel.Rows{Sysctls: in.known}}
	}
	d := desired{endpoints: make(map[string]endpoint.Row)}
	plan := tunnel.Input{Config: in.cfg.Tunnel, Underlay: in.underlay, MTU: in.cfg.Node.MTU, Hops: in.hops, Beside: in.fast.beside()}
	plan.Offload = make(map[string]tunnel.Offload)
	for _, name := range []string{tunnel.DeviceVXLAN, tunnel.DeviceVXLAN6} {
		plan.Offload[name] = tunnel.ChooseOffload(in.checksums, in.have.devices[name].Offload)
	}
	for _, p := range in.cfg.Pools {
		plan.Pools = append(plan.Pools, p.CIDR)
		if block := in.blocks[p.Name]; block.IsValid() {
			plan.Blocks = append(plan.Blocks, block)
		}
	}
	nodes := d.accept(in, &plan)
	d.attach(in, &plan)
	d.Rows = tunnel.Plan(plan)
	d.members, d.filter = make(map[nat.Member]nat.Fault), make(map[nat.EntryKey]nat.Entry)
	if in.cfg.Tunnel.Accept == tunnel.AcceptPeers {
		d.members, d.filter = strangers(d.Devices, senders(in, d.Paths), in.partners)
	}
	d.translate(in)
	d.speed(in, plan.Accepts())
	d.show(nodes)
	if !in.drained {
		d.announce = announcements(in, told(plan.Accepts()))
	}
	return d
}

// accept hands the usable routes to the plan and lists the others with the reason. It returns the names of nodes.
func (d *desired) accept(in inputs, plan *tunnel.Input) map[netip.Prefix]string {
	nodes := make(map[netip.Prefix]string, len(in.routes))
	for _, r := range in.routes {
		nodes[r.Prefix] = nodeOf(r)
		if reason := refuse(in, r.Prefix); reason != "" {
			d.routes = append(d.routes, Route{Prefix: r.Prefix, Via: r.NextHops, Node: nodeOf(r), Reason: reason})
			continue
		}
		plan.Remotes = append(plan.Remotes, tunnel.Remote{Prefix: r.Prefix, Ends: ends(r)})
	}
	return nodes
}

// senders are the nodes that may send into our tunnels: those of the config, which may speak before they have told
// anything, and the next hops of what we route.
func senders(in inputs, paths []tunnel.Path) (all []netip.Addr) {
	for _, p := range in.cfg.BGP.Peers {
		if p.Role == bgp.Mesh || p.Role == "" {
			all = append(all, p.Address)
		}
	}
	for _, p := range paths {
		if p.Reason == "" || len(p.Legs) > 0 {
			all = append(all, p.Via...)
		}
	}
	return all
}

// ends are the next hops of a route with what they accept.
func ends(r bgp.Route) []tunnel.End {
	all := make([]tunnel.End, len(r.NextHops))
	for i, nh := range r.NextHops {
		all[i] = tunnel.End{Addr: nh, Accepts: heard(r.Encaps[i])}
	}
	return all
}

// told and heard are a set of tunnels in the words of BGP, and back.
func told(s tunnel.Encaps) (out bgp.Encaps) {
	for _, e := range s.List() {
		out |= tunnelTypes()[e]
	}
	return out
}

func heard(s bgp.Encaps) (in tunnel.Encaps) {
	for e, bit := range tunnelTypes() {
		if s&bit != 0 {
			in |= tunnel.SetOf(e)
		}
	}
	return in
}

func tunnelTypes() map[tunnel.Encap]bgp.Encaps {
	return map[tunnel.Encap]bgp.Encaps{tunnel.IPIP: bgp.IPIP, tunnel.GRE: bgp.GRE, tunnel.VXLAN: bgp.VXLAN}
}

// nodeOf names the node that a route leads to: by the name it gave itself, else by its address.
func nodeOf(r bgp.Route) string {
	name := graphic(r.Node)
	if name == "" && len(r.NextHops) > 0 {
		return r.NextHops[0].String()
	}
	return name
}

// graphic is text from another host, which must not be able to forge a line of a log or a screen.
func graphic(s string) string {
	return strings.Map(func(c rune) rune {
		if unicode.IsGraphic(c) {
			return c
		}
		return -1
	}, s)
}

// refuse says why a prefix is not taken from a peer, "" when it is.
//
// A peer must not be able to redirect anything but what lies inside our pools and outside our own block: not the host's
// default route, not the network that the sessions themselves run over.
func refuse(in inputs, p netip.Prefix) string {
	if p.Bits() == 0 {
		return reasonDefault
	}
	inside := func(pool ipam.Pool) bool { return pool.CIDR.Bits() <= p.Bits() && pool.CIDR.Contains(p.Addr()) }
	i := slices.IndexFunc(in.cfg.Pools, inside)
	if i < 0 {
		return reasonOutside
	}
	if pool := in.cfg.Pools[i]; p.Bits() == pool.CIDR.Bits() && ipam.Bits(pool) > p.Bits() {
		return reasonWhole
	}
	if slices.ContainsFunc(in.underlay.Subnets, p.Overlaps) {
		return reasonUnderlay
	}
	for _, block := range in.blocks {
		if block.IsValid() && block.Overlaps(p) {
			return reasonOwn
		}
	}
	return ""
}

// attach wants a link for every endpoint that has a container. One whose namespace is gone keeps the link it may still
// have, and gets no new one: a process elsewhere can hold the namespace open.
func (d *desired) attach(in inputs, plan *tunnel.Input) {
	d.mtu = tunnel.ContainerMTU(*plan)
	for _, r := range in.records {
		row := in.rows[r.Name]
		if row.MTU = d.mtu; r.Guest.MTU != 0 {
			row.MTU = min(d.mtu, r.Guest.MTU)
		}
		if r.Guest.Stage == stageAdmitted {
			continue
		}
		if !in.alive[r.Name] {
			have, ok := in.have.endpoints[row.HostIf]
			if !ok {
				continue
			}
			row = have
		}
		d.endpoints[row.HostIf] = row
		for _, a := range r.Addresses {
			plan.Attached = append(plan.Attached, tunnel.Attached{Dev: row.HostIf, MAC: tunnel.MAC(row.MAC), IP: a})
		}
	}
}

// show lists the routes of the plan for people.
func (d *desired) show(nodes map[netip.Prefix]string) {
	for _, p := range d.Paths {
		d.routes = append(d.routes, Route{
			Prefix: p.Prefix, Via: p.Via, Encap: string(p.Encap), Dev: p.Dev, MTU: p.MTU,
			Node: nodes[p.Prefix], Installed: p.Reason == "", Reason: p.Reason, Fast: d.fastTo(p), Slow: d.slowTo(p),
		})
	}
	slices.SortFunc(d.routes, byPrefix)
}

func byPrefix(a, b Route) int { return a.Prefix.Compare(b.Prefix) }

// lack marks the routes that the kernel does not have after a pass as it should. Of a table that could not be read none is
// known to be there. A route whose device could not be made is reported too: it waits.
func (d *desired) lack(r *reconcile.Report) {
	bad := make(map[string]bool)
	for _, f := range slices.Concat(r.Failures, r.Waiting) {
		if f.Table == tableRoute {
			bad[f.Key] = true
		}
	}
	if len(bad) == 0 {
		return
	}
	for i := range d.routes {
		p := &d.routes[i]
		key := tunnel.RouteKey{Table: tunnel.Main, Prefix: p.Prefix}
		if p.Installed && (bad[""] || bad[key.String()]) {
			p.Installed, p.Reason = false, reasonMissing
		}
	}
}

// announcements are one aggregate for each block, from config and store alone, so that BGP never feeds itself. With each
// goes which tunnels this node takes packets from.
func announcements(in inputs, accepts bgp.Encaps) []bgp.Announcement {
	var all []bgp.Announcement
	for _, p := range in.cfg.Pools {
		block := in.blocks[p.Name]
		nh := nextHop(in, p.CIDR.Addr().Is4())
		if block.IsValid() && nh.IsValid() {
			all = append(all, bgp.Announcement{Prefix: block, NextHop: nh, Encaps: accepts})
		}
	}
	return all
}

// nextHop is this node's address of the wanted family. A node without an IPv6 address gives the IPv4-mapped one, as
// RFC 4798 section 2 does: the others then tunnel over IPv4. So does one whose mode is GRE, which goes over IPv4 only.
func nextHop(in inputs, v4 bool) netip.Addr {
	u := in.underlay
	own := []netip.Addr{u.Address, u.Address6}
	if in.cfg.Tunnel.Mode == tunnel.ModeGRE {
		own = slices.DeleteFunc(own, netip.Addr.Is6)
		u.Address = cmp.Or(append(own, u.Address)...)
	}
	for _, a := range own {
		if a.IsValid() && a.Is4() == v4 {
			return a
		}
	}
	if !v4 && u.Address.IsValid() {
		return netip.AddrFrom16(u.Address.As16())
	}
	return u.Address
}
