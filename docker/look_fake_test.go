package docker

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/fairlead-net/fairlead/agent"
	"github.com/fairlead-net/fairlead/ipam"
)

// lookDocker answers as Docker does, with what the test says that it has.
type lookDocker struct {
	mu         sync.Mutex
	containers []engineContainer
	networks   []engineNetwork
	instead    http.HandlerFunc // nil: as it should be
	asked      []string         // paths
	events     map[chan string]bool
}

func (d *lookDocker) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	d.mu.Lock()
	instead := d.instead
	d.asked = append(d.asked, r.URL.Path)
	d.mu.Unlock()
	id, one := strings.CutPrefix(r.URL.Path, "/networks/")
	switch {
	case instead != nil:
		instead(w, r)
	case r.URL.Path == "/containers/json":
		d.say(w, func() any { return d.containers })
	case r.URL.Path == "/networks":
		d.say(w, func() any {
			all := slices.Clone(d.networks)
			for i := range all {
				all[i].Containers = nil
			}
			return all
		})
	case one:
		d.mu.Lock()
		i := slices.IndexFunc(d.networks, func(n engineNetwork) bool { return n.ID == id })
		d.mu.Unlock()
		if i < 0 {
			http.Error(w, `{"message":"network not found"}`, http.StatusNotFound)
			return
		}
		d.say(w, func() any { return d.networks[i] })
	case r.URL.Path == "/events":
		d.stream(w, r)
	default:
		http.NotFound(w, r)
	}
}

func (d *lookDocker) say(w http.ResponseWriter, what func() any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	v := what()
	switch v := v.(type) {
	case []engineContainer:
		_ = json.NewEncoder(w).Encode(append([]engineContainer{}, v...))
	case []engineNetwork:
		_ = json.NewEncoder(w).Encode(append([]engineNetwork{}, v...))
	default:
		_ = json.NewEncoder(w).Encode(v)
	}
}

func (d *lookDocker) stream(w http.ResponseWriter, r *http.Request) {
	w.WriteHeader(http.StatusOK)
	flush := http.NewResponseController(w)
	_ = flush.Flush()
	tell := make(chan string)
	d.mu.Lock()
	if d.events == nil {
		d.events = make(map[chan string]bool)
	}
	d.events[tell] = true
	d.mu.Unlock()
	defer func() {
		d.mu.Lock()
		delete(d.events, tell)
		d.mu.Unlock()
	}()
	for {
		select {
		case <-r.Context().Done():
			return
		case text, more := <-tell:
			if !more {
				return
			}
			_, _ = fmt.Fprintln(w, text)
			_ = flush.Flush()
		}
	}
}

// change does something to what Docker has.
func (d *lookDocker) change(f func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f()
}

// paths are what was asked for since the last time.
func (d *lookDocker) paths() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	defer func() { d.asked = nil }()
	return d.asked
}

// lookNobody makes no endpoints: a look does not either.
type lookNobody = Guests

// lookHost keeps the contract of a Learner, and of Addresses where a look needs it, in memory.
type lookHost struct {
	lookNobody
	t        *testing.T
	mu       sync.Mutex
	networks map[string]agent.Network
	guests   map[string]agent.Guest
	leases   map[netip.Addr]bool
	gateways map[netip.Addr]bool
	told     map[string]agent.Told
	broken   error // what every change ends with
	scarce   error // what every lease ends with
	asked    []agent.AddressRequest
}

func newLookHost(t *testing.T) *lookHost {
	return &lookHost{
		t: t, networks: map[string]agent.Network{}, guests: map[string]agent.Guest{}, leases: map[netip.Addr]bool{},
		gateways: map[netip.Addr]bool{}, told: map[string]agent.Told{},
	}
}

// lookPools hold the subnets of the recordings too.
func lookPools() (all []ipam.Pool) {
	for _, cidr := range []string{"10.88.0.0/16", "10.77.0.0/16", "10.78.0.0/16", "fd00:78::/64"} {
		all = append(all, ipam.Pool{Name: "p" + cidr, CIDR: netip.MustParsePrefix(cidr)})
	}
	return all
}

func (h *lookHost) Pools() []ipam.Pool { return lookPools() }

// Address leases by name alone: a look wants no other. The second half of the first pool is other hosts'.
func (h *lookHost) Address(_ context.Context, q agent.AddressRequest) (netip.Addr, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.asked = append(h.asked, q)
	switch {
	case !q.Address.IsValid() || !q.CIDR.Contains(q.Address):
		h.t.Errorf("a look asks for %+v", q)
		return netip.Addr{}, ipam.ErrExhausted
	case h.scarce != nil:
		return netip.Addr{}, h.scarce
	case h.broken != nil:
		return netip.Addr{}, h.broken
	case !netip.MustParsePrefix("10.88.128.0/17").Contains(q.Address):
		h.leases[q.Address] = true
	}
	return q.Address, nil
}

func (h *lookHost) Gateway(_ context.Context, family int, want netip.Addr) (netip.Addr, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	a := want
	if !want.IsValid() {
		for a = netip.MustParseAddr(map[int]string{4: "169.254.90.1", 6: "fe80::90:1"}[family]); h.gateways[a]; {
			a = a.Next()
		}
	}
	h.gateways[a] = true
	return a, h.broken
}

func (h *lookHost) CreateNetwork(_ context.Context, n agent.Network) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.broken == nil {
		h.networks[n.ID] = n
	}
	return h.broken
}

func (h *lookHost) DeleteNetwork(_ context.Context, id string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, g := range h.guests {
		if g.Network == id {
			return fmt.Errorf("%w: %s is on it", agent.ErrConflict, g.Name)
		}
	}
	if h.broken == nil {
		delete(h.networks, id)
	}
	return h.broken
}

func (h *lookHost) Networks() ([]agent.Network, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.SortedFunc(maps.Values(h.networks), func(a, b agent.Network) int { return strings.Compare(a.ID, b.ID) }), nil
}

func (h *lookHost) Guests(context.Context) ([]agent.Guest, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.SortedFunc(maps.Values(h.guests), func(a, b agent.Guest) int { return strings.Compare(a.ID, b.ID) }), nil
}

func (h *lookHost) Dismiss(_ context.Context, id string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if g, found := h.guests[id]; found && !g.Loose {
		h.t.Errorf("%s is dismissed, and a container has it", g.Name)
	}
	if h.broken == nil {
		delete(h.guests, id)
	}
	return h.broken
}

func (h *lookHost) Learn(_ context.Context, told []agent.Told, names map[string]string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, t := range told {
		if _, found := h.guests[t.ID]; found {
			h.told[t.ID] = t
		}
	}
	for id, name := range names {
		if n, found := h.networks[id]; found {
			n.Name = name
			h.networks[id] = n
		}
	}
	return h.broken
}

func (h *lookHost) bound() map[netip.Addr]bool {
	bound := make(map[netip.Addr]bool)
	for _, g := range h.guests {
		for _, a := range g.Addresses {
			bound[a] = true
		}
	}
	for _, n := range h.networks {
		for _, s := range n.Subnets {
			bound[s.Gateway] = true
		}
	}
	return bound
}

func (h *lookHost) Unbound() (all []netip.Addr, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	bound := h.bound()
	for _, given := range []map[netip.Addr]bool{h.leases, h.gateways} {
		for a := range given {
			if !bound[a] {
				all = append(all, a)
			}
		}
	}
	return all, nil
}

func (h *lookHost) Return(_ context.Context, a netip.Addr) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.broken != nil || h.bound()[a] {
		return h.broken
	}
	delete(h.leases, a)
	delete(h.gateways, a)
	return nil
}

// String is what the daemon holds, a line for each.
func (h *lookHost) String() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var lines []string
	for _, n := range h.networks {
		text := fmt.Sprintf("network %.4s %q", n.ID, n.Name)
		for _, s := range n.Subnets {
			text += fmt.Sprintf(" %s via %s", s.CIDR, s.Gateway)
		}
		lines = append(lines, fmt.Sprintf("%s mtu=%d internal=%t", text, n.MTU, n.Internal))
	}
	for _, g := range h.guests {
		lines = append(lines, fmt.Sprintf("guest %.4s %v %q", g.ID, g.Addresses, h.told[g.ID].Container))
	}
	for a := range h.leases {
		lines = append(lines, fmt.Sprintf("lease %s", a))
	}
	for a := range h.gateways {
		lines = append(lines, fmt.Sprintf("gateway %s", a))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// lookLog keeps what is logged, without the time.
type lookLog struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lookLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lookLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func (l *lookLog) logger(level slog.Level) *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: level, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
}
