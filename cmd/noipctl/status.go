package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
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
			v, err := a.survey(cmd.Context())
			if err != nil {
				return err
			}
			if a.json {
				return cli.JSON(cmd.OutOrStdout(), v.Status)
			}
			return v.table().Write(cmd.OutOrStdout(), "")
		},
	}
}

// survey is the status, and what it only counts.
type survey struct {
	control.Status
	queues []control.Queue
	peers  []control.Peer
}

func (a *app) survey(ctx context.Context) (v survey, err error) {
	if v.Status, err = a.daemon().Status(ctx); err != nil || a.json {
		return v, err
	}
	if v.queues, err = a.daemon().Queues(ctx); err != nil {
		return v, err
	}
	v.peers, err = a.daemon().Peers(ctx)
	return v, err
}

// What a screen has room for.
const (
	shown         = 5 // queues
	shownHandoffs = 3
)

// table is the survey on one screen.
func (v survey) table() *cli.Table {
	s := v.Status
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
	v.queueRows(t)
	v.peerRows(t)
	disk := fmt.Sprintf("%s free, of which %s are kept in reserve", cli.Size(s.Disk.Free), cli.Size(s.Disk.Reserve))
	if s.Disk.Full {
		disk = "FULL, nothing is accepted: " + disk
	}
	t.Row("disk", disk)
	for _, n := range s.Notices {
		t.Row("notice", n)
	}
	before := max(0, len(s.Handoffs)-shownHandoffs)
	for _, h := range s.Handoffs[before:] {
		t.Row("handoff", cli.Ago(h.At)+" "+handoffLine(h))
	}
	if before > 0 {
		t.Row(" ", fmt.Sprintf("and %d before: noipctl status --json", before))
	}
	return t
}

// queueRows draws the largest queues.
func (v survey) queueRows(t *cli.Table) {
	queues := slices.SortedFunc(slices.Values(v.queues), func(a, b control.Queue) int { return cmp.Compare(b.Messages, a.Messages) })
	width := 0
	for _, q := range queues[:min(len(queues), shown)] {
		width = max(width, len(q.Name))
	}
	for n, q := range queues {
		if n == shown {
			t.Row(" ", fmt.Sprintf("and %d more: noipctl queue list", len(queues)-shown))
			break
		}
		line := fmt.Sprintf("%-*s %s %d for %s", width, q.Name, bar(q.Messages, queues[0].Messages), q.Messages, seconds(q.OldestSeconds))
		if q.Online {
			line += ", online"
		}
		if q.Suspended {
			line += ", suspended"
		}
		t.Row(" ", line)
	}
}

// bar is n of most, in a row of twelve.
func bar(n, most int) string {
	const width = 12
	full := (n*width + most - 1) / max(most, 1)
	return strings.Repeat("█", full) + strings.Repeat("░", width-full)
}

// up counts the links that are up.
func (v survey) up() (n int) {
	for _, p := range v.peers {
		if p.State == control.Up {
			n++
		}
	}
	return n
}

// peerRows draws the links to other servers.
func (v survey) peerRows(t *cli.Table) {
	if len(v.peers) == 0 {
		return
	}
	width := 0
	for _, p := range v.peers {
		width = max(width, len(p.Name))
	}
	t.Row("peers", fmt.Sprintf("%d, up %d", len(v.peers), v.up()))
	for _, p := range v.peers {
		line := "├╌╌╌✗ "
		switch p.State {
		case control.Up:
			line = "├════▶ "
		case control.Connecting:
			line = "├╌╌╌▷ "
		}
		line += fmt.Sprintf("%-*s %s", width, p.Name, p.State)
		if !p.Since.IsZero() {
			line += " for " + cli.Age(time.Since(p.Since))
		}
		if p.Remote != "" {
			line += ", " + p.Kind + " " + p.Remote
		}
		if p.RTTSeconds > 0 {
			line += fmt.Sprintf(", %.0f ms", p.RTTSeconds*1000)
		}
		if p.Messages > 0 {
			line += fmt.Sprintf(", %d wait", p.Messages)
		}
		if p.Standing == "waiting" || p.Standing == "distrusted" {
			line += ", " + p.Standing
		}
		if e := trouble(p); e != "" {
			line += ": " + e
		}
		t.Row(" ", line)
	}
}

// when writes a time for people, in their zone.
func when(t time.Time) string { return t.Local().Format("2006-01-02 15:04:05") }
