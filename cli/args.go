package cli

import (
	"strings"

	"github.com/spf13/cobra"
)

// arguments accepts one argument for each name; a last name that ends in "..." takes one or more, and one in brackets
// may be left out.
func arguments(names ...string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		for i, name := range names {
			optional := strings.HasPrefix(name, "[")
			switch {
			case i >= len(args) && !optional:
				return misusef("%s is missing", strings.TrimSuffix(name, "..."))
			case i < len(args) && args[i] == "":
				return misusef("%s is empty", strings.Trim(name, "[].")) // a shell variable that was not set
			case i < len(args) && strings.HasSuffix(name, "..."):
				return noneEmpty(name, args[i:])
			}
		}
		if len(args) > len(names) {
			return misusef("unexpected argument %q", args[len(names)])
		}
		return nil
	}
}

func noneEmpty(name string, args []string) error {
	for _, s := range args {
		if s == "" {
			return misusef("%s is empty", strings.TrimSuffix(name, "..."))
		}
	}
	return nil
}

// noCommand is what the bare program says: there is nothing to do, so nothing was done.
func noCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return misusef("no command given")
	}
	near := cmd.SuggestionsFor(args[0])
	if len(near) == 0 {
		return misusef("unknown command %q", args[0])
	}
	return misusef("unknown command %q, did you mean %s?", args[0], strings.Join(near, " or "))
}
