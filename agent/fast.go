package agent

import (
	"cmp"
	"context"
	"fmt"
	"hash/crc32"
	"net/netip"
	"slices"
	"time"

	"github.com/fairlead-net/fairlead/fastpath"
	"github.com/fairlead-net/fairlead/nat"
	"github.com/fairlead-net/fairlead/reconcile"
	"github.com/fairlead-net/fairlead/tunnel"
)

// FastMode is whether containers' packets go past the host's network stack.
type FastMode string

// The choices of the config.
const (
	FastAuto FastMode = "auto" // where the kernel can
	FastOn   FastMode = "on"   // nothing goes on without it
	FastOff  FastMode = "off"
)

// FastTables are the maps of the fast path and the places of its programs.
type FastTables struct {
	Engine     Engine // nil: there is none, and none of the following
	Translator Translator
	Settings   reconcile.Target[string, fastpath.Settings]
	Nodes      reconcile.Target[netip.Addr, fastpath.Node]
	Sides      reconcile.Target[string, fastpath.Side]
	Endpoints  reconcile.Target[netip.Addr, fastpath.Endpoint]
	Routes     reconcile.Target[netip.Prefix, fastpath.Route]
	Own        reconcile.Target[netip.Addr, fastpath.Own]
	Ports      reconcile.Target[fastpath.Port, fastpath.Mapping]
	Hooks      reconcile.Target[fastpath.Hook, fastpath.Job]
}

// Engine is the programs of the fast path.
type Engine interface {
	Begin() error // loads them; idempotent. An error says why this host can not have the fast path
	End(ctx context.Context) error
	Idle() bool             // nothing of the fast path is on this host
	Attachment() string     // how its programs are attached: "tcx" or "clsact"
	Pave(link string) error // makes a new link ready for its programs
	Crosses() bool          // it can wrap a packet of one family into the other
	Counts(ctx context.Context) (fastpath.Counts, error)
	Memory() (uint64, error)  // bytes of its maps
	Settle() error            // every hook has the programs of now
	Changed() <-chan struct{} // pokes when others changed the hooks
	Follow(ctx context.Context, a, b netip.Addr) (<-chan fastpath.Sighting, error)
	Keep(ctx context.Context, flows []fastpath.Flow) error // leaves them to the kernel
	Expire(ctx context.Context) (left int, err error)      // takes out connections by ports that are over
	Connections(ctx context.Context) ([]fastpath.Connection, error)
}

// Translator is the kernel's own translation of addresses.
type Translator interface {
	Translated(ctx context.Context) ([]nat.Flow, error)
	Adopt(ctx context.Context, all []nat.Connection) error // goes on with the translation of others
}

// fast is what a pass knows of the fast path.
type fast struct {
	on      bool
	crosses bool   // it can wrap a packet of one family into the other
	why     string // it is not on, "" when nobody wants it
}

// readFast finds out whether this host has the fast path. The programs are loaded by the first who asks.
func (a *Agent) readFast(in *inputs) {
	engine := a.room.Kernel.Fast.Engine
	if engine == nil || in.uninstall || cmp.Or(in.cfg.Fast, FastOff) == FastOff {
		return
	}
	if err := engine.Begin(); err != nil {
		in.fast.why = err.Error()
		return
	}
	in.fast.on, in.fast.crosses = true, engine.Crosses()
}

// speed plans the fast path from what the kernel's own way was planned from.
func (d *desired) speed(in inputs, accepts tunnel.Encaps) {
	if !in.fast.on {
		return
	}
	plan := fastpath.Input{Sizes: in.cfg.FastSizes, Settings: d.settings(in, accepts), Nodes: senders(in, d.Paths)}
	realms := realmsOf(in.networks)
	for _, r := range in.records {
		row, linked := d.endpoints[in.rows[r.Name].HostIf]
		if !linked || in.stray(r) || slices.ContainsFunc(r.Addresses, in.isForeign) {
			continue
		}
		for _, ip := range r.Addresses {
			plan.Endpoints = append(plan.Endpoints, fastpath.Attached{
				Address: ip, Link: row.HostIf, MAC: fastpath.MAC(row.MAC), MTU: row.MTU, Realm: realms[r.Network],
			})
		}
	}
	if in.cfg.NAT.Backend == nat.EBPF {
		plan.Own, plan.Ports = in.underlay.Own, make(map[fastpath.Port]netip.AddrPort)
		for p, rule := range d.nat.Ports {
			plan.Ports[fastPort(p)] = rule.To
		}
		if in.cfg.NAT.Hairpin {
			plan.Settings.Flags |= fastpath.Hairpins
		}
	}
	for _, p := range d.Paths {
		if p.Reason != "" && len(p.Legs) == 0 {
			continue
		}
		plan.Routes = append(plan.Routes, fastpath.Remote{Prefix: p.Prefix, Hops: d.carried(p)})
	}
	for _, dev := range in.underlay.Uplinks {
		if in.underlay.Wire(dev) {
			plan.Uplinks = append(plan.Uplinks, dev)
		}
	}
	for name, dev := range d.Devices {
		if dev.Kind == tunnel.VXLAN {
			plan.Framed = append(plan.Framed, name)
		} else {
			plan.Bare = append(plan.Bare, name)
		}
	}
	d.fast = fastpath.Plan(plan)
}

// fastPort is a port as the fast path has it.
func fastPort(p nat.Port) fastpath.Port {
	return fastpath.Port{Address: p.IP, Number: p.Number, Proto: p.Protocol()}
}

// carried are the legs of a path, none where a card spoils the checksums of what is wrapped: the kernel's devices are then
// told to make them themselves, as no program can. Whether they are is the device's own switch, which outlives the daemon.
func (d *desired) carried(p tunnel.Path) (hops []fastpath.Hop) {
	for _, l := range p.Legs {
		if l.Encap != tunnel.Direct && (d.spoilt(l.Local) || l.End.Is6()) {
			return nil
		}
		hops = append(hops, fastpath.Hop{
			Link: l.Dev, MTU: l.MTU, Encap: fastpath.Encap(l.Encap), Next: l.Next, Local: l.Local, End: l.End, MAC: fastpath.MAC(l.MAC),
		})
	}
	return hops
}

// settings is this node as its programs know it.
func (d *desired) settings(in inputs, accepts tunnel.Encaps) fastpath.Settings {
	s := fastpath.Settings{VNI: in.cfg.Tunnel.VNI, Port: in.cfg.Tunnel.Port}
	for _, a := range []netip.Addr{in.underlay.Address, in.underlay.Address6} {
		switch a = a.Unmap(); {
		case !a.IsValid():
		case a.Is4():
			s.Local4, s.MAC4 = a, fastpath.MAC(tunnel.VTEPMAC(a))
		default:
			s.Local6, s.MAC6 = a, fastpath.MAC(tunnel.VTEPMAC(a))
		}
	}
	for flag, set := range map[fastpath.Flags]bool{
		fastpath.Crosses:    in.fast.crosses,
		fastpath.TakesIPIP:  accepts.Has(tunnel.IPIP),
		fastpath.TakesVXLAN: accepts.Has(tunnel.VXLAN),
		fastpath.TakesAll:   in.cfg.Tunnel.Accept == tunnel.AcceptAny,
		fastpath.LacksIPIP:  !in.underlay.Tunnels.Has(tunnel.IPIP),
	} {
		if set {
			s.Flags |= flag
		}
	}
	// Without a device of its own IPIP comes in where the kernel's answers go.
	if _, there := d.Devices[tunnel.DeviceVXLAN]; there && s.Flags.Has(fastpath.TakesIPIP|fastpath.LacksIPIP) {
		s.Device = tunnel.DeviceVXLAN
	}
	return s
}

// sweepEvery is how often connections by ports are looked through for those that are over.
const sweepEvery = 5 * time.Second

// sweep takes out connections by ports that are over, until ctx ends.
func (a *Agent) sweep(ctx context.Context) {
	engine := a.room.Kernel.Fast.Engine
	if engine == nil {
		return
	}
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if _, err := engine.Expire(ctx); err != nil && ctx.Err() == nil {
			a.room.Log.Warn("connections by ports that are over could not be taken out", "error", err)
		}
	}
}

// realmsOf gives each network that is kept apart a number, the same in each pass. Its containers meet only each other by
// the fast path, and all others where the packet filter is.
func realmsOf(networks []Network) map[string]uint32 {
	var ids []string
	for _, n := range networks {
		if n.Isolated || n.Internal {
			ids = append(ids, n.ID)
		}
	}
	slices.Sort(ids)
	realms, taken := make(map[string]uint32, len(ids)), map[uint32]bool{0: true}
	for _, id := range ids {
		n := crc32.ChecksumIEEE([]byte(id))
		for taken[n] {
			n++
		}
		realms[id], taken[n] = n, true
	}
	return realms
}

// beside is the tunnels that the fast path has without a device.
func (f fast) beside() tunnel.Encaps {
	if !f.on {
		return 0
	}
	return tunnel.SetOf(tunnel.IPIP)
}

// fastWords is how the fast path is, and why it is not.
func (a *Agent) fastWords(o *outcome) string {
	switch {
	case o.in.fast.on:
		words := "on (" + a.room.Kernel.Fast.Engine.Attachment() + ")"
		if n, _ := a.trailer.pending(); n > 0 {
			words += fmt.Sprintf(", %d programs still to be attached", n)
		}
		return words
	case o.in.fast.why != "":
		return "off: " + o.in.fast.why
	}
	return "off"
}

// fastBytes is the memory that the maps have. One that could not be read counts for nothing.
func (a *Agent) fastBytes() (n uint64) {
	if engine := a.room.Kernel.Fast.Engine; engine != nil {
		n, _ = engine.Memory()
	}
	return n
}

// fastTo is how packets for a path travel by the fast path, "" when they do not.
func (d *desired) fastTo(p tunnel.Path) string {
	for _, h := range d.fast.Routes[p.Prefix].Used() {
		return string(h.Encap)
	}
	return ""
}

// Why a path is the kernel's alone though it has legs.
const (
	slowChecksums = "checksum-offload" // the card spoils what is wrapped
	// A program can not make the checksum that UDP must have over IPv6, and the kernel's device on the other host takes no packet
	// without, unless every other device there is told to do the same.
	slowOuter6 = "outer-ipv6"
)

// slowTo is why packets for a path do not travel by the fast path where this host has one.
func (d *desired) slowTo(p tunnel.Path) string {
	if d.fastTo(p) != "" || len(d.fast.Settings) == 0 || p.Reason != "" {
		return ""
	}
	switch {
	case len(p.Legs) == 0 || p.Slow != "":
	case p.Legs[0].End.Is6():
		p.Slow = slowOuter6
	default:
		p.Slow = slowChecksums
	}
	for _, s := range d.fast.Skipped {
		if s.Prefix == p.Prefix {
			return s.Reason
		}
	}
	return p.Slow
}

// isForeign tells whether somebody else's route takes the packets for an address that an endpoint of ours has.
func (in *inputs) isForeign(a netip.Addr) bool {
	return in.underlay.Cut(netip.PrefixFrom(a, a.BitLen()))
}

// spoilt tells whether what is wrapped may not be left to the card, by the family of the outer header.
func (d *desired) spoilt(local netip.Addr) bool {
	name := tunnel.DeviceVXLAN
	if local.Is6() {
		name = tunnel.DeviceVXLAN6
	}
	return d.Devices[name].Offload == tunnel.OffloadOff
}
