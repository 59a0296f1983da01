package story_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/fairlead-net/fairlead/agent"
	"github.com/fairlead-net/fairlead/nettest"
)

const (
	callers  = 16
	quiets   = 4   // how often everybody rests and the model is compared
	changes  = 500 // mappings added, and about half of them taken away again
	churned  = 16  // containers
	numbered = 100 // ports that a caller names itself
)

// slot is a port of the host with its protocol.
type slot struct {
	proto string
	port  uint16
}

// model is who must answer at which port of the host.
type model struct {
	mu    sync.Mutex
	holds map[slot]string // the name that answers
	freed map[slot]bool
	made  int
}

// churner is one of those who add and remove.
type churner struct {
	number int
	api    *nettest.API
	chance *rand.Rand
	model  *model
	own    []grant
}

// grant is a mapping that a caller got.
type grant struct {
	slot
	endpoint string
	target   uint16
}

// checkChurn: many callers add and remove mappings at random while flows run through others. Whenever they all rest, each
// port leads where the model says.
func (h *harbour) checkChurn(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	for i := range churned {
		c := h.n.Attach(fmt.Sprintf("c%d", i))
		for caller := range callers {
			offer(c, anyTarget(caller), "tcp", "udp")
		}
		offer(c, plainPort, "tcp", "udp")
	}
	h.n.Sysctl("net/ipv4/icmp_ratelimit", "0") // all that is refused is to be told
	h.n.Sysctl("net/ipv6/icmp/ratelimit", "0")
	foreign := h.bystander(t)
	m := &model{holds: make(map[slot]string), freed: make(map[slot]bool)}
	all := make([]*churner, callers)
	for i := range all {
		all[i] = &churner{number: i, api: nettest.NewAPI(t, h.n.Socket()), chance: rand.New(rand.NewPCG(seed, uint64(i))), model: m}
	}
	begun := time.Now()
	for round := range quiets {
		var g errgroup.Group
		for _, c := range all {
			g.Go(func() error { return c.run(changes/quiets/callers + 1) })
		}
		if err := g.Wait(); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		h.compare(t, m)
	}
	t.Logf("%d mappings added, %d left, in %v", m.made, len(m.holds), time.Since(begun))
	foreign(t)
	h.n.Kill()
	h.n.Start()
	h.n.WaitReady(20 * time.Second)
	h.compare(t, m)
}

// anyTarget is the port of the containers that a caller publishes at a random port of the host.
func anyTarget(caller int) uint16 { return uint16(8100 + caller) }

// run adds so many mappings, some at a time, and takes away some of its own between.
func (c *churner) run(count int) error {
	for count > 0 {
		made, err := c.add(min(count, 1+c.chance.IntN(5)))
		if err != nil {
			return fmt.Errorf("caller %d: %w", c.number, err)
		}
		count -= made
		if len(c.own) > 0 && c.chance.IntN(2) > 0 {
			if err := c.remove(); err != nil {
				return fmt.Errorf("caller %d: %w", c.number, err)
			}
		}
	}
	return nil
}

// add publishes ports of one container at ports of the caller's own numbers, or at any, and tells how many are new.
func (c *churner) add(count int) (made int, err error) {
	endpoint := fmt.Sprintf("c%d", c.chance.IntN(churned))
	var fresh []grant
	var specs []string
	for range count {
		g := c.choose(endpoint)
		has := func(o grant) bool {
			return o.proto == g.proto && (o.port == g.port || g.port == 0 && o.endpoint == endpoint && o.target == g.target)
		}
		if slices.ContainsFunc(c.own, has) || slices.ContainsFunc(fresh, has) {
			continue // it has that already
		}
		fresh, specs = append(fresh, g), append(specs, g.spec())
	}
	if len(fresh) == 0 {
		return 0, nil
	}
	var all []agent.Port
	if err := c.api.Call(http.MethodPost, "ports", agent.PortsRequest{Endpoint: endpoint, Specs: specs}, &all); err != nil {
		return 0, fmt.Errorf("publish %s %v: %w", endpoint, specs, err)
	}
	for _, g := range fresh {
		i := slices.IndexFunc(all, func(p agent.Port) bool {
			return p.Proto == g.proto && p.Port == g.target && (g.port == 0 || p.HostPort == g.port)
		})
		if i < 0 {
			return 0, fmt.Errorf("publish %s %v: the answer is %+v", endpoint, specs, all)
		}
		if p := all[i].HostPort; g.port == 0 && (p < 30000 || p > 39999) {
			return 0, fmt.Errorf("publish %s %v: port %d is not in port_range", endpoint, specs, p)
		}
		g.port = all[i].HostPort
		c.own = append(c.own, g)
		if err := c.model.hold(g); err != nil {
			return 0, err
		}
	}
	return len(fresh), nil
}

// choose thinks of a mapping. Its port is 0 where any will do.
func (c *churner) choose(endpoint string) grant {
	g := grant{endpoint: endpoint, target: plainPort}
	g.proto = []string{"tcp", "udp"}[c.chance.IntN(2)]
	if c.chance.IntN(4) == 0 {
		g.target = anyTarget(c.number)
	} else {
		g.port = uint16(20000 + c.number*numbered + c.chance.IntN(numbered))
	}
	return g
}

func (g grant) spec() string {
	if g.port == 0 {
		return fmt.Sprintf("%d/%s", g.target, g.proto)
	}
	return fmt.Sprintf("%d:%d/%s", g.port, g.target, g.proto)
}

// hold notes a mapping, which nobody else may have.
func (m *model) hold(g grant) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if other, taken := m.holds[g.slot]; taken {
		return fmt.Errorf("%v is of %s, and was given to %s", g.slot, other, g.endpoint)
	}
	m.holds[g.slot] = g.endpoint
	delete(m.freed, g.slot)
	m.made++
	return nil
}

// remove takes away one mapping, and some others of the same container.
func (c *churner) remove() error {
	endpoint := c.own[c.chance.IntN(len(c.own))].endpoint
	query := url.Values{"endpoint": {endpoint}}
	keep := c.own[:0]
	c.model.mu.Lock()
	for _, g := range c.own {
		if g.endpoint != endpoint || c.chance.IntN(3) == 0 && query.Has("spec") {
			keep = append(keep, g)
			continue
		}
		query.Add("spec", g.spec())
		delete(c.model.holds, g.slot) // before it is done: from then on another may get it
		c.model.freed[g.slot] = true
	}
	c.model.mu.Unlock()
	c.own = keep
	var left []agent.Port
	return c.api.Call(http.MethodDelete, "ports?"+query.Encode(), nil, &left)
}

// compare asks at every port that the model has or had.
func (h *harbour) compare(t *testing.T, m *model) {
	t.Helper()
	wrong := make(chan error, len(m.holds)+len(m.freed))
	var g errgroup.Group
	g.SetLimit(8)
	to := func(at slot) netip.AddrPort { return netip.AddrPortFrom(addressesOf(h.n)[at.port%2], at.port) }
	ask := func(check func() error) {
		g.Go(func() error {
			if err := check(); err != nil {
				wrong <- err
			}
			return nil
		})
	}
	for at, name := range m.holds {
		ask(func() error { return answers(h.stranger, at.proto, to(at), name) })
	}
	for at := range m.freed {
		ask(func() error { return silent(h.stranger, at.proto, to(at)) })
	}
	_ = g.Wait() // what is wrong is told by the channel
	close(wrong)
	var some []error
	for err := range wrong {
		some = append(some, err)
	}
	if len(some) > 0 {
		t.Errorf("of %d mapped and %d free ports %d are wrong: %v", len(m.holds), len(m.freed), len(some), errors.Join(some[:min(5, len(some))]...))
	}
	listed := make(map[slot]string)
	for _, p := range show[[]agent.Port](t, h.n, "ports") {
		if p.HostPort >= 20000 {
			listed[slot{p.Proto, p.HostPort}] = p.Endpoint
		}
	}
	if fmt.Sprint(listed) != fmt.Sprint(m.holds) {
		t.Errorf("listed are %v, not %v", listed, m.holds)
	}
}
