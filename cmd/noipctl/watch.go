package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/charmbracelet/x/ansi"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/noipchat/noipchat/cmd/cli"
)

func (a *app) watchCommand() *cobra.Command {
	every := 2 * time.Second
	cmd := &cobra.Command{
		Use:   "watch",
		Short: "show the status again and again",
		Long: "Shows the status on the whole screen, again and again, until it is interrupted. Without a terminal it\n" +
			"prints a line each time; with --json what status --json prints. It goes on while the server is away.",
		Example: "noipctl watch\nnoipctl watch --every 10s --json >>status.jsonl",
		Args:    cli.Args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if every < 100*time.Millisecond {
				return cli.Misuse("", "--every %v: want 100ms or more", every)
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
			defer stop()
			return a.watch(ctx, os.Stdout, every, term.IsTerminal(int(os.Stdout.Fd())) && os.Getenv("TERM") != "dumb" && !a.json)
		},
	}
	cmd.Flags().DurationVar(&every, "every", every, "show it each `TIME`")
	return cmd
}

func (a *app) watch(ctx context.Context, w io.Writer, every time.Duration, screen bool) error {
	if screen {
		fmt.Fprint(w, "\x1b[?1049h\x1b[?25l") // another screen, no cursor
		defer fmt.Fprint(w, "\x1b[?25h\x1b[?1049l")
	}
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		text, err := a.glance(ctx, screen)
		if ctx.Err() != nil {
			return nil // it was to end
		}
		if err != nil {
			return err
		}
		if screen {
			text = onScreen(text)
		}
		if _, err := io.WriteString(w, text); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// onScreen draws a text over the one before, as much of it as the terminal has room for now.
func onScreen(text string) string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	width, height, err := term.GetSize(int(os.Stdout.Fd()))
	known := err == nil && width > 0 && height > 1
	if known {
		lines = fit(lines, width, height)
	}
	// A line is cleared before it is drawn: behind a full one that takes its last character.
	text = "\x1b[H\x1b[K" + strings.Join(lines, "\n\x1b[K")
	if known && len(lines) == height {
		return text // another line's end would scroll
	}
	return text + "\n\x1b[J"
}

// fit cuts lines to a screen, and says how many there are more.
func fit(lines []string, width, height int) []string {
	if more := len(lines) - height + 1; more > 1 {
		lines = append(lines[:height-1:height-1], fmt.Sprintf("and %d lines more: noipctl status", more))
	}
	for i := range lines {
		lines[i] = ansi.Truncate(lines[i], width, "…")
	}
	return lines
}

// glance is what watch shows at a time.
func (a *app) glance(ctx context.Context, screen bool) (string, error) {
	now := time.Now().Format(time.TimeOnly)
	v, err := a.survey(ctx)
	var b bytes.Buffer
	switch {
	case err != nil && a.json:
		err = cli.JSON(&b, struct {
			Error string `json:"error"`
		}{err.Error()})
	case err != nil:
		_, err = fmt.Fprintf(&b, "%s  %s\n", now, cli.Sanitise(err.Error()))
	case a.json:
		err = cli.JSON(&b, v.Status)
	case screen:
		fmt.Fprintf(&b, "%s, each time anew; Ctrl-C ends it\n\n", now)
		err = v.table().Write(&b, "")
	default:
		fmt.Fprintf(&b, "%s  %s: %d sessions, %d messages wait, %d of %d peers up, %s free, %d notices\n",
			now, v.Server, v.Sessions, v.Queues.Messages, v.up(), len(v.peers), cli.Size(v.Disk.Free), len(v.Notices))
	}
	return b.String(), err
}
