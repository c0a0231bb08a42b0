package main

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/noipchat/noipchat/cmd/cli"
)

func (a *app) reloadCommand() *cobra.Command {
	var confirm time.Duration
	cmd := &cobra.Command{
		Use:     "reload",
		Short:   "take the configuration from disk",
		Example: "noipctl reload\nnoipctl reload --confirm 60s",
		Args:    cli.Args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if confirm != 0 && confirm < time.Second {
				return cli.Misuse("", "--confirm %v: want 1s or more", confirm)
			}
			if err := a.daemon().Reload(cmd.Context(), confirm); err != nil {
				return err
			}
			return a.done(cmd, "configuration", "reloaded")
		},
	}
	cmd.Flags().DurationVar(&confirm, "confirm", 0, "return to the configuration before, unless confirmed within `TIME`")
	return cmd
}
