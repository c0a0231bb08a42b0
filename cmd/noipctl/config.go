package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/noipchat/noipchat/cmd/cli"
	"github.com/noipchat/noipchat/daemon/config"
)

func (a *app) configCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "show, test and compare the configuration",
		Example: `noipctl config show
noipctl config test /etc/noipchat/noipchat.toml
noipctl config diff /etc/noipchat/noipchat.toml`,
	}
	cmd.AddCommand(a.configShow(), a.configTest(), a.configDiff())
	return cmd
}

func (a *app) configShow() *cobra.Command {
	return &cobra.Command{
		Use:   "show",
		Short: "show the live configuration, and where each value comes from",
		Long: "Shows the configuration that is live, every key of it, and where each value comes from.\n" +
			"CHANGE is hot if a new value is taken while the server runs, handoff if it is taken by\n" +
			"a handoff, which disconnects nobody either, and restart if by neither.",
		Example: "noipctl config show",
		Args:    cli.Args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.daemon().Configuration(cmd.Context())
			if err != nil {
				return err
			}
			if a.json {
				return lines(cmd, c.Values)
			}
			t := new(cli.Table)
			t.Row("KEY", "VALUE", "CHANGE", "FROM")
			for _, v := range c.Values {
				change := "restart"
				switch {
				case v.Hot:
					change = "hot"
				case v.Handoff:
					change = "handoff"
				}
				t.Row(v.Key, v.Value, change, v.Origin)
			}
			return t.Write(cmd.OutOrStdout(), "")
		},
	}
}

func (a *app) configTest() *cobra.Command {
	return &cobra.Command{
		Use:   "test FILE",
		Short: "say everything that is wrong with a file, and conf.d beside it",
		Long: "Says everything that is wrong with a configuration file, and with conf.d beside it.\n" +
			"The server need not run. Exits 0 if the file is good, 78 if not.",
		Example: "noipctl config test ./noipchat.toml",
		Args:    cli.Args("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if _, err := config.Load(args[0]); err != nil {
				return err
			}
			return a.done(cmd, args[0], "good")
		},
	}
}

func (a *app) configDiff() *cobra.Command {
	return &cobra.Command{
		Use:   "diff FILE",
		Short: "show what would change if a file were live",
		Long: "Shows what would change if a configuration file, with conf.d beside it, were live:\n" +
			"+ for what comes, - for what goes, ~ for what changes.",
		Example: "noipctl config diff /etc/noipchat/noipchat.toml",
		Args:    cli.Args("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			after, err := config.Load(args[0])
			if err != nil {
				return err
			}
			live, err := a.daemon().Configuration(cmd.Context())
			if err != nil {
				return err
			}
			before, err := config.Parse(live.Path, live.Text)
			if err != nil {
				return fmt.Errorf("reading what the daemon says: %w", err)
			}
			changes := config.Diff(before, after)
			if a.json {
				return lines(cmd, changes)
			}
			w := cmd.OutOrStdout()
			for _, c := range changes {
				line := c.String()
				switch {
				case c.Handoff:
					line += "   (by a handoff)"
				case !c.Hot:
					line += "   (needs a restart)"
				}
				fmt.Fprintln(w, cli.Sanitise(line))
			}
			if len(changes) == 0 {
				fmt.Fprintln(w, "no difference")
			}
			return nil
		},
	}
}
