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
	}
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

// brief is an event as a line.
func brief(e Event) string {
	switch {
	case e.Endpoint != nil:
		labels := slices.Sorted(maps.Keys(e.Endpoint.Labels))
		return strings.TrimSpace(fmt.Sprintf("%s %s %s %s", e.Event, e.Endpoint.Name, e.Endpoint.NetNS, strings.Join(labels, ",")))
	case e.Peer != nil:
		return fmt.Sprintf("%s %s %s received %d up %ds", e.Event, e.Peer.Address, e.Peer.State, e.Peer.Received, e.Peer.UptimeSeconds)
	case e.Route != nil && e.Before != nil:
		return fmt.Sprintf("%s %s: %s -> %s", e.Event, e.Route.Prefix, briefRoute(e.Before), briefRoute(e.Route))
	case e.Route != nil:
		return fmt.Sprintf("%s %s %s", e.Event, e.Route.Prefix, briefRoute(e.Route))
	}
	return fmt.Sprintf("%s %v", e.Event, e.Repaired)
}

func briefRoute(r *Route) string {
	if !r.Installed {
		return r.Reason
	}
	return fmt.Sprintf("%s %s %s", r.Encap, r.Dev, join(r.Via))
}

// step changes the scene and says what is told then, one event a line.
type step struct {
	edit func(*scene)
	want string
}

func TestWhatIsTold(t *testing.T) {
	web := endpoint.HostIf("web")
	for name, steps := range map[string][]step{
		"an endpoint comes and goes": {
			{nil, ""},
			{func(s *scene) { s.attach("web", 1) }, "endpoint-attached web /run/netns/web"},
			{nil, ""},
			{func(s *scene) { s.detach("web") }, "endpoint-detached web /run/netns/web"},
			{nil, ""},
		},
		"one is told of when its link is there": {
			{nil, ""},
			{func(s *scene) { s.attach("web", 1); s.fail("endpoint", web) }, ""},
			{func(s *scene) { s.wrong = nil; s.fail("neighbour", "10.88.1.9 dev "+web) }, ""},
			{func(s *scene) { s.wrong = nil }, "endpoint-attached web /run/netns/web"},
			{func(s *scene) { s.fail("endpoint", web) }, ""}, // it has drifted, and is no other one for that
			{func(s *scene) { s.wrong = nil }, ""},
		},
		"an attach that fails is never told of": {
			{nil, ""},
			{func(s *scene) { s.attach("web", 1); s.fail("endpoint", web) }, ""},
			{func(s *scene) { s.detach("web"); s.wrong = nil }, ""},
		},
		"its end is told when the link is gone": {
			{nil, ""},
			{func(s *scene) { s.attach("web", 1) }, "endpoint-attached web /run/netns/web"},
			{func(s *scene) { s.detach("web"); s.held = []string{"route", "endpoint"} }, ""},
			{func(s *scene) { s.held = nil; s.fail("endpoint", web) }, ""},
			{func(s *scene) { s.wrong = nil }, "endpoint-detached web /run/netns/web"},
		},
		"detached and attached between two looks": {
			{func(s *scene) { s.attach("web", 1) }, "endpoint-attached web /run/netns/web"},
			{func(s *scene) {
				s.attach("web", 2)
				r := s.records["web"]
				r.ID = "another"
				s.records["web"] = r
			}, "endpoint-detached web /run/netns/web\nendpoint-attached web /run/netns/web"},
		},
		"a restarted container, and other labels": {
			{func(s *scene) { s.attach("web", 1) }, "endpoint-attached web /run/netns/web"},
			{func(s *scene) { s.attach("web", 2); s.fail("endpoint", web) }, ""},
			{func(s *scene) { s.wrong = nil }, "endpoint-attached web /run/netns/web"},
			{func(s *scene) { s.attach("web", 2, "blue") }, "endpoint-attached web /run/netns/web blue"},
			{nil, ""},
		},
		"a restarted container that is gone again at once": {
			{func(s *scene) { s.attach("web", 1) }, "endpoint-attached web /run/netns/web"},
			{func(s *scene) {
				s.attach("web", 2)
				s.dead, s.linked = map[string]bool{"web": true}, map[string]uint64{"web": 1}
			}, ""},
			{func(s *scene) { s.linked = nil }, ""},
			{func(s *scene) { s.detach("web") }, "endpoint-detached web /run/netns/web"},
		},
		"a new daemon is quiet about the links that it finds": {
			{func(s *scene) {
				s.attach("web", 1)
				s.attach("db", 1)
				s.attach("late", 1)
				s.linked = map[string]uint64{"web": 1, "late": 7}
				s.dead = map[string]bool{"db": true}
			}, "endpoint-attached late /run/netns/late"},
			{func(s *scene) { s.detach("db") }, "endpoint-detached db /run/netns/db"},
			{func(s *scene) { s.detach("web") }, "endpoint-detached web /run/netns/web"},
		},
		"an uninstall": {
			{func(s *scene) {
				s.attach("web", 1)
				s.hear("10.88.2.0/24 eth0 192.0.2.2", "203.0.113.0/24 outside-pools")
			}, "route-added 10.88.2.0/24 direct eth0 192.0.2.2\nendpoint-attached web /run/netns/web"},
			{func(s *scene) { s.uninstall, s.routes = true, nil; s.fail("route", "10.88.2.0/24") }, ""},
			{func(s *scene) { s.wrong, s.deaf = nil, true }, "route-removed 10.88.2.0/24 direct eth0 192.0.2.2\n" +
				"route-removed 203.0.113.0/24 outside-pools\nendpoint-detached web /run/netns/web"},
		},
		"inputs that can not be read": {
			{func(s *scene) { s.attach("web", 1) }, "endpoint-attached web /run/netns/web"},
			{func(s *scene) { s.records, s.err = nil, errors.New("interrupted") }, ""},
			{func(s *scene) { s.attach("web", 1); s.err = nil }, ""},
		},
		"a route comes, changes and goes": {
			{nil, ""},
			{func(s *scene) { s.hear("10.88.2.0/24 eth0 192.0.2.2", "10.88.3.0/24 eth0 192.0.2.3") },
				"route-added 10.88.2.0/24 direct eth0 192.0.2.2\nroute-added 10.88.3.0/24 direct eth0 192.0.2.3"},
			{func(s *scene) { s.hear("10.88.2.0/24 eth1 192.0.2.2", "10.88.3.0/24 eth0 192.0.2.3") },
				"route-changed 10.88.2.0/24: direct eth0 192.0.2.2 -> direct eth1 192.0.2.2"},
			{func(s *scene) { s.hear("10.88.0.0/24 eth0 192.0.2.9", "10.88.2.0/24 next-hop-unreachable") },
				"route-added 10.88.0.0/24 direct eth0 192.0.2.9\nroute-changed 10.88.2.0/24: direct eth1 192.0.2.2 -> next-hop-unreachable\n" +
					"route-removed 10.88.3.0/24 direct eth0 192.0.2.3"},
			{func(s *scene) { s.hear("10.88.2.0/24 next-hop-unreachable", "203.0.113.0/24 outside-pools") },
				"route-removed 10.88.0.0/24 direct eth0 192.0.2.9\nroute-added 203.0.113.0/24 outside-pools"},
			{nil, ""},
		},
		"the name of a route's node comes later": {
			{func(s *scene) { s.hear("10.88.2.0/24 eth0 192.0.2.2") }, "route-added 10.88.2.0/24 direct eth0 192.0.2.2"},
			{func(s *scene) { s.hear("10.88.2.0/24 eth0 192.0.2.2"); s.routes[0].Node = "n2" }, ""},
		},
		"a route is told of when the kernel has it, and its end when it has not": {
			{nil, ""},
			{func(s *scene) { s.hear("10.88.2.0/24 eth0 192.0.2.2"); s.fail("route", "10.88.2.0/24") }, ""},
			{func(s *scene) { s.wrong = nil; s.fail("route", "") }, ""},
			{func(s *scene) { s.wrong = nil }, "route-added 10.88.2.0/24 direct eth0 192.0.2.2"},
			{func(s *scene) { s.hear("10.88.2.0/24 eth1 192.0.2.2"); s.fail("route", "10.88.2.0/24") }, ""},
			{func(s *scene) { s.wrong = nil }, "route-changed 10.88.2.0/24: direct eth0 192.0.2.2 -> direct eth1 192.0.2.2"},
			{func(s *scene) { s.hear(); s.held = []string{"route"} }, ""},
			{func(s *scene) { s.held, s.deaf = nil, true }, ""},
			{func(s *scene) { s.deaf = false; s.fail("route", "10.88.2.0/24") }, ""},
			{func(s *scene) { s.wrong = nil }, "route-removed 10.88.2.0/24 direct eth1 192.0.2.2"},
		},
		"a new daemon is quiet about the routes that it finds": {
			{func(s *scene) {
				s.deaf = true
				s.kernel = map[string]string{
					"10.88.2.0/24": "eth0 192.0.2.2 192.0.2.1", "10.88.3.0/24": "flvxlan 198.51.100.3", "10.88.4.0/24": "eth0 192.0.2.4",
					"10.88.5.0/24": "flvxlan6 2001:db8::5", "10.88.6.0/24": "eth0 192.0.2.6",
				}
			}, ""},
			{func(s *scene) { s.hear("10.88.2.0/24 eth0 192.0.2.2", "203.0.113.0/24 outside-pools") }, ""},
			{func(s *scene) {
				s.kernel = nil // by now it has no memory but ours
				s.hear("10.88.2.0/24 eth0 192.0.2.2", "10.88.3.0/24 eth0 192.0.2.3", "10.88.6.0/24 next-hop-unreachable",
					"10.88.7.0/24 eth0 192.0.2.7", "203.0.113.0/24 outside-pools")
			}, "route-changed 10.88.3.0/24: vxlan flvxlan 198.51.100.3 -> direct eth0 192.0.2.3\nroute-added 10.88.7.0/24 direct eth0 192.0.2.7"},
			{func(s *scene) { s.deaf = false },
				"route-changed 10.88.6.0/24: direct eth0 192.0.2.6 -> next-hop-unreachable\n" +
					"route-removed 10.88.4.0/24 direct eth0 192.0.2.4\nroute-removed 10.88.5.0/24 vxlan flvxlan6 2001:db8::5"},
			{nil, ""},
			{func(s *scene) { s.deaf = true }, ""}, // a peer was added by a reload
			{func(s *scene) { s.hear(append([]string{"0.0.0.0/0 default-route"}, announced(s)...)...) }, "route-added 0.0.0.0/0 default-route"},
		},
		"sessions": {
			{func(s *scene) { s.peers = []bgp.PeerStatus{peer("192.0.2.2", "idle", 0), peer("192.0.2.3", "idle", 0)} }, ""},
			{func(s *scene) {
				s.peers = []bgp.PeerStatus{peer("192.0.2.2", "active", 0), peer("192.0.2.3", "established", 1)}
			},
				"peer-up 192.0.2.3 established received 3 up 1s"},
			{func(s *scene) {
				s.peers = []bgp.PeerStatus{peer("192.0.2.2", "established", 3), peer("192.0.2.3", "established", 1)}
			},
				"peer-up 192.0.2.2 established received 3 up 0s"},
			{nil, ""},
			{func(s *scene) {
				s.peers = []bgp.PeerStatus{peer("192.0.2.2", "established", 4), peer("192.0.2.3", "active", 4)}
			},
				"peer-down 192.0.2.2 idle received 0 up 0s\npeer-up 192.0.2.2 established received 3 up 1s\npeer-down 192.0.2.3 active received 3 up 0s"},
			{func(s *scene) { s.peers = s.peers[1:] }, "peer-down 192.0.2.2 idle received 0 up 0s"},
			{func(s *scene) { s.peers = nil }, ""},
			{func(s *scene) {
				s.peers, s.err = []bgp.PeerStatus{peer("192.0.2.2", "established", 7)}, errors.New("interrupted")
			}, "peer-up 192.0.2.2 established received 3 up 1s"},
		},
		"repairs": {
			{nil, ""},
			{func(s *scene) { s.mended = map[string]int{"route": 2, "rule": 1}; s.fail("device", "flvxlan") }, "repaired map[route:2 rule:1]"},
			{func(s *scene) { s.mended = nil }, ""},
		},
	} {
		t.Run(name, func(t *testing.T) {
			var s scene
			var known picture
			for i, step := range steps {
				if step.edit != nil {
					step.edit(&s)
				}
				o := s.outcome(uint64(i + 1))
				var events []Event
				known, events = changes(known, o, s.peers)
				var got []string
				for _, e := range events {
					got = append(got, brief(e))
					if e.Node != "n1" || e.Revision != uint64(i+1) || !e.Time.Equal(o.finished) {
						t.Errorf("step %d: stamped %+v", i+1, e)
					}
				}
				if diff := cmp.Diff(step.want, strings.Join(got, "\n")); diff != "" {
					t.Errorf("step %d: want -, got +:\n%s", i+1, diff)
				}
			}
		})
	}
}

// announced is what the scene's routes are made of.
func announced(s *scene) []string {
	var lines []string
	for _, r := range s.routes {
		line := r.Prefix.String() + " " + r.Reason
		if r.Installed {
			line = fmt.Sprintf("%s %s %s", r.Prefix, r.Dev, join(r.Via))
		}
		lines = append(lines, line)
	}
	return lines
}

// TestWhoFollowsKnows: whatever happens, who applies the events to what there was before the first of them knows of the
// same endpoints, routes and sessions as the daemon itself after each pass in which all went well.
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
			for _, p := range prefixes {
				switch rapid.IntRange(0, 4).Draw(t, "route") {
				case 0:
					lines = append(lines, p+" eth0 192.0.2.2")
				case 1:
					lines = append(lines, p+" eth1 192.0.2.2")
				case 2:
					lines = append(lines, p+" no-common-encap")
				case 3:
					s.fail("route", p)
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
			if s.err != nil || len(s.wrong) > 0 || s.deaf {
				continue
			}
			wantEndpoints, wantRoutes := map[string]string{}, map[string]string{}
			for name, r := range s.records {
				wantEndpoints[name] = fmt.Sprint(r.Labels)
			}
			for _, r := range s.routes {
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
