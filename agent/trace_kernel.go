package agent

import (
	"cmp"
	"fmt"
	"net/netip"

	"github.com/fairlead-net/fairlead/nat"
	"github.com/fairlead-net/fairlead/tunnel"
)

// kernel is the kernel's way: address translation, routes, the fences between networks, and the way out.
func (w *walk) kernel() {
	w.Way = cmp.Or(w.counted, kernelsOwnWay)
	if w.isOwn(w.to.ip) {
		w.translate()
	}
	out, there := w.route()
	if !there || w.fenced(out) || w.refused(out) {
		return
	}
	w.hide(out)
	if w.to.name != "" {
		w.limit(w.to.mtu)
		w.hop("endpoint link "+w.to.link, "kernel: forwarded to %s", w.to)
	}
}

// translate follows a published port. Where it leads nowhere the question was refused before.
func (w *walk) translate() {
	port, rule, _ := w.published()
	w.hop("mapping", "kernel: mapping %s -> %s", netip.AddrPortFrom(w.to.ip, port.Number), rule.To)
	w.to = w.party(rule.To.Addr().Unmap())
	if _, near := w.d.fast.Endpoints[w.to.ip]; near {
		w.hop("map flows", "the flow is the kernel's from its first packet on: answers are left to it (kernel-flow)")
	}
}

// route is the link that the kernel's tables lead to.
func (w *walk) route() (out string, there bool) {
	if w.to.name != "" && w.to.mtu == 0 {
		w.noLink(w.to)
		return "", false
	}
	key, r, there := w.rowTo()
	if heard, known := longest(pathsOf(w.d.routes), w.to.ip); known {
		if view := w.routeTo(heard); !view.Installed {
			w.hop("route", "kernel: %s is heard of and not used: %s", heard, view.Reason)
		}
	}
	if f, wins := w.foreign(key, there); wins {
		w.hop("route", "kernel: somebody else's route %s wins", f)
		return w.in.underlay.Dev, true
	}
	if !there {
		return w.beyond(), true
	}
	w.hop("route", "kernel: route %s %s", key, r)
	if r.Kind == tunnel.Blackhole {
		w.Way = dropNobody
		return "", false
	}
	w.limit(r.MTU)
	for _, p := range w.d.Paths {
		if p.Prefix == key.Prefix {
			w.limit(p.MTU)
		}
	}
	hops := r.Used()
	if len(hops) == 0 {
		return "", true
	}
	w.devices(hops)
	return hops[0].Dev, true
}

// devices tells of the tunnels that next hops lead into.
func (w *walk) devices(hops []tunnel.NextHop) {
	for _, h := range hops {
		one := ""
		if len(hops) > 1 {
			one = fmt.Sprintf("one of %d, by the kernel's hash: ", len(hops))
		}
		d, is := w.d.Devices[h.Dev]
		if !is {
			if one != "" {
				w.hop("uplink "+h.Dev, "%svia %s", one, h.Via)
			}
			continue
		}
		w.limit(d.MTU)
		what := d.String() + ", to " + h.Via.String()
		if mac, known := w.d.Neighbours[tunnel.NeighKey{Dev: h.Dev, IP: h.Via}]; known {
			what += fmt.Sprintf(", neighbour %s", mac)
			if end, known := w.d.FDB[tunnel.FDBKey{Dev: h.Dev, MAC: mac}]; known {
				what += fmt.Sprintf(", which is at %s", end)
			}
		}
		w.hop("tunnel device "+h.Dev, "%skernel: %s", one, what)
	}
}

// rowTo is our route for the packet, that of the tunnelled hosts first for packets from our blocks.
func (w *walk) rowTo() (key tunnel.RouteKey, r tunnel.Route, there bool) {
	tables := []int{tunnel.Main}
	if rule, is := w.d.Rules[w.blockOf(w.from.ip)]; is {
		tables = []int{rule.Table, tunnel.Main}
	}
	for _, table := range tables {
		for bits := w.to.ip.BitLen(); bits >= 0; bits-- {
			p, _ := w.to.ip.Prefix(bits)
			key = tunnel.RouteKey{Table: table, Prefix: p}
			if r, there = w.d.Routes[key]; there {
				return key, r, true
			}
		}
	}
	return tunnel.RouteKey{}, tunnel.Route{}, false
}

// foreign is somebody else's route inside the pools that wins over ours.
func (w *walk) foreign(ours tunnel.RouteKey, there bool) (won netip.Prefix, wins bool) {
	bits := -1
	if there {
		bits = ours.Prefix.Bits()
	}
	for _, f := range w.in.underlay.Foreign {
		if f.Prefix.Contains(w.to.ip) && (f.Prefix.Bits() > bits || f.Prefix.Bits() == bits && f.Metric <= tunnel.Metric) {
			won, wins, bits = f.Prefix, true, f.Prefix.Bits()
		}
	}
	return won, wins
}

// beyond is the link for what no route of ours is for. Of the host's own routes the pass knows the node's link.
func (w *walk) beyond() string {
	dev := w.in.underlay.Dev
	for _, s := range w.in.underlay.Subnets {
		if s.Contains(w.to.ip) {
			w.hop("uplink", "kernel: no route of ours: %s is in %s, a subnet of this host", w.to.ip, s)
			w.limit(w.in.underlay.MTU)
			return dev
		}
	}
	w.hop("uplink "+dev, "kernel: no route of ours: the host's own routes lead on, mtu %d at most", w.in.underlay.MTU)
	w.limit(w.in.underlay.MTU)
	return dev
}

// fenced tells whether networks are kept apart there. What the host itself sends passes no fence.
func (w *walk) fenced(out string) bool {
	if w.from.name == "" && w.isOwn(w.from.ip) {
		return false
	}
	name, target, found := nat.First(w.d.nat.Apart, w.d.members, nat.Packet{From: w.from.ip, To: w.to.ip, Out: out})
	switch {
	case found && target == "DROP":
		w.hop("packet filter", "networks are kept apart: rule %q drops it", name)
		w.Way = dropApart
		return true
	case len(w.d.nat.Apart) > 0:
		w.hop("packet filter", "the fences between networks let it pass")
	}
	return false
}

// hidden is the rule by which the destination sees this host as the source.
func (w *walk) hidden(out string) (rule string, is bool) {
	name, target, found := nat.First(w.d.nat.Outgoing, w.d.members, nat.Packet{From: w.from.ip, To: w.to.ip, Out: out})
	return name, found && target != "RETURN"
}

// refused tells whether an endpoint would meet itself: a packet whose source is its own address it takes for forged.
func (w *walk) refused(out string) bool {
	if _, hidden := w.hidden(out); hidden || w.from.ip != w.to.ip {
		return false
	}
	w.hop("endpoint link "+w.to.link, "%s would see its own address as the source, and drops it: [nat] hairpin is off", w.to)
	w.Way = dropHairpin
	return true
}

// hide is by whose address the destination sees it.
func (w *walk) hide(out string) {
	if name, hidden := w.hidden(out); hidden {
		w.hop("source NAT", "leaves by this host's address: rule %q", name)
		w.Source = sourceHost
	}
	if w.from.name == "" && w.isOwn(w.from.ip) {
		w.Source = sourceHost
	}
}
