package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/noipchat/noipchat/cmd/cli"
	"github.com/noipchat/noipchat/daemon/client"
	"github.com/noipchat/noipchat/daemon/identity"
	"github.com/noipchat/noipchat/daemon/message"
)

func (a *app) contactCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "contact",
		Short: "give people names of your own, and verify their devices",
		Long: `Gives people names of your own, which stand for their addresses in all commands, and
verifies that the devices your server names are really theirs.`,
		Example: "noipchat contact add bob@server1 Bob\nnoipchat contact verify Bob\nnoipchat send Bob -m 'it is you'",
	}
	cmd.AddCommand(a.contactList(), a.contactAdd(), a.contactWords(), a.contactVerify(), a.contactRename(), a.contactRemove())
	return cmd
}

// person is whom somebody means by an address, or by a name of his own.
func person(store *client.Store, who string) (message.Address, error) {
	if strings.Contains(who, "@") {
		address, err := message.ParseUser(who)
		if err != nil {
			return "", cli.Misuse("write it as bob@server1", "%w", err)
		}
		return address, nil
	}
	c, err := store.Contact(who)
	return c.Address, err
}

// contactNames are the contacts' names, for what people read.
func contactNames(store *client.Store) (names, error) {
	all, err := store.Contacts()
	n := make(names, len(all))
	for _, c := range all {
		n[c.Address] = c.Name
	}
	return n, err
}

// receivers are those whom a text is for. What is known to have changed stops it
// here; what the home says when it is sent, in package client.
func (a *app) receivers(who []string) (to []message.Address, err error) {
	store, err := a.open()
	if err != nil {
		return nil, err
	}
	defer store.Close()
	for _, w := range who {
		address, err := person(store, w)
		if err != nil {
			return nil, err
		}
		if err := doubt(store, address); err != nil {
			return nil, err
		}
		to = append(to, address)
	}
	return to, nil
}

// doubt tells whether somebody's devices are others than those that were verified.
func doubt(store *client.Store, who message.Address) error {
	c, err := store.Contact(string(who))
	if err != nil {
		if errors.Is(err, client.ErrNoContact) {
			return nil
		}
		return err
	}
	account, known, err := store.Account()
	if err != nil || !known {
		return err
	}
	home, err := account.HomeKey()
	if err != nil {
		return err
	}
	return c.Doubt(home)
}

// local has the store for a command that needs no connection, and prints what it did.
func (a *app) local(cmd *cobra.Command, do func(store *client.Store) (client.Contact, string, error)) error {
	store, err := a.open()
	if err != nil {
		return err
	}
	defer store.Close()
	c, done, err := do(store)
	if err != nil {
		return err
	}
	if a.json {
		return cli.JSON(cmd.OutOrStdout(), c)
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s is %s\n", cli.Sanitise(string(c.Address)), cli.Sanitise(done))
	return err
}

func (a *app) contactList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "list the people who have a name",
		Long: `Lists the people who have a name. Trust is unverified, verified (their words were
compared), or changed: their server names a device that you don't know.`,
		Example: "noipchat contact list",
		Args:    cli.Args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			store, err := a.open()
			if err != nil {
				return err
			}
			defer store.Close()
			all, err := store.Contacts()
			if err != nil {
				return err
			}
			var t cli.Table
			t.Row("NAME", "ADDRESS", "TRUST", "DEVICES", "ADDED")
			for _, c := range all {
				if a.json {
					if err := cli.JSON(cmd.OutOrStdout(), c); err != nil {
						return err
					}
				}
				t.Row(c.Name, string(c.Address), string(c.Trust), fmt.Sprint(len(c.Devices)), c.Added.Local().Format(time.DateOnly))
			}
			if a.json {
				return nil
			}
			return t.Write(cmd.OutOrStdout(), "nobody has a name")
		},
	}
}

func (a *app) contactAdd() *cobra.Command {
	return &cobra.Command{
		Use: "add ADDRESS [NAME]", Short: "give somebody a name; left out: his user's name",
		Example: "noipchat contact add bob@server1 'Bob the plumber'",
		Args:    cli.Args("ADDRESS", "[NAME]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			address, err := message.ParseUser(args[0])
			if err != nil {
				return cli.Misuse("write it as bob@server1", "%w", err)
			}
			name := address.User()
			if len(args) > 1 {
				name = args[1]
			}
			if err := client.CheckContactName(name); err != nil {
				return cli.Misuse("choose another one", "%w", err)
			}
			return a.local(cmd, func(store *client.Store) (c client.Contact, done string, err error) {
				if err = store.AddContact(name, address); err == nil {
					c, err = store.Contact(name)
				}
				return c, c.Name, err
			})
		},
	}
}

func (a *app) contactRename() *cobra.Command {
	return &cobra.Command{
		Use: "rename WHO NAME", Short: "give a contact another name",
		Example: "noipchat contact rename Bob 'Bob the plumber'",
		Args:    cli.Args("WHO", "NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := client.CheckContactName(args[1]); err != nil {
				return cli.Misuse("choose another one", "%w", err)
			}
			return a.local(cmd, func(store *client.Store) (c client.Contact, done string, err error) {
				if c, err = store.Contact(args[0]); err == nil {
					err = store.RenameContact(c.Address, args[1])
				}
				c.Name = args[1]
				return c, c.Name, err
			})
		},
	}
}

func (a *app) contactRemove() *cobra.Command {
	return &cobra.Command{
		Use: "remove WHO", Short: "forget a name, and whether it was verified; the history stays",
		Example: "noipchat contact remove Bob",
		Args:    cli.Args("WHO"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.local(cmd, func(store *client.Store) (c client.Contact, done string, err error) {
				if c, err = store.Contact(args[0]); err == nil {
					err = store.RemoveContact(c.Address)
				}
				return c, "no contact any more", err
			})
		},
	}
}

func (a *app) contactVerify() *cobra.Command {
	var words string
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "verify WHO",
		Short: "compare words with somebody, and remember his devices",
		Long: `Asks your server for the devices of both of you, and shows six words for each. The
other one types the same command with your name, and must see the same two lines: compare
them face to face or by telephone, not by messages. If you confirm, his devices are
remembered, and nothing is sent to others of his until you verify him again.`,
		Example: "noipchat contact verify Bob\nnoipchat contact verify bob@server1 --words lusab-babad-gutih-tugad-mudof-sakat",
		Args:    cli.Args("WHO"),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := untilSignal(cmd.Context(), timeout)
			defer cancel()
			return a.work(ctx, func(ctx context.Context, w *worker) error {
				return a.verify(ctx, cmd, w, args[0], words)
			})
		},
	}
	cmd.Flags().StringVar(&words, "words", "", "what he says are his `WORDS`, for scripts; nobody is asked then")
	cmd.Flags().DurationVar(&timeout, "timeout", 5*time.Minute, "wait at most so long; a `TIME` as 90s or 5m")
	return cmd
}

func (a *app) contactWords() *cobra.Command {
	var timeout time.Duration
	cmd := &cobra.Command{
		Use: "words", Short: "show your own words, for somebody who verifies you",
		Long:    "Shows the six words of your own devices. They change when a device of yours comes or goes.",
		Example: "noipchat contact words",
		Args:    cli.Args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := untilSignal(cmd.Context(), timeout)
			defer cancel()
			return a.work(ctx, func(ctx context.Context, w *worker) error {
				account, _, err := w.store.Account()
				if err != nil {
					return err
				}
				mine, _, home, err := w.keys(ctx, account, "")
				if err != nil {
					return err
				}
				me := account.Address
				words := identity.UserWords(me, home, mine)
				if a.json {
					return cli.JSON(cmd.OutOrStdout(), struct {
						Address message.Address      `json:"address"`
						Words   string               `json:"words"`
						Devices []identity.PublicKey `json:"devices"`
					}{me, words, mine})
				}
				_, err = fmt.Fprintln(cmd.OutOrStdout(), words)
				return err
			})
		},
	}
	askFlags(cmd, &timeout)
	return cmd
}

// keys asks for the devices of this profile's user, and of somebody else, if there
// is one. home is their server's key.
func (w *worker) keys(ctx context.Context, me client.Account, him message.Address) (mine, his []identity.PublicKey, home identity.PublicKey, err error) {
	if home, err = me.HomeKey(); err != nil {
		return nil, nil, home, err
	}
	err = w.ask(ctx, func(ctx context.Context) (err error) {
		if mine, err = w.profile.Keys(ctx, me.Address); err != nil {
			return err
		}
		if !slices.Contains(mine, identity.KeyFromSeed(me.Seed).Public()) {
			return message.Refuse(message.CodeInvalid, "%s does not name this device among yours: what it says of devices can't be believed", me.Address.Server())
		}
		if him != "" {
			his, err = w.profile.Keys(ctx, him)
		}
		return err
	})
	return mine, his, home, err
}

// verification is what contact verify shows.
type verification struct {
	Address message.Address      `json:"address"`
	Words   string               `json:"words"`
	Devices []identity.PublicKey `json:"devices"`
	Mine    string               `json:"my_words"`
	Trust   client.Trust         `json:"trust"`
}

func (a *app) verify(ctx context.Context, cmd *cobra.Command, w *worker, who, said string) error {
	him, err := person(w.store, who)
	if err != nil {
		return err
	}
	me, _, err := w.store.Account()
	if err != nil {
		return err
	}
	if him == me.Address || him.Server() != me.Address.Server() {
		return &cli.Error{Code: cli.ExitRefused, Err: fmt.Errorf("%s can't be verified", him), Hint: "only other users of " + me.Address.Server() + " can, whose devices your server knows"}
	}
	mine, his, home, err := w.keys(ctx, me, him)
	if err != nil {
		return err
	}
	if len(his) == 0 {
		return &cli.Error{Code: cli.ExitRefused, Err: fmt.Errorf("%s has no device that %s knows", him, me.Address.Server()), Hint: "is that his address? He must have logged in once"}
	}
	v := verification{Address: him, Words: identity.UserWords(him, home, his), Devices: his, Mine: identity.UserWords(me.Address, home, mine), Trust: client.Verified}
	if said == "" {
		err = a.compare(v, me.Address, len(mine))
	} else if said = strings.ToLower(strings.Join(strings.Fields(said), "-")); said != v.Words {
		err = &cli.Error{Code: cli.ExitRefused, Err: fmt.Errorf("the words of %s are %s, and not %.80q", him, v.Words, said),
			Hint: "ask him which devices he has (noipchat device list); somebody else may be in between"}
	}
	if err != nil {
		return err
	}
	// A contact that was not one gets his user's name, as with contact add.
	if _, err := w.store.Contact(string(him)); errors.Is(err, client.ErrNoContact) {
		err = w.store.AddContact(him.User(), him)
		if err != nil {
			return cli.Misuse("noipchat contact add "+string(him)+" NAME", "%w", err)
		}
	} else if err != nil {
		return err
	}
	if err := w.store.VerifyContact(him, his); err != nil {
		return err
	}
	if a.json {
		return cli.JSON(cmd.OutOrStdout(), v)
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s is verified, %s\n", him, v.Words)
	return err
}

// compare shows the words in the order that both see, and asks.
func (a *app) compare(v verification, me message.Address, mine int) error {
	lines := []string{
		fmt.Sprintf("%s  %s  (his devices: %d)", v.Words, v.Address, len(v.Devices)),
		fmt.Sprintf("%s  %s  (your devices: %d)", v.Mine, me, mine),
	}
	if me < v.Address {
		slices.Reverse(lines)
	}
	fmt.Fprintf(os.Stderr, "%s\n%s\n", lines[0], lines[1])
	return cli.Confirm("Does "+string(v.Address)+" see the same words in both lines?", "--words")
}
