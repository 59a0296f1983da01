package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/fairlead-net/fairlead/endpoint"
	"github.com/fairlead-net/fairlead/ipam"
	"github.com/fairlead-net/fairlead/nat"
	"github.com/fairlead-net/fairlead/reconcile"
	"github.com/fairlead-net/fairlead/store"
	"github.com/fairlead-net/fairlead/tunnel"
)

// Errors that tell a caller's mistake from the world's trouble; each is wrapped with the facts.
var (
	ErrBadRequest = errors.New("bad request")
	ErrConflict   = errors.New("conflict")
	ErrNotFound   = errors.New("not found")
)

var errLeaving = fmt.Errorf("%w: fairlead is being uninstalled from this host", ErrConflict)

const (
	defaultNetwork = "default"
	defaultIfName  = "eth0"
	maxName        = 128
	maxIfName      = 15 // IFNAMSIZ less the final zero
	maxLabels      = 64
	maxLabel       = 1024 // bytes of key and value together
)

// Attach gives an endpoint its addresses and its link. It returns when the kernel has everything, or an error after
// which nothing is left of it; if it was to take the place of an endpoint whose namespace is gone, it keeps that place
// and its addresses, and passes go on trying. fresh is false when the endpoint was already there as asked.
func (a *Agent) Attach(ctx context.Context, req AttachRequest) (e Endpoint, fresh bool, err error) {
	if err := checkAttach(&req); err != nil {
		return e, false, err
	}
	unlock, err := a.locks.lock(ctx, req.Name)
	if err != nil {
		return e, false, fmt.Errorf("attach %s: %w", req.Name, err)
	}
	defer unlock()
	if err := a.open(); err != nil {
		return e, false, fmt.Errorf("attach %s: %w", req.Name, err)
	}
	path, inode, err := endpoint.Resolve(req.NetNS, req.PID)
	if err != nil {
		return e, false, fmt.Errorf("attach %s: %w: %w", req.Name, ErrBadRequest, err)
	}
	r := record{
		Name: req.Name, ID: uuid.NewString(), Network: req.Network, NetNS: path, NSInode: inode, IfName: req.IfName,
		Labels: req.Labels, Created: a.room.Now().UTC(),
	}
	old, found, err := a.called(req.Name)
	if err != nil {
		return e, false, fmt.Errorf("attach %s: %w", req.Name, err)
	}
	if found && old.Guest.Stage != "" {
		return e, false, fmt.Errorf("attach %s: %w: a container of Docker is called so", req.Name, ErrConflict)
	}
	if found {
		if err := replaceable(old, r, req); err != nil {
			return e, false, fmt.Errorf("attach %s: %w", req.Name, err)
		}
		r.ID, r.Created = old.ID, old.Created
	}
	r, draft, err := a.commit(ctx, req, r, old)
	if err != nil {
		return e, false, fmt.Errorf("attach %s: %w", req.Name, err)
	}
	if err := a.realize(ctx, r, draft); err != nil {
		switch {
		case !found:
			err = errors.Join(err, a.revoke(ctx, draft), a.takeBack(ctx, r.Name))
		case old.NSInode == r.NSInode: // it goes on as it was; who takes a place keeps all of it
			err = errors.Join(err, a.revoke(ctx, draft))
		}
		return e, false, fmt.Errorf("attach %s: %w", req.Name, err)
	}
	return a.show(r), !found, nil
}

// Detach takes an endpoint's link and addresses away. Absent is success.
func (a *Agent) Detach(ctx context.Context, name string) error {
	unlock, err := a.locks.lock(ctx, name)
	if err != nil {
		return fmt.Errorf("detach %s: %w", name, err)
	}
	defer unlock()
	r, found, err := a.called(name)
	switch {
	case err != nil:
	case found && r.Guest.Stage != "":
		err = a.evict(ctx, r, name)
	default:
		err = a.takeBack(ctx, name)
	}
	if err != nil {
		return fmt.Errorf("detach %s: %w", name, err)
	}
	return nil
}

// PlainName tells whether s can be the name of something here: letters, digits, '_', '.', '-', at most 128 of them, the
// first a letter or digit. Docker allows its containers and networks no others.
func PlainName(s string) bool {
	sign := func(c rune) bool { return strings.ContainsRune("_.-", c) }
	other := func(c rune) bool {
		return !sign(c) && (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z')
	}
	return s != "" && len(s) <= maxName && !sign(rune(s[0])) && strings.IndexFunc(s, other) < 0
}

func checkAttach(req *AttachRequest) error {
	if req.IfName == "" {
		req.IfName = defaultIfName
	}
	if req.Network == "" {
		req.Network = defaultNetwork
	}
	if req.NetNS == "" && req.PID == 0 {
		req.NetNS = req.Name
	}
	size := 0
	for k, v := range req.Labels {
		size = max(size, len(k)+len(v))
	}
	switch {
	case !PlainName(req.Name):
		return fmt.Errorf("%w: name %q: use 1 to 128 letters, digits, '_', '.', '-', the first a letter or digit", ErrBadRequest, req.Name)
	case !PlainName(req.IfName) || len(req.IfName) > maxIfName || slices.Contains([]string{"lo", "all", "default"}, req.IfName):
		return fmt.Errorf("%w: ifname %q: use 1 to 15 letters, digits, '_', '.', '-', the first a letter or digit, and not lo, all or default", ErrBadRequest, req.IfName)
	case req.Network != defaultNetwork:
		return fmt.Errorf("%w: network %q: this node has only the network %q", ErrNotFound, req.Network, defaultNetwork)
	case req.PID < 0 || req.PID > 0 && req.NetNS != "":
		return fmt.Errorf("%w: give a network namespace or a process id, not both", ErrBadRequest)
	case len(req.Labels) > maxLabels || size > maxLabel:
		return fmt.Errorf("%w: at most %d labels of %d bytes each", ErrBadRequest, maxLabels, maxLabel)
	case len(req.IPs) > 2 || len(req.IPs) == 2 && req.IPs[0].Is4() == req.IPs[1].Is4():
		return fmt.Errorf("%w: at most one address of each family", ErrBadRequest)
	}
	if _, err := parseSpecs(req.Publish); err != nil {
		return err
	}
	for _, ip := range req.IPs {
		if !ip.IsValid() || ip.Is4In6() || ip.Zone() != "" {
			return fmt.Errorf("%w: address %q: give a plain IPv4 or IPv6 address", ErrBadRequest, ip)
		}
	}
	return nil
}

// open refuses new endpoints and leases while everything is being taken out of the kernel.
func (a *Agent) open() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.state.uninstall {
		return errLeaving
	}
	return nil
}

func (a *Agent) record(name string) (r record, found bool, err error) {
	err = a.room.DB.View(func(tx *store.Tx) error {
		r, found, err = endpoints().Get(tx, name)
		return err
	})
	return r, found, err
}

// replaceable tells whether an attach may take the place of the endpoint that has the name: when it asks for the same,
// or when the old one's namespace is gone, as after a restart of the container.
func replaceable(old, r record, req AttachRequest) error {
	for _, ip := range req.IPs {
		if !slices.Contains(old.Addresses, ip) {
			return fmt.Errorf("%w: it has %s: detach it first, then ask for %s", ErrConflict, join(old.Addresses), ip)
		}
	}
	if old.NSInode == r.NSInode && old.IfName == r.IfName {
		return nil
	}
	if endpoint.Alive(old.row()) {
		return fmt.Errorf("%w: it is attached to %s as %s: detach it first", ErrConflict, old.NetNS, old.IfName)
	}
	return nil
}

func join(addresses []netip.Addr) string {
	s := ""
	for i, a := range addresses {
		if i > 0 {
			s += ", "
		}
		s += a.String()
	}
	return s
}

// commit makes the addresses, the ports and the endpoint durable together.
func (a *Agent) commit(ctx context.Context, req AttachRequest, r, old record) (record, *nat.Draft, error) {
	wanted, families, err := a.requests(req, old)
	if err != nil {
		return r, nil, err
	}
	o := nat.Order{Owner: req.Name, Origin: nat.OriginAttach, Families: families}
	if o.Specs, err = parseSpecs(req.Publish); err != nil {
		return r, nil, err
	}
	draft, err := a.plan(ctx, o)
	if err != nil {
		return r, nil, err
	}
	r, err = a.lease(ctx, r, draft, wanted)
	if draft.End(err); err == nil {
		a.tellTaken(draft, r.Name)
	}
	return r, draft, err
}

// lease commits the endpoint with its leases and ports. While no block is chosen yet it waits for one.
func (a *Agent) lease(ctx context.Context, r record, draft *nat.Draft, wanted []ipam.Request) (record, error) {
	err := a.whenBlock(ctx, func() error {
		_, err := a.room.Ledger.LeaseWith(ctx, func(tx *store.Tx, leases []Lease) error {
			if err := a.staying(tx); err != nil {
				return err
			}
			r.Addresses = r.Addresses[:0]
			for _, l := range leases {
				r.Addresses = append(r.Addresses, l.Address)
			}
			return errors.Join(endpoints().Put(tx, r.Name, r), draft.Write(tx))
		}, wanted...)
		return err
	})
	return r, err
}

// requests turns the wish into leases: the named pool, or the first pool of each family that is asked for.
func (a *Agent) requests(req AttachRequest, old record) (all []ipam.Request, families []int, err error) {
	pools := a.pools()
	ips := req.IPs
	if len(ips) == 0 {
		ips = old.Addresses
	}
	done := make(map[bool]bool) // by family: is it IPv4
	for _, p := range pools {
		v4 := p.CIDR.Addr().Is4()
		if req.Pool != "" && p.Name != req.Pool || done[v4] {
			continue
		}
		want := ipam.Request{Owner: req.Name, Pool: p.Name, Policy: ipam.PolicyEndpoint}
		if i := slices.IndexFunc(ips, func(ip netip.Addr) bool { return ip.Is4() == v4 }); i >= 0 {
			if want.Address = ips[i]; req.Pool == "" && !p.CIDR.Contains(want.Address) {
				continue // a later pool of this family may hold it
			}
		}
		done[v4] = true
		all = append(all, want)
	}
	for _, ip := range ips {
		if !slices.ContainsFunc(all, func(r ipam.Request) bool { return r.Address == ip }) {
			return nil, nil, fmt.Errorf("%w: no pool holds %s", ipam.ErrForeign, ip)
		}
	}
	if len(all) == 0 {
		return nil, nil, fmt.Errorf("%w: pool %q", ipam.ErrNoPool, req.Pool)
	}
	for is4, family := range map[bool]int{true: 4, false: 6} {
		if done[is4] {
			families = append(families, family)
		}
	}
	slices.Sort(families)
	return all, families, nil
}

// realize waits until the kernel has all of an endpoint, and says what is in the way if it has not.
func (a *Agent) realize(ctx context.Context, r record, draft *nat.Draft) error {
	o, err := a.after(ctx, a.ask())
	if err != nil {
		return err
	}
	hostIf := endpoint.HostIf(r.Name)
	err = errors.Join(o.trouble(hostIf, r.Addresses...), o.portTrouble(a.room.Ports.Of(r.Name), draft))
	if errors.Is(err, endpoint.ErrGone) {
		err = fmt.Errorf("%w: %w", ErrConflict, err)
	}
	if err != nil {
		return err
	}
	if row, wanted := o.desired.endpoints[hostIf]; !wanted || row.NSInode != r.NSInode {
		return fmt.Errorf("%w: %s: %w", ErrConflict, r.NetNS, endpoint.ErrGone)
	}
	return nil
}

// trouble is what the pass could not do for an endpoint.
func (o *outcome) trouble(hostIf string, addresses ...netip.Addr) error {
	if o.err != nil {
		return o.err
	}
	ours := map[string]bool{hostIf: true}
	for _, ip := range addresses {
		ours[tunnel.RouteKey{Table: tunnel.Main, Prefix: netip.PrefixFrom(ip, ip.BitLen())}.String()] = true
		ours[tunnel.NeighKey{Dev: hostIf, IP: ip}.String()] = true
	}
	var errs []error
	for _, list := range [][]reconcile.Failure{o.report.Failures, o.report.Waiting} {
		for _, f := range list {
			if ours[f.Key] || f.Key == "" && f.Table == "endpoint" {
				errs = append(errs, f.Err)
			}
		}
	}
	return errors.Join(errs...)
}

// takeBack frees the addresses and waits until the link is gone. The addresses rest before others get them.
func (a *Agent) takeBack(ctx context.Context, name string) error {
	// The caller may have given up already; what was begun must still be undone.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoPatience)
	defer cancel()
	if err := a.end(ctx, name); err != nil {
		return err
	}
	o, err := a.after(ctx, a.ask())
	if err != nil {
		return err
	}
	return o.trouble(endpoint.HostIf(name))
}
