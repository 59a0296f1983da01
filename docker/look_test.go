package docker

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-net/fairlead/agent"
)

// lookWorld is a daemon and a Docker that a test looks at whenever it wants: time passes only between two looks.
type lookWorld struct {
	t      *testing.T
	docker *lookDocker
	host   *lookHost
	log    *lookLog
	looker *Looker
	now    time.Time
}

func newLookWorld(t *testing.T) *lookWorld {
	w := &lookWorld{t: t, docker: &lookDocker{}, host: newLookHost(t), log: &lookLog{}, now: time.Unix(0, 0)}
	w.serve(w.docker, "fairlead")
	return w
}

// serve has another Docker answer, which knows the driver by a name.
func (w *lookWorld) serve(h http.Handler, name string) {
	d := New(Host{Addresses: w.host, Networks: w.host, Guests: w.host}, 5*time.Second, w.log.logger(slog.LevelDebug))
	w.looker = NewLooker(d, w.host, serveEngine(w.t, h), name)
	w.t.Cleanup(w.looker.engine.client.CloseIdleConnections)
}

// look looks once, as Run would: an error is Docker's.
func (w *lookWorld) look() error {
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Second)
	defer cancel()
	_, err := w.looker.look(ctx, w.now)
	if err != nil {
		w.looker.lost(err)
	}
	return err
}

// pass looks for so many seconds, at their beginning and end and every five between.
func (w *lookWorld) pass(seconds int) {
	w.t.Helper()
	for range seconds / 5 {
		if err := w.look(); err != nil {
			w.t.Fatal(err)
		}
		w.now = w.now.Add(lookAgain)
	}
	if err := w.look(); err != nil {
		w.t.Fatal(err)
	}
}

// holds compares what the daemon holds with lines.
func (w *lookWorld) holds(when string, lines ...string) {
	w.t.Helper()
	if diff := cmp.Diff(strings.Join(lines, "\n"), w.host.String()); diff != "" {
		w.t.Errorf("%s (-want +got)\n%s", when, diff)
	}
}

func lookID(word string) string { return word + strings.Repeat("0", 64-len(word)) }

func lookAddresses(texts ...string) (all []netip.Addr) {
	for _, t := range texts {
		all = append(all, netip.MustParseAddr(t))
	}
	return all
}

// network puts one into the daemon, with its gateway.
func (w *lookWorld) network(id, cidr, gateway string) {
	a := netip.MustParseAddr(gateway)
	p := netip.MustParsePrefix(cidr)
	w.host.networks[lookID(id)] = agent.Network{ID: lookID(id), Subnets: []agent.Subnet{{CIDR: p, Range: p, Gateway: a}}}
	w.host.gateways[a] = true
}

func (w *lookWorld) leases(addresses ...string) {
	for _, a := range lookAddresses(addresses...) {
		w.host.leases[a] = true
	}
}

// guest puts an endpoint into the daemon, with leases of its addresses.
func (w *lookWorld) guest(id, network string, loose bool, addresses ...string) {
	w.host.guests[lookID(id)] = agent.Guest{
		ID: lookID(id), Name: "docker-" + id, Network: lookID(network), Addresses: lookAddresses(addresses...), Loose: loose,
	}
	w.leases(addresses...)
}

// dockerNetwork is one of the driver, as Docker tells it.
func dockerNetwork(id, name, cidr string) engineNetwork {
	n := engineNetwork{ID: lookID(id), Name: name, Driver: "fairlead", Containers: map[string]engineAttachment{}}
	n.IPAM.Driver = "fairlead"
	n.IPAM.Config = []enginePool{{Subnet: cidr}}
	return n
}

// dockerContainer runs on one network.
func dockerContainer(name, network, endpoint, address string) engineContainer {
	c := engineContainer{ID: lookID("c" + name), Names: []string{"/" + name}, Image: "bb", Labels: map[string]string{}}
	c.NetworkSettings.Networks = map[string]engineEndpoint{"n": {
		NetworkID: lookID(network), EndpointID: lookID(endpoint), IPAddress: engineAddress{netip.MustParseAddr(address)},
	}}
	return c
}

// shop is a world in which all is well: web runs on the network apps.
func shop(t *testing.T) *lookWorld {
	w := newLookWorld(t)
	w.network("a1", "10.88.0.0/16", "169.254.88.1")
	w.guest("e1", "a1", false, "10.88.1.1")
	w.docker.networks = []engineNetwork{dockerNetwork("a1", "apps", "10.88.0.0/16")}
	w.docker.containers = []engineContainer{dockerContainer("web", "a1", "e1", "10.88.1.1")}
	return w
}

// What the shop is while all is well.
func shopLines(more ...string) []string {
	lines := append([]string{
		"gateway 169.254.88.1", `guest e100 [10.88.1.1] "web"`, "lease 10.88.1.1",
		`network a100 "apps" 10.88.0.0/16 via 169.254.88.1 mtu=0 internal=false`,
	}, more...)
	slices.Sort(lines)
	return lines
}

// TestLookLeaves sees that nothing is taken that somebody has, however long one looks.
func TestLookLeaves(t *testing.T) {
	cases := []struct {
		name string
		so   func(w *lookWorld)
		more []string // besides the shop
	}{
		{"all is well", func(*lookWorld) {}, nil},
		{"a container that Docker has forgotten and that runs on", func(w *lookWorld) {
			w.guest("e2", "a1", false, "10.88.1.2")
		}, []string{`guest e200 [10.88.1.2] ""`, "lease 10.88.1.2"}},
		{"a container that starts", func(w *lookWorld) {
			w.guest("e2", "a1", true, "10.88.1.2")
			w.docker.networks[0].Containers["ep-"+lookID("e2")] = engineAttachment{EndpointID: lookID("e2")}
		}, []string{`guest e200 [10.88.1.2] ""`, "lease 10.88.1.2"}},
		{"a container whose link is gone", func(w *lookWorld) {
			w.guest("e2", "a1", true, "10.88.1.2")
			w.docker.containers = append(w.docker.containers, dockerContainer("db", "a1", "e2", "10.88.1.2"))
		}, []string{`guest e200 [10.88.1.2] "db"`, "lease 10.88.1.2"}},
		{"an endpoint that Docker has by its address", func(w *lookWorld) {
			w.guest("e2", "a1", true, "10.88.1.2")
			w.docker.containers = append(w.docker.containers, dockerContainer("db", "a1", "e3", "10.88.1.2"))
		}, []string{`guest e200 [10.88.1.2] ""`, "lease 10.88.1.2"}},
		{"addresses that the user keeps from containers", func(w *lookWorld) {
			w.leases("10.88.1.9")
			w.docker.networks[0].IPAM.Config[0].AuxiliaryAddresses = map[string]engineAddress{"router": {netip.MustParseAddr("10.88.1.9")}}
		}, []string{"lease 10.88.1.9"}},
		{"a network without containers", func(w *lookWorld) {
			w.network("a2", "10.88.0.0/16", "169.254.88.2")
			w.docker.networks = append(w.docker.networks, dockerNetwork("a2", "more", "10.88.0.0/16"))
		}, []string{"gateway 169.254.88.2", `network a200 "more" 10.88.0.0/16 via 169.254.88.2 mtu=0 internal=false`}},
		{"a network of the driver's second name", func(w *lookWorld) {
			w.network("a2", "10.88.0.0/16", "169.254.88.2")
			n := dockerNetwork("a2", "more", "10.88.0.0/16")
			n.Driver = "fl"
			w.docker.networks = append(w.docker.networks, n)
		}, []string{"gateway 169.254.88.2", `network a200 "more" 10.88.0.0/16 via 169.254.88.2 mtu=0 internal=false`}},
		{"networks of other drivers", func(w *lookWorld) {
			n := dockerNetwork("b1", "bridge", "172.17.0.0/16")
			n.Driver = "bridge"
			w.docker.networks = append(w.docker.networks, n)
			w.docker.containers = append(w.docker.containers, dockerContainer("else", "b1", "e9", "172.17.0.2"))
		}, nil},
		{"a gateway that Docker tells", func(w *lookWorld) {
			w.host.gateways[netip.MustParseAddr("169.254.88.7")] = true
			w.docker.networks[0].IPAM.Config[0].Gateway = engineAddress{netip.MustParseAddr("169.254.88.7")}
		}, []string{"gateway 169.254.88.7"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			w := shop(t)
			c.so(w)
			w.pass(90)
			w.holds("after 90 s", shopLines(c.more...)...)
			if text := w.log.String(); strings.Contains(text, "level=INFO") || strings.Contains(text, "level=WARN") {
				t.Errorf("log\n%s", text)
			}
		})
	}
}

// TestLookEnds follows what Docker has forgotten: not before the time of grace, and soon after it.
func TestLookEnds(t *testing.T) {
	cases := []struct {
		name  string
		so    func(w *lookWorld)
		steps map[int][]string // besides the shop, after so many seconds
	}{
		{"an endpoint, and then its addresses", func(w *lookWorld) {
			w.guest("e2", "a1", true, "10.88.1.2", "fd00:78::2")
		}, map[int][]string{
			5:  {`guest e200 [10.88.1.2 fd00:78::2] ""`, "lease 10.88.1.2", "lease fd00:78::2"},
			10: {"lease 10.88.1.2", "lease fd00:78::2"},
			20: {"lease 10.88.1.2", "lease fd00:78::2"},
			25: nil,
		}},
		{"an address that no endpoint was made for", func(w *lookWorld) { w.leases("10.88.1.2") },
			map[int][]string{20: {"lease 10.88.1.2"}, 25: nil}},
		{"a gateway that no network was made for", func(w *lookWorld) { w.host.gateways[netip.MustParseAddr("169.254.88.2")] = true },
			map[int][]string{20: {"gateway 169.254.88.2"}, 25: nil}},
		{"a network, and then its gateway", func(w *lookWorld) { w.network("a2", "10.88.0.0/16", "169.254.88.2") },
			map[int][]string{
				20: {"gateway 169.254.88.2", `network a200 "" 10.88.0.0/16 via 169.254.88.2 mtu=0 internal=false`},
				25: {"gateway 169.254.88.2"}, 50: {"gateway 169.254.88.2"}, 55: nil,
			}},
		{"an endpoint, and then its network", func(w *lookWorld) {
			w.network("a2", "10.88.0.0/16", "169.254.88.2")
			w.guest("e2", "a2", true, "10.88.1.2")
		}, map[int][]string{
			10: {"gateway 169.254.88.2", "lease 10.88.1.2", `network a200 "" 10.88.0.0/16 via 169.254.88.2 mtu=0 internal=false`},
			35: {"gateway 169.254.88.2", `network a200 "" 10.88.0.0/16 via 169.254.88.2 mtu=0 internal=false`},
			40: {"gateway 169.254.88.2"},
		}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			w := shop(t)
			c.so(w)
			for at := 0; at <= 60; at += 5 {
				if err := w.look(); err != nil {
					t.Fatal(err)
				}
				if want, told := c.steps[at]; told {
					w.holds(fmt.Sprintf("after %d s", at), shopLines(want...)...)
				}
				w.now = w.now.Add(lookAgain)
			}
		})
	}
}

// TestLookTakenOver starts containers while their addresses are about to be released.
func TestLookTakenOver(t *testing.T) {
	w := shop(t)
	w.guest("e2", "a1", true, "10.88.1.2") // forgotten
	w.leases("10.88.1.3")                  // of a container that starts slowly
	w.pass(20)
	w.guest("e3", "a1", true, "10.88.1.2")
	w.guest("e4", "a1", true, "10.88.1.3")
	w.docker.change(func() {
		w.docker.containers = append(w.docker.containers, dockerContainer("db", "a1", "e3", "10.88.1.2"), dockerContainer("mail", "a1", "e4", "10.88.1.3"))
	})
	w.pass(60)
	w.holds("at last", shopLines(`guest e300 [10.88.1.2] "db"`, "lease 10.88.1.2", `guest e400 [10.88.1.3] "mail"`, "lease 10.88.1.3")...)
}

// TestLookDocker sees that nothing is taken for forgotten by what a Docker says, or does not say, that is not well, and that
// earlier looks count no more afterwards.
func TestLookDocker(t *testing.T) {
	empty := func(text string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, text) }
	}
	cases := map[string]http.HandlerFunc{
		"fails":          func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "oh", http.StatusInternalServerError) },
		"says garbage":   empty("<html>"),
		"says nothing":   empty(""),
		"says null":      empty("null"),
		"says an object": empty(`{"message":"page not found"}`),
		"says half":      empty(`[{"Id":"ab"}`),
		"nameless":       empty(`[{}]`),
		"hangs": func(_ http.ResponseWriter, r *http.Request) {
			<-r.Context().Done()
		},
		"ends": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"says null of networks": func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/networks" {
				fmt.Fprint(w, "null")
				return
			}
			fmt.Fprint(w, "[]")
		},
		"one network fails": func(w http.ResponseWriter, r *http.Request) {
			if strings.HasPrefix(r.URL.Path, "/networks/") {
				http.Error(w, "oh", http.StatusInternalServerError)
				return
			}
			fmt.Fprintf(w, `[{"Id":%q,"Driver":"fairlead"}]`, lookID("a1"))
		},
		"one network is another": func(w http.ResponseWriter, r *http.Request) {
			if strings.HasPrefix(r.URL.Path, "/networks/") {
				fmt.Fprint(w, `{"Id":"a2","Containers":{}}`)
				return
			}
			fmt.Fprintf(w, `[{"Id":%q,"Driver":"fairlead"}]`, lookID("a1"))
		},
	}
	for name, instead := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := shop(t)
			w.guest("e2", "a1", true, "10.88.1.2")
			w.pass(5)
			w.docker.change(func() { w.docker.instead = instead })
			for range 6 {
				if name == "hangs" {
					w.now = w.now.Add(20 * time.Second)
				}
				w.now = w.now.Add(lookAgain)
				if err := w.look(); err == nil {
					t.Fatal("such answers are taken for answers")
				}
				if name == "hangs" {
					break // each takes a second
				}
			}
			w.docker.change(func() { w.docker.instead = nil })
			w.pass(5)
			w.holds("five seconds after it", shopLines(`guest e200 [10.88.1.2] ""`, "lease 10.88.1.2")...)
			w.pass(30)
			w.holds("at last", shopLines()...)
			if n := strings.Count(w.log.String(), "level=WARN"); n != 1 {
				t.Errorf("%d warnings, want one\n%s", n, w.log)
			}
		})
	}
}

// TestLookStoodStill lets a daemon sleep between two looks: what happened meanwhile it has not seen.
func TestLookStoodStill(t *testing.T) {
	w := shop(t)
	w.guest("e2", "a1", true, "10.88.1.2")
	for range 5 {
		if err := w.look(); err != nil {
			t.Fatal(err)
		}
		w.now = w.now.Add(lookStale + time.Second)
	}
	w.holds("after looks far apart", shopLines(`guest e200 [10.88.1.2] ""`, "lease 10.88.1.2")...)
}

// TestLookHostFails has the daemon fail at what a look asks of it: it is said once, and tried again.
func TestLookHostFails(t *testing.T) {
	w := shop(t)
	w.guest("e2", "a1", true, "10.88.1.2")
	w.leases("10.88.1.3")
	w.host.broken = fmt.Errorf("the disk is full")
	w.pass(60)
	w.holds("with a full disk", shopLines(`guest e200 [10.88.1.2] ""`, "lease 10.88.1.2", "lease 10.88.1.3")...)
	// Once for each: what is learnt, the endpoint, the address.
	if text := w.log.String(); strings.Count(text, "the disk is full") != 3 || strings.Count(text, "level=WARN") != 3 {
		t.Errorf("log\n%s", text)
	}
	w.host.broken = nil
	w.pass(60)
	w.holds("with room", shopLines()...)
}
