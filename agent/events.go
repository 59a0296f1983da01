package agent

import (
	"cmp"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/fairlead-net/fairlead/bgp"
	"github.com/fairlead-net/fairlead/endpoint"
	"github.com/fairlead-net/fairlead/tunnel"
)

// The words of Event.Event, stable for scripts.
const (
	eventAttached = "endpoint-attached" // its link is there; again when an attach of the same name changed it
	eventDetached = "endpoint-detached" // its link is gone
	eventPeerUp   = "peer-up"
	eventPeerDown = "peer-down"
	eventAdded    = "route-added"
	eventChanged  = "route-changed"
	eventRemoved  = "route-removed"
	eventRepaired = "repaired" // others changed or removed what is ours, and it is back
	eventLost     = "lost"     // to this reader, who did not keep up
)

// EventWords are all words that an event can have.
func EventWords() []string {
	return []string{
		eventAttached, eventDetached, eventPeerUp, eventPeerDown, eventAdded, eventChanged, eventRemoved, eventRepaired, eventLost,
	}
}

// news tells of what the passes change.
type news struct {
	feed  *feed
	hooks *hooks
	known picture // of the loop alone
}

func newNews(runs *prometheus.CounterVec, inForce func() Hooks, log *slog.Logger) *news {
	return &news{feed: newFeed(), hooks: newHooks(inForce, runs, log)}
}

// tell tells whoever wants to know what the latest pass changed, and waits for none of them. How many prefixes a neighbour
// has told is asked for only when its session is news: GoBGP counts them one by one.
func (n *news) tell(o *outcome, s Speaker) {
	peers := s.Sessions()
	if !n.known.shows(peers) {
		peers = s.Peers()
	}
	var events []Event
	n.known, events = changes(n.known, o, peers)
	n.feed.add(events)
	n.hooks.tell(events)
}

// picture is what whoever followed all events knows of the node, or could know before the first of them.
type picture struct {
	endpoints []record // by name; nil before the first pass
	routes    []Route  // by prefix
	peers     []bgp.PeerStatus
	kept      map[netip.Prefix]tunnel.Route // routes that an earlier daemon left and no peer has told of yet
	heard     bool                          // the peers have told all once
}

// changes lists what is different after a pass, and what is told when that has been. It is a function of its arguments.
//
// A new daemon is quiet about what it finds as an earlier one left it: links that are there, routes that are in the
// kernel as they should be. An endpoint is told when the kernel has it, a route as it is listed, used or not, and the end of
// either when the kernel has it no more.
func changes(was picture, o *outcome, peers []bgp.PeerStatus) (picture, []Event) {
	d := difference{o: o, was: was, is: was}
	d.tellPeers(peers)
	if o.err == nil && o.report != nil && (!o.in.uninstall || o.bare()) {
		d.tellRoutes()
		d.tellEndpoints()
	}
	if o.report != nil && len(o.report.Mended) > 0 {
		d.tell(Event{Event: eventRepaired, Repaired: maps.Clone(o.report.Mended)})
	}
	return d.is, d.events
}

// difference is a comparison under way.
type difference struct {
	o       *outcome
	was, is picture
	events  []Event
	bad     map[[2]string]bool // rows that the pass could not put or delete, by table and key; nil: not looked at yet
}

func (d *difference) tell(e Event) {
	e.Time, e.Node, e.Revision = d.o.finished.UTC(), d.o.in.cfg.Node.Name, d.o.rev
	d.events = append(d.events, e)
}

// shows tells whether the sessions are those that were told of.
func (p picture) shows(peers []bgp.PeerStatus) bool {
	return slices.EqualFunc(p.peers, peers, func(a, b bgp.PeerStatus) bool {
		return a.Address == b.Address && (a.State == established) == (b.State == established) && a.Since.Equal(b.Since)
	})
}

// tellPeers compares the sessions. One that was lost and is up again since the last look ended in between.
func (d *difference) tellPeers(peers []bgp.PeerStatus) {
	d.is.peers = peers
	if d.was.shows(peers) {
		return
	}
	before := make(map[netip.Addr]bgp.PeerStatus, len(d.was.peers))
	for _, p := range d.was.peers {
		before[p.Address] = p
	}
	var accepted map[netip.Addr]int
	tell := func(word string, p bgp.PeerStatus) {
		if accepted == nil {
			accepted = d.o.in.accepted()
		}
		view := showPeer(p, accepted[p.Address], d.o.finished)
		d.tell(Event{Event: word, Peer: &view})
	}
	for _, p := range peers {
		old := before[p.Address]
		delete(before, p.Address)
		wasUp, up := old.State == established, p.State == established
		same := wasUp && up && old.Since.Equal(p.Since)
		if wasUp && !same {
			tell(eventPeerDown, ended(p))
		}
		if up && !same {
			tell(eventPeerUp, p)
		}
	}
	for _, p := range d.was.peers {
		if _, gone := before[p.Address]; gone && p.State == established {
			tell(eventPeerDown, ended(p))
		}
	}
}

// ended is how a neighbour is without its session: every session ends in the state Idle (RFC 4271 section 8.2.2).
func ended(p bgp.PeerStatus) bgp.PeerStatus {
	if p.State == established {
		p.State, p.Received, p.Advertised = "idle", 0, 0
	}
	return p
}

func (d *difference) tellEndpoints() {
	records := d.o.in.records
	if d.o.in.uninstall {
		records = nil // the kernel has nothing of them any more
	}
	if d.was.endpoints != nil && slices.EqualFunc(d.was.endpoints, records, sameEndpoint) {
		return
	}
	d.is.endpoints = make([]record, 0, len(records))
	byName := func(a, b record) int { return strings.Compare(a.Name, b.Name) }
	merge(d.was.endpoints, records, byName, func(old, now *record) {
		switch {
		case now == nil && !d.pruned("endpoint", endpoint.HostIf(old.Name)):
			d.is.endpoints = append(d.is.endpoints, *old) // its link is still there
		case now == nil:
			d.tellEndpoint(eventDetached, *old)
		case old == nil:
			d.beginEndpoint(*now)
		case old.ID != now.ID:
			d.tellEndpoint(eventDetached, *old)
			d.beginEndpoint(*now)
		case !sameEndpoint(*old, *now) && d.o.holds(*now):
			d.is.endpoints = append(d.is.endpoints, *now)
			d.tellEndpoint(eventAttached, *now)
		default:
			d.is.endpoints = append(d.is.endpoints, *old)
		}
	})
}

// beginEndpoint is about one that was not told of. What a new daemon finds is told of already, by an earlier one.
func (d *difference) beginEndpoint(r record) {
	found := d.was.endpoints == nil && (d.o.in.linked(r) || !d.o.in.alive[r.Name])
	if !found && !d.o.holds(r) {
		return
	}
	d.is.endpoints = append(d.is.endpoints, r)
	if !found {
		d.tellEndpoint(eventAttached, r)
	}
}

// merge walks two sorted lists side by side. What only one of them has is handed over without the other.
func merge[T any](old, now []T, compare func(a, b T) int, each func(old, now *T)) {
	for len(old) > 0 || len(now) > 0 {
		order := 0
		switch {
		case len(now) == 0:
			order = -1
		case len(old) == 0:
			order = 1
		default:
			order = compare(old[0], now[0])
		}
		var a, b *T
		if order <= 0 {
			a, old = &old[0], old[1:]
		}
		if order >= 0 {
			b, now = &now[0], now[1:]
		}
		each(a, b)
	}
}

func (d *difference) tellEndpoint(word string, r record) {
	if i := slices.IndexFunc(d.o.in.networks, func(n Network) bool { return n.ID == r.Network }); i >= 0 {
		r.Network = cmp.Or(d.o.in.networks[i].Name, r.Network)
	}
	view := showEndpoint(r, d.o.in.cfg.Node.Name, d.o.in.mappings, d.o.desired.fast)
	d.tell(Event{Event: word, Endpoint: &view})
}

func sameEndpoint(a, b record) bool {
	return a.ID == b.ID && a.NetNS == b.NetNS && a.NSInode == b.NSInode && a.IfName == b.IfName && a.Network == b.Network &&
		slices.Equal(a.Addresses, b.Addresses) && maps.Equal(a.Labels, b.Labels) && a.Guest.Container == b.Guest.Container
}

// linked tells whether the pass found the endpoint's link, made into the namespace that it should lead to.
func (in *inputs) linked(r record) bool {
	row, there := in.have.endpoints[in.rows[r.Name].HostIf]
	return there && row.NSInode == r.NSInode
}

// holds tells whether the kernel has all of an endpoint after the pass.
func (o *outcome) holds(r record) bool {
	hostIf := endpoint.HostIf(r.Name)
	row, wanted := o.desired.endpoints[hostIf]
	return wanted && row.NSInode == r.NSInode && o.trouble(hostIf, r.Addresses...) == nil
}

// pruned tells whether a row that is not wanted any more is gone: its table was pruned, and nothing went wrong with it.
func (d *difference) pruned(table, key string) bool {
	return !slices.Contains(d.o.report.Held, table) && !d.failed(table, key)
}

// failed tells whether the pass could not do with a row, or with its whole table, what it should.
func (d *difference) failed(table, key string) bool {
	if d.bad == nil {
		d.bad = make(map[[2]string]bool)
		for _, f := range slices.Concat(d.o.report.Failures, d.o.report.Waiting) {
			d.bad[[2]string{f.Table, f.Key}] = true
		}
	}
	return d.bad[[2]string{table, key}] || d.bad[[2]string{table, ""}]
}
