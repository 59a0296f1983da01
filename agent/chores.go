package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"time"

	"github.com/google/uuid"

	"github.com/fairlead-net/fairlead/endpoint"
	"github.com/fairlead-net/fairlead/ipam"
	"github.com/fairlead-net/fairlead/store"
)

// goneGrace is how long an endpoint's namespace must have been missing, at two looks or more, before its addresses are
// taken back. Missing information means "in use".
const goneGrace = 3 * time.Second

// chores are the changes of the store that follow from what a pass saw: they are inputs of the next look, not effects
// on the kernel.
type chores struct {
	claim   map[string]netip.Prefix // blocks to take, by pool
	hold    map[string]string       // why nothing is handed out, by pool; "" = hand out
	collect []record                // endpoints that are gone for good
}

// decide finds the chores; gone tells since when each endpoint has been missing. It is a function of its arguments.
func decide(in inputs, id uuid.UUID, gone map[string]time.Time, now time.Time) chores {
	c := chores{claim: make(map[string]netip.Prefix), hold: make(map[string]string)}
	if in.uninstall {
		return c
	}
	for _, p := range in.cfg.Pools {
		c.decidePool(in, p, id)
	}
	for _, r := range in.records {
		if since, ok := gone[r.Name]; ok && missing(in, r) && now.Sub(since) >= goneGrace {
			c.collect = append(c.collect, r)
		}
	}
	return c
}

func (c *chores) decidePool(in inputs, p ipam.Pool, id uuid.UUID) {
	block := in.blocks[p.Name]
	heard, rival := rivals(in, p, block)
	c.hold[p.Name] = ""
	switch {
	case block.IsValid() && rival == "":
		return
	case block.IsValid() && (p.Block.IsValid() || in.leased[p.Name] > 0):
		// Two nodes with one block: existing flows stay as they are, but no address may be given out twice.
		c.hold[p.Name] = fmt.Sprintf("block %s is also announced by %s", block, rival)
		return
	case !in.settled:
		return
	}
	if rival != "" {
		// A cloned host has our identity too. Salted with the address, the next choices differ.
		id = uuid.NewSHA1(id, []byte(in.underlay.Address.String()))
	}
	for _, subnet := range in.underlay.Subnets { // no peer would take a block that overlaps one of these
		if p.CIDR.Overlaps(subnet) {
			heard = append(heard, subnet)
		}
	}
	picked, err := ipam.PickBlock(id, p, heard)
	if err != nil {
		c.hold[p.Name] = err.Error()
		return
	}
	c.claim[p.Name] = picked
}

// rivals lists the blocks that other nodes announce inside the pool, and who of them announces a part of ours.
func rivals(in inputs, p ipam.Pool, own netip.Prefix) (heard []netip.Prefix, rival string) {
	for _, r := range in.routes {
		// A single address may live outside its block's node; a prefix wider than a block is some router's summary.
		wide := r.Prefix.Bits() < ipam.Bits(p) && (!own.IsValid() || r.Prefix.Bits() < own.Bits())
		if r.Prefix.IsSingleIP() || wide || !p.CIDR.Overlaps(r.Prefix) {
			continue
		}
		heard = append(heard, r.Prefix)
		if own.IsValid() && own.Overlaps(r.Prefix) {
			rival = nodeOf(r)
			if len(r.NextHops) > 0 && rival != r.NextHops[0].String() {
				rival += " (" + r.NextHops[0].String() + ")"
			}
		}
	}
	return heard, rival
}

// missing tells whether an endpoint has neither its namespace nor its link. A namespace that another process still
// holds keeps the link alive, whatever became of the path. What has become of a guest that program knows that has it.
func missing(in inputs, r record) bool {
	_, linked := in.have.endpoints[in.rows[r.Name].HostIf]
	return !linked && !in.alive[r.Name] && r.Guest.Stage == ""
}

// look notes since when endpoints have been missing.
func look(in inputs, gone map[string]time.Time, now time.Time) map[string]time.Time {
	still := make(map[string]time.Time)
	for _, r := range in.records {
		if !missing(in, r) {
			continue
		}
		still[r.Name] = now
		if since, ok := gone[r.Name]; ok {
			still[r.Name] = since
		}
	}
	return still
}

// keepHouse does the chores. It tells whether the store changed, so that the inputs must be read again.
func (a *Agent) keepHouse(ctx context.Context, in inputs) (changed bool, err error) {
	due := decide(in, a.room.DB.NodeUUID(), a.gone, a.room.Now())
	a.gone = look(in, a.gone, a.room.Now())
	for pool, reason := range due.hold {
		a.room.Ledger.Hold(pool, reason)
	}
	for pool, block := range due.claim {
		if err := a.room.Ledger.Claim(ctx, pool, block); err != nil {
			return changed, fmt.Errorf("claim block %s: %w", block, err)
		}
		a.room.Log.Info("block claimed", "pool", pool, "block", block)
		changed = true
	}
	done, err := a.keepPorts(ctx, in)
	if changed = changed || done; err != nil {
		return changed, err
	}
	for _, r := range due.collect {
		done, err := a.collect(ctx, r)
		if err != nil {
			return changed, fmt.Errorf("collect endpoint %s: %w", r.Name, err)
		}
		changed = changed || done
	}
	return changed, nil
}

// collect ends an endpoint that is gone, unless somebody is working on its name at this moment, or has attached it again
// since the pass looked: an address that was answered is never taken back by an old look.
func (a *Agent) collect(ctx context.Context, r record) (done bool, err error) {
	unlock, free := a.locks.try(r.Name)
	if !free {
		return false, nil
	}
	defer unlock()
	now, found, err := a.record(r.Name)
	if err != nil || !found || now.NetNS != r.NetNS || now.NSInode != r.NSInode || endpoint.Alive(now.row()) {
		return false, err
	}
	if err := a.end(ctx, r.Name); err != nil {
		return false, err
	}
	a.room.Log.Info("endpoint gone, addresses taken back", "endpoint", r.Name, "addresses", r.Addresses)
	return true, nil
}

// end makes an endpoint's end durable: its record and its leases go together.
func (a *Agent) end(ctx context.Context, name string) error {
	return a.rest(ctx, name, func(tx *store.Tx) error { return endpoints().Delete(tx, name) })
}

// remember keeps what kernel parameters are before we first set them, so that uninstall can put them back.
func (a *Agent) remember(ctx context.Context, in inputs, want map[string]string) error {
	if in.uninstall {
		return nil
	}
	fresh := make(map[string]string)
	for path, v := range want {
		if _, known := in.known[path]; known {
			continue
		}
		now, err := a.room.Underlay.ReadSysctl(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue // it went with its link
		}
		if err != nil {
			return fmt.Errorf("read sysctl %s: %w", path, err)
		}
		if now == v {
			continue
		}
		fresh[path] = now
		beside, err := a.room.Underlay.Swept(path)
		if err != nil {
			return fmt.Errorf("read what sysctl %s changes: %w", path, err)
		}
		maps.Copy(fresh, beside)
	}
	if len(fresh) == 0 {
		return nil
	}
	return a.room.DB.Update(ctx, func(tx *store.Tx) error {
		for path, v := range fresh {
			if err := sysctls().Put(tx, path, v); err != nil {
				return fmt.Errorf("remember sysctl %s: %w", path, err)
			}
		}
		return nil
	})
}
