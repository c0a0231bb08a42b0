package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/noipchat/noipchat/cmd/cli"
	"github.com/noipchat/noipchat/daemon/client"
	"github.com/noipchat/noipchat/daemon/message"
)

var priorities = [message.Priorities]message.Priority{message.Urgent, message.Normal, message.Bulk}

func (a *app) sendCommand() *cobra.Command {
	var s sending
	var wait, reply string
	cmd := &cobra.Command{
		Use:   "send TO…",
		Short: "send a text or files to one or many, and say what became of it",
		Long: `Sends a text to one or many, from -m or standard input, and files; prints the id and state
of each: queued (here), held (a server has it on disk), delivered (on a device), read. TO is
an address, the name of a contact, or that of a list. If the server can't be reached, all
stays in the outbox, and goes with the next command that has a connection. A file is read
when it is sent: leave it as it is until then.`,
		Example: `noipchat send bob@server1 carol -m 'dinner at eight?'
noipchat send bob@server1 --file photo.jpg --file plan.pdf
df -h / | noipchat send admin@server1 --wait delivered --timeout 5m`,
		Args: cli.Args("[TO]…"),

		ValidArgsFunction: a.complete(message.MaxTo, receiverWords),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if s.goal, err = message.ParseState(wait); err != nil || s.goal == message.Refused || s.goal == message.Expired {
				return cli.Misuse("--wait queued, held, delivered or read", "--wait %q", wait)
			}
			if err := s.text(cmd.Flags().Changed("message")); err != nil {
				return err
			}
			if err := a.address(&s, args, reply); err != nil {
				return err
			}
			ctx, cancel := untilSignal(cmd.Context(), 0)
			defer cancel()
			return a.send(ctx, cmd.OutOrStdout(), &s)
		},
	}
	flags := cmd.Flags()
	flags.StringVarP(&s.message, "message", "m", "", "the `TEXT`; left out: standard input, unless there is a file")
	flags.StringArrayVar(&s.files, "file", nil, "send the file at `PATH`; may be given more than once")
	flags.StringVar(&reply, "reply", "", "to all whom the message `ID` went to, and who wrote it")
	cmd.RegisterFlagCompletionFunc("reply", a.complete(1, idWords))
	flags.StringVar(&wait, "wait", "held", "wait until it is in this `STATE`: queued, held, delivered, read")
	flags.DurationVar(&s.timeout, "timeout", time.Minute, "wait at most so long, for files without progress; 0s for ever; a `TIME` as 90s or 5m")
	flags.DurationVar(&s.lifetime, "lifetime", 0, "after this `TIME` it is not delivered any more; 0s: as the servers have it")
	return cmd
}

// sending is what a command line wants to send, and to whom.
type sending struct {
	message  string
	files    []string
	to       []message.Address
	list     *client.List // to which to belongs; nil: none
	lifetime time.Duration
	goal     message.State
	timeout  time.Duration
}

// text takes the text from standard input if it isn't given, and checks it.
func (s *sending) text(given bool) error {
	if !given && len(s.files) == 0 {
		b, err := io.ReadAll(io.LimitReader(os.Stdin, message.MaxEnvelope+1))
		if err != nil {
			return fmt.Errorf("reading the text: %w", err)
		}
		s.message = strings.TrimSuffix(string(b), "\n")
	}
	switch {
	case s.message == "" && len(s.files) == 0:
		return cli.Misuse("give it with -m TEXT or on standard input", "there is no text")
	case len(s.message) > message.MaxEnvelope-1024:
		return cli.Misuse("send it as a file: --file PATH", "a text has at most %d bytes", message.MaxEnvelope-1024)
	case strings.ToValidUTF8(s.message, "") != s.message:
		return cli.Misuse("convert it with iconv(1), or send it as a file: --file PATH", "the text is not valid UTF-8")
	}
	return nil
}

// address finds out to whom it goes.
func (a *app) address(s *sending, args []string, reply string) error {
	switch {
	case reply != "" && len(args) > 0:
		return cli.Misuse("give one of them", "--reply says to whom it goes, and %q too", args[0])
	case reply != "":
		return a.answer(s, reply)
	case len(args) == 0:
		return cli.Misuse("usage: noipchat send TO…", "TO is missing")
	case len(args) == 1:
		err := a.account(func(store *client.Store, _ *client.Account) (err error) {
			s.list, err = list(store, args[0])
			return err
		})
		if s.list != nil || err != nil {
			return err
		}
	}
	to, err := a.receivers(args)
	if err == nil && len(to) > message.MaxTo {
		err = cli.Misuse("make a list: noipchat list add NAME TO…", "%d receivers are more than %d", len(to), message.MaxTo)
	}
	s.to = to
	return err
}

// answer has it go to all whom a message concerned.
func (a *app) answer(s *sending, id string) error {
	return a.account(func(store *client.Store, account *client.Account) error {
		m, err := messageOf(store, id)
		if err != nil {
			return err
		}
		if m.ListID() != (message.ListID{}) {
			l, known, err := store.ListByID(m.ListID())
			if err != nil || known {
				s.list = &l
				return err
			}
		}
		for _, to := range append([]message.Address{m.From}, m.To...) {
			if to != account.Address && to.User() != "" && !slices.Contains(s.to, to) {
				s.to = append(s.to, to)
			}
		}
		if len(s.to) == 0 {
			s.to = []message.Address{account.Address}
		}
		return nil
	})
}

// enqueue puts it all into the outbox.
func (a *app) enqueue(ctx context.Context, store *client.Store, s *sending) (all []client.Message, err error) {
	if s.message != "" {
		o := client.Outgoing{To: s.to, Body: []byte(s.message), Lifetime: s.lifetime}
		if s.list != nil {
			all, err = store.EnqueueToList(ctx, *s.list, o)
		} else {
			var m client.Message
			m, err = store.Enqueue(ctx, o)
			all = append(all, m)
		}
		if err != nil {
			return nil, err
		}
	}
	for _, path := range s.files {
		p := a.progress("reading", "", filepath.Base(path))
		o := client.OutgoingFile{To: s.to, List: s.list, Path: path, Lifetime: s.lifetime, Hashed: p.show}
		m, err := store.EnqueueFile(ctx, o)
		p.end()
		if errors.Is(err, client.ErrMisuse) {
			err = cli.Misuse("a folder goes packed: tar czf NAME.tar.gz NAME; all else: noipchat help send", "%w", err)
		}
		if err != nil {
			return all, err
		}
		all = append(all, m...)
	}
	return all, nil
}

func (a *app) send(ctx context.Context, out io.Writer, s *sending) error {
	if s.goal == message.Queued {
		w, err := a.worker()
		if err != nil {
			return err
		}
		defer w.store.Close()
		all, err := a.enqueue(ctx, w.store, s)
		w.profile.Kick()
		return errors.Join(a.printSent(out, all), err)
	}
	return a.work(ctx, func(ctx context.Context, w *worker) error {
		all, err := a.enqueue(ctx, w.store, s)
		if err != nil {
			return errors.Join(a.printSent(out, all), err)
		}
		w.profile.Kick()
		err = a.await(ctx, w, all, s)
		if err := a.printSent(out, all); err != nil {
			return err
		}
		for i, m := range all {
			for _, r := range m.Recipients {
				if r.State == message.Refused && err == nil {
					err = doubt(w.store, r.Address) // it is why, and says more
				}
			}
			if err := verdict(m, s.goal, err, w.offline()); err != nil || i == len(all)-1 {
				return err
			}
		}
		return nil
	})
}

// await waits until all of it is where it is to be, or until the time is over: for
// files, that in which nothing moves.
func (a *app) await(ctx context.Context, w *worker, all []client.Message, s *sending) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	patience := time.AfterFunc(max(s.timeout, 0), func() {
		if s.timeout > 0 {
			cancel(context.DeadlineExceeded)
		}
	})
	defer patience.Stop()
	shown := make([]*progress, len(all))
	for i, m := range all {
		if m.File != nil {
			shown[i] = a.progress("sending", m.ID.String(), m.File.Name)
			defer shown[i].end()
		}
	}
	return w.wait(ctx, func() (bool, error) {
		arrived := true
		for i, m := range all {
			now, _, err := w.store.Status(m.ID)
			if err != nil {
				return false, err
			}
			all[i] = now
			if len(all) == 1 && len(s.files) == 0 { // a profile watches one; of parts of files a watch tells nothing
				w.profile.Watch(now.ID) // a restored profile may give it another one
			}
			done := reached(now, s.goal)
			if p := shown[i]; p != nil && !done {
				settled, delivered, err := w.store.OutProgress(now)
				if err != nil {
					return false, err
				}
				if s.goal >= message.Delivered {
					settled = delivered
				}
				if settled != p.Bytes && s.timeout > 0 {
					patience.Reset(s.timeout)
				}
				if arrived {
					p.show(settled, now.File.Size)
				}
				p.Bytes = settled
			}
			arrived = arrived && done
		}
		return arrived, nil
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
	why := ""
	for _, r := range m.Recipients {
		if r.State == message.Queued && because(r) != "" {
			why = ": for " + string(r.Address) + " the server says " + because(r)
		}
	}
	return &cli.Error{
		Code: cli.ExitNotYet, Err: fmt.Errorf("it is %s, not %s yet%s", m.State, goal, why),
		Hint: "look again later: noipchat status " + m.ID.String(),
	}
}

// because is why somebody doesn't get a message, or not yet; "": that isn't so.
func because(r client.Recipient) string {
	if r.Code != 0 && r.Reason == "" {
		return r.Code.String()
	}
	return r.Reason
}

func (a *app) printSent(out io.Writer, all []client.Message) error {
	for _, m := range all {
		var err error
		if a.json {
			err = cli.JSON(out, m)
		} else {
			_, err = fmt.Fprintf(out, "%s %s\n", m.ID, m.State)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
