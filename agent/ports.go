package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/fairlead-net/fairlead/ipam"
	"github.com/fairlead-net/fairlead/nat"
	"github.com/fairlead-net/fairlead/store"
)

const (
	sysctlPlainStart = "net/ipv4/ip_unprivileged_port_start"
	sysctlReserved   = "net/ipv4/ip_local_reserved_ports"
	lastPort         = 1<<16 - 1
	maxSpecs         = 256 // of one request
)

// Publish gives a live endpoint ports of the host. It returns all of its ports when packets come through, or an error
// after which it has those that it had.
func (a *Agent) Publish(ctx context.Context, req PortsRequest) ([]Port, error) {
	specs, unlock, err := a.begin(ctx, req)
	if err != nil {
		return nil, fmt.Errorf("publish for %s: %w", req.Endpoint, err)
	}
	defer unlock()
	r, found, err := a.called(req.Endpoint)
	if err == nil && !found {
		err = fmt.Errorf("%w: no endpoint %q here: fairlead reserve %s %s keeps ports for one to come", ErrNotFound, req.Endpoint, req.Endpoint, strings.Join(req.Specs, " "))
	}
	if err == nil {
		err = a.order(ctx, nat.Order{Owner: req.Endpoint, Origin: nat.OriginPublish, Specs: specs, Families: familiesOf(r.Addresses)})
	}
	if err != nil {
		return nil, fmt.Errorf("publish for %s: %w", req.Endpoint, err)
	}
	return a.portsNamed(req.Endpoint), nil
}

// Reserve keeps ports for an endpoint that need not exist yet, and returns what it will find in its environment.
func (a *Agent) Reserve(ctx context.Context, req PortsRequest) ([]Variable, error) {
	specs, unlock, err := a.begin(ctx, req)
	if err != nil {
		return nil, fmt.Errorf("reserve for %s: %w", req.Endpoint, err)
	}
	defer unlock()
	r, found, err := a.called(req.Endpoint)
	o := nat.Order{Owner: req.Endpoint, Origin: nat.OriginReserve, Specs: specs, Families: poolFamilies(a.pools())}
	if found {
		o.Families = familiesOf(r.Addresses)
	}
	if err == nil {
		err = a.order(ctx, o)
	}
	if err != nil {
		return nil, fmt.Errorf("reserve for %s: %w", req.Endpoint, err)
	}
	return a.environment(req.Endpoint), nil
}

// Unpublish takes ports from an endpoint, or from the reservation for one, and returns what it still has.
func (a *Agent) Unpublish(ctx context.Context, req PortsRequest) ([]Port, error) {
	specs, unlock, err := a.begin(ctx, req)
	if err != nil {
		return nil, fmt.Errorf("unpublish for %s: %w", req.Endpoint, err)
	}
	defer unlock()
	draft, err := a.room.Ports.Cancel(req.Endpoint, specs)
	if r, found, _ := a.called(req.Endpoint); found && errors.Is(err, nat.ErrNotMapped) && r.Name != req.Endpoint {
		draft, err = a.room.Ports.Cancel(r.Name, specs)
	}
	if err == nil {
		err = draft.Commit(ctx)
	}
	if err == nil {
		_, err = a.after(ctx, a.ask())
	}
	if err != nil {
		return nil, fmt.Errorf("unpublish for %s: %w", req.Endpoint, err)
	}
	return a.portsNamed(req.Endpoint), nil
}

// begin reads a request about ports and takes hold of the endpoint's name.
func (a *Agent) begin(ctx context.Context, req PortsRequest) (specs []nat.Spec, unlock func(), err error) {
	if !PlainName(req.Endpoint) {
		return nil, nil, fmt.Errorf("%w: endpoint %q: use 1 to 128 letters, digits, '_', '.', '-', the first a letter or digit", ErrBadRequest, req.Endpoint)
	}
	if specs, err = parseSpecs(req.Specs); err != nil {
		return nil, nil, err
	}
	if len(specs) == 0 {
		return nil, nil, fmt.Errorf("%w: no port is named: give one such as 8080:80/tcp", ErrBadRequest)
	}
	if unlock, err = a.locks.lock(ctx, req.Endpoint); err != nil {
		return nil, nil, err
	}
	if err := a.open(); err != nil {
		unlock()
		return nil, nil, err
	}
	return specs, unlock, nil
}

func parseSpecs(texts []string) (all []nat.Spec, err error) {
	for _, text := range texts {
		specs, err := nat.ParseSpec(text)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrBadRequest, err)
		}
		all = append(all, specs...)
	}
	if len(all) > maxSpecs {
		return nil, fmt.Errorf("%w: %d ports at once: at most %d", ErrBadRequest, len(all), maxSpecs)
	}
	return all, nil
}

// order has the book do as ordered and waits until the kernel does. When it can not, what was new is taken back.
func (a *Agent) order(ctx context.Context, o nat.Order) error {
	draft, err := a.plan(ctx, o)
	if err != nil {
		return err
	}
	err = a.room.DB.Update(ctx, func(tx *store.Tx) error { return errors.Join(a.staying(tx), draft.Write(tx)) })
	if draft.End(err); err != nil {
		return err
	}
	a.tellTaken(draft, o.Owner)
	if err := a.mapped(ctx, o.Owner, draft); err != nil {
		return errors.Join(err, a.revoke(ctx, draft))
	}
	return nil
}

// staying refuses what an uninstall that was begun meanwhile would not know of.
func (a *Agent) staying(tx *store.Tx) error {
	gone, err := leaving(tx)
	if err == nil && gone {
		err = errLeaving
	}
	return errors.Join(err, a.open())
}

// tellTaken logs whose ports an endpoint was given since theirs was gone: they will not come back to them.
func (a *Agent) tellTaken(draft *nat.Draft, to string) {
	for _, was := range draft.Dispossessed() {
		a.room.Log.Info("port taken over", "port", was.Port, "from", was.Owner, "to", to)
	}
}

// plan has the book find ports. Those that nobody named come from the config's range, or else from where any program may
// bind, but not from what the administrator has reserved.
func (a *Agent) plan(ctx context.Context, o nat.Order) (*nat.Draft, error) {
	a.mu.Lock()
	random := a.state.cfg.NAT.Random
	a.mu.Unlock()
	if err := a.drawFrom(&o, random); err != nil {
		return nil, err
	}
	draft, err := a.room.Ports.Plan(ctx, o)
	var held *nat.HeldError
	if errors.As(err, &held) {
		if r, found, _ := a.record(held.Owner); found && r.Guest.Stage != "" {
			err = fmt.Errorf("%w: %s is published for port %d of %s, a container of Docker", nat.ErrTaken, held.Port, held.Target, r.title())
		}
	}
	return draft, err
}

// drawFrom tells an order where ports come from that nobody named.
func (a *Agent) drawFrom(o *nat.Order, random nat.Range) error {
	if !slices.ContainsFunc(o.Specs, func(s nat.Spec) bool { return s.HostPort == 0 }) {
		return nil
	}
	if o.Random = random; random.Last == 0 {
		first, err := a.room.Underlay.ReadSysctl(sysctlPlainStart)
		if err != nil {
			return fmt.Errorf("read sysctl %s: %w", sysctlPlainStart, err)
		}
		o.Random = nat.Range{First: max(1, number(first)), Last: lastPort}
	}
	reserved, err := a.room.Underlay.ReadSysctl(sysctlReserved)
	if err != nil {
		return fmt.Errorf("read sysctl %s: %w", sysctlReserved, err)
	}
	for part := range strings.SplitSeq(reserved, ",") {
		first, last, ranged := strings.Cut(part, "-")
		if !ranged {
			last = first
		}
		if n := number(last); n != 0 {
			o.Avoid = append(o.Avoid, nat.Range{First: number(first), Last: n})
		}
	}
	return nil
}

// number is a port number that the kernel wrote, 0 where it wrote none.
func number(text string) uint16 {
	n, err := strconv.ParseUint(strings.TrimSpace(text), 10, 16)
	if err != nil {
		return 0
	}
	return uint16(n)
}

// mapped waits until the kernel has all ports of an endpoint, and says what is in the way if it has not.
func (a *Agent) mapped(ctx context.Context, name string, draft *nat.Draft) error {
	o, err := a.after(ctx, a.ask())
	if err != nil {
		return err
	}
	return o.portTrouble(a.room.Ports.Of(name), draft)
}

// portTrouble is what the pass could not do for ports: to let packets in to any of them, to hold those that a draft has
// added. One that another program took while no daemon ran is no fault of who asks now.
func (o *outcome) portTrouble(all []nat.Mapping, draft *nat.Draft) error {
	if o.err != nil || len(all) == 0 {
		return o.err
	}
	rows, held := map[string]bool{"": true}, map[string]bool{"": true} // "" is the whole table
	for _, m := range all {
		rows[m.Port.String()], held[m.Port.String()] = true, draft.Adds(m.Port)
	}
	var errs []error
	for _, f := range slices.Concat(o.report.Failures, o.report.Waiting) {
		if f.Table == tablePort && rows[f.Key] || f.Table == tableHold && held[f.Key] {
			errs = append(errs, f.Err)
		}
	}
	return errors.Join(errs...)
}

// revoke takes back what a draft that was committed has added, though the caller may have given up already.
func (a *Agent) revoke(ctx context.Context, draft *nat.Draft) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoPatience)
	defer cancel()
	if err := draft.Reverse().Commit(ctx); err != nil {
		return fmt.Errorf("take ports back: %w", err)
	}
	a.ask()
	return nil
}

func poolFamilies(pools []ipam.Pool) []int {
	var addresses []netip.Addr
	for _, p := range pools {
		addresses = append(addresses, p.CIDR.Addr())
	}
	return familiesOf(addresses)
}

func familiesOf(addresses []netip.Addr) (all []int) {
	for _, family := range []int{4, 6} {
		if slices.ContainsFunc(addresses, func(a netip.Addr) bool { return a.Is4() == (family == 4) }) {
			all = append(all, family)
		}
	}
	return all
}

// rest lets the ports of an endpoint that goes wait for the next of its name, in the transaction that ends it.
func (a *Agent) rest(ctx context.Context, name string, drop func(*store.Tx) error) error {
	draft, err := a.resting(name, name)
	if err != nil {
		return err
	}
	_, err = a.room.Ledger.ReleaseWith(ctx, name, func(tx *store.Tx) error {
		return errors.Join(draft.Write(tx), drop(tx))
	})
	draft.End(err)
	return err
}

// resting has the ports of a name wait for the next of that name as one leaves, unless another one who is called so stays.
func (a *Agent) resting(name, leaves string) (*nat.Draft, error) {
	draft := a.room.Ports.Rest(name)
	if draft.Empty() {
		return draft, nil
	}
	all, err := a.recorded()
	stays := func(r record) bool { return r.Name != leaves && (r.Name == name || r.Guest.Container == name) }
	if err == nil && !slices.ContainsFunc(all, stays) {
		return draft, nil
	}
	draft.End(errStays)
	return a.room.Ports.Rest(""), err
}

// errStays ends a change that is not to be.
var errStays = errors.New("another one of that name stays")

// errUnpublished is the state of a daemon that has just begun.
var errUnpublished = errors.New("the ports that the config names are not published yet")

// portsLack is why not all ports of the config are there.
func (a *Agent) portsLack() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.state.unpublished
}

// keepPorts drops what has waited long enough for its endpoint, and sees to it that the config's ports are there: at the
// start they may not be. One that can not be had is no reason to keep the rest of the pass from its work.
func (a *Agent) keepPorts(ctx context.Context, in inputs) (changed bool, err error) {
	if in.uninstall {
		return false, nil
	}
	draft := a.room.Ports.Expire()
	changed = !draft.Empty()
	if err := draft.Commit(ctx); err != nil {
		return false, fmt.Errorf("drop ports that nobody came back for: %w", err)
	}
	if a.portsLack() == nil {
		return changed, nil
	}
	for _, p := range in.cfg.NAT.Published {
		unlock, free := a.locks.try(p.Endpoint)
		if !free {
			return changed, nil // whoever works on it asks for a pass
		}
		defer unlock()
	}
	draft, lacking := a.configure(ctx, in.cfg)
	changed = changed || !draft.Empty()
	if err := draft.Commit(ctx); err != nil {
		return false, fmt.Errorf("publish what the config names: %w", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.state.unpublished = lacking
	return changed, nil
}

// configure drafts the ports that the config fixes, and says which can not be had.
func (a *Agent) configure(ctx context.Context, cfg Config) (draft *nat.Draft, lacking error) {
	orders := make([]nat.Order, len(cfg.NAT.Published))
	var errs []error
	for i, p := range cfg.NAT.Published {
		orders[i] = nat.Order{Owner: p.Endpoint, Specs: p.Specs, Families: poolFamilies(cfg.Pools)}
		errs = append(errs, a.drawFrom(&orders[i], cfg.NAT.Random))
	}
	draft, err := a.room.Ports.Configure(ctx, orders)
	if err = errors.Join(append(errs, err)...); err != nil {
		err = fmt.Errorf("publish what [[endpoint]] names: %w", err)
	}
	return draft, err
}
