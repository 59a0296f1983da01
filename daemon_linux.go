package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sync/errgroup"

	"github.com/fairlead-net/fairlead/agent"
	"github.com/fairlead-net/fairlead/bgp"
	"github.com/fairlead-net/fairlead/cli"
	"github.com/fairlead-net/fairlead/config"
	"github.com/fairlead-net/fairlead/docker"
	"github.com/fairlead-net/fairlead/endpoint"
	"github.com/fairlead-net/fairlead/fastpath"
	"github.com/fairlead-net/fairlead/ipam"
	"github.com/fairlead-net/fairlead/nat"
	"github.com/fairlead-net/fairlead/reconcile"
	"github.com/fairlead-net/fairlead/store"
	"github.com/fairlead-net/fairlead/tunnel"
)

// run is `fairlead run`. It ends when ctx does, also during the start, and that is no failure.
func run(ctx context.Context, o cli.RunOptions) error {
	ballast := make([]byte, reserve)
	defer runtime.KeepAlive(ballast)
	err := begin(ctx, o)
	asked := ctx.Err() != nil && errors.Is(err, context.Canceled)
	moved := errors.Is(err, agent.ErrMoved)
	switch {
	case moved && ctx.Err() == nil:
		return anew()
	case asked, moved, errors.Is(err, agent.ErrUninstalled):
		return nil
	}
	return err
}

// anew puts a new daemon in the place of this process, with what this one was called with. It keeps the process id and
// what the service manager knows of it, and says READY=1 in its turn. What was open is marked to be closed by it.
//
// GoBGP can neither listen on another address nor end its sessions without a Cease.
func anew() error {
	exe, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find own executable: %w", err)
	}
	if err := docker.PassOn(); err != nil {
		return err
	}
	if err := syscall.Exec(exe, os.Args, os.Environ()); err != nil {
		return fmt.Errorf("start %s anew: %w", exe, err)
	}
	return nil
}

// reserve is memory that is never touched, in bytes. It costs nothing but address space, and has the collector wait until
// about as much garbage is there: with the few megabytes that a daemon holds it would run at every other attach.
const reserve = 16 << 20

// begin builds the rooms from the bottom up and serves until something ends.
func begin(ctx context.Context, o cli.RunOptions) error {
	cfg, err := load(o.Config)
	if err != nil {
		return err
	}
	level := new(slog.LevelVar)
	log := logger(cfg.Log, level)
	h, err := open(ctx, cfg, o, log)
	if err != nil {
		return err
	}
	defer h.close()
	src := &source{path: o.Config, now: cfg, found: h.found, level: level}
	a, err := h.agent(src, log)
	if err != nil {
		return err
	}
	if h.aside != "" {
		log.Warn("the damaged store was set aside", "file", h.aside)
	}
	if err := rebuild(ctx, a, o.Recover); err != nil {
		return err
	}
	return h.serve(ctx, a, src, log)
}

// rebuild fills a new store from the kernel, when endpoints are attached that it does not know, and only when asked to.
func rebuild(ctx context.Context, a *agent.Agent, asked bool) error {
	needed, err := a.NeedsRebuild(ctx)
	if err != nil || !needed {
		return err
	}
	if !asked {
		return errors.New("the store is new, and endpoints are attached to this host: start once with: fairlead run --recover")
	}
	if err := a.Rebuild(ctx); err != nil {
		return fmt.Errorf("rebuild the store from the kernel: %w", err)
	}
	return nil
}

// host is what a daemon holds open.
type host struct {
	cfg     config.Config
	found   netip.Addr // the node's address where the config leaves it to the host
	aside   string     // where a damaged store went
	db      *store.DB
	kernel  *tunnel.Kernel
	filter  *nat.Kernel
	holds   *nat.Holds
	links   *endpoint.Links
	fast    *fastpath.Kernel
	hangUp  func() error // ends the speaker; nil without one
	speaker agent.Speaker
}

// open opens the store and the kernel's tables and listens for peers.
func open(ctx context.Context, cfg config.Config, o cli.RunOptions, log *slog.Logger) (h *host, err error) {
	h = &host{cfg: cfg}
	defer func() {
		if err != nil {
			h.close()
		}
	}()
	if err := h.openStore(ctx, o.Recover); err != nil {
		return h, err
	}
	if err := h.openKernel(ctx); err != nil {
		return h, err
	}
	routes, err := h.kernel.Routes().List(ctx)
	if err != nil {
		return h, fmt.Errorf("list our routes: %w", err)
	}
	speak := h.cfg.Agent().BGP
	speak.Warm = len(routes) > 0
	if !speak.Listen.IsValid() {
		h.speaker = silent{}
		return h, nil
	}
	s, err := bgp.Start(speak, log)
	if err != nil {
		return h, err
	}
	h.speaker, h.hangUp = s, s.Close
	return h, nil
}

// silent is the speaker of a host without an address, which can have no peers.
type silent struct{}

func (silent) Routes() ([]bgp.Route, bool)       { return nil, true }
func (silent) Changed() <-chan struct{}          { return nil }
func (silent) Announce([]bgp.Announcement) error { return nil }
func (silent) Peers() []bgp.PeerStatus           { return nil }
func (silent) Sessions() []bgp.PeerStatus        { return nil }

func (silent) SetPeers(c bgp.Config) error {
	if len(c.Peers) > 0 {
		return errors.New("this host had no address when the daemon started: set [node] address and restart it")
	}
	return nil
}

func (h *host) openStore(ctx context.Context, recover bool) error {
	exe, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find own executable: %w", err)
	}
	path, opts := filepath.Join(h.cfg.Node.StateDir, storeFile), store.Options{Check: []string{exe, "check-store"}}
	h.db, err = store.Open(ctx, path, opts)
	if !errors.Is(err, store.ErrCorrupt) || !recover {
		return err
	}
	if h.aside, err = store.SetAside(path); err != nil {
		return err
	}
	h.db, err = store.Open(ctx, path, opts)
	return err
}

const storeFile = "fairlead.db"

// openKernel opens the kernel's tables and finds the node's address where the config leaves it to us.
func (h *host) openKernel(ctx context.Context) (err error) {
	if err := h.openTables(); err != nil {
		return err
	}
	u, err := h.kernel.Underlay(ctx, h.cfg.Node.Address)
	if err != nil {
		return fmt.Errorf("find the underlay: %w", err)
	}
	if !u.Address.IsValid() && len(h.cfg.BGP.Peers) > 0 {
		return errors.New("this host has no default route to take its address from: set [node] address")
	}
	if !h.cfg.Node.Address.IsValid() {
		h.found = u.Address
	}
	h.cfg = h.cfg.WithAddress(h.found)
	return h.cfg.CheckPeers()
}

func (h *host) openTables() (err error) {
	if h.kernel, err = tunnel.Open(); err != nil {
		return err
	}
	if h.filter, err = nat.Open(); err != nil {
		return err
	}
	h.holds = h.filter.Holds(h.cfg.Fastpath.PinDir)
	if h.links, err = endpoint.NewLinks(); err != nil {
		return err
	}
	f := h.cfg.Fastpath
	if h.fast, err = fastpath.Open(f.PinDir, h.cfg.Agent().FastSizes); err != nil {
		return err
	}
	if f.Mode != config.On {
		return nil
	}
	if err := h.fast.Begin(); err != nil {
		return fmt.Errorf("start the fast path, which [fastpath] mode = \"on\" demands: %w", err)
	}
	return nil
}

func (h *host) agent(src *source, log *slog.Logger) (*agent.Agent, error) {
	ledger, err := ipam.NewLedger(h.db, time.Now)
	if err != nil {
		return nil, err
	}
	ports, err := nat.NewBook(h.db, h.holds, time.Now, rand.IntN)
	if err != nil {
		return nil, err
	}
	watchdog, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		return nil, fmt.Errorf("read watchdog settings: %w", err)
	}
	return agent.New(src.terms(h.cfg), agent.Rooms{
		DB: h.db, Ledger: ledger, Ports: ports, Speaker: h.speaker, Underlay: h.kernel, Kernel: h.tables(), Prober: h.kernel, Source: src,
		Notify: notify, Watchdog: watchdog, Log: log, Version: version(), Now: time.Now,
	})
}

func (h *host) tables() agent.Kernel {
	age := h.cfg.Reconcile.Interval
	return agent.Kernel{
		Devices: h.kernel.Devices(), Endpoints: h.links, Neighbours: h.kernel.Neighbours(), FDB: h.kernel.FDB(),
		Routes: h.kernel.Routes(), Rules: h.kernel.Rules(), Insides: h.links,
		Members: h.filter.Sets(), Filter: h.filter.Input(age),
		NAT: agent.NATTables{
			Holds: h.holds, Ports: h.filter.Ports(age), Outgoing: h.filter.Outgoing(age), Forward: h.filter.Forward(age),
			Apart: h.filter.Apart(age),
		},
		Fast: agent.FastTables{
			Engine: h.fast, Translator: h.filter, Settings: h.fast.Settings(), Nodes: h.fast.Nodes(), Sides: h.fast.Sides(),
			Endpoints: h.fast.Endpoints(), Routes: h.fast.Routes(), Own: h.fast.Own(), Ports: h.fast.Ports(), Hooks: h.fast.Hooks(),
		},
		Sysctls: func(want map[string]string) reconcile.Target[string, string] { return h.kernel.Sysctls(want) },
	}
}

// notify speaks to the service manager. Without one there is nobody to tell, and a lost word costs at most a restart
// that loses no packet.
func notify(state string) { _, _ = daemon.SdNotify(false, state) }

// serve runs the daemon's loops until one fails or ctx ends.
func (h *host) serve(ctx context.Context, a *agent.Agent, src *source, log *slog.Logger) error {
	api, err := agent.Listen(h.cfg.API.Socket)
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	// Before the API answers: who has heard from the daemon finds its metrics too.
	if h.cfg.API.Metrics.IsValid() {
		l, err := net.Listen("tcp", h.cfg.API.Metrics.String())
		if err != nil {
			// A port that somebody else has is no reason to leave the containers without a network.
			log.Warn("metrics are off: set [api] metrics to a free address", "error", err)
		} else {
			group.Go(func() error { return a.ServeMetrics(ctx, l) })
		}
	}
	group.Go(func() error { return a.Run(ctx) })
	group.Go(func() error { return a.Serve(ctx, api) })
	group.Go(func() error { return a.ServeMetadata(ctx) })
	group.Go(func() error { return reloads(ctx, a, src, log) })
	group.Go(func() error { return dock(ctx, h.cfg.Docker, a, log) })
	log.Info("fairlead runs", "node", h.cfg.Node.Name, "address", h.cfg.Node.Address, "version", version())
	err = group.Wait()
	if !errors.Is(err, agent.ErrMoved) { // the service goes on
		notify("STOPPING=1")
	}
	return err
}

// close lets go of everything. The kernel's state stays: traffic flows on while no daemon runs.
func (h *host) close() {
	if h.hangUp != nil {
		_ = h.hangUp()
	}
	if h.links != nil {
		_ = h.links.Close()
	}
	if h.fast != nil {
		_ = h.fast.Close()
	}
	if h.kernel != nil {
		_ = h.kernel.Close()
	}
	if h.holds != nil {
		_ = h.holds.Close()
	}
	if h.filter != nil {
		_ = h.filter.Close()
	}
	if h.db != nil {
		_ = h.db.Close()
	}
}

// logger writes to standard error. Its level follows the config while the daemon runs.
func logger(l config.Log, level *slog.LevelVar) *slog.Logger {
	level.Set(l.Level)
	opts := &slog.HandlerOptions{Level: level}
	if l.Format == "json" {
		return slog.New(slog.NewJSONHandler(os.Stderr, opts))
	}
	return slog.New(slog.NewTextHandler(os.Stderr, opts))
}
