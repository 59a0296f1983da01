package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

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
		err = a.adopt(cfg)
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
func (a *Agent) adopt(cfg Config) error {
	a.mu.Lock()
	old := a.state.cfg
	a.mu.Unlock()
	if err := a.movable(cfg.Pools); err != nil {
		return err
	}
	if err := a.room.Ledger.SetPools(cfg.Pools); err != nil {
		return fmt.Errorf("set pools: %w", err)
	}
	if err := a.room.Speaker.SetPeers(cfg.BGP); err != nil {
		return errors.Join(fmt.Errorf("set peers: %w", err), a.room.Ledger.SetPools(old.Pools))
	}
	a.mu.Lock()
	a.state.cfg = cfg
	a.mu.Unlock()
	return nil
}

// movable refuses another block for a pool while addresses of the present one are in use: they would be announced no
// more, and their endpoints cut off.
func (a *Agent) movable(pools []ipam.Pool) error {
	for _, u := range a.room.Ledger.Usage() {
		for _, p := range pools {
			if p.Name == u.Pool && u.Leased > 0 && p.Block.IsValid() && p.Block != u.Block {
				return fmt.Errorf("pool %s: its block can not become %s while %d addresses of %s are in use: detach their endpoints first",
					p.Name, p.Block, u.Leased, u.Block)
			}
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

// Uninstall takes everything of ours out of the kernel; Run then ends with ErrUninstalled. Leases and endpoints are
// forgotten, the node's identity and block are kept.
//
// When something can not be removed in time, the intent is taken back and the daemon goes on as before. A daemon that is
// killed meanwhile goes on with the uninstall when it is started again.
func (a *Agent) Uninstall(ctx context.Context) (Uninstalled, error) {
	if err := a.Leave(ctx, true); err != nil {
		return Uninstalled{}, fmt.Errorf("uninstall: %w", err)
	}
	done, err := a.Left(ctx)
	if err != nil {
		// The caller may have given up already; what was begun must still be taken back.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoPatience)
		defer cancel()
		err = errors.Join(err, a.Leave(ctx, false))
		a.ask()
		return Uninstalled{}, fmt.Errorf("uninstall: %w", err)
	}
	return done, nil
}

// Left waits until nothing of ours is left, after Leave.
func (a *Agent) Left(ctx context.Context) (Uninstalled, error) {
	o, err := a.until(ctx, a.ask(), (*outcome).bare)
	if err != nil {
		return Uninstalled{}, err
	}
	return Uninstalled{Removed: o.report.Total()}, nil
}

// Leave sets whether passes from now on want nothing of ours in the kernel. It is durable.
func (a *Agent) Leave(ctx context.Context, want bool) error {
	err := a.room.DB.Update(ctx, func(tx *store.Tx) error {
		if want {
			return intents().Put(tx, intentUninstall, true)
		}
		return intents().Delete(tx, intentUninstall)
	})
	if err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.state.uninstall, a.state.drained = want, want
	return nil
}

// forget ends an uninstall: what the store knows of endpoints and kernel parameters goes, and the intent with the last.
func (a *Agent) forget(ctx context.Context) error {
	var names, paths []string
	err := a.room.DB.View(func(tx *store.Tx) error {
		for name := range endpoints().All(tx) {
			names = append(names, name)
		}
		for path := range sysctls().All(tx) {
			paths = append(paths, path)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("read store: %w", err)
	}
	for _, name := range names {
		if err := a.end(ctx, name); err != nil {
			return fmt.Errorf("forget endpoint %s: %w", name, err)
		}
	}
	return a.room.DB.Update(ctx, func(tx *store.Tx) error {
		for _, path := range paths {
			if err := sysctls().Delete(tx, path); err != nil {
				return fmt.Errorf("forget sysctl %s: %w", path, err)
			}
		}
		return intents().Delete(tx, intentUninstall)
	})
}

// LeaseAddress gives an address to an owner who keeps it until giving it back.
func (a *Agent) LeaseAddress(ctx context.Context, req LeaseRequest) (Lease, error) {
	if !plain(req.Owner, maxName) {
		return Lease{}, fmt.Errorf("%w: owner %q: use 1 to 128 letters, digits, '_', '.', '-'", ErrBadRequest, req.Owner)
	}
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
		a.mu.Lock()
		req.Pool = a.state.cfg.Pools[0].Name
		a.mu.Unlock()
	}
	leases, err := a.room.Ledger.Lease(ctx, ipam.Request{
		Owner: req.Owner, Pool: req.Pool, Address: req.Address, Policy: ipam.PolicyOwner,
	})
	if err != nil {
		return Lease{}, err
	}
	return leases[0], nil
}

// ReleaseAddress takes an address back from an owner. An endpoint's address goes with the endpoint only.
func (a *Agent) ReleaseAddress(ctx context.Context, owner string, ip netip.Addr) error {
	for _, l := range a.room.Ledger.Leases() {
		if l.Address == ip && l.Owner == owner && l.Policy == ipam.PolicyEndpoint {
			return fmt.Errorf("%w: %s is in use by endpoint %s: fairlead detach %s", ErrConflict, ip, owner, owner)
		}
	}
	return a.room.Ledger.ReleaseAddress(ctx, owner, ip)
}
