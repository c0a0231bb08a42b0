package main

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/noipchat/noipchat/cmd/cli"
	"github.com/noipchat/noipchat/daemon/control"
)

func (a *app) handoffCommand() *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use:   "handoff",
		Short: "let the installed program take over, with all sessions",
		Long: "Has the server hand over to the program that is installed now, as the upgrade of a\n" +
			"package does: same process, same sockets, same sessions. Nobody is disconnected. If\n" +
			"anything is wrong with the new program, or what it would get, the old one goes on,\n" +
			"and the error says why.",
		Example: "noipctl handoff\nnoipctl handoff --reason 'trying the new build'",
		Args:    cli.Args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			h, err := a.daemon().Handoff(cmd.Context(), reason)
			if err != nil {
				return err
			}
			if a.json {
				return cli.JSON(cmd.OutOrStdout(), h)
			}
			return sayHandoff(cmd.OutOrStdout(), h)
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "an admin", "why, as `TEXT` for the log and noipctl status")
	return cmd
}

func sayHandoff(w io.Writer, h control.Handoff) error {
	_, err := fmt.Fprintln(w, cli.Sanitise("handed over "+handoffLine(h)))
	return err
}

// handoffLine is a handoff on one line.
func handoffLine(h control.Handoff) string {
	if h.Error != "" {
		return fmt.Sprintf("FAILED, %s goes on (%s): %s", h.From, h.Reason, oneLine(h.Error))
	}
	line := fmt.Sprintf("from %s to %s, %d sessions and %d links, pause %v (%s)", h.From, h.To, h.Sessions, h.Links,
		time.Duration(h.PauseSeconds*float64(time.Second)).Round(100*time.Microsecond), h.Reason)
	if h.Closed > 0 {
		line += fmt.Sprintf("; %d connections had to come again", h.Closed)
	}
	return line
}
