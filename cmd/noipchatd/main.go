// Command noipchatd is the server. It reads its TOML, serves until it is told to
// stop, and exits with the codes of docs/architecture.md; all else is package
// daemon's. "noipchatd demo" shows what it is for on this machine.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/noipchat/noipchat/cmd/cli"
	"github.com/noipchat/noipchat/daemon"
	"github.com/noipchat/noipchat/daemon/config"
	"github.com/noipchat/noipchat/daemon/durable"
	"github.com/noipchat/noipchat/daemon/identity"
	"github.com/noipchat/noipchat/daemon/systemd"
	"github.com/noipchat/noipchat/daemon/transport"
)

var version string // set by the linker: -X main.version=…

const help = `noipchatd is the NoIPChat server. It is usually started by systemd.

usage: noipchatd [--config FILE] [--state DIR] [--runtime DIR] [--check]
       noipchatd --stdio [--runtime DIR] [--line PROPERTIES]
       noipchatd demo [--keep]

  --config FILE   configuration (default /etc/noipchat/noipchat.toml), and conf.d beside it
  --state DIR     what must survive: key, users, spool (default /var/lib/noipchat)
  --runtime DIR   the sockets for control and for --stdio (default /run/noipchat)
  --check         say what is wrong with configuration and state, and change nothing
  --stdio         connect standard input and output to the server that runs, as ssh and
                  other programs need it that carry a client's or a server's connection
  --line          what is known of the line behind --stdio, between commas: rate=1200
                  (bits per second), latency=2.5s (one way), metered, exclusive
  --version       say which version this is

  demo            in a temporary folder: a server and three users, a message to two of
                  them, one away, a handoff and a kill in between; then three servers
                  in a row that are never all up; every step is shown
  --keep          then leave it running until Ctrl-C, with two lines to chat with

example: noipchatd --check --config ./noipchat.toml

Signals: HUP takes the configuration from disk; USR2 hands all connections over to the
program that is installed now; TERM stops in order, a second one at once.
`

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, stdout, stderr io.Writer) int {
	if filepath.Base(os.Args[0]) == generatorName {
		return report(stderr, generator(args))
	}
	program := cli.Version(version)
	if len(args) > 0 && args[0] == "demo" {
		return report(stderr, demo(args[1:], stdout))
	}
	flags := flag.NewFlagSet("noipchatd", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	o := daemon.Options{Version: program}
	flags.StringVar(&o.Config, "config", "/etc/noipchat/noipchat.toml", "")
	flags.StringVar(&o.State, "state", "/var/lib/noipchat", "")
	flags.StringVar(&o.Runtime, "runtime", "/run/noipchat", "")
	check := flags.Bool("check", false, "")
	stdio := flags.Bool("stdio", false, "")
	line := flags.String("line", "", "")
	showVersion := flags.Bool("version", false, "")
	err := flags.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		io.WriteString(stdout, help)
		return cli.ExitDone
	case err != nil:
		return report(stderr, cli.Misuse("see: noipchatd --help", "%v", err))
	case flags.NArg() > 0:
		return report(stderr, cli.Misuse("see: noipchatd --help", "what is %q?", flags.Arg(0)))
	case *showVersion:
		fmt.Fprintln(stdout, "noipchatd", program)
		return cli.ExitDone
	case *line != "" && !*stdio:
		return report(stderr, cli.Misuse("see: noipchatd --help", "--line is for --stdio"))
	case *stdio:
		return report(stderr, splice(o.Runtime, *line))
	case *check:
		err, asked := daemon.Check(o), false
		if err == nil {
			asked, err = daemon.CheckCarried(o, os.Stdin, stdout)
		}
		if err == nil && !asked {
			fmt.Fprintf(stdout, "%s is good\n", o.Config)
		}
		return report(stderr, err)
	}
	code := report(stderr, serve(o, args))
	if code == cli.ExitConfig && systemd.Managed() {
		// Whoever connects starts us again. Too many starts in a row, and systemd gives the socket up.
		time.Sleep(time.Second / 2)
	}
	return code
}

// splice connects standard input and output to the server that runs.
func splice(runtime, line string) error {
	properties, err := transport.ParseProperties(line)
	if err != nil {
		return cli.Misuse("as --line rate=1200,latency=2.5s,exclusive", "--line: %w", err)
	}
	signal.Ignore(syscall.SIGPIPE) // the end of the other side is an end as any
	a := transport.Address{Kind: "unix", Remote: daemon.StdioSocket(runtime), Line: properties}
	conn, err := a.Dial(context.Background(), nil)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return &cli.Error{Code: cli.ExitUnreachable, Err: fmt.Errorf("no server runs here: %w", err),
			Hint: "systemctl status noipchat; if its folder is another one: --runtime DIR"}
	}
	if err != nil {
		return err
	}
	return transport.Splice(conn, os.Stdin, os.Stdout)
}

// serve runs the server until a signal ends it.
func serve(o daemon.Options, args []string) (err error) {
	relaxCollector() // first: sessions wait for a handoff
	// Programs in other folders are told these. Runtime stays as it is: the path of a socket has 107 bytes at most.
	for _, path := range []*string{&o.Config, &o.State} {
		if *path, err = filepath.Abs(*path); err != nil {
			return err
		}
	}
	if o.Carried, err = daemon.Receive(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	s := listen()
	c, err := config.Load(o.Config) // for where to log; Open reads it again
	if err != nil {
		for _, s := range systemd.Inherited() {
			systemd.TurnAway(s.File)
		}
		return err
	}
	var closed error
	if o.Log, o.Reopen, closed = logger(c.Log); closed != nil {
		o.Log.Error("this log goes to standard error, until noipctl reload finds the file", "error", closed)
		o.Notices = append(o.Notices, closed.Error())
	}
	program, err := os.Executable() // now: later it may have been replaced
	if err != nil {
		return err
	}
	o.Image = &daemon.Image{Program: program, Args: args, Deafen: s.deafen, Hear: s.hear}
	d, err := daemon.Open(ctx, o)
	if err != nil {
		return err
	}
	go s.obey(ctx, d)
	go s.stop(o.Log, cancel)
	if err := d.Run(ctx); err != nil {
		return err
	}
	o.Log.Info("stopped")
	return nil
}

// logger makes the log that the configuration asks for, and how to open it again. After an
// error it is another one: people can talk without it.
func logger(where string) (log *slog.Logger, reopen func() error, err error) {
	switch {
	case filepath.IsAbs(where):
		f := &logFile{path: where, f: os.Stderr}
		err = f.reopen()
		return slog.New(slog.NewTextHandler(f, nil)), f.reopen, err
	case where == "journal" && systemd.ToJournal():
		return slog.New(systemd.NewHandler(os.Stderr, slog.LevelInfo)), nil, nil
	}
	return slog.New(slog.NewTextHandler(os.Stderr, nil)), nil, nil
}

// report says what went wrong, and returns the exit code.
func report(w io.Writer, err error) int {
	if err == nil {
		return cli.ExitDone
	}
	return cli.Report(w, "noipchatd", explain(err))
}

func explain(err error) *cli.Error {
	var bad config.Errors
	switch {
	case errors.As(err, &bad):
		return &cli.Error{Code: cli.ExitConfig, Err: err, Hint: bad.Hint()}
	case errors.Is(err, daemon.ErrHalf):
		return &cli.Error{Code: cli.ExitConfig, Err: err, Hint: "move the configuration away, and again: noipctl import FILE"}
	case errors.Is(err, durable.ErrLocked):
		return &cli.Error{Code: cli.ExitRefused, Err: err, Hint: "another noipchatd uses this folder: systemctl status noipchat"}
	case errors.Is(err, syscall.EADDRINUSE):
		return &cli.Error{Code: cli.ExitConfig, Err: err, Hint: "another program listens there: ss -ltnp"}
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return &cli.Error{Code: cli.ExitConfig, Err: err, Hint: "no interface of this machine has that address: ip addr"}
	case errors.Is(err, os.ErrPermission):
		return &cli.Error{Code: cli.ExitRefused, Err: err, Hint: "the service runs as the user noipchat, and all of its state must be his: chown -R noipchat: /var/lib/noipchat\nBy hand, run it as that user, or give other folders with --state and --runtime"}
	case errors.Is(err, identity.ErrSpoilt):
		return &cli.Error{Code: cli.ExitIO, Err: err, Hint: "nothing in the state was changed; what to do is said with each file"}
	}
	return cli.Explain(err)
}
