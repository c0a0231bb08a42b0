package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"filippo.io/age"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/noipchat/noipchat/cmd/cli"
	"github.com/noipchat/noipchat/daemon/backup"
	"github.com/noipchat/noipchat/daemon/config"
	"github.com/noipchat/noipchat/daemon/durable"
	"github.com/noipchat/noipchat/daemon/identity"
)

const (
	defaultState = "/var/lib/noipchat"
	stopUnits    = "systemctl stop noipchat.socket noipchat.service"
	startUnits   = "systemctl daemon-reload && systemctl enable --now noipchat.socket noipchat.service"
)

// export is what flags say of it.
type export struct {
	*app
	path, passphrase string
	recipients       []string
	stop, force      bool
	config, state    string
}

func (a *app) exportCommand() *cobra.Command {
	e := &export{app: a}
	cmd := &cobra.Command{
		Use:   "export FILE",
		Short: "write the whole server into one sealed file, while it runs",
		Long: "Writes key, accounts, devices, messages that wait, trust and configuration, as they are at one\n" +
			"moment, into a file that age encrypts: with a passphrase, or for keys. The server goes on. What\n" +
			"comes after that moment is not in it: to move a server, use --stop. FILE - is standard output.\n" +
			"Whoever can open the file can be this server.",
		Example: "noipctl export server1.age\nnoipctl export --recipient age1… - | ssh backup 'cat > server1.age'\nnoipctl export --stop move.age",
		Args:    cli.Args("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			e.path = args[0]
			return e.run(cmd)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&e.passphrase, "passphrase-file", "", "take the passphrase from the first line of `FILE`")
	flags.StringArrayVar(&e.recipients, "recipient", nil, "seal it for the `KEY` that age-keygen has printed (age1…), instead of a passphrase; may be repeated")
	flags.BoolVar(&e.stop, "stop", false, "stop the service first, so that nothing comes after")
	flags.BoolVar(&e.force, "force", false, "replace the file if it exists")
	flags.StringVar(&e.state, "state", "", "of a server that does not run: its state is in `DIR`")
	flags.StringVar(&e.config, "config", defaultConfig, "and its configuration in `FILE`; with --state only")
	return cmd
}

func (e *export) run(cmd *cobra.Command) error {
	to, err := e.to()
	if err != nil {
		return err
	}
	from, err := e.open(cmd.Context())
	if err != nil {
		return err
	}
	defer from.Close()
	var m backup.Manifest
	seal := func(w io.Writer) (err error) {
		m, err = sealTo(w, to, from)
		return err
	}
	switch {
	case e.path == "-":
		err = seal(cmd.OutOrStdout())
	case e.force:
		err = durable.WriteFunc(e.path, 0o600, seal)
	default:
		err = durable.CreateFunc(e.path, 0o600, seal)
	}
	if e.stop && err != nil {
		return &cli.Error{Code: cli.Explain(err).Code, Err: err, Hint: "the server is stopped; to start it again: " + startUnits}
	}
	if err != nil {
		return err
	}
	return e.say(cmd, m)
}

// to is for whom the file is sealed. What can be wrong is found before anything is done.
func (e *export) to() (to []age.Recipient, err error) {
	_, there := os.Lstat(e.path)
	switch {
	case e.path == "-" && e.json:
		return nil, cli.Misuse("without --json, or into a file", "standard output is for the export")
	case e.path == "-" && term.IsTerminal(int(os.Stdout.Fd())):
		return nil, cli.Misuse("send it into a file, or a pipe", "a terminal can't show an export")
	case there == nil && !e.force:
		return nil, &cli.Error{Code: cli.ExitIO, Err: fmt.Errorf("%s: %w", e.path, fs.ErrExist), Hint: "another name, or --force to replace it"}
	case e.passphrase != "" && len(e.recipients) > 0:
		return nil, cli.Misuse("one of them", "a file has a passphrase or recipients")
	case e.stop && e.state != "":
		return nil, cli.Misuse("one of them", "--state is for a server that does not run, --stop for one that does")
	}
	for _, r := range e.recipients {
		some, err := age.ParseRecipients(strings.NewReader(r))
		if err != nil {
			return nil, cli.Misuse("age-keygen prints it: age1…", "--recipient %q: no key of age", r)
		}
		to = append(to, some...)
	}
	if len(to) > 0 {
		return to, nil
	}
	p, err := e.secret(true, e.passphrase)
	if err != nil {
		return nil, err
	}
	r, err := age.NewScryptRecipient(p)
	return []age.Recipient{r}, err
}

// secret asks for the passphrase of a file.
func (a *app) secret(fresh bool, path string) (string, error) {
	hint := "use --passphrase-file FILE, or --identity FILE"
	if fresh {
		hint = "use --passphrase-file FILE, or --recipient age1…"
	}
	return cli.Password{Prompt: "passphrase of the export", New: fresh, File: path, Hint: hint}.Read()
}

// open asks the server for all of itself, or reads it where none runs.
func (e *export) open(ctx context.Context) (io.ReadCloser, error) {
	if e.state != "" {
		return e.stopped()
	}
	if !e.stop {
		return e.daemon().Export(ctx)
	}
	status, err := e.daemon().Status(ctx)
	if err != nil {
		return nil, err
	}
	if !onSystemd(status.Config.Path) {
		return nil, &cli.Error{Code: cli.ExitRefused, Err: errors.New("this server is no service of systemd's"),
			Hint: "stop it yourself, then: noipctl export --state " + status.State + " --config " + status.Config.Path + " FILE"}
	}
	if _, err := run(ctx, strings.Fields(stopUnits)...); err != nil {
		return nil, &cli.Error{Code: cli.ExitRefused, Err: err, Hint: "run it as root"}
	}
	e.state, e.config = status.State, status.Config.Path
	return e.stopped()
}

// stopped reads a server that does not run, and sees to it that none begins to.
func (e *export) stopped() (io.ReadCloser, error) {
	c, err := config.Load(e.config)
	if err != nil {
		return nil, err
	}
	files, err := config.Files(e.config)
	if err != nil {
		return nil, err
	}
	key, err := identity.LoadKey(filepath.Join(e.state, "key"))
	if err != nil {
		return nil, err
	}
	lock, err := durable.Lock(filepath.Join(e.state, backup.Lock))
	if err != nil {
		return nil, inUse(err)
	}
	state, err := backup.Files(e.state)
	if err != nil {
		lock.Close()
		return nil, err
	}
	r, w := io.Pipe()
	go func() {
		defer lock.Close()
		w.CloseWithError(backup.Write(w, backup.Source{
			Config: files, State: state, Manifest: backup.NewManifest(c.Name, key.Public().String(), key.Public().Fingerprint(), cli.Version(version)),
		}))
	}()
	return r, nil
}

func inUse(err error) error {
	if errors.Is(err, durable.ErrLocked) {
		return &cli.Error{Code: cli.ExitRefused, Err: fmt.Errorf("a server runs there: %w", err), Hint: stopUnits}
	}
	return err
}

// sealTo seals a stream, and looks whether all of it is there.
func sealTo(w io.Writer, to []age.Recipient, from io.Reader) (m backup.Manifest, err error) {
	out, err := age.Encrypt(w, to...)
	if err != nil {
		return m, err
	}
	p := cli.NewProgress()
	defer p.End()
	have := int64(0)
	err = backup.Read(io.TeeReader(from, out), func(now backup.Manifest) error { m = now; return nil },
		func(_ string, _ int64, r io.Reader) error { return counted(io.Discard, r, &have, m, p) })
	if err == nil {
		err = out.Close()
	}
	return m, err
}

// counted copies, and shows how far it is.
func counted(w io.Writer, r io.Reader, have *int64, m backup.Manifest, p *cli.Progress) error {
	_, err := io.Copy(w, io.TeeReader(r, writerFunc(func(b []byte) (int, error) {
		*have += int64(len(b))
		p.Show("%s of %s", cli.Size(*have), cli.Size(m.Bytes))
		return len(b), nil
	})))
	return err
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

func (e *export) say(cmd *cobra.Command, m backup.Manifest) error {
	if e.json {
		return cli.JSON(cmd.OutOrStdout(), struct {
			File string `json:"file"`
			backup.Manifest
			Stopped bool `json:"stopped"`
		}{e.path, m, e.stop})
	}
	w := cmd.OutOrStdout()
	if e.path == "-" {
		w = cmd.ErrOrStderr()
	}
	last := "What came after that is not in it. The server goes on."
	switch {
	case e.stop:
		last = "The server is stopped. Don't start it again once it was imported elsewhere: systemctl disable noipchat.socket noipchat.service"
	case e.state != "":
		last = "Don't start this server again once it was imported elsewhere."
	}
	_, err := fmt.Fprintf(w, "%s: %s, %d files, %s, as of %s\n%s\n", cli.Sanitise(e.path), cli.Sanitise(m.Server), m.Files, cli.Size(m.Bytes),
		m.Made.Local().Format(time.DateTime), last)
	return err
}
