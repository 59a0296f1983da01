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
	"github.com/fairlead-net/fairlead/store"
	"github.com/fairlead-net/fairlead/tunnel"
)

// lived marks a store that has carried a sound pass. One that has not is new, or was being rebuilt when the daemon ended.
func lived() store.Bucket[bool] { return store.Bucket[bool]{Name: "lived"} }

const livedKey = "sound"

// NeedsRebuild tells whether the kernel has endpoints that the store has never heard of, though the store is new: a pass
// would cut them off.
func (a *Agent) NeedsRebuild(ctx context.Context) (bool, error) {
	known := make(map[string]bool)
	settled := false
	err := a.room.DB.View(func(tx *store.Tx) (err error) {
		for _, r := range endpoints().All(tx) {
			known[endpoint.HostIf(r.Name)] = true
		}
		settled, _, err = lived().Get(tx, livedKey)
		return err
	})
	if err != nil || settled {
		return false, err
	}
	links, err := a.room.Kernel.Endpoints.List(ctx)
	if err != nil {
		return false, fmt.Errorf("list endpoint links: %w", err)
	}
	for hostIf, row := range links {
		if !known[hostIf] && whole(row) {
			return true, nil
		}
	}
	return false, nil
}

// live notes that the store has carried a sound pass.
func (a *Agent) live(ctx context.Context) error {
	return a.room.DB.Update(ctx, func(tx *store.Tx) error { return lived().Put(tx, livedKey, true) })
}

// Rebuild makes endpoints, leases and blocks of an empty store anew from what the kernel shows. Labels are lost: the
// kernel does not have them. It is called before Run, and can be called again when it did not come to its end.
func (a *Agent) Rebuild(ctx context.Context) error {
	links, err := a.room.Kernel.Endpoints.List(ctx)
	if err != nil {
		return fmt.Errorf("list endpoint links: %w", err)
	}
	if err := a.rebuildBlocks(ctx); err != nil {
		return err
	}
	var records []record
	var leases []ipam.Lease
	for _, row := range links {
		if !whole(row) {
			a.room.Log.Warn("endpoint link left out: the kernel does not show all of it", "link", row.HostIf, "name", row.Name)
			continue
		}
		r := a.found(row)
		a.room.Log.Info("endpoint found in the kernel", "endpoint", r.Name, "addresses", r.Addresses)
		records = append(records, r)
		for _, ip := range r.Addresses {
			leases = append(leases, ipam.Lease{
				Address: ip, Owner: r.tenure(ip), Pool: a.poolOf(ip), Policy: ipam.PolicyEndpoint, Since: r.Created,
			})
		}
	}
	ports, err := a.rebuildPorts(ctx, records)
	if err != nil {
		return err
	}
	err = a.room.Ledger.RestoreWith(ctx, leases, func(tx *store.Tx) error {
		for _, r := range records {
			if err := r.rebuild(tx); err != nil {
				return fmt.Errorf("rebuild endpoint %s: %w", r.Name, err)
			}
		}
		return ports.Write(tx)
	})
	ports.End(err)
	return err
}

// tenure is who the lease of one of its addresses belongs to.
func (r record) tenure(ip netip.Addr) string {
	if r.Guest.Stage != "" {
		return guestOwner + ip.String()
	}
	return r.Name
}

// rebuild writes an endpoint down. The gateways of a guest are taken from then on: its network is told later, and no
// other may get them until then.
func (r record) rebuild(tx *store.Tx) error {
	err := endpoints().Put(tx, r.Name, r)
	for _, ip := range r.Guest.Gateways {
		err = errors.Join(err, gateways().Put(tx, ip.String(), r.Created))
	}
	return err
}

// rebuildPorts finds the mappings to the endpoints. Who asked for them the kernel does not know: each stays until it is
// unpublished, or goes with the container where another program has it.
func (a *Agent) rebuildPorts(ctx context.Context, records []record) (*nat.Draft, error) {
	rules, err := a.room.Kernel.NAT.Ports.List(ctx)
	if err != nil {
		return nil, fmt.Errorf("list ports: %w", err)
	}
	var all []nat.Mapping
	for port, rule := range rules {
		i := slices.IndexFunc(records, func(r record) bool { return slices.Contains(r.Addresses, rule.To.Addr()) })
		if i < 0 || rule.Fault != "" {
			continue
		}
		a.room.Log.Info("port found in the kernel", "endpoint", records[i].Name, "port", port, "to", rule.To)
		m := nat.Mapping{Port: port, Owner: records[i].Name, Target: rule.To.Port(), Origin: nat.OriginPublish}
		if records[i].Guest.Stage != "" {
			m.Origin = nat.OriginAttach
		}
		all = append(all, m)
	}
	return a.room.Ports.Restore(all), nil
}

// rebuildBlocks claims the blocks that end in this host's kernel.
func (a *Agent) rebuildBlocks(ctx context.Context) error {
	routes, err := a.room.Kernel.Routes.List(ctx)
	if err != nil {
		return fmt.Errorf("list routes: %w", err)
	}
	for _, p := range a.state.cfg.Pools {
		for k, r := range routes {
			if r.Kind != tunnel.Blackhole || p.Block.IsValid() || !p.CIDR.Contains(k.Prefix.Addr()) {
				continue
			}
			if err := a.room.Ledger.Claim(ctx, p.Name, k.Prefix); err != nil {
				return fmt.Errorf("claim block %s: %w", k.Prefix, err)
			}
		}
	}
	return nil
}

// whole tells whether a link shows all that an endpoint needs: one that was only half made has no name, and a text that
// was too long for the kernel's alias is a hash there, which begins with '#'.
func whole(row endpoint.Row) bool {
	hashed := strings.HasPrefix(row.Name, "#") || strings.HasPrefix(row.NetNS, "#")
	return row.Name != "" && !hashed && (row.IP4.IsValid() || row.IP6.IsValid())
}

// found is the endpoint of a link.
func (a *Agent) found(row endpoint.Row) record {
	r := record{
		Name: row.Name, ID: uuid.NewString(), Network: defaultNetwork, NetNS: row.NetNS, NSInode: row.NSInode,
		IfName: row.IfName, Created: a.room.Now().UTC(),
	}
	for _, ip := range []netip.Addr{row.IP4, row.IP6} {
		if ip.IsValid() {
			r.Addresses = append(r.Addresses, ip)
		}
	}
	if row.Handed() {
		r.host(row)
	}
	return r
}

// host makes the endpoint the guest that its link is of. By which ID the program knows it that has its inside, and on which
// network it is, Learn tells: the name begins as the ID does.
func (r *record) host(row endpoint.Row) {
	r.ID, r.Network, r.IfName = strings.TrimPrefix(row.Name, guestPrefix), "", ""
	r.Guest = guest{Stage: stageJoined, MAC: row.MAC.String(), MTU: row.MTU, Gateways: row.Greets()}
}

// poolOf names the pool that holds an address, "" when none does any more.
func (a *Agent) poolOf(ip netip.Addr) string {
	for _, p := range a.state.cfg.Pools {
		if p.CIDR.Contains(ip) {
			return p.Name
		}
	}
	return ""
}
