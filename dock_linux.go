package main

import (
	"context"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/fairlead-net/fairlead/agent"
	"github.com/fairlead-net/fairlead/config"
	"github.com/fairlead-net/fairlead/docker"
)

// dockRetry is the time between two tries to have the socket of Docker's calls.
const dockRetry = 2 * time.Second

// dock answers Docker until ctx ends, where there is Docker, and refuses its calls where it shall not be answered.
func dock(ctx context.Context, cfg config.Docker, a *agent.Agent, log *slog.Logger) error {
	serves := cfg.Enable == config.On || cfg.Enable == config.Auto && docker.Present(cfg.API)
	path := ""
	if serves {
		path = cfg.Socket
	}
	strays, err := docker.Strays(path)
	if err != nil {
		log.Warn("calls of Docker wait in vain", "error", err)
	}
	group, ctx := errgroup.WithContext(ctx)
	for _, l := range strays {
		group.Go(func() error {
			return docker.Refuse(ctx, l, "fairlead does not answer at "+l.Addr().String()+": see [docker] enable and socket in its config")
		})
	}
	if serves {
		group.Go(func() error { return answer(ctx, cfg, a, log) })
	}
	return group.Wait()
}

// answer serves Docker's calls, and follows Docker itself where its API is.
func answer(ctx context.Context, cfg config.Docker, a *agent.Agent, log *slog.Logger) error {
	l := listen(ctx, cfg.Socket, a, log)
	if l == nil {
		return nil
	}
	driver := docker.New(docker.Host{Addresses: a, Networks: a, Guests: a}, cfg.Timeout, log)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return driver.Serve(ctx, l) })
	if cfg.API != "" {
		name := strings.TrimSuffix(filepath.Base(cfg.Socket), filepath.Ext(cfg.Socket))
		group.Go(func() error {
			docker.NewLooker(driver, a, cfg.API, name).Run(ctx)
			return nil
		})
	}
	return group.Wait()
}

// listen tries until there is the socket. One that somebody else has is no reason to leave the containers without a
// daemon, and a program that ends gives it back. It returns nil when ctx ends.
func listen(ctx context.Context, path string, a *agent.Agent, log *slog.Logger) net.Listener {
	l, err := docker.Listen(path)
	if err != nil {
		log.Warn("Docker can not call", "error", err)
	}
	for ; err != nil; l, err = docker.Listen(path) {
		a.Uncalled(err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(dockRetry):
		}
	}
	a.Uncalled(nil)
	return l
}
