package agent

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/fairlead-net/fairlead/fastpath"
	"github.com/fairlead-net/fairlead/nat"
)

// walk follows a packet through the rows of a pass, as the programs and the kernel will.
type walk struct {
	Trace
	o        *outcome
	d        *desired
	in       *inputs
	own      []netip.Addr // of this host
	from, to party
	counted  string // the way that the fast path counts when it leaves the packet to the kernel
}

func (w *walk) hop(where, format string, args ...any) {
	w.Hops = append(w.Hops, TraceHop{Where: where, What: fmt.Sprintf(format, args...)})
}

// limit notes that no larger packet gets through. 0 is no limit.
func (w *walk) limit(mtu int) {
	if mtu > 0 && (w.MTU == 0 || mtu < w.MTU) {
		w.MTU = mtu
	}
}

func (w *walk) walk() {
	switch {
	case w.from.name != "" && w.from.mtu == 0:
		w.noLink(w.from)
	case w.from.name != "":
		w.limit(w.from.mtu)
		w.outOfEndpoint()
	case w.isOwn(w.from.ip):
		w.hop("this host", "%s is of the host itself, whose packets take the kernel's way", w.from.ip)
		w.kernel()
	default:
		w.inFromWire()
	}
}

func (w *walk) noLink(p party) {
	w.hop("endpoint", "%s has no link on this host now: fairlead status says why", p)
	w.Way = dropNoLink
}

// left is the packet left to the kernel, with the reason in the word that the programs count.
func (w *walk) left(reason fastpath.Reason, why string, args ...any) {
	w.hop("fast path", "left to the kernel: %s (%s)", fmt.Sprintf(why, args...), reason)
	w.counted = reason.String()
	w.kernel()
}

// outOfEndpoint is what fl_from_container does.
func (w *walk) outOfEndpoint() {
	at := "endpoint link " + w.from.link
	row, known := w.d.fast.Endpoints[w.from.ip]
	if !known {
		w.hop(at, "source is %s; no program stands here: %s", w.from, w.withoutProgram(w.from.ip))
		w.kernel()
		return
	}
	w.hop(at, "from_container: source is %s, link %s, mac %s, mtu %d", w.from, row.Link, row.MAC, row.MTU)
	if to, here := w.d.fast.Endpoints[w.to.ip]; here {
		w.hop("map endpoints", "%s -> %s", w.to.ip, to)
		w.toEndpoint(row, to)
		return
	}
	if w.byPort(row.Realm) {
		return
	}
	p, route, there := w.fastRoute(w.to.ip)
	if there {
		w.hop("map routes", "%s -> %s", p, route)
	}
	hops := route.Used()
	switch {
	case len(hops) == 0:
		w.left(fastpath.KernelRoute, "%s is neither an endpoint nor behind a route of its maps%s", w.to.ip, w.skipped(w.to.ip))
	case row.Realm != 0:
		w.left(fastpath.KernelRealm, "the network of %s is kept apart, realm %d", w.from.name, row.Realm)
	default:
		w.byHops(p, hops)
	}
}

func (w *walk) toEndpoint(from, to fastpath.Endpoint) {
	if from.Realm != to.Realm {
		w.left(fastpath.KernelRealm, "networks are kept apart, realms %d and %d", from.Realm, to.Realm)
		return
	}
	w.limit(to.MTU)
	w.hop("endpoint link "+to.Link, "fast path: handed to the inside of %s", w.to)
	w.Way = fastpath.FastLocal.String()
}

// byHops is the way to another host. Which of several next hops a flow takes follows from its ports too, and of these that
// of the source is not known before there is a packet.
func (w *walk) byHops(p netip.Prefix, hops []fastpath.Hop) {
	one := ""
	if len(hops) > 1 {
		one = fmt.Sprintf("one of %d, by the hash of the flow: ", len(hops))
	}
	for _, h := range hops {
		by := string(h.Encap)
		if h.Encap != fastpath.Direct {
			by += " to " + h.End.String()
		}
		w.hop("uplink "+h.Link, "%sfast path: route %s by %s via %s dev %s mtu %d", one, p, by, h.Next, h.Link, h.MTU)
		w.limit(h.MTU)
	}
	w.Way = wayOut(hops[0].Encap).String()
}

func wayOut(e fastpath.Encap) fastpath.Reason {
	return map[fastpath.Encap]fastpath.Reason{
		fastpath.Direct: fastpath.FastDirect, fastpath.IPIP: fastpath.FastIPIP, fastpath.VXLAN: fastpath.FastVXLAN,
	}[e]
}

func wayIn(e fastpath.Encap) fastpath.Reason {
	return map[fastpath.Encap]fastpath.Reason{
		fastpath.Direct: fastpath.FastFromDirect, fastpath.IPIP: fastpath.FastFromIPIP, fastpath.VXLAN: fastpath.FastFromVXLAN,
	}[e]
}

// inFromWire is what fl_from_wire does. By which way the sender sends is its own choice; what this host answers by is the
// best that is known of it.
func (w *walk) inFromWire() {
	p, back, _ := w.fastRoute(w.from.ip)
	to, here := w.d.fast.Endpoints[w.to.ip]
	hops := back.Used()
	links := slices.Clone(w.in.underlay.Uplinks)
	if len(hops) > 0 {
		links = nil
		for _, h := range hops {
			links = append(links, h.Link)
		}
	}
	slices.Sort(links)
	at := "uplink " + strings.Join(slices.Compact(links), " or ")
	switch {
	case len(w.d.fast.Settings) == 0:
		w.hop(at, "from %s; no program stands here: %s", w.from, w.withoutProgram(w.to.ip))
		w.kernel()
	case !here && w.byPort(0):
	case !here:
		w.hop(at, "from_wire: %s is no endpoint of the maps, so the packet is the kernel's", w.to.ip)
		w.kernel()
	case len(hops) == 0:
		w.hop(at, "from_wire: for %s, link %s", w.to, to.Link)
		w.left(fastpath.KernelRoute, "%s is behind no route of the maps%s", w.from.ip, w.skipped(w.from.ip))
	default:
		w.hop(at, "from_wire: in by %s, as this host would answer", inBy(hops[0]))
		w.hop("map routes", "back to %s: %s -> %s", w.from.ip, p, back)
		w.hop("map endpoints", "%s -> %s", w.to.ip, to)
		w.intoEndpoint(hops, to)
	}
}

// byPort follows a published port that the programs map. False: they do not, or not for whoever asks.
func (w *walk) byPort(realm uint32) bool {
	port, rule, there := w.published()
	if !there || !w.isOwn(w.to.ip) {
		return false
	}
	mapping, mapped := w.d.fast.Ports[fastPort(port)]
	to, here := w.d.fast.Endpoints[rule.To.Addr().Unmap()]
	hairpins := w.d.fast.Settings[fastpath.SettingsKey].Flags.Has(fastpath.Hairpins)
	if !mapped || !here || to.Realm != realm || rule.To.Addr().Unmap() == w.from.ip && !hairpins {
		return false
	}
	if rule.To.Addr().Unmap() == w.from.ip {
		w.Source = sourceHost
	}
	w.hop("map ports", "fast path: port %s -> %s", netip.AddrPortFrom(w.to.ip, port.Number), mapping.To)
	w.to = w.party(mapping.To.Addr())
	w.limit(to.MTU)
	w.hop("endpoint link "+to.Link, "fast path: handed to the inside of %s", w.to)
	w.Way = fastpath.FastMapped.String()
	return true
}

func inBy(h fastpath.Hop) string {
	if h.Encap == fastpath.Direct {
		return "direct"
	}
	return fmt.Sprintf("%s from %s, a node that is known", h.Encap, h.End)
}

func (w *walk) intoEndpoint(back []fastpath.Hop, to fastpath.Endpoint) {
	if to.Realm != 0 {
		w.left(fastpath.KernelRealm, "the network of %s is kept apart, realm %d", w.to.name, to.Realm)
		return
	}
	for _, h := range back {
		w.limit(h.MTU)
	}
	w.limit(to.MTU)
	w.hop("endpoint link "+to.Link, "fast path: handed to the inside of %s", w.to)
	w.Way = wayIn(back[0].Encap).String()
}

// fastRoute is the row of the maps for an address.
func (w *walk) fastRoute(ip netip.Addr) (netip.Prefix, fastpath.Route, bool) {
	p, there := longest(w.d.fast.Routes, ip)
	return p, w.d.fast.Routes[p], there
}

// withoutProgram says why an endpoint has no part in the fast path.
func (w *walk) withoutProgram(ip netip.Addr) string {
	switch {
	case w.in.fast.why != "":
		return fastIsOff + ": " + w.in.fast.why
	case !w.in.fast.on:
		return fastIsOff
	case w.in.isForeign(ip):
		return "somebody else's route takes packets for it"
	}
	return "the fast path leaves it to the kernel" + w.skipped(ip)
}

// skipped says, behind other words, why the maps have nothing for an address.
func (w *walk) skipped(ip netip.Addr) string {
	best := -1
	reason := ""
	for _, s := range w.d.fast.Skipped {
		if s.Prefix.IsValid() && s.Prefix.Contains(ip) && s.Prefix.Bits() > best {
			best, reason = s.Prefix.Bits(), s.Reason
		}
	}
	if p, there := longest(pathsOf(w.d.routes), ip); there && p.Bits() > best {
		r := w.routeTo(p)
		reason = cmp.Or(r.Slow, r.Reason)
	}
	if reason == "" {
		return ""
	}
	return ": " + reason
}

// published is the mapping that takes a packet for an address of this host.
func (w *walk) published() (port nat.Port, rule nat.Rule, there bool) {
	every := netip.IPv6Unspecified()
	if w.to.ip.Is4() {
		every = netip.IPv4Unspecified()
	}
	for _, ip := range []netip.Addr{w.to.ip, every} {
		port = nat.Port{Proto: w.Proto, IP: ip, Number: w.Port}
		if rule, there = w.d.nat.Ports[port]; there {
			return port, rule, true
		}
	}
	return nat.Port{}, nat.Rule{}, false
}
