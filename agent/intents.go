package agent

import (
	"context"
	"errors"
	"fmt"

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

// adopt hands the rooms their new config. Sessions whose settings did not change are not touched.
func (a *Agent) adopt(cfg Config) error {
	if err := a.room.Speaker.SetPeers(cfg.BGP); err != nil {
		return fmt.Errorf("set peers: %w", err)
	}
	if err := a.room.Ledger.SetPools(cfg.Pools); err != nil {
		return fmt.Errorf("set pools: %w", err)
	}
	a.mu.Lock()
	a.state.cfg = cfg
	a.mu.Unlock()
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
func (a *Agent) Uninstall(ctx context.Context) (Uninstalled, error) {
	a.mu.Lock()
	a.state.uninstall, a.state.drained = true, true
	a.mu.Unlock()
	rev := a.ask()
	if err := a.Settled(ctx, rev); err != nil {
		return Uninstalled{}, fmt.Errorf("uninstall: %w", err)
	}
	o, err := a.after(ctx, rev)
	if err != nil {
		return Uninstalled{}, err
	}
	return Uninstalled{Removed: o.report.Total()}, a.forget(ctx, o.in)
}

func (a *Agent) forget(ctx context.Context, in inputs) error {
	for _, r := range in.records {
		drop := func(tx *store.Tx) error { return endpoints().Delete(tx, r.Name) }
		if _, err := a.room.Ledger.ReleaseWith(ctx, r.Name, drop); err != nil {
			return fmt.Errorf("forget endpoint %s: %w", r.Name, err)
		}
	}
	var all inputs // with the parameters of links that are gone
	if err := a.readStore(&all); err != nil {
		return err
	}
	return a.room.DB.Update(ctx, func(tx *store.Tx) error {
		for path := range all.known {
			if err := sysctls().Delete(tx, path); err != nil {
				return fmt.Errorf("forget sysctl %s: %w", path, err)
			}
		}
		return nil
	})
}

// LeaseAddress gives an address to an owner who keeps it until giving it back.
func (a *Agent) LeaseAddress(ctx context.Context, req LeaseRequest) (Lease, error) {
	if !plain(req.Owner, maxName) {
		return Lease{}, fmt.Errorf("%w: owner %q: use 1 to 128 letters, digits, '_', '.', '-'", ErrBadRequest, req.Owner)
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
