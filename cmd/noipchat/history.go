package main

import (
	"errors"
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
		Use:   "status ID",
		Short: "say what became of a message, for each receiver",
		Long: `Says what became of a message, for each receiver, step by step. Of one that went to another server it
says which servers it crossed, and how long after the one before it came to each. ID may be shortened to 6 digits or more.`,
		Example: "noipchat status 3f2a91c077de0b1c",
		Args:    cli.Args("ID"),

		ValidArgsFunction: a.complete(1, idWords),
		RunE: func(cmd *cobra.Command, args []string) error {
			store, err := a.open()
			if err != nil {
				return err
			}
			defer store.Close()
			m, err := messageOf(store, args[0])
			if err != nil {
				return err
			}
			if a.json {
				return cli.JSON(cmd.OutOrStdout(), m)
			}
			var t cli.Table
			t.Row("ID", "FOR", "STATE", "SINCE", "DETAIL")
			for _, r := range m.Recipients {
				for _, s := range stages(&m, &r) {
					t.Row(m.ID.String(), string(r.Address), s.state.String(), s.at.Local().Format(time.DateTime), s.detail)
				}
			}
			if !m.Out {
				t.Row(m.ID.String(), "you", m.State, m.At.Local().Format(time.DateTime), "")
			}
			return t.Write(cmd.OutOrStdout(), "")
		},
	}
}

// messageOf finds the message that somebody means by an id, or by the beginning of one.
func messageOf(store *client.Store, id string) (client.Message, error) {
	const hint = "noipchat history shows the ids"
	m, found, err := store.StatusByPrefix(strings.ToLower(id))
	switch {
	case errors.Is(err, client.ErrMisuse):
		err = cli.Misuse(hint, "%w", err)
	case err == nil && !found:
		err = &cli.Error{Code: cli.ExitRefused, Err: fmt.Errorf("no message with the id %q", id), Hint: hint}
	}
	return m, err
}

// stage is a state that a message had for a receiver.
type stage struct {
	state  message.State
	at     time.Time
	detail string
}

// stages returns the states that a message had, as far as they are known, the one that
// it has last.
func stages(m *client.Message, r *client.Recipient) (all []stage) {
	add := func(state message.State, at time.Time, detail string) {
		if !at.IsZero() && (len(all) == 0 || all[len(all)-1].state < state) {
			all = append(all, stage{state, at, detail})
		}
	}
	way := ""
	if len(r.Path) > 0 {
		way = "by " + r.Path.String()
	}
	if r.State > message.Queued {
		add(message.Queued, m.At, "")
	}
	held := ""
	if r.State == message.Held { // the way is that of the last state that has one
		held = way
	}
	add(message.Held, r.Held, held)
	add(message.Delivered, r.Delivered, way)
	add(r.State, r.At, because(*r))
	return all
}

func (a *app) historyCommand() *cobra.Command {
	var f historyFlags
	cmd := &cobra.Command{
		Use:   "history [WITH]",
		Short: "show, search and export what was written, with one person, a list or all",
		Long: `Shows what was written, with one person, a list or all, oldest first. --search finds words,
in any order; "in quotes" words that follow each other; din* words that begin so.
A time is an age as 2d (s, m, h, d, w), a day as 2026-03-01, or as RFC 3339 has it.`,
		Example: `noipchat history bob@server1 --search 'dinner "at eight"' --since 2w
noipchat history --export all.html`,
		Args: cli.Args("[WITH]"),

		ValidArgsFunction: a.complete(1, receiverWords),
		RunE: func(cmd *cobra.Command, args []string) error {
			q, err := f.query(time.Now())
			if err != nil {
				return err
			}
			if f.to.path != "" {
				if err := f.to.check(); err != nil {
					return err
				}
			} else if f.to.form != "" || f.to.replace {
				return cli.Misuse("--export FILE says where to", "--format and --force are for an export")
			}
			store, err := a.open()
			if err != nil {
				return err
			}
			defer store.Close()
			if len(args) == 1 {
				if q.List, err = list(store, args[0]); err == nil && q.List == nil {
					q.With, err = person(store, args[0])
				}
				if err != nil {
					return err
				}
			}
			return a.history(cmd, store, q, &f.to)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.search, "search", "", "only texts with these `WORDS`")
	flags.StringVar(&f.grep, "grep", "", "only texts that match the regular expression `RE`")
	flags.StringVar(&f.since, "since", "", "only from this `TIME` on")
	flags.StringVar(&f.until, "until", "", "only before this `TIME`, or up to the end of this day")
	flags.IntVar(&f.limit, "limit", 0, "only the last `N`; 0: all")
	flags.StringVar(&f.to.path, "export", "", "write them to a new `FILE` that only you can read")
	flags.StringVar(&f.to.form, "format", "", "the `FORM` of the file: text, json or html; left out: by its name")
	flags.BoolVar(&f.to.replace, "force", false, "replace the file if it is there")
	return cmd
}

// historyFlags are what is asked for, as it was typed.
type historyFlags struct {
	search, grep, since, until string
	limit                      int
	to                         export
}

func (f *historyFlags) query(now time.Time) (q client.Query, err error) {
	if f.limit < 0 {
		return q, cli.Misuse("0: all", "--limit %d", f.limit)
	}
	q.Limit = f.limit
	if f.search != "" {
		if q.Search, err = client.ParseSearch(f.search); err != nil {
			return q, cli.Misuse("words of letters and digits; --grep finds everything else", "--search: %w", err)
		}
	}
	if f.grep != "" {
		if q.Grep, err = regexp.Compile(f.grep); err != nil {
			return q, cli.Misuse("it is a regular expression as in Go's regexp/syntax", "--grep: %w", err)
		}
	}
	const hint = "write it as 2d, 2026-03-01, '2026-03-01 18:30' or 2026-03-01T18:30:00Z"
	if f.since != "" {
		if q.Since, err = parseWhen(f.since, now, false); err != nil {
			return q, cli.Misuse(hint, "--since: %w", err)
		}
	}
	if f.until != "" {
		if q.Before, err = parseWhen(f.until, now, true); err != nil {
			return q, cli.Misuse(hint, "--until: %w", err)
		}
	}
	return q, nil
}

func (a *app) history(cmd *cobra.Command, store *client.Store, q client.Query, to *export) error {
	n, err := contactNames(store)
	if err != nil {
		return err
	}
	out := cmd.OutOrStdout()
	if to.path == "" {
		show := forms["text"]
		if a.json {
			show = forms["json"]
		}
		return store.Walk(q, func(m client.Message) error { return show.message(out, m, n) })
	}
	ctx, cancel := untilSignal(cmd.Context(), 0)
	defer cancel()
	count, err := to.run(ctx, store, q, n)
	if err != nil {
		return err
	}
	if a.json {
		return cli.JSON(out, struct {
			File     string `json:"file"`
			Format   string `json:"format"`
			Messages int    `json:"messages"`
		}{to.path, to.form, count})
	}
	_, err = fmt.Fprintf(out, "%d messages are in %s\n", count, cli.Sanitise(to.path))
	return err
}
