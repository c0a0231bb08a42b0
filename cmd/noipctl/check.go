package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/noipchat/noipchat/cmd/cli"
	"github.com/noipchat/noipchat/daemon/config"
	"github.com/noipchat/noipchat/daemon/control"
)

// finding is something that is wrong, or will be, and what to type.
type finding struct {
	Level string `json:"level"` // severe or mild
	About string `json:"about"` // one word, which stays the same
	What  string `json:"what"`
	Type  string `json:"type"`
}

const (
	severe = "error"   // something doesn't work
	mild   = "warning" // it works, and somebody should look
)

// checkup is what the checks look at. Without a daemon, or without a good configuration,
// some see less.
type checkup struct {
	ctx  context.Context
	path string
	disk *config.Config // nil: bad, or not there

	status *control.Status // nil: no daemon answers
	live   *config.Config
	peers  []control.Peer
	routes []control.Route
	reach  []control.Reach

	found []finding
}

func (c *checkup) add(level, about, do, format string, args ...any) {
	c.found = append(c.found, finding{level, about, fmt.Sprintf(format, args...), do})
}

func (a *app) checkCommand() *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use:   "check",
		Short: "find what is wrong with this server, and say what to type",
		Long: "Looks for what goes wrong in practice, and says for each finding what to type: configuration,\n" +
			"ports, addresses, firewall, clock, disk, owners and modes of files, keys, peers, units. It changes\n" +
			"nothing, and sees most as root. Exits 0 if there is no error (warnings may be), 78 if there is one,\n" +
			"69 if all that is wrong is that the server does not run.",
		Example: "noipctl check\nnoipctl check --json | jq -r 'select(.level == \"error\").type'",
		Args:    cli.Args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			found := a.check(cmd.Context(), path)
			if a.json {
				if err := lines(cmd, found); err != nil {
					return err
				}
			} else {
				showFindings(cmd.OutOrStdout(), found)
			}
			return verdict(found)
		},
	}
	cmd.Flags().StringVar(&path, "config", "", "check the configuration in `FILE` instead of the daemon's own, or "+defaultConfig)
	return cmd
}

// check runs all checks, the severe findings first.
func (a *app) check(ctx context.Context, path string) []finding {
	c := &checkup{ctx: ctx, path: cmp.Or(path, defaultConfig)}
	status, err := a.daemon().Status(ctx)
	if err == nil {
		c.status, c.path = &status, cmp.Or(path, status.Config.Path)
	}
	c.configuration()
	c.running(err)
	if c.status != nil {
		if live, err := a.daemon().Configuration(ctx); err == nil {
			c.live, _ = config.Parse(live.Path, live.Text)
		}
		c.peers, _ = a.daemon().Peers(ctx)
		c.routes, _ = a.daemon().Routes(ctx)
		c.reach, _ = a.daemon().Reach(ctx)
	}
	c.old()
	c.interfaces()
	c.public()
	c.firewall()
	c.reached()
	c.clock()
	c.space()
	c.owners()
	c.keys()
	c.names()
	c.links()
	c.units()
	c.descriptors()
	c.notices()
	slices.SortStableFunc(c.found, func(a, b finding) int { return cmp.Compare(a.Level, b.Level) })
	return c.found
}

// verdict is the exit code of what was found.
func verdict(found []finding) error {
	n := 0
	code := cli.ExitUnreachable
	for _, f := range found {
		if f.Level == severe {
			n++
			if f.About != "running" {
				code = cli.ExitConfig
			}
		}
	}
	if n == 0 {
		return nil
	}
	what := fmt.Sprintf("%d errors", n)
	if n == 1 {
		what = "1 error"
	}
	return &cli.Error{Code: code, Err: errors.New(what)}
}

func showFindings(w io.Writer, found []finding) {
	for _, f := range found {
		fmt.Fprintf(w, "%-7s  %-13s  %s\n", f.Level, f.About, cli.Sanitise(f.What))
		for line := range strings.Lines(f.Type) {
			fmt.Fprintf(w, "%25s%s\n", "▸ ", cli.Sanitise(strings.TrimRight(line, "\n")))
		}
	}
	if len(found) == 0 {
		fmt.Fprintln(w, "nothing is wrong")
	}
}
