package cli

import (
	"context"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/fairlead-net/fairlead/agent"
)

func (a *app) completion() *cobra.Command {
	return &cobra.Command{
		Use: "completion bash|zsh|fish", Short: "Print the completion script of a shell", GroupID: groupHost,
		Example: "  fairlead completion bash > /usr/share/bash-completion/completions/fairlead",
		Args:    arguments("SHELL"), ValidArgs: []string{"bash", "zsh", "fish"},
		RunE: func(cmd *cobra.Command, args []string) error {
			switch args[0] {
			case "bash":
				return cmd.Root().GenBashCompletionV2(a.out, true)
			case "zsh":
				return cmd.Root().GenZshCompletion(a.out)
			case "fish":
				return cmd.Root().GenFishCompletion(a.out, true)
			}
			return misusef("unknown shell %q: want bash, zsh or fish", args[0])
		},
	}
}

// source lists what may be typed; what can not be found out is not offered, and no error disturbs the command line.
type source func(ctx context.Context, a *app) []string

func complete(a *app, cmd *cobra.Command, s source, but []string) ([]string, cobra.ShellCompDirective) {
	offers := slices.DeleteFunc(s(cmd.Context(), a), func(offer string) bool {
		name, _, _ := strings.Cut(offer, "\t")
		return slices.Contains(but, name)
	})
	return offers, cobra.ShellCompDirectiveNoFileComp
}

func (a *app) completeFlag(cmd *cobra.Command, flag string, s source) {
	_ = cmd.RegisterFlagCompletionFunc(flag,
		func(cmd *cobra.Command, _ []string, word string) ([]string, cobra.ShellCompDirective) {
			if strings.Contains(word, "/") {
				return nil, cobra.ShellCompDirectiveDefault
			}
			return complete(a, cmd, s, nil)
		})
}

// completeFirst completes the first argument and no other.
func (a *app) completeFirst(s source) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return complete(a, cmd, s, nil)
	}
}

// completeEndpoints offers the endpoints that are not on the line yet.
func (a *app) completeEndpoints(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if cmd.Args != nil && cmd.Args(cmd, append(slices.Clone(args), "one more")) != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return complete(a, cmd, endpointNames, args)
}

func endpointNames(ctx context.Context, a *app) []string {
	var endpoints []agent.Endpoint
	a.ask(ctx, "/v1/endpoints", &endpoints)
	var names []string
	for _, e := range endpoints {
		names = append(names, e.Name+"\t"+joined(e.Addresses))
	}
	return names
}

// endpointOrReservation are the names that env knows.
func endpointOrReservation(ctx context.Context, a *app) []string {
	names := endpointNames(ctx, a)
	for _, p := range a.published(ctx) {
		if p.State == "reserved" {
			names = append(names, p.Endpoint+"\treserved")
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func (a *app) published(ctx context.Context) []agent.Port {
	var ports []agent.Port
	a.ask(ctx, "/v1/ports", &ports)
	return ports
}

// completePublished offers who has ports, and then the SPECs of those ports that are not on the line yet.
func (a *app) completePublished(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	offers := func(ctx context.Context, a *app) []string {
		var texts []string
		for _, p := range a.published(ctx) {
			if len(args) == 0 {
				texts = append(texts, p.Endpoint)
			} else if p.Endpoint == args[0] {
				texts = append(texts, spec(p))
			}
		}
		slices.Sort(texts)
		return slices.Compact(texts)
	}
	return complete(a, cmd, offers, args[min(1, len(args)):])
}

func networks(ctx context.Context, a *app) []string {
	var endpoints []agent.Endpoint
	a.ask(ctx, "/v1/endpoints", &endpoints)
	var names []string
	for _, e := range endpoints {
		if e.Network != "" {
			names = append(names, e.Network)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func pools(ctx context.Context, a *app) []string {
	var s agent.Status
	a.ask(ctx, "/v1/status", &s)
	var names []string
	for _, p := range s.Pools {
		names = append(names, p.Name+"\t"+p.CIDR.String())
	}
	return names
}

// namespaces are the named ones of iproute2 and of what follows its convention.
func namespaces(context.Context, *app) []string {
	entries, err := os.ReadDir("/run/netns")
	if err != nil {
		return nil
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// ask leaves v empty when the daemon does not answer at once.
func (a *app) ask(ctx context.Context, path string, v any) {
	if c, err := a.client(tabTimeout); err == nil {
		_, _ = c.get(ctx, path, v)
	}
}
