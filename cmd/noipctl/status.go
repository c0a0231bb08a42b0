package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/noipchat/noipchat/cmd/cli"
	"github.com/noipchat/noipchat/daemon/control"
)

func (a *app) statusCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "show what runs, since when, and with which configuration",
		Long:  "Shows what runs, since when, and with which configuration. Exits 0 if the server runs, 69 if not.\nThe counters are in --json only.",
		Args:  cli.Args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := a.daemon().Status(cmd.Context())
			if err != nil {
				return err
			}
			if a.json {
				return cli.JSON(cmd.OutOrStdout(), s)
			}
			return statusTable(s).Write(cmd.OutOrStdout(), "")
		},
	}
}

func statusTable(s control.Status) *cli.Table {
	t := new(cli.Table)
	t.Row("server", s.Server)
	t.Row("running", fmt.Sprintf("since %s (%s), pid %d, version %s", when(s.Started), cli.Age(time.Since(s.Started)), s.PID, s.Version))
	t.Row("key", s.Key)
	t.Row("fingerprint", s.Fingerprint)
	t.Row("state", s.State)
	t.Row("config", fmt.Sprintf("%s, loaded %s", s.Config.Path, cli.Ago(s.Config.Loaded)))
	if s.Config.LastError != "" {
		t.Row("last reload", "REFUSED "+cli.Ago(s.Config.LastErrorAt)+", the configuration before it is live:")
		for line := range strings.Lines(s.Config.LastError) {
			t.Row(" ", strings.TrimRight(line, "\n"))
		}
	}
	if !s.Config.ReturnsAt.IsZero() {
		t.Row("to confirm", "by "+when(s.Config.ReturnsAt)+", or the configuration before returns: noipctl reload confirm")
	}
	for _, i := range s.Interfaces {
		line := i.State + " " + i.Kind + " " + i.Bind
		if len(i.Public) > 0 {
			line += ", public " + strings.Join(i.Public, ", ")
		}
		if i.Error != "" {
			line += ": " + i.Error
		}
		t.Row("interface", line)
	}
	t.Row("users", fmt.Sprintf("%d, sessions %d", s.Users, s.Sessions))
	waiting := fmt.Sprintf("%d with %d messages, %s", s.Queues.Count, s.Queues.Messages, cli.Size(s.Queues.Bytes))
	if s.Queues.Messages > 0 {
		waiting += ", the oldest for " + seconds(s.Queues.OldestSeconds)
	}
	t.Row("queues", waiting)
	disk := fmt.Sprintf("%s free, of which %s are kept in reserve", cli.Size(s.Disk.Free), cli.Size(s.Disk.Reserve))
	if s.Disk.Full {
		disk = "FULL, nothing is accepted: " + disk
	}
	t.Row("disk", disk)
	for _, h := range s.Handoffs {
		t.Row("handoff", cli.Ago(h.At)+" "+handoffLine(h))
	}
	for _, n := range s.Notices {
		t.Row("notice", n)
	}
	return t
}

// when writes a time for people, in their zone.
func when(t time.Time) string { return t.Local().Format("2006-01-02 15:04:05") }
