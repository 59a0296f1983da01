package agent

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/fairlead-net/fairlead/tunnel"
)

func (d *difference) tellRoutes() {
	d.is.heard = d.was.heard || d.o.in.complete
	switch {
	case d.was.endpoints == nil:
		d.is.kept = d.o.left()
	case len(d.was.kept) == 0 && slices.EqualFunc(d.was.routes, d.o.desired.routes, sameRoute):
		d.is.routes = d.o.desired.routes
		return
	default:
		d.is.kept = maps.Clone(d.was.kept)
	}
	d.is.routes = make([]Route, 0, len(d.o.desired.routes))
	merge(d.was.routes, d.o.desired.routes, byPrefix, func(old, now *Route) {
		switch {
		case now == nil:
			d.endRoute(*old)
		case old == nil:
			d.beginRoute(*now)
		default:
			d.goOn(*old, *now)
		}
	})
	d.endKept()
}

// left is what an earlier daemon left in the kernel of routes to other nodes.
func (o *outcome) left() map[netip.Prefix]tunnel.Route {
	rows := make(map[netip.Prefix]tunnel.Route)
	for k, r := range o.in.have.routes {
		if k.Table == tunnel.Main && remote(r) {
			rows[k.Prefix] = r
		}
	}
	return rows
}

// goOn is about a route that was told of. While nobody can see what the kernel has, nothing has changed.
func (d *difference) goOn(old, r Route) {
	switch {
	case sameRoute(old, r):
		d.is.routes = append(d.is.routes, r)
	case d.failed(tableRoute, ""):
		d.is.routes = append(d.is.routes, old)
	default:
		d.is.routes = append(d.is.routes, r)
		d.tellRoute(eventChanged, r, &old)
	}
}

func (d *difference) tellRoute(word string, r Route, before *Route) {
	if before != nil {
		was := *before
		before = &was
	}
	d.tell(Event{Event: word, Route: &r, Before: before})
}

// beginRoute is about a route that was not told of, but for one that an earlier daemon left. What is heard and not used
// while the peers tell what they know is no news: that began when nobody can say.
func (d *difference) beginRoute(r Route) {
	row, kept := d.is.kept[r.Prefix]
	switch {
	case d.failed(tableRoute, ""), !r.Installed && !d.is.heard:
		return
	case kept && r.Reason != reasonMissing && sameRow(row, d.o.desired.Routes[tunnel.RouteKey{Table: tunnel.Main, Prefix: r.Prefix}]):
	case kept:
		before := showRow(r.Prefix, row)
		d.tellRoute(eventChanged, r, &before)
	case r.Installed || d.was.heard:
		d.tellRoute(eventAdded, r, nil)
	}
	delete(d.is.kept, r.Prefix)
	d.is.routes = append(d.is.routes, r)
}

// endRoute is about a route that no peer tells of any more. It may still be in the kernel.
func (d *difference) endRoute(r Route) {
	if !d.unrouted(r.Prefix) {
		d.is.routes = append(d.is.routes, r)
		return
	}
	d.tellRoute(eventRemoved, r, nil)
}

// endKept is about what an earlier daemon left and no peer has told of when all have told what they know.
func (d *difference) endKept() {
	for _, p := range slices.SortedFunc(maps.Keys(d.is.kept), netip.Prefix.Compare) {
		if d.unrouted(p) {
			d.tellRoute(eventRemoved, showRow(p, d.is.kept[p]), nil)
			delete(d.is.kept, p)
		}
	}
}

// unrouted tells whether a route that is not wanted has left the kernel.
func (d *difference) unrouted(p netip.Prefix) bool {
	return (d.o.in.complete || d.o.in.uninstall) && d.pruned(tableRoute, p.String())
}

// sameRoute leaves out whose route it is: the name comes after the route, and does not move a packet.
func sameRoute(a, b Route) bool {
	return a.Prefix == b.Prefix && a.Encap == b.Encap && a.Dev == b.Dev && a.MTU == b.MTU && a.Installed == b.Installed &&
		a.Reason == b.Reason && slices.Equal(a.Via, b.Via)
}

// sameRow leaves out the source, which is of packets of the host alone and goes for a while when its address does.
func sameRow(a, b tunnel.Route) bool {
	a.Source, b.Source = netip.Addr{}, netip.Addr{}
	return a == b
}

// showRow is a route as far as the kernel shows it.
func showRow(p netip.Prefix, row tunnel.Route) Route {
	r := Route{Prefix: p, MTU: row.MTU, Installed: true}
	for _, h := range row.Used() {
		r.Via, r.Dev = append(r.Via, h.Via), h.Dev
	}
	r.Encap = string(tunnel.EncapOf(r.Dev))
	return r
}
