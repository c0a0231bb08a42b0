package main

import (
	"cmp"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/noipchat/noipchat/cmd/cli"
	"github.com/noipchat/noipchat/daemon/control"
)

const (
	defaultSocket  = "/run/noipchat/control.sock"
	defaultTimeout = 30 * time.Second
)

// app is what the global flags say.
type app struct {
	socket  string
	json    bool
	timeout time.Duration
}

func root() *cobra.Command {
	a := new(app)
	cmd := &cobra.Command{
		Use:   "noipctl [--socket PATH] [--json] COMMAND",
		Short: "noipctl administers the NoIPChat server of this machine",
		Example: `noipctl status
noipctl user add alice
noipctl user invite bob --valid 7d
noipctl queue list --json`,
	}
	flags := cmd.PersistentFlags()
	flags.StringVar(&a.socket, "socket", cmp.Or(os.Getenv("NOIPCHAT_SOCKET"), defaultSocket), "the daemon's control socket is at `PATH`; also $NOIPCHAT_SOCKET")
	flags.BoolVar(&a.json, "json", false, "print JSON, one object a line")
	flags.DurationVar(&a.timeout, "timeout", defaultTimeout, "wait so long for the daemon, 0s for ever; a `TIME` as 90s or 5m")
	cmd.AddCommand(a.statusCommand(), a.userCommand(), a.deviceCommand(), a.sessionCommand(), a.queueCommand(), a.peerCommand(), a.routeCommand(), a.traceCommand(), a.reloadCommand(), a.handoffCommand(), a.configCommand(), a.guideCommand(), a.checkCommand(), a.logCommand(), a.watchCommand(), a.exportCommand(), a.importCommand())
	return cmd
}

// daemon is who answers.
func (a *app) daemon() *control.Client {
	c := control.New(a.socket)
	c.Timeout = a.timeout
	return c
}

// done says that a change was made, and to what.
func (a *app) done(cmd *cobra.Command, name, what string) error {
	if a.json {
		return cli.JSON(cmd.OutOrStdout(), struct {
			Name string `json:"name"`
			Done string `json:"done"`
		}{name, what})
	}
	_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s: %s\n", cli.Sanitise(name), what)
	return err
}

// lines writes each of a list as a JSON line.
func lines[T any](cmd *cobra.Command, list []T) error {
	for _, v := range list {
		if err := cli.JSON(cmd.OutOrStdout(), v); err != nil {
			return err
		}
	}
	return nil
}

// oneLine joins the lines of an error.
func oneLine(s string) string { return strings.ReplaceAll(strings.TrimRight(s, "\n"), "\n", "; ") }

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func seconds(s float64) string { return cli.Age(time.Duration(s * float64(time.Second))) }
