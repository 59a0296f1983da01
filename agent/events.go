package agent

import (
	"log/slog"
	"maps"
	"net/netip"
	"slices"

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
	endpoints map[string]record // by name; nil before the first pass
	routes    []Route           // in the order of desired.routes
	peers     []bgp.PeerStatus
	kept      map[netip.Prefix]tunnel.Route // routes that an earlier daemon left and no peer has told of yet
	heard     bool                          // the peers have told all once
}

// changes lists what is different after a pass, and what is told when that has been. It is a function of its arguments.
//
// A new daemon is quiet about what it finds as an earlier one left it: links that are there, routes that are in the
// kernel as they should be. A thing is told when the kernel has it, and its end when the kernel has it no more.
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
	d.is.peers = peers
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
	found := make(map[string]record, len(records))
	for _, r := range records {
		found[r.Name] = r
	}
	d.is.endpoints = make(map[string]record, len(records))
	for _, name := range slices.Sorted(maps.Keys(d.was.endpoints)) {
		old := d.was.endpoints[name]
		now, still := found[name]
		switch {
		case still && now.ID == old.ID:
			d.is.endpoints[name] = old
		case still || d.pruned("endpoint", endpoint.HostIf(name)):
			d.tellEndpoint(eventDetached, old)
		default:
			d.is.endpoints[name] = old // its link is still there
		}
	}
	for _, r := range records {
		old, known := d.is.endpoints[r.Name]
		switch {
		case known && sameEndpoint(old, r):
		case d.was.endpoints == nil && (d.o.in.linked(r) || !d.o.in.alive[r.Name]):
			d.is.endpoints[r.Name] = r // an earlier daemon told of it
		case d.o.holds(r):
			d.is.endpoints[r.Name] = r
			d.tellEndpoint(eventAttached, r)
		}
	}
}

func (d *difference) tellEndpoint(word string, r record) {
	view := showEndpoint(r, d.o.in.cfg.Node.Name)
	d.tell(Event{Event: word, Endpoint: &view})
}

func sameEndpoint(a, b record) bool {
	return a.NetNS == b.NetNS && a.NSInode == b.NSInode && a.IfName == b.IfName && a.Network == b.Network &&
		slices.Equal(a.Addresses, b.Addresses) && maps.Equal(a.Labels, b.Labels)
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
