package main

import (
	"github.com/spf13/cobra"

	"github.com/noipchat/noipchat/cmd/cli"
)

func (a *app) traceCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "trace ID",
		ValidArgsFunction: complete(false, a.waitingIDs),
		Short:             "show what became of a message",
		Example:           "noipctl trace 00112233445566778899aabbccddeeff",
		Args:              cli.Args("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := parseID(args[0])
			if err != nil {
				return err
			}
			trace, err := a.daemon().Trace(cmd.Context(), id)
			if err != nil {
				return err
			}
			if a.json {
				return cli.JSON(cmd.OutOrStdout(), trace)
			}
			t := new(cli.Table)
			t.Row("TIME", "SERVER", "EVENT", "RECEIVER", "DETAIL")
			for _, e := range trace.Events {
				t.Row(when(e.At), e.Server, e.Event, string(e.Receiver), e.Detail)
			}
			return t.Write(cmd.OutOrStdout(), "nothing is known of this message")
		},
	}
}
