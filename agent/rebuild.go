package agent

import (
	"context"
	"fmt"
	"net/netip"
	"strings"

	"github.com/google/uuid"

	"github.com/fairlead-net/fairlead/endpoint"
	"github.com/fairlead-net/fairlead/ipam"
	"github.com/fairlead-net/fairlead/store"
	"github.com/fairlead-net/fairlead/tunnel"
)

// Rebuild makes endpoints, leases and blocks of an empty store anew from what the kernel shows. Labels are lost: the
// kernel does not have them. It is called before Run.
func (a *Agent) Rebuild(ctx context.Context) error {
	links, err := a.room.Kernel.Endpoints.List(ctx)
	if err != nil {
		return fmt.Errorf("list endpoint links: %w", err)
	}
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
	for _, row := range links {
		if !whole(row) {
			a.room.Log.Warn("endpoint link left out: the kernel does not show all of it", "link", row.HostIf, "name", row.Name)
			continue
		}
		if err := a.rebuildOne(ctx, row); err != nil {
			return fmt.Errorf("rebuild endpoint %s: %w", row.Name, err)
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

func (a *Agent) rebuildOne(ctx context.Context, row endpoint.Row) error {
	now := a.room.Now().UTC()
	r := record{
		Name: row.Name, ID: uuid.NewString(), Network: defaultNetwork, NetNS: row.NetNS, NSInode: row.NSInode,
		IfName: row.IfName, Created: now,
	}
	var leases []ipam.Lease
	for _, ip := range []netip.Addr{row.IP4, row.IP6} {
		if !ip.IsValid() {
			continue
		}
		r.Addresses = append(r.Addresses, ip)
		leases = append(leases, ipam.Lease{
			Address: ip, Owner: r.Name, Pool: a.poolOf(ip), Policy: ipam.PolicyEndpoint, Since: now,
		})
	}
	if err := a.room.Ledger.Restore(ctx, leases); err != nil {
		return err
	}
	a.room.Log.Info("endpoint found in the kernel", "endpoint", r.Name, "addresses", r.Addresses)
	return a.room.DB.Update(ctx, func(tx *store.Tx) error { return endpoints().Put(tx, r.Name, r) })
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
