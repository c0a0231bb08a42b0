package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/noipchat/noipchat/cmd/cli"
	"github.com/noipchat/noipchat/daemon/client"
	"github.com/noipchat/noipchat/daemon/message"
)

// app is what the global flags say.
type app struct {
	home    string
	profile string
	log     string
	json    bool
}

func root() *cobra.Command {
	a := new(app)
	cmd := &cobra.Command{
		Use:   "noipchat [--profile NAME | --home DIR] [--json] COMMAND",
		Short: "noipchat sends and receives messages over NoIPChat",
		Example: `noipchat login alice@server1 --server 203.0.113.5:10001
noipchat send bob@server1 -m 'are you there?'
noipchat receive --timeout 60s`,
	}
	flags := cmd.PersistentFlags()
	flags.StringVar(&a.home, "home", os.Getenv("NOIPCHAT_HOME"), "keep everything in the folder `DIR`; also $NOIPCHAT_HOME")
	flags.StringVar(&a.profile, "profile", "default", "use the profile `NAME`; each is a device of its own")
	flags.StringVar(&a.log, "log", "", "write what the connection does to the file `PATH`, - for standard error")
	flags.BoolVar(&a.json, "json", false, "print JSON, one object a line")
	cmd.AddCommand(a.loginCommand(), a.joinCommand(), a.sendCommand(), a.receiveCommand(), a.statusCommand(),
		a.historyCommand(), a.contactCommand(), a.listCommand(), a.deviceCommand(), a.serverCommand(), a.passwdCommand())
	return cmd
}

// folder is where the profile's store is.
func (a *app) folder() (string, error) {
	if err := message.CheckName(a.profile); err != nil {
		return "", cli.Misuse("a profile's name is made of a-z 0-9 - .", "--profile: %w", err)
	}
	if a.home != "" {
		return filepath.Join(a.home, a.profile), nil
	}
	state := os.Getenv("XDG_STATE_HOME")
	if !filepath.IsAbs(state) { // as the specification has it
		home, err := os.UserHomeDir()
		if err != nil {
			return "", cli.Misuse("give the folder with --home", "there is no home folder: %w", err)
		}
		state = filepath.Join(home, ".local", "state")
	}
	return filepath.Join(state, "noipchat", a.profile), nil
}

// open opens the profile's store.
func (a *app) open() (*client.Store, error) {
	dir, err := a.folder()
	if err != nil {
		return nil, err
	}
	store, err := client.OpenStore(dir)
	if errors.Is(err, client.ErrMisuse) {
		err = cli.Misuse("another profile: --profile NAME; or another folder: --home DIR", "%w", err)
	}
	return store, err
}

// options are the client's, with the log that was asked for.
func (a *app) options() (client.Options, error) {
	o := client.Options{Agent: "noipchat/" + cli.Version(version)}
	if a.log == "" {
		return o, nil
	}
	w := io.Writer(os.Stderr)
	if a.log != "-" {
		f, err := os.OpenFile(a.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			return o, fmt.Errorf("opening the log: %w", err)
		}
		w = f // until the process ends
	}
	o.Log = slog.New(slog.NewTextHandler(w, nil))
	return o, nil
}

// untilSignal is a context that INT and TERM end, and a time-out above zero. A second
// signal ends the process, which may be stuck in writing to somebody who doesn't read.
func untilSignal(ctx context.Context, timeout time.Duration) (context.Context, context.CancelFunc) {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	if timeout <= 0 {
		return ctx, stop
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	return ctx, func() { cancel(); stop() }
}
