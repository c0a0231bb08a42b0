package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/noipchat/noipchat/cmd/cli"
	"github.com/noipchat/noipchat/daemon/client"
	"github.com/noipchat/noipchat/daemon/message"
)

var priorities = [message.Priorities]message.Priority{message.Urgent, message.Normal, message.Bulk}

func (a *app) sendCommand() *cobra.Command {
	var text, wait string
	var timeout, lifetime time.Duration
	cmd := &cobra.Command{
		Use:   "send TO…",
		Short: "send a text to one or many, and say what became of it",
		Long: `Sends a text to one or many, from -m or standard input, and prints its id and state:
queued (here), held (a server has it on disk), delivered (on a device), read.
TO is an address or the name of a contact. If the server can't be reached, the text stays in the outbox, and goes with the
next command that has a connection.`,
		Example: `noipchat send bob@server1 carol -m 'dinner at eight?'
df -h / | noipchat send admin@server1 --wait delivered --timeout 5m`,
		Args: cli.Args("TO…"),
		RunE: func(cmd *cobra.Command, args []string) error {
			o, err := a.outgoing(cmd, args, text, lifetime)
			if err != nil {
				return err
			}
			goal, err := message.ParseState(wait)
			if err != nil || goal == message.Refused || goal == message.Expired {
				return cli.Misuse("--wait queued, held, delivered or read", "--wait %q", wait)
			}
			ctx, cancel := untilSignal(cmd.Context(), timeout)
			defer cancel()
			return a.send(ctx, cmd.OutOrStdout(), o, goal)
		},
	}
	flags := cmd.Flags()
	flags.StringVarP(&text, "message", "m", "", "the `TEXT`; left out: standard input")
	flags.StringVar(&wait, "wait", "held", "wait until it is in this `STATE`: queued, held, delivered, read")
	flags.DurationVar(&timeout, "timeout", time.Minute, "wait at most so long, 0s for ever; a `TIME` as 90s or 5m")
	flags.DurationVar(&lifetime, "lifetime", 0, "after this `TIME` it is not delivered any more; 0s: as the servers have it")
	return cmd
}

// outgoing makes a message of the command line.
func (a *app) outgoing(cmd *cobra.Command, args []string, text string, lifetime time.Duration) (client.Outgoing, error) {
	to, err := a.receivers(args)
	o := client.Outgoing{To: to, Lifetime: lifetime}
	if err != nil {
		return o, err
	}
	if len(o.To) > message.MaxTo {
		return o, cli.Misuse("send it in parts", "%d receivers are more than %d", len(o.To), message.MaxTo)
	}
	if !cmd.Flags().Changed("message") {
		b, err := io.ReadAll(io.LimitReader(os.Stdin, message.MaxEnvelope+1))
		if err != nil {
			return o, fmt.Errorf("reading the text: %w", err)
		}
		text = strings.TrimSuffix(string(b), "\n")
	}
	if text == "" {
		return o, cli.Misuse("give it with -m TEXT or on standard input", "there is no text")
	}
	if len(text) > message.MaxEnvelope-1024 {
		return o, cli.Misuse("send it in parts", "a text has at most %d bytes", message.MaxEnvelope-1024)
	}
	if strings.ToValidUTF8(text, "") != text {
		return o, cli.Misuse("convert it with iconv(1)", "the text is not valid UTF-8")
	}
	o.Body = []byte(text)
	return o, nil
}

func (a *app) send(ctx context.Context, out io.Writer, o client.Outgoing, goal message.State) error {
	if goal == message.Queued {
		w, err := a.worker()
		if err != nil {
			return err
		}
		defer w.store.Close()
		m, err := w.store.Enqueue(ctx, o)
		if err != nil {
			return err
		}
		w.profile.Kick()
		return a.printSent(out, m)
	}
	return a.work(ctx, func(ctx context.Context, w *worker) error {
		m, err := w.store.Enqueue(ctx, o)
		if err != nil {
			return err
		}
		w.profile.Kick()
		err = w.wait(ctx, func() (bool, error) {
			now, _, err := w.store.Status(m.ID)
			if err != nil {
				return false, err
			}
			m = now
			w.profile.Watch(m.ID) // a restored profile may give it another one
			return reached(m, goal), nil
		})
		if err := a.printSent(out, m); err != nil {
			return err
		}
		for _, r := range m.Recipients {
			if r.State == message.Refused && err == nil {
				err = doubt(w.store, r.Address) // it is why, and says more
			}
		}
		return verdict(m, goal, err, w.offline())
	})
}

// reached tells whether every receiver's state is the goal, or one after which
// nothing better is to be expected.
func reached(m client.Message, goal message.State) bool {
	for _, r := range m.Recipients {
		if r.State < goal && !r.State.Final() {
			return false
		}
	}
	return true
}

// verdict is the error that a send ends with.
func verdict(m client.Message, goal message.State, err, offline error) error {
	if errors.As(err, new(*client.ChangedDevicesError)) {
		return err
	}
	for _, r := range m.Recipients {
		if r.State == message.Refused || r.State == message.Expired {
			return &cli.Error{Code: cli.ExitRefused, Err: fmt.Errorf("%s for %s: %s", r.State, r.Address, because(r)), Hint: ""}
		}
	}
	if err == nil || client.Final(err) || !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, context.Canceled) {
		return err
	}
	if offline != nil && m.State == message.Queued.String() {
		return unreachable(offline, "it is in the outbox, and goes with the next command that has a connection")
	}
	return &cli.Error{
		Code: cli.ExitNotYet, Err: fmt.Errorf("it is %s, not %s yet", m.State, goal),
		Hint: "look again later: noipchat status " + m.ID.String(),
	}
}

func because(r client.Recipient) string {
	if r.Reason == "" {
		return r.Code.String()
	}
	return r.Reason
}

func (a *app) printSent(out io.Writer, m client.Message) error {
	if a.json {
		return cli.JSON(out, m)
	}
	_, err := fmt.Fprintf(out, "%s %s\n", m.ID, m.State)
	return err
}
