package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/noipchat/noipchat/cmd/cli"
)

func (a *app) reloadCommand() *cobra.Command {
	var confirm time.Duration
	cmd := &cobra.Command{
		Use:   "reload",
		Short: "take the configuration from disk",
		Long: "Takes the configuration from disk, which the server does by itself soon after a file\n" +
			"changes, and says what it changed; or what is wrong, and changes nothing. With --confirm\n" +
			"the configuration before the last change returns, unless you confirm in time.",
		Example: "noipctl reload\nnoipctl reload --confirm 60s",
		Args:    cli.Args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if confirm != 0 && confirm < time.Second {
				return cli.Misuse("", "--confirm %v: want 1s or more", confirm)
			}
			r, err := a.daemon().Reload(cmd.Context(), confirm)
			if err != nil {
				return err
			}
			w := cmd.OutOrStdout()
			if a.json {
				return cli.JSON(w, r)
			}
			for _, change := range r.Changes {
				fmt.Fprintln(w, cli.Sanitise(change))
			}
			if r.Handoff != nil {
				return sayHandoff(w, *r.Handoff)
			}
			if len(r.Changes) == 0 {
				fmt.Fprintln(w, "nothing changes")
			}
			if !r.ReturnsAt.IsZero() {
				fmt.Fprintf(w, "the configuration before returns at %s, unless you say: noipctl reload confirm\n", r.ReturnsAt.Local().Format(time.TimeOnly))
			}
			return nil
		},
	}
	cmd.Flags().DurationVar(&confirm, "confirm", 0, "return to the configuration before, unless confirmed within `TIME`")
	cmd.AddCommand(&cobra.Command{
		Use:     "confirm",
		Short:   "keep the configuration that reload --confirm has taken",
		Example: "noipctl reload confirm",
		Args:    cli.Args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := a.daemon().ConfirmReload(cmd.Context()); err != nil {
				return err
			}
			return a.done(cmd, "configuration", "confirmed")
		},
	})
	return cmd
}
