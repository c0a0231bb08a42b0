package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/noipchat/noipchat/cmd/cli"
)

func (a *app) sessionCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "session",
		Short:   "list and close sessions",
		Long:    "Devices that are logged in and connected.",
		Example: "noipctl session list\nnoipctl session close 17",
	}
	cmd.AddCommand(a.sessionList(), a.sessionClose())
	return cmd
}

func (a *app) sessionList() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "list who is connected",
		Long: "Lists who is connected. SENT counts the messages that the device has sent,\n" +
			"RECEIVED those that it has acked, WAITING those in its queue.",
		Example: "noipctl session list --json",
		Args:    cli.Args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			sessions, err := a.daemon().Sessions(cmd.Context())
			if err != nil {
				return err
			}
			if a.json {
				return lines(cmd, sessions)
			}
			t := new(cli.Table)
			t.Row("ID", "USER", "DEVICE", "FROM", "SINCE", "IN", "OUT", "SENT", "RECEIVED", "WAITING")
			for _, s := range sessions {
				t.Row(s.ID, string(s.User), s.Device.String(), s.Kind+" "+s.Remote, cli.Ago(s.Since), cli.Size(s.BytesIn),
					cli.Size(s.BytesOut), fmt.Sprint(s.Sent), fmt.Sprint(s.Received), fmt.Sprint(s.Waiting))
			}
			return t.Write(cmd.OutOrStdout(), "no sessions")
		},
	}
}

func (a *app) sessionClose() *cobra.Command {
	return &cobra.Command{
		Use:               "close ID",
		ValidArgsFunction: complete(false, a.sessionIDs),
		Short:             "close a session; its client may come back",
		Example:           "noipctl session close 17",
		Args:              cli.Args("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.daemon().CloseSession(cmd.Context(), args[0]); err != nil {
				return err
			}
			return a.done(cmd, args[0], "closed")
		},
	}
}
