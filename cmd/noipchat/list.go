package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/noipchat/noipchat/cmd/cli"
	"github.com/noipchat/noipchat/daemon/client"
	"github.com/noipchat/noipchat/daemon/message"
)

func (a *app) listCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list",
		Short: "make, show and change lists of people",
		Long: `A list is a name for several people, as many as 1,000. What is sent to it goes to all of them,
and each knows who is in it, so that he can answer all: noipchat send --reply ID. Lists of others
that you are in are there too. Their owners change them; you can write to them.`,
		Example: `noipchat list add friends bob@server1 carol@server1
noipchat send friends -m 'dinner at eight?'
noipchat list show friends`,
	}
	cmd.AddCommand(a.listAdd(), a.listRemove(), a.listShow(), a.listForget())
	return cmd
}

// list finds a list that a command line means: none if a contact has the name, or
// nobody has.
func list(store *client.Store, name string) (*client.List, error) {
	if strings.Contains(name, "@") && !strings.Contains(name, "/") {
		return nil, nil
	}
	if _, err := store.Contact(name); !errors.Is(err, client.ErrNoContact) {
		return nil, err
	}
	l, ok, err := store.List(name)
	if err != nil || !ok {
		return nil, listError(err)
	}
	return &l, nil
}

func listError(err error) error {
	if errors.Is(err, client.ErrMisuse) {
		return cli.Misuse("your lists: noipchat list show", "%w", err)
	}
	return err
}

func (a *app) listAdd() *cobra.Command {
	return &cobra.Command{
		Use: "add NAME TO…", Short: "add people to a list of yours, or make it",
		Long:    "Adds people to a list of yours, which is made if there is none. Who is in it learns of it, once.",
		Example: "noipchat list add friends bob@server1 Carol",
		Args:    cli.Args("NAME", "TO…"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.changeList(cmd, args, func(members, named []message.Address) []message.Address { return append(members, named...) })
		},
	}
}

func (a *app) listRemove() *cobra.Command {
	return &cobra.Command{
		Use: "remove NAME TO…", Short: "remove people from a list of yours",
		Example: "noipchat list remove friends Carol",
		Args:    cli.Args("NAME", "TO…"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.changeList(cmd, args, func(members, named []message.Address) []message.Address {
				return slices.DeleteFunc(members, func(m message.Address) bool { return slices.Contains(named, m) })
			})
		},
	}
}

func (a *app) changeList(cmd *cobra.Command, args []string, change func(members, named []message.Address) []message.Address) error {
	named, err := a.receivers(args[1:])
	if err != nil {
		return err
	}
	if err := message.CheckName(args[0]); err != nil {
		return cli.Misuse("a list's name is made of a-z 0-9 - .", "%w", err)
	}
	w, err := a.worker()
	if err != nil {
		return err
	}
	defer w.store.Close()
	account, _, err := w.store.Account()
	if err != nil {
		return err
	}
	old, _, err := w.store.List(args[0] + "/" + string(account.Address))
	if err != nil {
		return err
	}
	l, err := w.store.SetList(cmd.Context(), args[0], change(slices.Clone(old.Members), named))
	if errors.Is(err, client.ErrMisuse) {
		return cli.Misuse("make two lists of it", "%w", err)
	}
	if err != nil {
		return err
	}
	w.profile.Kick()
	if a.json {
		return cli.JSON(cmd.OutOrStdout(), l)
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s has %d members now\n", l.Name, len(l.Members))
	return err
}

func (a *app) listShow() *cobra.Command {
	return &cobra.Command{
		Use: "show [NAME]", Short: "show a list, or all",
		Long:    "Shows who is in a list, or all lists. One of somebody else's is called NAME/OWNER where its name alone is not enough.",
		Example: "noipchat list show friends --json",
		Args:    cli.Args("[NAME]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.account(func(store *client.Store, _ *client.Account) error {
				all, err := store.Lists()
				if len(args) > 0 && err == nil {
					var l client.List
					l, err = a.known(store, args[0])
					all = []client.List{l}
				}
				if err != nil {
					return err
				}
				var t cli.Table
				t.Row("LIST", "OWNER", "MEMBERS")
				for _, l := range all {
					if a.json {
						if err := cli.JSON(cmd.OutOrStdout(), l); err != nil {
							return err
						}
						continue
					}
					members := fmt.Sprint(len(l.Members))
					if len(args) > 0 {
						members = joinAddresses(l.Members, " ")
					}
					t.Row(l.Name, string(l.Owner), members)
				}
				if a.json {
					return nil
				}
				return t.Write(cmd.OutOrStdout(), "no lists")
			})
		},
	}
}

// known is the list of a name, which must be there.
func (a *app) known(store *client.Store, name string) (client.List, error) {
	l, ok, err := store.List(name)
	if err == nil && !ok {
		err = cli.Misuse("your lists: noipchat list show", "there is no list %q", name)
	}
	return l, listError(err)
}

func (a *app) listForget() *cobra.Command {
	return &cobra.Command{
		Use: "forget NAME", Short: "forget a list; its messages stay, and others keep theirs",
		Example: "noipchat list forget friends",
		Args:    cli.Args("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.account(func(store *client.Store, _ *client.Account) error {
				l, err := a.known(store, args[0])
				if err != nil {
					return err
				}
				if err := store.DropList(l); err != nil {
					return err
				}
				if a.json {
					return cli.JSON(cmd.OutOrStdout(), l)
				}
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s is forgotten\n", l.Name)
				return err
			})
		},
	}
}

func joinAddresses(all []message.Address, between string) string {
	s := make([]string, len(all))
	for i, a := range all {
		s[i] = string(a)
	}
	return strings.Join(s, between)
}
