package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/noipchat/noipchat/cmd/cli"
	"github.com/noipchat/noipchat/daemon/message"
)

func (a *app) userCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "user",
		Short: "add, list, change, remove and invite users",
		Long:  "Users of this server. NAME is alice or alice@server1.",
		Example: `noipctl user add alice
echo 'correct horse' | noipctl user add alice --password-stdin
noipctl user invite bob --valid 7d`,
	}
	cmd.AddCommand(a.userAdd(), a.userList(), a.userShow(), a.userPasswd(), a.userDisable(), a.userEnable(), a.userRemove(), a.userInvite())
	return cmd
}

// local takes NAME, and asks the daemon for the server's name to complete it. So
// nobody types a password before it is known that somebody is there to take it.
func (a *app) local(cmd *cobra.Command, name string) (message.Address, error) {
	const hint = "write it as alice or alice@server1"
	user, server, qualified := strings.Cut(name, "@")
	if err := message.CheckName(user); err != nil {
		return "", cli.Misuse(hint, "%w", err)
	}
	if qualified {
		if err := message.CheckName(server); err != nil {
			return "", cli.Misuse(hint, "%w", err)
		}
	}
	s, err := a.daemon().Status(cmd.Context())
	if err != nil {
		return "", err
	}
	if qualified && server != s.Server {
		return "", cli.Misuse("run noipctl on "+server, "%s is a user of another server; this one is %s", name, s.Server)
	}
	return message.Join(user, s.Server), nil
}

func (a *app) userAdd() *cobra.Command {
	var stdin bool
	cmd := &cobra.Command{
		Use:     "add NAME",
		Short:   "add a user, with a password",
		Example: "noipctl user add alice\necho 'correct horse' | noipctl user add alice --password-stdin",
		Args:    cli.Args("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			who, err := a.local(cmd, args[0])
			if err != nil {
				return err
			}
			password, err := cli.Password{Prompt: "password of " + string(who), Stdin: stdin, New: true}.Read()
			if err != nil {
				return err
			}
			u, err := a.daemon().AddUser(cmd.Context(), who.User(), password)
			if err != nil {
				return err
			}
			if a.json {
				return cli.JSON(cmd.OutOrStdout(), u)
			}
			return a.done(cmd, string(u.Address), "added")
		},
	}
	passwordFlag(cmd, &stdin)
	return cmd
}

func (a *app) userPasswd() *cobra.Command {
	var stdin bool
	cmd := &cobra.Command{
		Use:               "passwd NAME",
		ValidArgsFunction: complete(false, a.userNames),
		Short:             "set a user's password; his devices stay logged in",
		Example:           "noipctl user passwd alice",
		Args:              cli.Args("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			who, err := a.local(cmd, args[0])
			if err != nil {
				return err
			}
			password, err := cli.Password{Prompt: "new password of " + string(who), Stdin: stdin, New: true}.Read()
			if err != nil {
				return err
			}
			if err := a.daemon().SetPassword(cmd.Context(), who.User(), password); err != nil {
				return err
			}
			return a.done(cmd, string(who), "password changed")
		},
	}
	passwordFlag(cmd, &stdin)
	return cmd
}

func passwordFlag(cmd *cobra.Command, stdin *bool) {
	cmd.Flags().BoolVar(stdin, "password-stdin", false, "read the password from a line of standard input")
}

func (a *app) userList() *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "list all users",
		Example: "noipctl user list --json | jq -r 'select(.disabled).name'",
		Args:    cli.Args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			users, err := a.daemon().Users(cmd.Context())
			if err != nil {
				return err
			}
			if a.json {
				return lines(cmd, users)
			}
			t := new(cli.Table)
			t.Row("USER", "CREATED", "DEVICES", "ONLINE", "DISABLED")
			for _, u := range users {
				online := 0
				for _, d := range u.Devices {
					if d.Online {
						online++
					}
				}
				t.Row(string(u.Address), cli.Ago(u.Created), fmt.Sprint(len(u.Devices)), fmt.Sprint(online), yesNo(u.Disabled))
			}
			return t.Write(cmd.OutOrStdout(), "no users")
		},
	}
}

func (a *app) userShow() *cobra.Command {
	return &cobra.Command{
		Use:               "show NAME",
		ValidArgsFunction: complete(false, a.userNames),
		Short:             "show a user and his devices",
		Example:           "noipctl user show alice",
		Args:              cli.Args("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			who, err := a.local(cmd, args[0])
			if err != nil {
				return err
			}
			u, err := a.daemon().User(cmd.Context(), who.User())
			if err != nil {
				return err
			}
			w := cmd.OutOrStdout()
			if a.json {
				return cli.JSON(w, u)
			}
			about := new(cli.Table)
			about.Row("user", string(u.Address))
			about.Row("created", when(u.Created))
			about.Row("disabled", yesNo(u.Disabled))
			if err := about.Write(w, ""); err != nil {
				return err
			}
			fmt.Fprintln(w)
			devices := new(cli.Table)
			devices.Row("DEVICE", "LABEL", "CREATED", "SEEN", "ONLINE", "FINGERPRINT")
			for _, d := range u.Devices {
				devices.Row(d.ID.String(), d.Label, cli.Ago(d.Created), cli.Ago(d.Seen), yesNo(d.Online), d.Fingerprint)
			}
			return devices.Write(w, "no devices")
		},
	}
}

func (a *app) userDisable() *cobra.Command {
	return &cobra.Command{
		Use:               "disable NAME",
		ValidArgsFunction: complete(false, a.userNames),
		Short:             "keep a user out",
		Example:           "noipctl user disable alice",
		Args:              cli.Args("NAME"),
		RunE:              func(cmd *cobra.Command, args []string) error { return a.setDisabled(cmd, args[0], true, "disabled") },
	}
}

func (a *app) userEnable() *cobra.Command {
	return &cobra.Command{
		Use:               "enable NAME",
		ValidArgsFunction: complete(false, a.userNames),
		Short:             "let a user in again",
		Example:           "noipctl user enable alice",
		Args:              cli.Args("NAME"),
		RunE:              func(cmd *cobra.Command, args []string) error { return a.setDisabled(cmd, args[0], false, "enabled") },
	}
}

func (a *app) setDisabled(cmd *cobra.Command, name string, disabled bool, done string) error {
	who, err := a.local(cmd, name)
	if err != nil {
		return err
	}
	if err := a.daemon().DisableUser(cmd.Context(), who.User(), disabled); err != nil {
		return err
	}
	return a.done(cmd, string(who), done)
}

func (a *app) userRemove() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use:               "remove NAME",
		ValidArgsFunction: complete(false, a.userNames),
		Short:             "remove a user, his devices and what waits for him",
		Example:           "noipctl user remove alice --yes",
		Args:              cli.Args("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			who, err := a.local(cmd, args[0])
			if err != nil {
				return err
			}
			if !yes {
				if err := cli.Confirm(fmt.Sprintf("remove %s, his devices and what waits for him?", who), "--yes"); err != nil {
					return err
				}
			}
			if err := a.daemon().RemoveUser(cmd.Context(), who.User()); err != nil {
				return err
			}
			return a.done(cmd, string(who), "removed")
		},
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return cmd
}
