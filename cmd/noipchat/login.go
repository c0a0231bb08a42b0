package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/noipchat/noipchat/cmd/cli"
	"github.com/noipchat/noipchat/daemon/client"
	"github.com/noipchat/noipchat/daemon/identity"
	"github.com/noipchat/noipchat/daemon/message"
	"github.com/noipchat/noipchat/daemon/transport"
	"github.com/noipchat/noipchat/daemon/wire"
)

func (a *app) loginCommand() *cobra.Command {
	var servers []string
	var key, label string
	var trustFirst, stdin bool
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "login ADDRESS",
		Short: "make this profile a device of your account",
		Long: `Makes this profile a device of your account. The password is sent once, and only to a
server whose key you have confirmed: compare it with what its admin tells you (noipctl
status), or give it with --key. From then on the device has a key of its own.`,
		Example: `noipchat login alice@server1 --server 203.0.113.5:10001
echo 'correct horse' | noipchat login alice@server1 --server 203.0.113.5:10001 --key noip1… --password-stdin`,
		Args: cli.Args("ADDRESS"),
		RunE: func(cmd *cobra.Command, args []string) error {
			address, err := message.ParseUser(args[0])
			if err != nil {
				return cli.Misuse("write it as alice@server1", "%w", err)
			}
			e := client.Entry{Address: address, Servers: servers, Label: deviceLabel(label), Standing: identity.Pinned}
			if key != "" {
				if e.Key, err = identity.ParsePublicKey(key); err != nil {
					return cli.Misuse("copy it whole: it begins with noip1", "--key: %w", err)
				}
			}
			ctx, cancel := untilSignal(cmd.Context(), 0)
			defer cancel()
			return a.enter(ctx, cmd, e, timeout, trustFirst, cli.Password{Prompt: "password of " + string(address), Stdin: stdin})
		},
	}
	flags := cmd.Flags()
	flags.StringArrayVar(&servers, "server", nil, "the home server is at `ADDRESS`: IP:PORT, unix:PATH or 'exec:COMMAND'; may be given more than once")
	flags.StringVar(&key, "key", "", "the home server's `KEY`, noip1…")
	flags.BoolVar(&trustFirst, "trust-first", false, "believe the key that the server shows")
	loginFlags(cmd, &label, &timeout, &stdin)
	return cmd
}

func loginFlags(cmd *cobra.Command, label *string, timeout *time.Duration, stdin *bool) {
	flags := cmd.Flags()
	flags.StringVar(label, "label", "", "call this device `TEXT`; left out: this machine's name")
	flags.DurationVar(timeout, "timeout", 30*time.Second, "wait at most so long for the server; a `TIME` as 90s or 5m")
	flags.BoolVar(stdin, "password-stdin", false, "read the password from a line of standard input")
}

func (a *app) joinCommand() *cobra.Command {
	var user, label string
	var stdin bool
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "join LINE",
		Short: "make an account and its first device from an invitation",
		Long: `Makes an account and its first device from an invitation, a line that an admin made with
"noipctl user invite". Quote the line: it has characters that are special to a shell.`,
		Example: "noipchat join 'noipchat://server1@203.0.113.5:10001/?key=noip1…&invite=…' --user alice",
		Args:    cli.Args("LINE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := identity.ParseLine(args[0])
			if err != nil {
				return cli.Misuse("copy it whole, and quote it", "%w", err)
			}
			name := user
			if name == "" {
				name = l.User
			}
			if name == "" {
				return cli.Misuse("choose a name: --user alice", "the invitation is for no one name")
			}
			address, err := message.ParseUser(name + "@" + l.Server)
			if err != nil {
				return cli.Misuse("names are made of a-z 0-9 - .", "%w", err)
			}
			e := client.Entry{
				Address: address, Servers: l.Addresses, Key: l.Key, Standing: identity.Pinned,
				Join: true, Invite: l.Invite, Label: deviceLabel(label),
			}
			ctx, cancel := untilSignal(cmd.Context(), 0)
			defer cancel()
			return a.enter(ctx, cmd, e, timeout, false, cli.Password{Prompt: "password for " + string(address), Stdin: stdin, New: true})
		},
	}
	cmd.Flags().StringVar(&user, "user", "", "take the `NAME`, if the invitation leaves it to you")
	loginFlags(cmd, &label, &timeout, &stdin)
	return cmd
}

func deviceLabel(given string) string {
	if given != "" {
		return given
	}
	host, _ := os.Hostname()
	return host
}

// enter proves the server's key, asks for the password, and logs in.
func (a *app) enter(ctx context.Context, cmd *cobra.Command, e client.Entry, timeout time.Duration, trustFirst bool, password cli.Password) error {
	if len(e.Servers) == 0 {
		return cli.Misuse("give it with --server IP:PORT", "where is %s?", e.Address.Server())
	}
	if err := checkServers(e.Servers); err != nil {
		return err
	}
	if len(e.Label) > wire.MaxLabel || !utf8.ValidString(e.Label) {
		return cli.Misuse("give another one: --label TEXT", "the label %.80q is longer than %d bytes, or not UTF-8", e.Label, wire.MaxLabel)
	}
	store, err := a.open()
	if err != nil {
		return err
	}
	defer store.Close()
	if old, known, err := store.Account(); err != nil {
		return err
	} else if known && old.Address != e.Address { // before a server is asked, and a password
		return cli.Misuse("use another one: --profile "+e.Address.User(), "this profile is a device of %s already", old.Address)
	}
	options, err := a.options()
	if err != nil {
		return err
	}
	if err := a.prove(ctx, store, &e, options, timeout, trustFirst); err != nil {
		return err
	}
	if e.Password, err = password.Read(); err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	account, err := client.Login(limited, store, e, options)
	if err != nil {
		return err
	}
	if a.json {
		return cli.JSON(cmd.OutOrStdout(), struct {
			Address message.Address  `json:"address"`
			Device  message.DeviceID `json:"device"`
			Servers []string         `json:"servers"`
		}{account.Address, account.Device, account.Servers})
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "this is now a device of %s: %s\n", account.Address, account.Device)
	return err
}

func checkServers(servers []string) error {
	for _, s := range servers {
		if _, err := transport.ParseAddress(s); err != nil {
			return cli.Misuse("an IP address and a port, 203.0.113.5:10001 or [2001:db8::1]:10001, or 'exec:COMMAND', or unix:PATH; see the manual", "%w", err)
		}
	}
	return nil
}

// prove settles which key the password may be sent to.
func (a *app) prove(ctx context.Context, store *client.Store, e *client.Entry, o client.Options, timeout time.Duration, trustFirst bool) error {
	home := e.Address.Server()
	known, err := store.ServerKeys()
	if err != nil {
		return err
	}
	if k, ok := known[home]; ok {
		have, err := identity.ParsePublicKey(k.Key)
		if err != nil {
			return fmt.Errorf("the key of %s in this profile: %w", home, err)
		}
		if !e.Key.IsZero() && e.Key != have {
			return &identity.ChangedKeyError{Name: home, Want: have, Got: e.Key}
		}
		e.Key = have
	}
	if !e.Key.IsZero() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	name, key, err := client.Meet(ctx, e.Servers, o)
	if err != nil {
		return err
	}
	if name != home {
		return message.Refuse(message.CodeInvalid, "the server there is called %s, not %s", name, home)
	}
	e.Key = key
	if trustFirst {
		e.Standing = identity.FirstSeen
		return nil
	}
	e.Standing = identity.Confirmed
	question := fmt.Sprintf("%s shows the key %s, in words %s. Is that what its admin says?", home, key.Fingerprint(), key.Words())
	if err := cli.Confirm(question, "--key KEY, or --trust-first"); err != nil {
		var misuse *cli.Error
		if errors.As(err, &misuse) {
			misuse.Code = cli.ExitRefused
		}
		return err
	}
	return nil
}

func (a *app) passwdCommand() *cobra.Command {
	var stdin bool
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:     "passwd",
		Short:   "change the password of your account",
		Long:    "Changes the password of your account. With --password-stdin, standard input has the old one and the new one, a line each.",
		Example: "noipchat passwd",
		Args:    cli.Args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			old, err := cli.Password{Prompt: "old password", Stdin: stdin}.Read()
			if err != nil {
				return err
			}
			fresh, err := cli.Password{Prompt: "new password", Stdin: stdin, New: true}.Read()
			if err != nil {
				return err
			}
			ctx, cancel := untilSignal(cmd.Context(), timeout)
			defer cancel()
			err = a.work(ctx, func(ctx context.Context, w *worker) error {
				return w.ask(ctx, func(ctx context.Context) error { return w.profile.Password(ctx, old, fresh) })
			})
			if err == nil && !a.json {
				_, err = fmt.Fprintln(cmd.OutOrStdout(), "the password is changed")
			} else if err == nil {
				err = cli.JSON(cmd.OutOrStdout(), struct {
					Done string `json:"done"`
				}{"password changed"})
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&stdin, "password-stdin", false, "read both passwords from standard input")
	cmd.Flags().DurationVar(&timeout, "timeout", 30*time.Second, "wait at most so long; a `TIME` as 90s or 5m")
	return cmd
}
