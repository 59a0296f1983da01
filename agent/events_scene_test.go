package agent

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/fairlead-net/fairlead/bgp"
	"github.com/fairlead-net/fairlead/endpoint"
	"github.com/fairlead-net/fairlead/reconcile"
	"github.com/fairlead-net/fairlead/tunnel"
)

// scene is what one pass is about. Every case is a sequence of scenes, each made out of the one before.
type scene struct {
	records   map[string]record
	linked    map[string]uint64 // inode that the link found by the pass leads to, by endpoint
	dead      map[string]bool   // endpoints whose namespace is gone
	kernel    map[string]string // routes found by the pass: device and gateway, by prefix
	routes    []Route
	peers     []bgp.PeerStatus
	wrong     []reconcile.Failure
	held      []string
	mended    map[string]int
	deaf      bool // some peer has not told all yet
	uninstall bool
	err       error
}

// outcome is the scene as a pass leaves it.
func (s *scene) outcome(rev uint64) *outcome {
	o := &outcome{
		rev: rev, err: s.err, finished: time.Unix(int64(rev), 0),
		report:  &reconcile.Report{Failures: s.wrong, Held: s.held, Mended: s.mended},
		desired: desired{routes: s.routes, endpoints: map[string]endpoint.Row{}},
		in: inputs{
			cfg: Config{Node: Node{Name: "n1"}}, complete: !s.deaf, uninstall: s.uninstall,
			rows: map[string]endpoint.Row{}, alive: map[string]bool{},
			have: tables{endpoints: map[string]endpoint.Row{}, routes: map[tunnel.RouteKey]tunnel.Route{}},
		},
	}
	o.desired.Routes = map[tunnel.RouteKey]tunnel.Route{}
	for _, name := range slices.Sorted(maps.Keys(s.records)) {
		r := s.records[name]
		o.in.records = append(o.in.records, r)
		o.in.rows[name], o.in.alive[name] = r.row(), !s.dead[name]
		if !s.dead[name] && !s.uninstall {
			o.desired.endpoints[endpoint.HostIf(name)] = r.row()
		}
	}
	for name, inode := range s.linked {
		row := endpoint.Row{Name: name, NSInode: inode}
		o.in.have.endpoints[endpoint.HostIf(name)] = row
		if s.dead[name] { // it keeps the link that it has
			o.desired.endpoints[endpoint.HostIf(name)] = row
		}
	}
	for prefix, path := range s.kernel {
		o.in.have.routes[routeKey(prefix)] = routeRow(path)
	}
	o.in.have.routes[routeKey("10.88.1.0/24")] = tunnel.Route{Kind: tunnel.Blackhole}
	o.in.have.routes[routeKey("10.88.1.9/32")] = routeRow("fl0123456789 -")
	for _, r := range s.routes {
		if r.Installed {
			o.desired.Routes[routeKey(r.Prefix.String())] = routeRow(r.Dev + " " + r.Via[0].String())
		}
	}
	if s.err != nil {
		o.report = nil
		return o
	}
	o.desired.routes = slices.Clone(s.routes)
	o.desired.lack(o.report)
	return o
}

func routeKey(prefix string) tunnel.RouteKey {
	return tunnel.RouteKey{Table: tunnel.Main, Prefix: netip.MustParsePrefix(prefix)}
}

// routeRow is a row of the kernel, from "eth0 192.0.2.2" and perhaps a source; the gateway "-" is none.
func routeRow(path string) tunnel.Route {
	f := strings.Fields(path)
	hop := tunnel.NextHop{Dev: f[0]}
	if f[1] != "-" {
		hop.Via = netip.MustParseAddr(f[1])
	}
	r := tunnel.Route{Kind: tunnel.Unicast, Hops: tunnel.SortHops([]tunnel.NextHop{hop})}
	if len(f) > 2 {
		r.Source = netip.MustParseAddr(f[2])
	}
	return r
}

func (s *scene) attach(name string, inode uint64, labels ...string) {
	r := record{
		Name: name, ID: "id-" + name, NSInode: inode, NetNS: "/run/netns/" + name, IfName: "eth0", Labels: map[string]string{},
		Addresses: []netip.Addr{netip.MustParseAddr("10.88.1.9")},
	}
	for _, l := range labels {
		r.Labels[l] = "yes"
	}
	s.records = maps.Clone(s.records)
	if s.records == nil {
		s.records = map[string]record{}
	}
	s.records[name] = r
}

func (s *scene) detach(name string) {
	s.records = maps.Clone(s.records)
	delete(s.records, name)
}

// hear sets the routes, from lines such as "10.88.2.0/24 eth0 192.0.2.2"; one without a device is not used, for the
// reason in its place.
func (s *scene) hear(lines ...string) {
	s.routes = nil
	for _, line := range lines {
		f := strings.Fields(line)
		r := Route{Prefix: netip.MustParsePrefix(f[0]), Reason: f[1]}
		if len(f) == 3 {
			r = Route{
				Prefix: r.Prefix, Via: []netip.Addr{netip.MustParseAddr(f[2])}, Dev: f[1], Encap: "direct", Node: f[2], Installed: true,
			}
		}
		s.routes = append(s.routes, r)
	}
}

func (s *scene) fail(table, key string) {
	s.wrong = append(slices.Clone(s.wrong), reconcile.Failure{Table: table, Key: key, Err: errors.New("no")})
}

func peer(address, state string, since int64) bgp.PeerStatus {
	return bgp.PeerStatus{
		Address: netip.MustParseAddr(address), State: state, Since: time.Unix(since, 0), Received: 3, LastError: "hold timer expired",
	}
}

// TestWhoFollowsKnows: whatever happens, who applies the events to what there was before the first of them knows of the
// same endpoints, routes and sessions as the daemon itself after each pass in which all went well, but perhaps for routes
// that the kernel did not take.
func TestWhoFollowsKnows(t *testing.T) {
	prefixes := []string{"10.88.2.0/24", "10.88.3.0/24", "10.88.4.0/24", "203.0.113.0/24"}
	rapid.Check(t, func(t *rapid.T) {
		var s scene
		var known picture
		endpoints, routes, peers := map[string]string{}, map[string]string{}, map[string]bool{}
		for rev := range uint64(rapid.IntRange(1, 20).Draw(t, "passes")) {
			s.wrong, s.held, s.err = nil, nil, nil
			s.deaf = rev > 0 && rapid.IntRange(0, 4).Draw(t, "deaf") == 0
			for _, name := range []string{"a", "b"} {
				switch rapid.IntRange(0, 5).Draw(t, "fate") {
				case 0:
					s.detach(name)
				case 1:
					s.attach(name, 1, rapid.SampledFrom([]string{"blue", "green"}).Draw(t, "label"))
				case 2:
					s.fail("endpoint", endpoint.HostIf(name))
				}
			}
			var lines []string
			refused := 0
			for _, p := range prefixes {
				switch rapid.IntRange(0, 5).Draw(t, "route") {
				case 0:
					lines = append(lines, p+" eth0 192.0.2.2")
				case 1:
					lines = append(lines, p+" eth1 192.0.2.2")
				case 2:
					lines = append(lines, p+" no-common-encap")
				case 3:
					s.fail("route", p)
				case 4:
					lines = append(lines, p+" eth0 192.0.2.2")
					s.fail("route", p)
					refused++
				}
			}
			s.hear(lines...)
			s.peers = nil
			for _, a := range []string{"192.0.2.2", "192.0.2.3"} {
				if state := rapid.SampledFrom([]string{"established", "active", ""}).Draw(t, "state"); state != "" {
					s.peers = append(s.peers, peer(a, state, rapid.Int64Range(0, 2).Draw(t, "since")))
				}
			}
			if rapid.IntRange(0, 5).Draw(t, "blind") == 0 {
				s.err = errors.New("interrupted")
			}
			o := s.outcome(rev)
			var events []Event
			known, events = changes(known, o, s.peers)
			for _, e := range events {
				switch {
				case e.Event == eventAttached:
					endpoints[e.Endpoint.Name] = fmt.Sprint(e.Endpoint.Labels)
				case e.Event == eventDetached:
					delete(endpoints, e.Endpoint.Name)
				case e.Peer != nil:
					if up := e.Event == eventPeerUp; up == peers[e.Peer.Address.String()] {
						t.Fatalf("%s of a session that is so already", e.Event)
					}
					peers[e.Peer.Address.String()] = e.Event == eventPeerUp
				case e.Event == eventRemoved:
					delete(routes, e.Route.Prefix.String())
				default:
					routes[e.Route.Prefix.String()] = briefRoute(e.Route)
				}
			}
			for _, p := range s.peers {
				if (p.State == established) != peers[p.Address.String()] {
					t.Fatalf("%s is %s, told %v", p.Address, p.State, peers)
				}
			}
			if s.err != nil || len(s.wrong) > refused || s.deaf {
				continue
			}
			wantEndpoints, wantRoutes := map[string]string{}, map[string]string{}
			for name, r := range s.records {
				wantEndpoints[name] = fmt.Sprint(r.Labels)
			}
			for _, r := range o.desired.routes {
				// What was not used when the first peers had told all is left out: nobody can know since when.
				if told := routes[r.Prefix.String()]; r.Installed || told != "" {
					wantRoutes[r.Prefix.String()] = briefRoute(&r)
				}
			}
			if diff := cmp.Diff([]map[string]string{wantEndpoints, wantRoutes}, []map[string]string{endpoints, routes}); diff != "" {
				t.Fatalf("want -, told +:\n%s", diff)
			}
		}
	})
}
