package docker_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/fairlead-net/fairlead/agent"
	"github.com/fairlead-net/fairlead/docker"
	"github.com/fairlead-net/fairlead/ipam"
	"github.com/fairlead-net/fairlead/nat"
)

// driverHost keeps the contract of host.go in memory. Its block of each pool is fixed, so that answers can be written down.
type driverHost struct {
	mu       sync.Mutex
	pools    []ipam.Pool
	leases   map[netip.Addr]string // to the ID of the guest that has it, "" before it has one
	gateways map[netip.Addr]bool
	networks map[string]agent.Network
	guests   map[string]*driverGuest
	during   func(ctx context.Context, method string) error // what a test wants to happen in a call; nil: nothing
}

type driverGuest struct {
	req   agent.GuestRequest // with the MAC that it has
	link  bool
	specs []string
	taken []driverPort
}

func newDriverHost() *driverHost {
	return &driverHost{
		pools: []ipam.Pool{
			{Name: "apps", CIDR: netip.MustParsePrefix("10.88.0.0/16"), Block: netip.MustParsePrefix("10.88.1.0/24")},
			{Name: "data", CIDR: netip.MustParsePrefix("10.89.0.0/16"), Block: netip.MustParsePrefix("10.89.1.0/24")},
			{Name: "six", CIDR: netip.MustParsePrefix("fd88::/64"), Block: netip.MustParsePrefix("fd88::100/120")},
		},
		leases: map[netip.Addr]string{}, gateways: map[netip.Addr]bool{},
		networks: map[string]agent.Network{}, guests: map[string]*driverGuest{},
	}
}

func (h *driverHost) host() docker.Host {
	return docker.Host{Addresses: h, Networks: h, Guests: h}
}

// interrupt has something happen in each call from now on.
func (h *driverHost) interrupt(during func(ctx context.Context, method string) error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.during = during
}

// enter locks the host. What a test wants to happen does so without the lock.
func (h *driverHost) enter(ctx context.Context, method string) (leave func(), err error) {
	h.mu.Lock()
	during := h.during
	h.mu.Unlock()
	if during != nil {
		if err := during(ctx, method); err != nil {
			return func() {}, err
		}
	}
	h.mu.Lock()
	return h.mu.Unlock, ctx.Err()
}

func (h *driverHost) Pools() []ipam.Pool {
	leave, err := h.enter(context.Background(), "Pools")
	defer leave()
	if err != nil {
		return nil
	}
	return slices.Clone(h.pools)
}

func (h *driverHost) Gateway(ctx context.Context, family int, want netip.Addr) (netip.Addr, error) {
	leave, err := h.enter(ctx, "Gateway")
	defer leave()
	if err != nil {
		return netip.Addr{}, err
	}
	a := want
	if !want.IsValid() {
		first := map[int]string{4: "169.254.1.1", 6: "fe80::1"}[family]
		for a = netip.MustParseAddr(first); h.gateways[a] || h.leads(a); a = a.Next() {
			continue
		}
	}
	h.gateways[a] = true
	return a, nil
}

// leads tells whether an address is the gateway of a network.
func (h *driverHost) leads(a netip.Addr) bool {
	for _, n := range h.networks {
		if slices.ContainsFunc(n.Subnets, func(s agent.Subnet) bool { return s.Gateway == a }) {
			return true
		}
	}
	return false
}

func (h *driverHost) Address(ctx context.Context, req agent.AddressRequest) (netip.Addr, error) {
	leave, err := h.enter(ctx, "Address")
	defer leave()
	if err != nil {
		return netip.Addr{}, err
	}
	i := h.around(req.CIDR)
	if i < 0 || req.Address.IsValid() && !req.CIDR.Contains(req.Address) {
		return netip.Addr{}, fmt.Errorf("lease: %w: %s in %s", agent.ErrBadRequest, req.Address, req.CIDR)
	}
	block := h.pools[i].Block
	if a := req.Address; a.IsValid() {
		if _, leased := h.leases[a]; !leased && block.Contains(a) {
			h.leases[a] = ""
		}
		return a, nil
	}
	for a := block.Addr().Next(); block.Contains(a); a = a.Next() {
		if _, leased := h.leases[a]; !leased && req.CIDR.Contains(a) && (!req.Range.IsValid() || req.Range.Contains(a)) {
			h.leases[a] = ""
			return a, nil
		}
	}
	return netip.Addr{}, fmt.Errorf("%w in %s", ipam.ErrExhausted, block)
}

func (h *driverHost) around(cidr netip.Prefix) int {
	return slices.IndexFunc(h.pools, func(p ipam.Pool) bool { return p.CIDR.Contains(cidr.Addr()) && p.CIDR.Bits() <= cidr.Bits() })
}

func (h *driverHost) Return(ctx context.Context, a netip.Addr) error {
	leave, err := h.enter(ctx, "Return")
	defer leave()
	if err != nil {
		return err
	}
	if h.leases[a] == "" {
		delete(h.leases, a)
	}
	delete(h.gateways, a)
	return nil
}

func (h *driverHost) CreateNetwork(ctx context.Context, n agent.Network) error {
	leave, err := h.enter(ctx, "CreateNetwork")
	defer leave()
	if err != nil {
		return err
	}
	if len(n.Subnets) == 0 || len(n.Subnets) > 2 || len(n.Subnets) == 2 && n.Subnets[0].CIDR.Addr().Is4() == n.Subnets[1].CIDR.Addr().Is4() {
		return fmt.Errorf("%w: a network has a subnet of one or two families", agent.ErrBadRequest)
	}
	for _, s := range n.Subnets {
		if h.around(s.CIDR) < 0 || !s.Gateway.IsLinkLocalUnicast() || s.Gateway.Is4() != s.CIDR.Addr().Is4() ||
			!s.Range.IsValid() || !s.CIDR.Overlaps(s.Range) || s.Range.Bits() < s.CIDR.Bits() {
			return fmt.Errorf("%w: subnet %v", agent.ErrBadRequest, s)
		}
	}
	for _, other := range h.networks {
		same := slices.ContainsFunc(other.Subnets, func(s agent.Subnet) bool {
			return slices.ContainsFunc(n.Subnets, func(m agent.Subnet) bool { return m.Gateway == s.Gateway })
		})
		switch {
		case other.ID == n.ID && fmt.Sprint(other) != fmt.Sprint(n):
			return fmt.Errorf("%w: network %s is there and another one", agent.ErrConflict, n.ID)
		case other.ID != n.ID && same:
			return fmt.Errorf("%w: network %s has that gateway", agent.ErrConflict, other.ID)
		}
	}
	h.networks[n.ID] = n
	return nil
}

func (h *driverHost) DeleteNetwork(ctx context.Context, id string) error {
	leave, err := h.enter(ctx, "DeleteNetwork")
	defer leave()
	if err != nil {
		return err
	}
	for _, g := range h.guests {
		if g.req.Network == id {
			return fmt.Errorf("%w: network %s has endpoint %s", agent.ErrConflict, id, g.req.ID)
		}
	}
	delete(h.networks, id)
	return nil
}

func (h *driverHost) Networks() ([]agent.Network, error) {
	leave, err := h.enter(context.Background(), "Networks")
	defer leave()
	if err != nil {
		return nil, err
	}
	return slices.SortedFunc(maps.Values(h.networks), func(a, b agent.Network) int { return strings.Compare(a.ID, b.ID) }), nil
}

func (h *driverHost) Admit(ctx context.Context, req agent.GuestRequest) (agent.Endpoint, error) {
	leave, err := h.enter(ctx, "Admit")
	defer leave()
	if err != nil {
		return agent.Endpoint{}, err
	}
	if len(req.Addresses) == 0 || len(req.Addresses) > 2 {
		return agent.Endpoint{}, fmt.Errorf("%w: an endpoint has an address of one or two families", agent.ErrBadRequest)
	}
	if req.MAC == "" {
		b := req.Addresses[0].As16()
		req.MAC = fmt.Sprintf("02:fa:%02x:%02x:%02x:%02x", b[12], b[13], b[14], b[15])
	}
	g, there := h.guests[req.ID]
	switch {
	case there && fmt.Sprint(g.req) != fmt.Sprint(req):
		return agent.Endpoint{}, fmt.Errorf("%w: endpoint %s is there and another one", agent.ErrConflict, req.ID)
	case !there:
		if err := h.fits(req); err != nil {
			return agent.Endpoint{}, err
		}
		h.guests[req.ID] = &driverGuest{req: req}
	}
	for _, a := range req.Addresses {
		h.leases[a] = req.ID
	}
	return agent.Endpoint{Name: "docker-" + req.ID[:16], Addresses: req.Addresses, MAC: req.MAC}, nil
}

// fits tells whether a guest may have its addresses.
func (h *driverHost) fits(req agent.GuestRequest) error {
	n, there := h.networks[req.Network]
	if !there {
		return fmt.Errorf("%w: network %s", agent.ErrNotFound, req.Network)
	}
	for _, a := range req.Addresses {
		owner, leased := h.leases[a]
		switch {
		case !leased:
			return fmt.Errorf("%w: %s is not of this host's block", ipam.ErrForeign, a)
		case owner != "":
			return fmt.Errorf("%w: %s is the address of %s", agent.ErrConflict, a, owner)
		case !slices.ContainsFunc(n.Subnets, func(s agent.Subnet) bool { return s.CIDR.Contains(a) }):
			return fmt.Errorf("%w: %s is in no subnet of the network", agent.ErrBadRequest, a)
		}
	}
	return nil
}

func (h *driverHost) HandOver(ctx context.Context, id, _ string) (agent.Handed, error) {
	leave, err := h.enter(ctx, "HandOver")
	defer leave()
	if err != nil {
		return agent.Handed{}, err
	}
	g, there := h.guests[id]
	if !there {
		return agent.Handed{}, fmt.Errorf("%w: endpoint %s", agent.ErrNotFound, id)
	}
	g.link = true
	return agent.Handed{IfName: "flc" + id[:10], Network: h.networks[g.req.Network]}, nil
}

func (h *driverHost) Expose(ctx context.Context, id string, specs []string) error {
	leave, err := h.enter(ctx, "Expose")
	defer leave()
	if err != nil {
		return err
	}
	g, there := h.guests[id]
	if !there {
		return fmt.Errorf("%w: endpoint %s", agent.ErrNotFound, id)
	}
	var ports []driverPort
	for _, text := range specs {
		all, err := nat.ParseSpec(text)
		if err != nil {
			return fmt.Errorf("%w: %w", agent.ErrBadRequest, err)
		}
		for _, spec := range all {
			fresh, err := g.ports(spec)
			if err != nil {
				return err
			}
			ports = append(ports, fresh...)
		}
	}
	for _, other := range h.guests {
		for _, p := range ports {
			if p.number != 0 && other != g && slices.Contains(other.taken, p) {
				return fmt.Errorf("%w: port %v is taken by endpoint %s", agent.ErrConflict, p, other.req.ID)
			}
		}
	}
	g.specs, g.taken = specs, ports
	return nil
}

// driverPort is a port of the host; number is 0 where any will do.
type driverPort struct {
	proto  string
	ip     netip.Addr
	number uint16
}

// ports are what a spec means for the families of a guest.
func (g *driverGuest) ports(spec nat.Spec) (all []driverPort, err error) {
	for _, every := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
		has := slices.ContainsFunc(g.req.Addresses, func(a netip.Addr) bool { return a.Is4() == every.Is4() })
		switch {
		case !spec.HostIP.IsValid() && has:
			all = append(all, driverPort{spec.Proto, every, spec.HostPort})
		case !spec.HostIP.IsValid() || spec.HostIP.Is4() != every.Is4():
		case !has || spec.HostIP.IsLinkLocalUnicast() || spec.HostIP == netip.IPv6Loopback():
			return nil, fmt.Errorf("%w: %s", nat.ErrSpec, spec)
		default:
			all = append(all, driverPort{spec.Proto, spec.HostIP, spec.HostPort})
		}
	}
	return all, nil
}

func (h *driverHost) Retract(ctx context.Context, id string) error {
	leave, err := h.enter(ctx, "Retract")
	defer leave()
	if g, there := h.guests[id]; there && err == nil {
		g.specs, g.taken = nil, nil
	}
	return err
}

func (h *driverHost) Dismiss(ctx context.Context, id string) error {
	leave, err := h.enter(ctx, "Dismiss")
	defer leave()
	if err != nil {
		return err
	}
	if g, there := h.guests[id]; there {
		for _, a := range g.req.Addresses {
			h.leases[a] = ""
		}
	}
	delete(h.guests, id)
	return nil
}

// String is what the host holds, a line for each.
func (h *driverHost) String() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var lines []string
	for _, n := range h.networks {
		text := fmt.Sprintf("network %.12s", n.ID)
		for _, s := range n.Subnets {
			text += fmt.Sprintf(" %s via %s", s.CIDR, s.Gateway)
		}
		lines = append(lines, fmt.Sprintf("%s mtu=%d outgoing=%q isolated=%t internal=%t", text, n.MTU, n.Outgoing, n.Isolated, n.Internal))
	}
	for a, owner := range h.leases {
		lines = append(lines, fmt.Sprintf("lease %s owner=%.12s", a, owner))
	}
	for a := range h.gateways {
		lines = append(lines, fmt.Sprintf("gateway %s", a))
	}
	for id, g := range h.guests {
		lines = append(lines, fmt.Sprintf("guest %.12s of %.12s %v mac=%s link=%t ports=%v", id, g.req.Network, g.req.Addresses, g.req.MAC, g.link, g.specs))
	}
	if len(lines) == 0 {
		return "nothing\n"
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n") + "\n"
}

// errDriverDown is what a test lets the host say.
var errDriverDown = errors.New("the disk is full")
