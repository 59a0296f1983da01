package story_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/fairlead-net/fairlead/agent"
	"github.com/fairlead-net/fairlead/nettest"
)

// checkAttach: an attach has all of its ports or leaves nothing behind, and one that is repeated with others has those.
func (h *harbour) checkAttach(t *testing.T) {
	h.n.Attach("first", "--publish", "8080:80")
	before, other := rows(t, h.n), nettest.NewHost(t, "third")
	leases := len(show[[]agent.Lease](t, h.n, "leases"))
	time.Sleep(500 * time.Millisecond) // no pass is due that would clear up for another reason
	r := h.n.CLI("attach", "third", "--netns", other.Path, "--publish", "8099:80", "--publish", "8080:80")
	if r.Code != 1 || !strings.Contains(r.Stderr, "first") {
		t.Errorf("attach with a port of another: exit code %d: %s", r.Code, r.Stderr)
	}
	if err := same(t, h.n, before); err != nil {
		t.Error(err)
	}
	var err error
	for begun := time.Now(); time.Since(begun) < nettest.Patience(soon); time.Sleep(20 * time.Millisecond) {
		if err = h.n.Bind("tcp", netip.MustParseAddrPort("0.0.0.0:8099"), nettest.Trick{}); err == nil {
			break
		}
	}
	if err != nil {
		t.Errorf("a port of an attach that failed: %v", err)
	}
	if now := len(show[[]agent.Lease](t, h.n, "leases")); now != leases {
		t.Errorf("%d leases, %d before", now, leases)
	}
	c := h.n.Attach("second", "--publish", "8081:80", "--publish", "81")
	offer(c, plainPort, "tcp")
	kept := hostPort(t, h.n, "second", "tcp", otherPort)
	h.n.Fairlead("publish", "second", "8083:80")
	c.Reattach("--publish", "8082:80", "--publish", "81")
	for port, name := range map[uint16]string{8081: "", 8082: "second", 8083: "second"} {
		to := netip.AddrPortFrom(h.n.Address4, port)
		if name == "" {
			if err := silent(h.stranger, "tcp", to); err != nil {
				t.Error(err)
			}
		} else if err := answers(h.stranger, "tcp", to, name); err != nil {
			t.Error(err)
		}
	}
	if now := hostPort(t, h.n, "second", "tcp", otherPort); now != kept {
		t.Errorf("attached again, port %d became %d", kept, now)
	}
	unpublishAll(t, h.n)
	h.n.Fairlead("detach", "first", "second")
}

// checkRace: of many who ask for one port at once, one gets it and the others are told who that is.
func (h *harbour) checkRace(t *testing.T) {
	const callers = 8
	for i := range callers {
		offer(h.n.Attach(fmt.Sprintf("r%d", i)), plainPort, "tcp")
	}
	for round := range 4 {
		var mu sync.Mutex
		var winners []string
		var g errgroup.Group
		for i := range callers {
			api, name := nettest.NewAPI(t, h.n.Socket()), fmt.Sprintf("r%d", i)
			g.Go(func() error {
				var all []agent.Port
				err := api.Call(http.MethodPost, "ports", agent.PortsRequest{Endpoint: name, Specs: []string{fmt.Sprintf("%d:80", 8700+round)}}, &all)
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					winners = append(winners, name)
				} else if !strings.Contains(err.Error(), "409") || !strings.Contains(err.Error(), fmt.Sprint(8700+round)) {
					return err
				}
				return nil
			})
		}
		if err := g.Wait(); err != nil {
			t.Error(err)
		}
		if len(winners) != 1 {
			t.Fatalf("port %d went to %q", 8700+round, winners)
		}
		if err := answers(h.stranger, "tcp", netip.AddrPortFrom(h.n.Address4, uint16(8700+round)), winners[0]); err != nil {
			t.Error(err)
		}
	}
	unpublishAll(t, h.n)
	for i := range callers {
		h.n.Fairlead("detach", fmt.Sprintf("r%d", i))
	}
}

// checkRange: a range that is used up says so, and those that rest longest give way first.
func (h *harbour) checkRange(t *testing.T) {
	config := withBlocks(h.n.Config(), 1)
	h.n.WriteConfig(config + "\n[nat]\nport_range = \"30000-30003\"\n")
	h.n.Fairlead("reload")
	h.n.Attach("many", "--publish", "81", "--publish", "82")
	h.n.Attach("gone", "--publish", "81", "--publish", "82")
	if r := h.n.CLI("publish", "many", "83"); r.Code != 1 || !strings.Contains(r.Stderr, "30000-30003") {
		t.Errorf("from a range that is used up: exit code %d: %s%s", r.Code, r.Stdout, r.Stderr)
	}
	h.n.Fairlead("detach", "gone")
	h.n.Fairlead("publish", "many", "83")
	resting := slices.DeleteFunc(rows(t, h.n), func(r string) bool { return !strings.HasSuffix(r, "resting") })
	if len(resting) != 2 || !strings.HasPrefix(resting[0], "gone ") { // one port in two families
		t.Errorf("at rest are %q", resting)
	}
	unpublishAll(t, h.n)
	h.n.Fairlead("detach", "many")
	h.n.WriteConfig(config)
	h.n.Fairlead("reload")
}

// checkCutShort: whenever the daemon is killed, a port is published and held, or it is neither.
func (h *harbour) checkCutShort(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	chance := rand.New(rand.NewPCG(seed, 88))
	offer(h.n.Attach("web"), plainPort, "tcp")
	var asked []uint16
	answered := 0
	for round := range 5 {
		var g errgroup.Group
		counts := make([]int, 4)
		for caller := range counts {
			api, first := nettest.NewAPI(t, h.n.Socket()), uint16(21000+round*400+caller*100)
			for i := range uint16(20) {
				asked = append(asked, first+i)
			}
			g.Go(func() error {
				counts[caller] = publishUntilKilled(api, first, 20)
				return nil
			})
		}
		pause(chance, 300*time.Millisecond)
		h.n.Kill()
		_ = g.Wait() // nobody fails
		for _, n := range counts {
			answered += n
		}
		h.n.Start()
		h.n.WaitReady(10 * time.Second)
	}
	h.checkWhole(t, asked, answered)
	unpublishAll(t, h.n)
	h.n.Fairlead("detach", "web")
}

// publishUntilKilled asks for ports one by one, and tells how many were answered.
func publishUntilKilled(api *nettest.API, first uint16, most int) (answered int) {
	for i := range most {
		var all []agent.Port
		spec := fmt.Sprintf("%d:80", int(first)+i)
		if api.Call(http.MethodPost, "ports", agent.PortsRequest{Endpoint: "web", Specs: []string{spec}}, &all) != nil {
			return i
		}
	}
	return most
}

// checkWhole: of the ports that were asked for, those that are listed are held and work, and the others are free.
func (h *harbour) checkWhole(t *testing.T, asked []uint16, answered int) {
	t.Helper()
	listed := make(map[uint16]bool)
	for _, p := range ports(t, h.n, "web") {
		listed[p.HostPort] = true
	}
	t.Logf("asked for %d ports, %d were answered, %d are there", len(asked), answered, len(listed))
	if len(listed) < answered {
		t.Errorf("%d ports were answered, and %d are there", answered, len(listed))
	}
	for _, port := range asked {
		free := h.n.Bind("tcp", netip.AddrPortFrom(netip.IPv4Unspecified(), port), nettest.Trick{}) == nil
		works := answers(h.stranger, "tcp", netip.AddrPortFrom(h.n.Address6, port), "web") == nil
		if free == listed[port] || works != listed[port] {
			t.Errorf("port %d: listed %v, free %v, works %v", port, listed[port], free, works)
		}
	}
}

// checkRenumbered: with another address of the host its ports are at that one, and who is seen as the host is seen so.
func (h *harbour) checkRenumbered(t *testing.T) {
	c, near := h.n.Attach("web", "--publish", "8080:80"), h.n.Attach("near")
	offer(c, plainPort, "tcp")
	outside := netip.AddrPortFrom(h.stranger4, 7800)
	h.stranger.Offer("tcp", outside, "stranger")
	for _, number := range []int{9, 1} {
		h.n.Renumber(number)
		nettest.Eventually(t, 20*time.Second, func() error {
			for _, w := range []way{
				{"another host", h.stranger, h.n.Address4, h.stranger4}, {"another host", h.stranger, h.n.Address6, h.stranger6},
				{"the container itself", c.Host, h.n.Address4, h.n.Address4}, {"the container itself", c.Host, h.n.Address6, h.n.Address6},
				{"a program of this host", h.n.Host, loopback(0).Addr(), h.n.Address4},
			} {
				got, err := w.from.CallSoon("tcp", netip.AddrPortFrom(w.to, fixedPort))
				if err != nil || got.Name != "web" || got.Source.Addr() != w.seen {
					return fmt.Errorf("%s: answered by %q, seen as %s, %w", w, got.Name, got.Source, err)
				}
			}
			got, err := near.CallSoon("tcp", outside)
			if err == nil && got.Source.Addr() != h.n.Address4 {
				err = fmt.Errorf("%s is seen as %s", near.Name, got.Source)
			}
			return err
		})
		h.n.WaitReady(20 * time.Second)
		if env := environment(h.n.Fairlead("env", "web")); env["FAIRLEAD_HOST_IP"] != h.n.Address4.String() {
			t.Errorf("the environment is %v", env)
		}
	}
	unpublishAll(t, h.n)
	h.n.Fairlead("detach", "web", "near")
}

// squatter is a program of the host that takes a port whenever it can, and keeps it for a moment.
type squatter struct {
	mu   sync.Mutex
	has  bool
	took int
}

func (s *squatter) set(has bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.has = has; has {
		s.took++
	}
}

func (s *squatter) squat(ctx context.Context, n *nettest.Node, at string) error {
	return n.Do(func() error {
		for ctx.Err() == nil {
			l, err := net.Listen("tcp4", at)
			if err != nil {
				time.Sleep(time.Millisecond)
				continue
			}
			s.set(true)
			time.Sleep(20 * time.Millisecond)
			s.set(false)
			if err := l.Close(); err != nil {
				return err
			}
		}
		return nil
	})
}

// checkHandOver: a port that goes from one to another while a program of the host is after it is the other's alone, or the
// program's alone, whenever an answer says so.
func (h *harbour) checkHandOver(t *testing.T) {
	const port, spec = 7777, "7777:80"
	names := [2]string{"from", "to"}
	for _, name := range names {
		offer(h.n.Attach(name), plainPort, "tcp")
	}
	h.n.Fairlead("publish", names[0], spec)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var thief squatter
	var g errgroup.Group
	g.Go(func() error { return thief.squat(ctx, h.n, fmt.Sprint("0.0.0.0:", port)) })
	giver, taker := nettest.NewAPI(t, h.n.Socket()), nettest.NewAPI(t, h.n.Socket())
	for round := range 8 {
		from, to := names[round%2], names[1-round%2]
		var both errgroup.Group
		both.Go(func() error {
			var left []agent.Port
			return giver.Call(http.MethodDelete, "ports?endpoint="+from+"&spec="+spec, nil, &left)
		})
		both.Go(func() error {
			for begun := time.Now(); ; time.Sleep(time.Millisecond) {
				var all []agent.Port
				err := taker.Call(http.MethodPost, "ports", agent.PortsRequest{Endpoint: to, Specs: []string{spec}}, &all)
				if err == nil || time.Since(begun) > nettest.Patience(10*time.Second) {
					thief.mu.Lock()
					defer thief.mu.Unlock()
					if err == nil && thief.has {
						err = fmt.Errorf("%s was given a port that a program has", to)
					}
					return err
				}
			}
		})
		if err := both.Wait(); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		if err := answers(h.stranger, "tcp", netip.AddrPortFrom(h.n.Address4, port), to); err != nil {
			t.Errorf("round %d: %v", round, err)
		}
	}
	unpublishAll(t, h.n)
	nettest.Eventually(t, nettest.Patience(soon), func() error {
		thief.mu.Lock()
		defer thief.mu.Unlock()
		if thief.took == 0 {
			return errors.New("the program never gets the port, not even when nobody has it")
		}
		return nil
	})
	cancel()
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
	h.n.Fairlead("detach", names[0])
	h.n.Fairlead("detach", names[1])
}
