package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/noipchat/noipchat/cmd/cli"
	"github.com/noipchat/noipchat/daemon/control"
	"github.com/noipchat/noipchat/daemon/message"
)

func (a *app) userInvite() *cobra.Command {
	valid := span(7 * day)
	var uses int
	var list bool
	var revoke string
	cmd := &cobra.Command{
		Use:   "invite [NAME]",
		Short: "make an invitation: a line for somebody who shall join",
		Long: "Makes an invitation, and prints the line to hand to somebody who shall join\n" +
			"(noipchat join LINE). Without NAME the guest chooses his name.",
		Example: "noipctl user invite bob --valid 12h\nnoipctl user invite --uses 30\nnoipctl user invite --list\nnoipctl user invite --revoke 1a2b3c4d",
		Args:    cli.Args("[NAME]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			fresh := len(args) > 0 || cmd.Flags().Changed("valid") || cmd.Flags().Changed("uses")
			switch {
			case list && revoke != "", fresh && (list || revoke != ""):
				return cli.Misuse("see: "+cmd.CommandPath()+" --help", "--list and --revoke go alone")
			case list:
				return a.inviteList(cmd)
			case revoke != "":
				if err := a.daemon().RevokeInvite(cmd.Context(), revoke); err != nil {
					return err
				}
				return a.done(cmd, revoke, "revoked")
			case uses < 1:
				return cli.Misuse("", "--uses %d: want 1 or more", uses)
			}
			r := control.InviteRequest{ValidSeconds: int64(time.Duration(valid) / time.Second), Uses: uses}
			if len(args) > 0 {
				who, err := a.local(cmd, args[0])
				if err != nil {
					return err
				}
				r.User = who.User()
			}
			s, err := a.daemon().Status(cmd.Context())
			if err != nil {
				return err
			}
			if _, err := lineOf(s); err != nil { // the invitation's is this one, and a little more
				return err
			}
			i, err := a.daemon().Invite(cmd.Context(), r)
			var no *message.Refusal
			if errors.As(err, &no) && no.Code == message.CodeClosed {
				return &cli.Error{Code: cli.ExitRefused, Err: err, Hint: "in " + s.Config.Path + `: [register] mode = "invite"; then: noipctl reload`}
			}
			if err != nil {
				return err
			}
			if a.json {
				return cli.JSON(cmd.OutOrStdout(), i)
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), cli.Sanitise(i.Line))
			return err
		},
	}
	flags := cmd.Flags()
	flags.Var(&valid, "valid", "how long it is valid: a `TIME` as 30m, 12h or 7d")
	flags.IntVar(&uses, "uses", 1, "`NUMBER` of guests who may join with it")
	flags.BoolVar(&list, "list", false, "list the invitations that are valid")
	flags.StringVar(&revoke, "revoke", "", "make the one with this `ID`, as in --list, invalid")
	return cmd
}

func (a *app) inviteList(cmd *cobra.Command) error {
	invites, err := a.daemon().Invites(cmd.Context())
	if err != nil {
		return err
	}
	if a.json {
		return lines(cmd, invites)
	}
	t := new(cli.Table)
	t.Row("ID", "USER", "USES", "EXPIRES")
	for _, i := range invites {
		t.Row(i.ID, i.User, fmt.Sprint(i.Uses), when(i.Expires))
	}
	return t.Write(cmd.OutOrStdout(), "no invitations")
}

const day = 24 * time.Hour

// span is a flag for a time that may be days: "7d", "1d12h", or what Go takes.
type span time.Duration

func (s *span) Type() string { return "time" }

func (s *span) String() string {
	if d := time.Duration(*s); d%day != 0 {
		return d.String()
	}
	return fmt.Sprintf("%dd", time.Duration(*s)/day)
}

// Set takes 1 s to 10 years.
func (s *span) Set(text string) error {
	errForm := errors.New("want a time as 30m, 12h or 7d")
	rest := text
	var sum time.Duration
	if days, after, found := strings.Cut(text, "d"); found {
		n, err := strconv.ParseUint(days, 10, 12)
		if err != nil {
			return errForm
		}
		sum, rest = time.Duration(n)*day, after
	}
	if rest != "" || sum == 0 {
		d, err := time.ParseDuration(rest)
		if err != nil || d < 0 {
			return errForm
		}
		sum += d
	}
	if sum < time.Second || sum > 3650*day {
		return errors.New("want 1s to 3650d")
	}
	*s = span(sum)
	return nil
}
