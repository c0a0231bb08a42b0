package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/noipchat/noipchat/cmd/cli"
	"github.com/noipchat/noipchat/daemon/client"
	"github.com/noipchat/noipchat/daemon/durable"
)

// cursor is the name of receive's place in the history, and of the file that whoever
// moves it has locked.
const cursor = "receive"

func (a *app) receiveCommand() *cobra.Command {
	var count int
	var save string
	var timeout time.Duration
	var follow bool
	cmd := &cobra.Command{
		Use:   "receive [--count N] [--follow] [--save DIR]",
		Short: "print new texts and files, one a line, and say that they were read",
		Long: `Prints new texts and files, one a line: id, from, to, time, text, file and state, with tabs
between them. Of a file, text is its name, and file where it is; else file is -. In a text, \n is a new line, \t a tab and \\ a
backslash; other control characters are shown as U+FFFD. What a stranger writes first has one
more field after the state: first. With --json nothing is changed. With --save files are moved
into a folder, under a harmless name that nothing else has there. A line counts as printed
when all of it was written. So nothing is skipped, whatever happens to this command; if it is
killed after a line and before it has noted that, that line comes once more, with the same id.`,
		Example: `noipchat receive --timeout 5m
noipchat receive --follow --save ~/incoming
noipchat receive --follow --json | while read -r m; do echo "$m" | jq -r .text; done`,
		Args: cli.Args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if count < 0 {
				return cli.Misuse("0: what is there, and one at least", "--count %d", count)
			}
			if follow && !cmd.Flags().Changed("timeout") {
				timeout = 0
			}
			ctx, cancel := untilSignal(cmd.Context(), timeout)
			defer cancel()
			return a.receive(ctx, count, follow, save)
		},
	}
	flags := cmd.Flags()
	flags.IntVar(&count, "count", 0, "end after `N` of them; 0: after what is there, and one at least")
	flags.StringVar(&save, "save", "", "move files into the folder `DIR`")
	flags.DurationVar(&timeout, "timeout", time.Minute, "wait at most so long, 0s for ever; a `TIME` as 90s or 5m")
	flags.BoolVar(&follow, "follow", false, "go on until interrupted")
	return cmd
}

// receive writes to the file itself: a text counts as shown when it is written.
func (a *app) receive(ctx context.Context, count int, follow bool, save string) error {
	signal.Ignore(syscall.SIGPIPE) // a reader that has gone is an error of the write, and has exit code 74
	dir, err := a.folder()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() { // until the program ends
		cancel(fmt.Errorf("writing the output: %w", readerGone()))
	}()
	printed, full := 0, false
	var coming comings
	defer coming.end()
	return a.work(ctx, func(ctx context.Context, w *worker) error {
		err := w.wait(ctx, func() (bool, error) {
			if err := w.offline(); errors.Is(err, client.ErrNoSpace) && !full {
				full = true // once will do
				cli.Report(os.Stderr, "noipchat", explain(noSpace(err)))
			}
			// Of two at once only one prints, or both would print the same.
			turn, err := durable.WaitLock(ctx, filepath.Join(dir, cursor))
			if err != nil {
				return false, err
			}
			defer turn.Close()
			for {
				limit := 64
				if count > 0 {
					limit = min(limit, count-printed)
				}
				messages, err := w.store.Next(cursor, limit)
				if err != nil {
					return false, err
				}
				if len(messages) > 0 {
					coming.end()
				}
				for _, m := range messages {
					if m.File != nil && save != "" && m.File.Damage == "" {
						if m.File.Path, err = w.store.SaveFile(m, save); err != nil {
							return false, saving(err)
						}
					}
					if err := a.printReceived(os.Stdout, m); err != nil {
						return false, fmt.Errorf("writing the output: %w", err)
					}
					if err := w.store.Advance(cursor, m); err != nil {
						return false, err
					}
					printed++
				}
				if len(messages) > 0 {
					if _, err := w.store.EnqueueReadReceipts(ctx); err != nil && ctx.Err() == nil {
						return false, err
					}
					w.profile.Kick()
				}
				if count > 0 && printed == count {
					return true, nil
				}
				if len(messages) < limit {
					if err := coming.show(a, w.store); err != nil {
						return false, err
					}
					return !follow && count == 0 && printed > 0, nil
				}
			}
		})
		if printed > 0 {
			w.drain(context.WithoutCancel(ctx))
		}
		switch {
		case !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, context.Canceled):
			return err
		case follow && count == 0:
			return nil
		case printed == 0 && w.offline() != nil:
			return unreachable(w.offline(), "")
		}
		return &cli.Error{Code: cli.ExitNotYet, Err: fmt.Errorf("%d new texts came, %d were asked for", printed, max(count, 1))}
	})
}

// readerGone waits until nobody reads our standard output any more, and says so.
// Without it, who waits for a text that doesn't come would not find out.
func readerGone() error {
	for {
		out := []unix.PollFd{{Fd: 1}} // no events: what is wrong is told anyway
		switch _, err := unix.Poll(out, -1); {
		case err == unix.EINTR:
		case err != nil:
			return err
		default:
			return unix.EPIPE
		}
	}
}

func (a *app) printReceived(out io.Writer, m client.Message) error {
	if a.json {
		return cli.JSON(out, m)
	}
	to, file, state := joinAddresses(m.To, ","), "-", m.State // no field is empty: a shell's read would join the tabs
	if m.List != "" {
		to = m.List
	}
	if m.File != nil {
		if file = oneLine(m.File.Path); m.File.Damage != "" {
			state = "damaged"
		}
	}
	fields := []string{m.ID.String(), string(m.From), to, m.Created.UTC().Format(time.RFC3339), oneLine(m.Body), file, state}
	if m.First {
		fields = append(fields, "first")
	}
	if m.Unverified {
		fields = append(fields, "unverified")
	}
	_, err := fmt.Fprintln(out, strings.Join(fields, "\t"))
	return err
}

// saving says what to do about a file that can't be saved.
func saving(err error) error {
	hint := "it stays where it is, and comes again: choose another folder with --save, or make this one writable"
	if errors.Is(err, client.ErrNoSpace) {
		hint = "it stays where it is, and comes again: make space, or choose another folder with --save"
	}
	return &cli.Error{Code: cli.ExitIO, Err: fmt.Errorf("saving a file: %w", err), Hint: hint}
}

// comings shows how far files are that are coming in, the oldest first.
type comings struct {
	progress *progress
	file     client.Coming
}

func (c *comings) show(a *app, store *client.Store) error {
	all, err := store.Coming()
	if err != nil || len(all) == 0 {
		c.end()
		return err
	}
	if first := all[0]; c.progress == nil || first.From != c.file.From || !first.Began.Equal(c.file.Began) {
		c.end()
		c.file = first
		c.progress = a.progress("receiving", "", first.Name)
	}
	c.progress.show(all[0].Bytes, all[0].Size)
	return nil
}

func (c *comings) end() {
	if c.progress != nil {
		c.progress.end()
		c.progress = nil
	}
}

var escapes = strings.NewReplacer("\\", `\\`, "\n", `\n`, "\t", `\t`, "\r\n", `\n`)

// oneLine shows a text in one line in which nothing can hide.
func oneLine(text string) string { return cli.Sanitise(escapes.Replace(text)) }
