package agent

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-net/fairlead/bgp"
	"github.com/fairlead-net/fairlead/endpoint"
)

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
		"a route is told of as used when the kernel has it, and its end when it has not": {
			{nil, ""},
			{func(s *scene) { s.hear("10.88.2.0/24 eth0 192.0.2.2"); s.fail("route", "") }, ""},
			{func(s *scene) { s.wrong = nil; s.fail("route", "10.88.2.0/24") }, "route-added 10.88.2.0/24 not-in-kernel"},
			{nil, ""},
			{func(s *scene) { s.wrong = nil; s.fail("route", "") }, ""},
			{func(s *scene) { s.wrong = nil; s.fail("route", "10.88.3.0/24") },
				"route-changed 10.88.2.0/24: not-in-kernel -> direct eth0 192.0.2.2"},
			{func(s *scene) { s.hear("10.88.2.0/24 eth1 192.0.2.2"); s.wrong = nil; s.fail("route", "10.88.2.0/24") },
				"route-changed 10.88.2.0/24: direct eth0 192.0.2.2 -> not-in-kernel"},
			{func(s *scene) { s.wrong = nil }, "route-changed 10.88.2.0/24: not-in-kernel -> direct eth1 192.0.2.2"},
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
		"a new daemon that can not put back a route that it finds": {
			{func(s *scene) {
				s.kernel = map[string]string{"10.88.2.0/24": "eth0 192.0.2.2"}
				s.hear("10.88.2.0/24 eth0 192.0.2.2")
				s.fail("route", "10.88.2.0/24")
			}, "route-changed 10.88.2.0/24: direct eth0 192.0.2.2 -> not-in-kernel"},
			{func(s *scene) { s.wrong = nil }, "route-changed 10.88.2.0/24: not-in-kernel -> direct eth0 192.0.2.2"},
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
