package cli

import (
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"

	"github.com/fairlead-net/fairlead/agent"
)

func (a *app) run() *cobra.Command {
	var o RunOptions
	cmd := &cobra.Command{
		Use: "run", Short: "Run the daemon in the foreground; SIGHUP reloads", GroupID: groupHost,
		Args: arguments(), ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.Config = a.config
			return a.Run(cmd.Context(), o)
		},
	}
	cmd.Flags().BoolVar(&o.Recover, "recover", false,
		"set a damaged store aside and rebuild the leases from the endpoints in the kernel")
	return cmd
}

func (a *app) check() *cobra.Command {
	return &cobra.Command{
		Use: "check", Short: "Validate the config as the daemon would", GroupID: groupHost,
		Args: arguments(), ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(*cobra.Command, []string) error {
			v, err := a.Check(a.config)
			if err != nil {
				return err
			}
			if !a.format.human() {
				v.Problems = append([]string{}, v.Problems...) // [] rather than null
				err = printValue(a.out, a.format, v)
			} else if len(v.Problems) == 0 {
				fmt.Fprintln(a.out, visible(strings.TrimSuffix(v.File+": ok: "+v.Summary, ": ")))
			} else {
				a.problems(v.Problems)
			}
			if err == nil && len(v.Problems) > 0 {
				err = errReported
			}
			return err
		},
	}
}

// problems prints one mistake per line and nothing before it, so that editors find file and line.
func (a *app) problems(problems []string) {
	for _, p := range problems {
		fmt.Fprintln(a.err, visible(p))
	}
}

func (a *app) reload() *cobra.Command {
	return &cobra.Command{
		Use: "reload", Short: "Apply the changed config, and wait until it is in force", GroupID: groupHost,
		Args: arguments(), ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client(reloadTimeout)
			if err != nil {
				return err
			}
			var r agent.ReloadResult
			raw, err := c.call(cmd.Context(), http.MethodPost, "/v1/reload", nil, &r)
			if err != nil {
				return a.reloadRefused(err)
			}
			return a.say(raw, reloadWords(r))
		},
	}
}

func reloadWords(r agent.ReloadResult) string {
	if len(r.Changed) == 0 {
		return "reloaded: nothing has changed"
	}
	return fmt.Sprintf("reloaded: %s changed\n  %s", count(len(r.Changed), "setting"), strings.Join(r.Changed, "\n  "))
}

// reloadRefused prints the problems as check does; a program gets the API's own object.
func (a *app) reloadRefused(err error) error {
	var r refusal
	if !errors.As(err, &r) {
		return about("reload", err)
	}
	if !a.format.human() {
		if err := printRaw(a.out, a.format, r.raw); err != nil {
			return err
		}
		return errReported
	}
	if len(r.Problems) == 0 {
		return about("reload", err)
	}
	fmt.Fprintf(a.err, "fairlead: reload: %s\n", visible(r.Failure.Error))
	a.problems(r.Problems)
	return errReported
}

func (a *app) drain() *cobra.Command {
	return &cobra.Command{
		Use: "drain", Short: "Withdraw this host's routes from its peers, before it is taken away", GroupID: groupHost,
		Args: arguments(), ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client(attachTimeout)
			if err != nil {
				return err
			}
			var done struct{}
			raw, err := c.call(cmd.Context(), http.MethodPost, "/v1/drain", nil, &done)
			if err != nil {
				return about("drain", err)
			}
			return a.say(raw, "drained: the peers no longer send traffic for this host's containers")
		},
	}
}

func (a *app) uninstall() *cobra.Command {
	return &cobra.Command{
		Use: "uninstall", Short: "Take everything of ours out of the kernel", GroupID: groupHost,
		Long: "Uninstall removes our links, routes, rules and neighbours, with or without a running daemon.\n" +
			"Containers lose their network. Endpoints are forgotten; the config and this host's block stay on disk.",
		Args: arguments(), ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client(reloadTimeout)
			if err != nil {
				return err
			}
			var r Removed
			raw, err := c.call(cmd.Context(), http.MethodPost, "/v1/uninstall", nil, &r)
			if err == nil {
				return a.say(raw, removedWords(r))
			}
			// A socket that was named and is silent may be a slip of the pen: then the daemon may well be running.
			if !errors.Is(err, errNoDaemon) || a.socket != "" {
				return about("uninstall", err)
			}
			r, err = a.Uninstall(cmd.Context(), a.config)
			if err != nil {
				return about("uninstall", err)
			}
			if !a.format.human() {
				return printValue(a.out, a.format, r)
			}
			fmt.Fprintln(a.out, visible(removedWords(r)))
			return nil
		},
	}
}

func removedWords(r Removed) string {
	if r.Count == 0 {
		return "nothing of ours is in the kernel"
	}
	words := fmt.Sprintf("removed %s from the kernel", count(r.Count, "object"))
	for _, o := range r.Objects {
		words += "\n  " + o
	}
	return words
}

// build is what `fairlead version` prints.
type build struct {
	Version  string `json:"version"`
	Commit   string `json:"commit"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

func (a *app) version() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version of this program", GroupID: groupHost,
		Args: arguments(), ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(*cobra.Command, []string) error {
			b := build{Version: a.Version, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
			if info, ok := debug.ReadBuildInfo(); ok {
				b.Commit = commit(info)
			}
			if !a.format.human() {
				return printValue(a.out, a.format, b)
			}
			_, err := fmt.Fprintf(a.out, "fairlead %s (%s, %s)\n", b.Version, b.Go, b.Platform)
			return err
		},
	}
}

func commit(info *debug.BuildInfo) string {
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			return s.Value
		}
	}
	return ""
}

// checkStore is run by the daemon on its own store before it opens it.
func (a *app) checkStore() *cobra.Command {
	return &cobra.Command{
		Use: "check-store FILE", Short: "Read a store file from end to end", Hidden: true, Args: arguments("FILE"),
		RunE: func(_ *cobra.Command, args []string) error { return a.CheckStore(args[0]) },
	}
}
