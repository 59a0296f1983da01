package cli

import "github.com/spf13/cobra"

func (a *app) doctor() *cobra.Command {
	return &cobra.Command{Use: "doctor", Short: "Check this host, and name the command that mends each finding", GroupID: groupHost,
		Args: arguments(), RunE: func(*cobra.Command, []string) error { return nil }}
}
