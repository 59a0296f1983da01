// Command fairlead gives a plain Linux host routed container networking: one binary, one file, one service.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/fairlead-net/fairlead/cli"
	"github.com/fairlead-net/fairlead/config"
	"github.com/fairlead-net/fairlead/store"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	code := cli.Execute(ctx, cli.Program{
		Version:    version(),
		Run:        run,
		Check:      check,
		Init:       initial,
		Settings:   settings,
		Uninstall:  uninstall,
		CheckStore: store.Verify,
	}, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// load reads the config at path, the default file when path is empty, with the environment laid over it.
func load(path string) (config.Config, error) { return config.Load(path, os.Environ()) }
