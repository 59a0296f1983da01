package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/fairlead-net/fairlead/ipam"
	"github.com/fairlead-net/fairlead/store"
)

// ErrRefused is a changed config that can not be used; the old one stays in force.
var ErrRefused = errors.New("config refused, the old one stays in force")

// refusal carries every reason, one a line.
type refusal struct{ cause error }

func (r *refusal) Error() string { return ErrRefused.Error() + ":\n" + r.cause.Error() }

func (r *refusal) Unwrap() []error { return []error{ErrRefused, r.cause} }

// Reload reads the config again and waits until it is in force. A config with a mistake changes nothing.
func (a *Agent) Reload(ctx context.Context) (ReloadResult, error) {
	unlock, err := a.locks.lock(ctx, "\x00reload")
	if err != nil {
		return ReloadResult{}, fmt.Errorf("reload: %w", err)
	}
	defer unlock()
	cfg, changed, err := a.room.Source.Reload()
	if err == nil && len(changed) > 0 {
		err = a.adopt(ctx, cfg)
	}
	if err == nil {
		a.room.Source.Adopted()
	}
	a.mu.Lock()
	a.state.refused = err
	a.mu.Unlock()
	a.metrics.reloaded(err == nil, a.room.Now())
	if err != nil {
		a.room.Log.Warn("config refused", "error", err)
		return ReloadResult{}, &refusal{err}
	}
	rev := a.ask()
	if len(changed) > 0 {
		a.room.Log.Info("config applied", "changed", changed, "rev", rev)
	}
	if changed == nil {
		changed = []string{}
	}
	return ReloadResult{Changed: changed, Revision: rev}, a.Settled(ctx, rev)
}

// adopt hands the rooms their new config, or none of it. Sessions whose settings did not change are not touched.
func (a *Agent) adopt(ctx context.Context, cfg Config) error {
	a.mu.Lock()
	old := a.state.cfg
	a.mu.Unlock()
	if err := a.movable(old.Pools, cfg.Pools); err != nil {
		return err
	}
	for _, p := range cfg.NAT.Published {
		unlock, err := a.locks.lock(ctx, p.Endpoint)
		if err != nil {
			return fmt.Errorf("publish for %s: %w", p.Endpoint, err)
		}
		defer unlock()
	}
	draft, err := a.configure(ctx, cfg)
	if err != nil {
		draft.End(err)
		return err
	}
	if err := a.adoptRooms(old, cfg); err != nil {
		draft.End(err)
		return err
	}
	if err := draft.Commit(ctx); err != nil {
		return errors.Join(err, a.adoptRooms(cfg, old))
	}
	a.mu.Lock()
	a.state.cfg, a.state.unpublished = cfg, nil
	a.mu.Unlock()
	return nil
}

// adoptRooms hands them over, all or none.
func (a *Agent) adoptRooms(old, cfg Config) error {
	if err := a.room.Ledger.SetPools(cfg.Pools); err != nil {
		return fmt.Errorf("set pools: %w", err)
	}
	if err := a.room.Speaker.SetPeers(cfg.BGP); err != nil {
		return errors.Join(fmt.Errorf("set peers: %w", err), a.room.Ledger.SetPools(old.Pools))
	}
	return nil
}

// movable refuses pools that leave an address in use outside of every block of this node: nobody would announce it any
// more, and its owner would be cut off.
func (a *Agent) movable(now, pools []ipam.Pool) error {
	before := a.room.Ledger.Outside(now)
	for _, l := range a.room.Ledger.Outside(pools) {
		if !slices.Contains(before, l) {
			return fmt.Errorf("pool %s: %s is in use by %s and would be in no block of this host any more: detach it first, or keep its pool and block",
				l.Pool, l.Address, a.tenantOf(l))
		}
	}
	return nil
}

// Drain withdraws everything this node announces, so that others send to it no more, until the daemon starts again.
func (a *Agent) Drain(ctx context.Context) error {
	a.mu.Lock()
	a.state.drained = true
	a.mu.Unlock()
	a.room.Log.Info("drained: announcements withdrawn")
	return a.Settled(ctx, a.ask())
}

// Uninstalled says what an uninstall took out of the kernel.
type Uninstalled struct {
	Removed int `json:"removed"` // kernel objects
}

// Uninstall takes everything of ours out of the kernel; Run then ends with ErrUninstalled. Endpoints and their leases are
// forgotten; the node's identity, its block and leases of other owners are kept.
//
// When something can not be removed in time, the intent is taken back and the daemon goes on as before. A daemon that is
// killed meanwhile goes on with the uninstall when it is started again.
func (a *Agent) Uninstall(ctx context.Context) (Uninstalled, error) {
	rev, err := a.Leave(ctx, true)
	if err != nil {
		return Uninstalled{}, fmt.Errorf("uninstall: %w", err)
	}
	done, err := a.Left(ctx, rev)
	if err != nil {
		return Uninstalled{}, fmt.Errorf("uninstall: %w", err)
	}
	return done, nil
}

// Left waits until nothing of ours is left, after Leave gave rev. When ctx ends first, the intent is taken back.
func (a *Agent) Left(ctx context.Context, rev uint64) (Uninstalled, error) {
	o, err := a.until(ctx, rev, (*outcome).bare)
	if err != nil {
		// The caller may have given up already; what was begun must still be taken back.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoPatience)
		defer cancel()
		_, undo := a.Leave(ctx, false)
		return Uninstalled{}, errors.Join(err, undo)
	}
	return Uninstalled{Removed: o.report.Total()}, nil
}

// Leave sets whether passes from now on want nothing of ours in the kernel. It is durable. The first pass that knows of it
// has at least revision rev.
func (a *Agent) Leave(ctx context.Context, want bool) (rev uint64, err error) {
	err = a.room.DB.Update(ctx, func(tx *store.Tx) error {
		if want {
			return intents().Put(tx, intentUninstall, true)
		}
		return intents().Delete(tx, intentUninstall)
	})
	if err != nil {
		return 0, err
	}
	a.mu.Lock()
	a.state.uninstall = want
	a.state.rev++ // with it, so that no pass knows of the one without the other
	rev = a.state.rev
	a.mu.Unlock()
	poke(a.asked)
	return rev, nil
}

// errTakenBack keeps a pass from ending an uninstall that is not wanted any more.
var errTakenBack = errors.New("the uninstall was taken back")

// forget ends an uninstall, in one commit: what the store knows of endpoints and kernel parameters goes, and the intent.
func (a *Agent) forget(ctx context.Context, in *inputs) error {
	names, owners := make([]string, len(in.records)), make([]string, 0, len(in.records))
	for i, r := range in.records {
		names[i] = r.Name
		for _, ip := range r.Addresses {
			owners = append(owners, r.tenure(ip))
		}
	}
	err := a.room.Ledger.ReleaseAll(ctx, slices.Compact(owners), func(tx *store.Tx) error {
		wanted, err := leaving(tx)
		if err == nil && !wanted {
			err = errTakenBack
		}
		if err != nil {
			return err
		}
		for _, name := range names {
			err = errors.Join(err, endpoints().Delete(tx, name))
		}
		for path := range in.known {
			err = errors.Join(err, sysctls().Delete(tx, path))
		}
		return errors.Join(err, a.room.Ports.Forget(tx), intents().Delete(tx, intentUninstall))
	})
	if err == nil {
		a.room.Ports.Clear()
	}
	return err
}

// LeaseAddress gives an address to an owner who keeps it until giving it back.
func (a *Agent) LeaseAddress(ctx context.Context, req LeaseRequest) (Lease, error) {
	if !PlainName(req.Owner) {
		return Lease{}, fmt.Errorf("%w: owner %q: use 1 to 128 letters, digits, '_', '.', '-'", ErrBadRequest, req.Owner)
	}
	unlock, err := a.locks.lock(ctx, req.Owner)
	if err != nil {
		return Lease{}, fmt.Errorf("lease for %s: %w", req.Owner, err)
	}
	defer unlock()
	if err := a.open(); err != nil {
		return Lease{}, err
	}
	_, found, err := a.record(req.Owner)
	if err == nil && found {
		err = fmt.Errorf("%w: %q is an endpoint, which has its addresses by attach", ErrConflict, req.Owner)
	}
	if err != nil {
		return Lease{}, err
	}
	if req.Pool == "" {
		req.Pool = a.pools()[0].Name
	}
	leases, err := a.room.Ledger.Lease(ctx, ipam.Request{
		Owner: req.Owner, Pool: req.Pool, Address: req.Address, Policy: ipam.PolicyOwner,
	})
	if err != nil {
		return Lease{}, err
	}
	return leases[0], nil
}

// ReleaseAddress takes an address back from an owner. While an endpoint of that name has it, whoever leased it first, it
// goes with the endpoint only.
func (a *Agent) ReleaseAddress(ctx context.Context, owner string, ip netip.Addr) error {
	unlock, err := a.locks.lock(ctx, owner)
	if err != nil {
		return fmt.Errorf("release %s: %w", ip, err)
	}
	defer unlock()
	r, found, err := a.record(owner)
	if err != nil {
		return err
	}
	if found && slices.Contains(r.Addresses, ip.Unmap()) {
		return fmt.Errorf("%w: %s is in use by endpoint %s: fairlead detach %s", ErrConflict, ip, owner, owner)
	}
	return a.room.Ledger.ReleaseAddress(ctx, owner, ip)
}
