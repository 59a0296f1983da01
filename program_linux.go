package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/fairlead-net/fairlead/agent"
	"github.com/fairlead-net/fairlead/cli"
	"github.com/fairlead-net/fairlead/config"
)

// release is the version when the build does not know it better.
const release = "0.1.0"

func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return release
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 {
			return release + "+" + s.Value[:12]
		}
	}
	return release
}

// source reads the config file again for each reload.
type source struct {
	path  string
	found netip.Addr // the node's address where the file leaves it to the host
	level *slog.LevelVar

	mu   sync.Mutex
	now  config.Config // in force
	next config.Config // read, and not in force yet
}

// Reload implements agent.Source.
func (s *source) Reload() (agent.Config, []string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	next, err := load(s.path)
	if err != nil {
		return agent.Config{}, nil, err
	}
	full := next.WithAddress(s.found)
	if err := full.CheckPeers(); err != nil {
		return agent.Config{}, nil, err
	}
	changes := config.Changed(s.now, next)
	if fixed := changes.Restart().Keys(); len(fixed) > 0 {
		return agent.Config{}, nil, fmt.Errorf("%s can change only with a restart: systemctl restart fairlead", strings.Join(fixed, ", "))
	}
	s.next = next
	return s.terms(full), changes.Keys(), nil
}

// terms are a config as the agent takes it.
func (s *source) terms(c config.Config) agent.Config {
	a := c.Agent()
	a.Node.Follow = s.found.IsValid()
	return a
}

// Adopted implements agent.Source.
func (s *source) Adopted() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = s.next
	s.level.Set(s.now.Log.Level)
}

// watched tells whether the file is to be applied whenever it is written.
func (s *source) watched() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now.Node.Watch
}

// reloads applies the config on SIGHUP and, where the config says so, on write.
func reloads(ctx context.Context, a *agent.Agent, src *source, log *slog.Logger) error {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	written, err := config.Watch(ctx, src.path)
	if err != nil {
		log.Warn("the config file is not watched", "error", err)
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-hup:
		case <-written:
			if !src.watched() {
				continue
			}
		}
		limit, cancel := context.WithTimeout(ctx, time.Minute)
		_, _ = a.Reload(limit) // the agent logs a refusal and shows it in the status
		cancel()
	}
}

// check is `fairlead check`.
func check(path string) (cli.Verdict, error) {
	cfg, err := load(path)
	v := cli.Verdict{File: cmp.Or(path, cfg.File, config.DefaultPath)}
	var problems config.Problems
	if errors.As(err, &problems) {
		v.Problems = problems.Strings()
		return v, nil
	}
	v.Summary = fmt.Sprintf("%d pools, %d peers", len(cfg.Pools), len(cfg.BGP.Peers))
	return v, err
}

// settings is what the commands want to know of the config.
func settings(path string) (cli.Settings, error) {
	cfg, err := load(path)
	s := cli.Settings{
		File: cfg.File, Socket: cfg.API.Socket,
		Paths:    cli.Paths{State: cfg.Node.StateDir, Run: cfg.Node.RunDir, Pins: cfg.Fastpath.PinDir},
		Node:     cli.NodeSettings{Address: cfg.Node.Address, MTU: cfg.Node.MTU},
		Interval: cfg.Reconcile.Interval,
		Mode:     cfg.Tunnel.Mode,
		Accept:   cfg.Tunnel.Accept,
		Docker:   cli.DockerSettings{Enable: string(cfg.Docker.Enable), Socket: cfg.Docker.Socket, API: cfg.Docker.API},
		BGP:      cli.Ports{Listen: cfg.BGP.Listen, BGP: int(cfg.BGP.Port), VXLAN: int(cfg.Tunnel.VXLANPort), VNI: cfg.Tunnel.VNI},
	}
	for _, e := range cfg.Endpoints {
		s.NAT.Published += len(e.Publish)
	}
	for _, p := range cfg.Pools {
		s.Pools, s.NAT.Outgoing = append(s.Pools, p.CIDR), s.NAT.Outgoing || p.NATOutgoing
	}
	for _, p := range cfg.BGP.Peers {
		s.Peers = append(s.Peers, p.Address)
		if p.PasswordFile != "" && !slices.Contains(s.Secrets, p.PasswordFile) {
			s.Secrets = append(s.Secrets, p.PasswordFile)
		}
	}
	return s, err
}

// initial is the text that `fairlead init` writes.
func initial(o cli.InitOptions) (string, error) {
	return config.Init(config.Facts{Name: o.Name, Address: o.Address, Pools: o.Pools, Peers: o.Peers}), nil
}

// uninstall takes everything of ours out of the kernel while no daemon runs.
func uninstall(ctx context.Context, path string) (cli.Removed, error) {
	cfg, err := load(path)
	if err != nil {
		return cli.Removed{}, err
	}
	// Neither peers nor an address are needed to take things away, and this may be the reason for it.
	cfg.BGP.Peers = nil
	h := &host{cfg: cfg, speaker: silent{}}
	defer h.close()
	if err := errors.Join(h.openStore(ctx, false), h.openTables()); err != nil {
		return cli.Removed{}, err
	}
	a, err := h.agent(&source{path: path, now: cfg, level: new(slog.LevelVar)}, slog.New(slog.DiscardHandler))
	if err != nil {
		return cli.Removed{}, err
	}
	limit, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	rev, err := a.Leave(limit, true) // before the first pass, so that it puts nothing
	if err != nil {
		return cli.Removed{}, err
	}
	ended := make(chan error, 1)
	go func() { ended <- a.Run(limit) }()
	done, err := a.Left(limit, rev)
	cancel()
	if why := <-ended; err != nil && why != nil {
		err = errors.Join(err, why)
	}
	return cli.Removed{Count: done.Removed}, err
}
