package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/fairlead-net/fairlead/endpoint"
	"github.com/fairlead-net/fairlead/nat"
	"github.com/fairlead-net/fairlead/store"
)

// GuestRequest announces an endpoint whose inside another program puts into its container.
type GuestRequest struct {
	ID        string // that program's, at least 16 letters or digits; its first 16 tell it from all others
	Network   string // ID of a network
	Addresses []netip.Addr
	MAC       string // "" = one that follows from the address
}

// Handed is a link whose inside waits on the host for the program that puts it into a container.
type Handed struct {
	IfName    string // of the inside, while it is on the host
	Network   Network
	Elsewhere []netip.Prefix // to where the link must be no way, beside a default route
}

// Guest is such an endpoint as seen from this side.
type Guest struct {
	ID        string
	Name      string // of the endpoint
	Network   string // ID
	Addresses []netip.Addr
	Loose     bool // no container has its inside: the link is gone, or both of its ends are on the host
}

const (
	guestID     = 16        // characters of an ID that tell it from all others
	guestPrefix = "docker-" // of the name of one that nobody has told a name of
)

// guestName is under what name an endpoint is kept whose ID another program has chosen.
func guestName(id string) (string, error) {
	if len(id) < guestID || !PlainName(id) {
		return "", fmt.Errorf("%w: endpoint ID %q: use %d letters and digits or more", ErrBadRequest, id, guestID)
	}
	return guestPrefix + id[:guestID], nil
}

// grasp takes hold of a guest's name and reads what is kept of it.
func (a *Agent) grasp(ctx context.Context, id string) (r record, found bool, unlock func(), err error) {
	name, err := guestName(id)
	if err != nil {
		return r, false, nil, err
	}
	if unlock, err = a.locks.lock(ctx, name); err != nil {
		return r, false, nil, err
	}
	r, found, err = a.record(name)
	if err == nil && found && r.Guest.Stage == "" {
		err = fmt.Errorf("%w: an endpoint of another kind is called %s", ErrConflict, name)
	}
	if err != nil {
		unlock()
		return r, false, nil, err
	}
	r.Name = name
	return r, found, unlock, nil
}

// known is grasp for what must be there.
func (a *Agent) known(ctx context.Context, id string) (r record, unlock func(), err error) {
	r, found, unlock, err := a.grasp(ctx, id)
	if err == nil && !found {
		unlock()
		err = fmt.Errorf("%w: endpoint %s", ErrNotFound, short(id))
	}
	return r, unlock, err
}

// Admit makes an endpoint durable whose inside another program will put into its container. It has no link yet. The
// addresses are leased by Address. The same again is success.
func (a *Agent) Admit(ctx context.Context, req GuestRequest) (e Endpoint, err error) {
	r, found, unlock, err := a.grasp(ctx, req.ID)
	if err == nil {
		defer unlock()
		r, err = a.admit(ctx, req, r, found)
	}
	if err != nil {
		return e, fmt.Errorf("admit endpoint %s: %w", short(req.ID), err)
	}
	return a.show(r), nil
}

func (a *Agent) admit(ctx context.Context, req GuestRequest, old record, found bool) (r record, err error) {
	r = record{
		Name: old.Name, ID: req.ID, Network: req.Network, Created: a.room.Now().UTC(), Addresses: req.Addresses,
		Guest: guest{Stage: stageAdmitted, MAC: req.MAC},
	}
	if err := a.open(); err != nil {
		return r, err
	}
	if n := len(req.Addresses); n == 0 || n > 2 || n == 2 && req.Addresses[0].Is4() == req.Addresses[1].Is4() {
		return r, fmt.Errorf("%w: an endpoint has an address of one or two families", ErrBadRequest)
	}
	if r.Guest.MAC == "" {
		r.Guest.MAC = endpoint.ContainerMAC(req.Addresses[0]).String()
	}
	mac, err := net.ParseMAC(r.Guest.MAC)
	if err != nil || len(mac) != len(endpoint.MAC{}) || mac[0]&1 != 0 || endpoint.MAC(mac) == (endpoint.MAC{}) {
		return r, fmt.Errorf("%w: hardware address %q: give one that an interface can have, such as 02:00:00:00:00:01", ErrBadRequest, req.MAC)
	}
	if found {
		if old.ID == r.ID && old.Network == r.Network && slices.Equal(old.Addresses, r.Addresses) && old.Guest.MAC == r.Guest.MAC {
			return old, nil
		}
		return r, fmt.Errorf("%w: there is one of this ID that is otherwise", ErrConflict)
	}
	for _, ip := range req.Addresses {
		unlock, err := a.locks.lock(ctx, addressLock(ip))
		if err != nil {
			return r, err
		}
		defer unlock()
		if err := a.leased(ctx, ip); err != nil {
			return r, err
		}
	}
	return r, a.room.DB.Update(ctx, func(tx *store.Tx) error {
		if err := r.settleIn(tx); err != nil {
			return err
		}
		return errors.Join(a.staying(tx), endpoints().Put(tx, r.Name, r))
	})
}

// settleIn takes from the network what the endpoint needs of it, and looks whether anybody has its addresses.
func (r *record) settleIn(tx *store.Tx) error {
	n, found, err := networks().Get(tx, r.Network)
	if err == nil && !found {
		err = fmt.Errorf("%w: network %s: docker network rm it, and create it again", ErrNotFound, short(r.Network))
	}
	if err != nil {
		return err
	}
	for _, other := range endpoints().All(tx) {
		for _, ip := range other.Addresses {
			if other.Name != r.Name && slices.Contains(r.Addresses, ip) {
				return fmt.Errorf("%w: %s is the address of %s", ErrConflict, ip, other.title())
			}
		}
	}
	r.Guest.MTU, r.Guest.Gateways = n.MTU, nil
	for _, ip := range r.Addresses {
		i := slices.IndexFunc(n.Subnets, func(s Subnet) bool { return s.CIDR.Contains(ip) })
		if i < 0 {
			return fmt.Errorf("%w: %s is in no subnet of network %s", ErrBadRequest, ip, n.title())
		}
		r.Guest.Gateways = append(r.Guest.Gateways, n.Subnets[i].Gateway)
	}
	return nil
}

// HandOver makes the link of a guest and returns when the host routes to it. Its inside waits on the host; sandbox, which is
// where it will go, is told to people. It can be called again.
func (a *Agent) HandOver(ctx context.Context, id, sandbox string) (h Handed, err error) {
	r, unlock, err := a.known(ctx, id)
	if err == nil {
		defer unlock()
		h, err = a.handOver(ctx, r, sandbox)
	}
	if err != nil {
		return h, fmt.Errorf("hand over endpoint %s: %w", short(id), err)
	}
	return h, nil
}

func (a *Agent) handOver(ctx context.Context, r record, sandbox string) (h Handed, err error) {
	before := r
	r.NetNS, r.Guest.Stage = sandbox, stageJoining
	err = a.room.DB.Update(ctx, func(tx *store.Tx) (err error) {
		if h.Network, _, err = networks().Get(tx, r.Network); err == nil {
			h.Elsewhere, err = a.elsewhere(tx, r, h.Network)
		}
		return errors.Join(err, a.staying(tx), endpoints().Put(tx, r.Name, r))
	})
	if err != nil {
		return h, err
	}
	hostIf := endpoint.HostIf(r.Name)
	o, err := a.after(ctx, a.ask())
	if err == nil {
		err = errors.Join(o.trouble(hostIf, r.Addresses...), o.fenceTrouble(h.Network))
	}
	if err == nil {
		h.IfName = endpoint.PeerIf(r.Name)
		r.Guest.Stage = stageJoined
		err = a.write(ctx, r) // nothing follows from it that another pass could do
	}
	if err != nil {
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoPatience)
		defer cancel()
		return h, errors.Join(err, a.keep(undo, before))
	}
	return h, nil
}

// keep writes what has changed of an endpoint, and has a pass look at it.
func (a *Agent) keep(ctx context.Context, r record) error {
	err := a.write(ctx, r)
	a.ask()
	return err
}

// write does nothing for an endpoint that is gone.
func (a *Agent) write(ctx context.Context, r record) error {
	return a.room.DB.Update(ctx, func(tx *store.Tx) error {
		if _, found, err := endpoints().Get(tx, r.Name); err != nil || !found {
			return err
		}
		return endpoints().Put(tx, r.Name, r)
	})
}

// Expose publishes ports of a guest, and returns when packets come through. What it had and is not named ends.
func (a *Agent) Expose(ctx context.Context, id string, specs []string) error {
	r, unlock, err := a.known(ctx, id)
	if err != nil {
		return fmt.Errorf("publish for endpoint %s: %w", short(id), err)
	}
	defer unlock()
	if len(specs) == 0 && len(a.room.Ports.Of(r.Name)) == 0 {
		return nil // most containers publish nothing, and are exposed all the same
	}
	o := nat.Order{Owner: r.Name, Origin: nat.OriginAttach, Families: familiesOf(r.Addresses)}
	if o.Specs, err = parseSpecs(specs); err == nil {
		err = a.order(ctx, o)
	}
	if err != nil {
		return fmt.Errorf("publish for endpoint %s: %w", short(id), err)
	}
	return nil
}

// Retract ends what Expose published, and returns when the ports are free. Absent is success.
func (a *Agent) Retract(ctx context.Context, id string) error {
	r, _, unlock, err := a.grasp(ctx, id)
	if err == nil {
		defer unlock()
		if draft := a.room.Ports.Drop(r.Name); !draft.Empty() {
			if err = draft.Commit(ctx); err == nil {
				_, err = a.after(ctx, a.ask())
			}
		}
	}
	if err != nil {
		return fmt.Errorf("retract the ports of endpoint %s: %w", short(id), err)
	}
	return nil
}

// Dismiss takes a guest away, with its link and its ports. Its addresses wait for Return; ports that belong to its
// container's name wait for the next of that name. Absent is success.
func (a *Agent) Dismiss(ctx context.Context, id string) error {
	r, found, unlock, err := a.grasp(ctx, id)
	if err == nil {
		defer unlock()
	}
	if err == nil && found {
		err = a.dismiss(ctx, r)
	}
	if err != nil {
		return fmt.Errorf("dismiss endpoint %s: %w", short(id), err)
	}
	return nil
}

func (a *Agent) dismiss(ctx context.Context, r record) error {
	unlock, err := a.lockTitle(ctx, r)
	if err != nil {
		return err
	}
	defer unlock()
	rests, err := a.resting(r.Guest.Container, r.Name)
	if err != nil {
		return err
	}
	ports := a.room.Ports.Drop(r.Name)
	err = a.room.DB.Update(ctx, func(tx *store.Tx) error {
		return errors.Join(ports.Write(tx), rests.Write(tx), endpoints().Delete(tx, r.Name))
	})
	ports.End(err)
	rests.End(err)
	if err != nil {
		return err
	}
	o, err := a.after(ctx, a.ask())
	if err != nil {
		return err
	}
	return o.trouble(endpoint.HostIf(r.Name))
}

// lockTitle keeps others from what belongs to the name that people know of a guest whose own name is locked.
func (a *Agent) lockTitle(ctx context.Context, r record) (unlock func(), err error) {
	if r.title() == r.Name {
		return func() {}, nil
	}
	return a.locks.lock(ctx, r.title())
}

// evict is dismiss for people: only of a guest that no container has any more, and with its addresses.
func (a *Agent) evict(ctx context.Context, r record, name string) error {
	hostIf := endpoint.HostIf(r.Name)
	loose, err := a.room.Kernel.Insides.Loose(ctx, []string{hostIf})
	switch {
	case err != nil:
		return err
	case !loose[hostIf]:
		return fmt.Errorf("%w: it is a container of Docker: docker network disconnect it, or docker rm", ErrConflict)
	case r.Name != name:
		return fmt.Errorf("%w: Docker may still know it; if not, detach %s", ErrConflict, r.Name)
	}
	if err := a.dismiss(ctx, r); err != nil {
		return err
	}
	for _, ip := range r.Addresses {
		err = errors.Join(err, a.Return(ctx, ip))
	}
	return err
}

// Guest is one that must be there, of whose link nothing is told: all that an answer needs that somebody waits for.
func (a *Agent) Guest(ctx context.Context, id string) (Guest, error) {
	r, unlock, err := a.known(ctx, id)
	if err != nil {
		return Guest{}, err
	}
	unlock()
	return r.guest(), nil
}

func (r record) guest() Guest {
	return Guest{ID: r.ID, Name: r.Name, Network: r.Network, Addresses: r.Addresses}
}

// Guests lists the endpoints whose insides other programs have.
func (a *Agent) Guests(ctx context.Context) (all []Guest, err error) {
	records, err := a.recorded()
	if err != nil {
		return nil, err
	}
	var links []string
	for _, r := range records {
		if r.Guest.Stage != "" {
			all = append(all, r.guest())
			links = append(links, endpoint.HostIf(r.Name))
		}
	}
	loose, err := a.room.Kernel.Insides.Loose(ctx, links)
	for i := range all {
		all[i].Loose = loose[links[i]]
	}
	return all, err
}
