package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/fairlead-net/fairlead/bgp"
	"github.com/fairlead-net/fairlead/endpoint"
	"github.com/fairlead-net/fairlead/ipam"
	"github.com/fairlead-net/fairlead/nat"
	"github.com/fairlead-net/fairlead/store"
	"github.com/fairlead-net/fairlead/tunnel"
)

// inputs is everything that one pass knows, taken once at its start.
type inputs struct {
	rev       uint64
	cfg       Config
	records   []record
	networks  []Network
	blocks    map[string]netip.Prefix // by pool
	leased    map[string]int          // addresses in use, by pool
	mappings  []nat.Mapping           // every port that somebody has
	known     map[string]string       // sysctl values from before us, by path
	lived     bool                    // the store has carried a sound pass
	routes    []bgp.Route
	complete  bool // every peer has told all it knows, or was waited for long enough
	settled   bool // complete, or long enough since the start to choose a block
	underlay  tunnel.Underlay
	instead   tunnel.Underlay            // by the default route, while the node's address is gone
	partners  map[tunnel.Source]struct{} // far ends of tunnels that are not ours
	hops      map[netip.Addr]tunnel.Hop
	have      tables                  // what the kernel has of ours
	rows      map[string]endpoint.Row // what the records want, less the MTU, by name
	alive     map[string]bool         // endpoints whose namespace is still the one they were attached to
	fast      fast
	checksums tunnel.Verdict // on leaving those inside of VXLAN to the hardware
	drained   bool
	uninstall bool
	fault     error // the underlay could not be read; what was last seen of it stands in
}

// blockPatience is how long a node without a block listens to peers that do not answer before it chooses one.
const blockPatience = 5 * time.Second

// read takes the snapshot. The revision comes first, so that what is asked for later is never claimed by this pass. The
// store, the endpoints' links and the rest of the kernel are read side by side: an attach waits for all of them.
func (a *Agent) read(ctx context.Context) (inputs, error) {
	a.mu.Lock()
	in := inputs{rev: a.state.rev, cfg: a.state.cfg, drained: a.state.drained, uninstall: a.state.uninstall}
	a.mu.Unlock()
	in.blocks, in.leased = make(map[string]netip.Prefix), make(map[string]int)
	for _, u := range a.room.Ledger.Usage() {
		in.blocks[u.Pool], in.leased[u.Pool] = u.Block, u.Leased
	}
	in.checksums = a.trial.known()
	a.readFast(&in)
	in.routes, in.complete = a.room.Speaker.Routes()
	in.settled = in.complete || a.room.Now().Sub(a.started) > blockPatience
	var all errgroup.Group
	all.Go(func() error { return a.readStore(&in) })
	all.Go(func() error { return a.readLinks(ctx, &in) })
	all.Go(func() error { return a.readKernel(ctx, &in) })
	if err := all.Wait(); err != nil {
		return in, err
	}
	// After the kernel was read: a port that was claimed and decided meanwhile would else be seen held for nobody.
	in.mappings = a.room.Ports.All()
	in.judge()
	if in.uninstall {
		return in, a.leaveOutGone(in.known)
	}
	return in, nil
}

// judge asks for the namespaces of those endpoints whose link is not as it should be: a sound link proves its namespace.
// Where a guest's is, only the program knows that has it: its link lives while it is there.
func (in *inputs) judge() {
	in.rows, in.alive = make(map[string]endpoint.Row, len(in.records)), make(map[string]bool, len(in.records))
	for _, r := range in.records {
		row := r.row()
		have, ok := in.have.endpoints[row.HostIf]
		in.rows[r.Name] = row
		switch r.Guest.Stage {
		case "":
			in.alive[r.Name] = ok && have.NSInode == r.NSInode && have.MTU != 0 || endpoint.Alive(row)
		case stageJoining:
			in.alive[r.Name] = true
		default:
			in.alive[r.Name] = ok
		}
	}
}

func (a *Agent) readStore(in *inputs) error {
	in.known = make(map[string]string)
	err := a.room.DB.View(func(tx *store.Tx) error {
		for _, r := range a.records.All(tx) {
			in.records = append(in.records, r)
		}
		for path, v := range sysctls().All(tx) {
			in.known[path] = v
		}
		for _, n := range networks().All(tx) {
			in.networks = append(in.networks, n)
		}
		var err error
		in.lived, _, err = lived().Get(tx, livedKey)
		return err
	})
	if err != nil {
		return fmt.Errorf("read store: %w", err)
	}
	return nil
}

// readUnderlay looks at the network beneath. An address that is gone for a while must not keep the containers of this
// host from each other, so a fault counts against the pass but does not end it.
func (a *Agent) readUnderlay(ctx context.Context, in *inputs) error {
	u, err := a.room.Underlay.Underlay(ctx, in.cfg.Node.Address)
	if err == nil {
		u.Tunnels, err = a.room.Underlay.Supports(ctx, in.cfg.Tunnel.Mode.Tunnels())
	}
	if err == nil && in.fast.on {
		u.Foreign, err = a.room.Underlay.Foreign(ctx, cidrs(in.cfg.Pools))
	}
	if err == nil {
		in.underlay = u
		return nil
	}
	a.mu.Lock()
	in.underlay = a.state.last.in.underlay
	a.mu.Unlock()
	in.fault = fmt.Errorf("read underlay: %w", a.seek(ctx, in, err))
	if !in.underlay.Address.IsValid() && !in.uninstall {
		return in.fault
	}
	return nil
}

func (a *Agent) readKernel(ctx context.Context, in *inputs) (err error) {
	if err := a.readUnderlay(ctx, in); err != nil {
		return err
	}
	seen := make(map[netip.Addr]struct{})
	var next []netip.Addr
	for _, r := range in.routes {
		for _, nh := range r.NextHops {
			if _, ok := seen[nh]; !ok {
				seen[nh] = struct{}{}
				next = append(next, nh)
			}
		}
	}
	if in.cfg.Tunnel.Accept == tunnel.AcceptPeers {
		if in.partners, err = a.room.Underlay.Partners(ctx, in.underlay.Tunnels); err != nil {
			return fmt.Errorf("look for tunnels of others: %w", err)
		}
	}
	if in.hops, err = a.room.Underlay.Hops(ctx, next); err != nil {
		return fmt.Errorf("look up next hops: %w", err)
	}
	a.ladder.read(ctx, &in.have)
	return nil
}

func (a *Agent) readLinks(ctx context.Context, in *inputs) (err error) {
	if in.have.endpoints, err = a.room.Kernel.Endpoints.List(ctx); err != nil {
		return fmt.Errorf("list endpoint links: %w", err)
	}
	return nil
}

// leaveOutGone takes out the kernel parameters of links that are gone: there nothing is to be put back.
func (a *Agent) leaveOutGone(known map[string]string) error {
	for path := range known {
		_, err := a.room.Underlay.ReadSysctl(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			delete(known, path)
		case err != nil:
			return fmt.Errorf("read sysctl %s: %w", path, err)
		}
	}
	return nil
}

func cidrs(pools []ipam.Pool) []netip.Prefix {
	all := make([]netip.Prefix, len(pools))
	for i, p := range pools {
		all[i] = p.CIDR
	}
	return all
}
