package main

import (
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/noipchat/noipchat/cmd/cli"
	"github.com/noipchat/noipchat/daemon/control"
	"github.com/noipchat/noipchat/daemon/message"
)

func (a *app) queueCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "queue",
		Short:   "list, show and empty what waits",
		Long:    "What waits for a destination. NAME is a queue's, as list shows it.",
		Example: "noipctl queue list\nnoipctl queue show bob@server1",
	}
	cmd.AddCommand(a.queueList(), a.queueShow(), a.queueRetry(), a.queueRemove())
	return cmd
}

func (a *app) queueList() *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "list the queues that hold messages",
		Example: "noipctl queue list",
		Args:    cli.Args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			queues, err := a.daemon().Queues(cmd.Context())
			if err != nil {
				return err
			}
			if a.json {
				return lines(cmd, queues)
			}
			t := new(cli.Table)
			t.Row("QUEUE", "MESSAGES", "IN HAND", "SIZE", "OLDEST", "ONLINE", "SUSPENDED")
			for _, q := range queues {
				t.Row(q.Name, fmt.Sprint(q.Messages), fmt.Sprint(q.InHand), cli.Size(q.Bytes), seconds(q.OldestSeconds), yesNo(q.Online), yesNo(q.Suspended))
			}
			return t.Write(cmd.OutOrStdout(), "no queues: nothing waits")
		},
	}
}

func (a *app) queueShow() *cobra.Command {
	var limit int
	var after string
	cmd := &cobra.Command{
		Use:               "show NAME",
		ValidArgsFunction: complete(false, a.queueNames),
		Short:             "show the messages in a queue, without what they say",
		Example:           "noipctl queue show bob@server1 --limit 20",
		Args:              cli.Args("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if limit < 1 || limit > control.PageMax {
				return cli.Misuse("use --after ID for the next ones", "--limit %d: want 1 to %d", limit, control.PageMax)
			}
			page := control.QueuePage{Name: args[0], Limit: limit}
			if after != "" {
				var err error
				if page.After, err = parseID(after); err != nil {
					return err
				}
			}
			items, err := a.daemon().Queue(cmd.Context(), page)
			if err != nil {
				return err
			}
			if a.json {
				return lines(cmd, items)
			}
			w := cmd.OutOrStdout()
			t := new(cli.Table)
			t.Row("ID", "FROM", "KIND", "PRIORITY", "SIZE", "AGE", "EXPIRES IN", "STATE")
			for _, i := range items {
				t.Row(i.ID.String(), string(i.From), i.Kind, i.Priority, cli.Size(i.Bytes), seconds(i.AgeSeconds), seconds(i.ExpiresSeconds), i.State)
			}
			if err := t.Write(w, "no messages"); err != nil {
				return err
			}
			if len(items) == limit {
				_, err = fmt.Fprintf(w, "there may be more: --after %s\n", items[limit-1].ID)
			}
			return err
		},
	}
	cmd.Flags().IntVar(&limit, "limit", control.PageDefault, "`NUMBER` of messages to show")
	cmd.Flags().StringVar(&after, "after", "", "begin behind the message with this `ID`")
	return cmd
}

func (a *app) queueRetry() *cobra.Command {
	return &cobra.Command{
		Use:               "retry NAME",
		ValidArgsFunction: complete(false, a.queueNames),
		Short:             "offer again now what waits in a queue for its time",
		Long: `What was sent to another server and has no answer is offered again in growing intervals, and a peer
that can't be reached is dialled in growing intervals too. This does both now.`,
		Example: "noipctl queue retry server2",
		Args:    cli.Args("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.daemon().RetryQueue(cmd.Context(), args[0]); err != nil {
				return err
			}
			return a.done(cmd, args[0], "offered again")
		},
	}
}

func (a *app) queueRemove() *cobra.Command {
	return &cobra.Command{
		Use:               "remove NAME ID…",
		ValidArgsFunction: complete(true, a.queueNames, a.messageIDs),
		Short:             "take messages out of a queue; their senders are told",
		Example:           "noipctl queue remove bob@server1 00112233445566778899aabbccddeeff",
		Args:              cli.Args("NAME", "ID…"),
		RunE: func(cmd *cobra.Command, args []string) error {
			ids := make([]message.ID, len(args)-1)
			for i, arg := range args[1:] {
				var err error
				if ids[i], err = parseID(arg); err != nil {
					return err
				}
			}
			slices.SortFunc(ids, func(a, b message.ID) int { return slices.Compare(a[:], b[:]) })
			ids = slices.Compact(ids)
			removed := 0
			for some := range slices.Chunk(ids, control.PageMax) {
				n, err := a.daemon().RemoveFromQueue(cmd.Context(), args[0], some)
				if removed += n; err != nil && removed > 0 {
					err = fmt.Errorf("%d of %d messages were removed, then: %w", removed, len(ids), err)
				}
				if err != nil {
					return err
				}
			}
			if err := a.done(cmd, args[0], fmt.Sprintf("%d of %d messages removed", removed, len(ids))); err != nil {
				return err
			}
			if removed < len(ids) {
				return &cli.Error{
					Code: cli.ExitRefused,
					Err:  fmt.Errorf("%d of %d messages are not in the queue, or are under way", len(ids)-removed, len(ids)),
					Hint: "see: noipctl queue show " + args[0],
				}
			}
			return nil
		},
	}
}

func parseID(s string) (message.ID, error) {
	id, err := message.ParseID(s)
	if err != nil {
		return id, cli.Misuse("noipchat send prints the id, noipctl queue show lists those that wait", "%w", err)
	}
	return id, nil
}
