package main

import (
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/noipchat/noipchat/cmd/cli"
	"github.com/noipchat/noipchat/daemon/client"
	"github.com/noipchat/noipchat/daemon/message"
)

func (a *app) statusCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "status ID",
		Short:   "say what became of a message, for each receiver",
		Long:    "Says what became of a message, for each receiver. ID may be shortened to 6 digits or more.",
		Example: "noipchat status 3f2a91c077de0b1c",
		Args:    cli.Args("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			store, err := a.open()
			if err != nil {
				return err
			}
			defer store.Close()
			m, found, err := store.StatusByPrefix(strings.ToLower(args[0]))
			if err != nil {
				return err
			}
			if !found {
				return &cli.Error{Code: cli.ExitRefused, Err: fmt.Errorf("no message with the id %q", args[0]), Hint: "noipchat history shows the ids"}
			}
			if a.json {
				return cli.JSON(cmd.OutOrStdout(), m)
			}
			var t cli.Table
			t.Row("ID", "FOR", "STATE", "SINCE", "REASON")
			for _, r := range m.Recipients {
				reason := r.Reason
				if r.Code != 0 && reason == "" {
					reason = r.Code.String()
				}
				t.Row(m.ID.String(), string(r.Address), r.State.String(), r.At.Local().Format(time.DateTime), reason)
			}
			if !m.Out {
				t.Row(m.ID.String(), "you", m.State, m.At.Local().Format(time.DateTime), "")
			}
			return t.Write(cmd.OutOrStdout(), "")
		},
	}
}

func (a *app) historyCommand() *cobra.Command {
	var grep string
	var limit int
	cmd := &cobra.Command{
		Use:     "history [WITH]",
		Short:   "show what was written, with one person or all",
		Example: "noipchat history bob@server1 --grep '(?i)dinner'",
		Args:    cli.Args("[WITH]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			q := client.Query{Limit: limit}
			if len(args) == 1 {
				with, err := message.ParseUser(args[0])
				if err != nil {
					return cli.Misuse("write it as bob@server1", "%w", err)
				}
				q.With = with
			}
			if limit < 0 {
				return cli.Misuse("0: all", "--limit %d", limit)
			}
			if grep != "" {
				re, err := regexp.Compile(grep)
				if err != nil {
					return cli.Misuse("it is a regular expression as in Go's regexp/syntax", "--grep: %w", err)
				}
				q.Grep = re
			}
			store, err := a.open()
			if err != nil {
				return err
			}
			defer store.Close()
			messages, err := store.History(q)
			if err != nil {
				return err
			}
			for _, m := range messages {
				if err := a.printHistory(cmd, m); err != nil {
					return err
				}
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&grep, "grep", "", "only texts that match the regular expression `RE`")
	cmd.Flags().IntVar(&limit, "limit", 0, "only the last `N`; 0: all")
	return cmd
}

func (a *app) printHistory(cmd *cobra.Command, m client.Message) error {
	out := cmd.OutOrStdout()
	if a.json {
		return cli.JSON(out, m)
	}
	who := "from " + string(m.From)
	if m.Out {
		to := make([]string, len(m.To))
		for i, t := range m.To {
			to[i] = string(t)
		}
		who = "to " + strings.Join(to, ", ")
	}
	_, err := fmt.Fprintf(out, "%s  %s  %s  (%s, %s)\n", m.At.Local().Format(time.DateTime), who, oneLine(m.Body), m.State, m.ID.String()[:8])
	return err
}
