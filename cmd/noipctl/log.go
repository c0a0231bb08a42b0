package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/noipchat/noipchat/cmd/cli"
	"github.com/noipchat/noipchat/daemon/config"
)

// event is a line of the log.
type event struct {
	at     time.Time // zero: it doesn't say
	level  string    // "info", "warning", "error"
	text   string
	fields []field
}

type field struct{ key, value string }

// logFilter is which events are wanted.
type logFilter struct{ user, peer, id string }

func (a *app) logCommand() *cobra.Command {
	var want logFilter
	var follow bool
	var count int
	var file string
	cmd := &cobra.Command{
		Use:   "log",
		Short: "show what happened: the server's log, for people",
		Long: "Shows the server's log, from the journal or from the file that the configuration names. With --user,\n" +
			"--peer and --id only what has to do with them. With --follow it goes on until it is interrupted.\n" +
			"Of a server that has no unit the journal has nothing: it says so, and where to look, and exits 74.",
		Example: "noipctl log --follow\nnoipctl log --user alice --lines 20\nnoipctl log --peer server2 --json",
		Args:    cli.Args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if count < 1 || count > 1_000_000 {
				return cli.Misuse("", "--lines %d: want 1 to 1000000", count)
			}
			argv, parse, err := a.logSource(cmd, file, follow, count, want != logFilter{})
			if err != nil {
				return err
			}
			show := func(e event) error { return a.showEvent(os.Stdout, e) }
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
			defer stop()
			return readLog(ctx, argv, parse, func(e event) bool { return want.matches(e) }, follow, count, show)
		},
	}
	f := cmd.Flags()
	f.StringVar(&want.user, "user", "", "only what has to do with the user `NAME`")
	f.StringVar(&want.peer, "peer", "", "only what has to do with the server `NAME`")
	f.StringVar(&want.id, "id", "", "only what has to do with the message `ID`")
	f.BoolVarP(&follow, "follow", "f", false, "go on with what happens")
	f.IntVarP(&count, "lines", "n", 200, "the last `NUMBER` of lines")
	f.StringVar(&file, "file", "", "read the log in `FILE`")
	cmd.RegisterFlagCompletionFunc("user", complete(true, a.userNames))
	cmd.RegisterFlagCompletionFunc("peer", complete(true, a.peerNames))
	cmd.RegisterFlagCompletionFunc("id", complete(true, a.waitingIDs))
	return cmd
}

// logSource is the program that writes the log out, and how its lines are read. Programs that
// every host has follow rotations and need no code of ours.
func (a *app) logSource(cmd *cobra.Command, file string, follow bool, count int, filtered bool) (argv []string, parse func(string) event, err error) {
	if file == "" {
		where, err := a.logsTo(cmd)
		if err != nil {
			return nil, nil, err
		}
		if filepath.IsAbs(where) {
			file = where
		}
	}
	lines := strconv.Itoa(count)
	if filtered && !follow {
		lines = "all" // those that match are counted
	}
	if file == "" {
		if err := a.inJournal(cmd); err != nil {
			return nil, nil, err
		}
		argv = []string{"journalctl", "--unit=noipchat.service", "--output=json", "--no-pager", "--quiet", "--lines=" + lines}
		if follow {
			argv = append(argv, "--follow")
		}
		return argv, parseJournal, nil
	}
	f, err := os.Open(file) // tail would wait for it for ever
	if err != nil {
		return nil, nil, err
	}
	f.Close()
	argv = []string{"tail", "-n", lines}
	if lines == "all" {
		argv[2] = "+1"
	}
	if follow {
		argv = append(argv, "-F")
	}
	return append(argv, "--", file), parseText, nil
}

// logsTo is where the live configuration says that the log goes or, if no daemon answers,
// that on disk.
func (a *app) logsTo(cmd *cobra.Command) (string, error) {
	live, err := a.daemon().Configuration(cmd.Context())
	if err == nil {
		if c, err := config.Parse(live.Path, live.Text); err == nil {
			return c.Log, nil
		}
	}
	if c, err := config.Load(defaultConfig); err == nil {
		return c.Log, nil
	}
	return "", err
}

// inJournal finds that the server that answers is not noipchat.service, of which the journal is
// asked. If none answers, the journal says what became of that one.
func (a *app) inJournal(cmd *cobra.Command) error {
	status, err := a.daemon().Status(cmd.Context())
	if err != nil {
		return nil
	}
	pid := strconv.Itoa(status.PID)
	if unit, err := run(cmd.Context(), "systemctl", "show", "-p", "MainPID", "--value", "noipchat.service"); err == nil && unit == pid {
		return nil
	}
	hint := "it logs to its standard error, which whoever started it has; ls -l /proc/" + pid + "/fd/2 says where that leads, and systemctl status " + pid + " whether a unit of its own has it"
	if path, err := os.Readlink("/proc/" + pid + "/fd/2"); err == nil {
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
			hint = "it logs to its standard error, which is a file: noipctl log --file " + path
		}
	}
	return &cli.Error{Code: cli.ExitIO, Err: fmt.Errorf("the journal has nothing of this server: pid %s, with %s, is not noipchat.service", pid, status.Config.Path), Hint: hint}
}

// readLog shows the last of the events that match and, with follow, those that come.
func readLog(ctx context.Context, argv []string, parse func(string) event, matches func(event) bool, follow bool, count int, show func(event) error) error {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	var said strings.Builder
	cmd.Stderr = &said
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return &cli.Error{Code: cli.ExitIO, Err: err, Hint: "the log is shown by " + argv[0]}
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	var last []event
	for r := bufio.NewReaderSize(out, 1<<20); ; {
		line, err := r.ReadString('\n')
		if e := parse(strings.TrimRight(line, "\n")); line != "" && matches(e) {
			if follow {
				if err := show(e); err != nil {
					return err
				}
			} else if last = append(last, e); len(last) > 2*count {
				last = slices.Delete(last, 0, count)
			}
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("reading the log: %w", err)
		}
	}
	for _, e := range last[max(0, len(last)-count):] {
		if err := show(e); err != nil {
			return err
		}
	}
	if err := cmd.Wait(); err != nil && ctx.Err() == nil {
		return &cli.Error{Code: cli.ExitIO, Err: fmt.Errorf("%s: %w: %s", argv[0], err, strings.TrimSpace(said.String())), Hint: "who may read the journal: root, and the groups adm and systemd-journal"}
	}
	return nil
}

func (a *app) showEvent(w io.Writer, e event) error {
	if a.json {
		fields := map[string]string{}
		for _, f := range e.fields {
			fields[f.key] = f.value
		}
		return cli.JSON(w, struct {
			At     time.Time         `json:"at,omitzero"`
			Level  string            `json:"level"`
			Text   string            `json:"text"`
			Fields map[string]string `json:"fields"`
		}{e.at, e.level, e.text, fields})
	}
	var b strings.Builder
	at := "                   "
	if !e.at.IsZero() {
		at = when(e.at)
	}
	fmt.Fprintf(&b, "%s  %-7s  %s", at, strings.TrimSuffix(e.level, "info"), e.text)
	for i, f := range e.fields {
		separator := ", "
		if i == 0 {
			separator = ": "
		}
		fmt.Fprintf(&b, "%s%s %s", separator, f.key, f.value)
	}
	_, err := fmt.Fprintln(w, cli.Sanitise(oneLine(b.String())))
	return err
}

// matches tells whether an event has to do with all that is wanted.
func (f logFilter) matches(e event) bool {
	has := func(want string, same func(value string) bool, keys ...string) bool {
		return want == "" || slices.ContainsFunc(e.fields, func(f field) bool {
			return (len(keys) == 0 || slices.Contains(keys, f.key)) && same(f.value)
		})
	}
	user, _, _ := strings.Cut(f.user, "@")
	isUser := func(v string) bool {
		return v == f.user || v == user || strings.HasPrefix(v, user+"@") && user == f.user
	}
	isPeer := func(v string) bool { return v == f.peer }
	return has(f.user, isUser, "user", "about", "from", "to", "receiver") &&
		has(f.peer, isPeer, "peer", "server", "about", "via", "name") &&
		has(f.id, func(v string) bool { return strings.Contains(v, f.id) })
}

// parseJournal reads a line of journalctl --output=json.
func parseJournal(line string) event {
	var j struct {
		Time     string          `json:"__REALTIME_TIMESTAMP"`
		Priority string          `json:"PRIORITY"`
		Message  json.RawMessage `json:"MESSAGE"`
	}
	json.Unmarshal([]byte(line), &j) // what it doesn't say stays empty
	var text string
	if json.Unmarshal(j.Message, &text) != nil { // bytes, where it isn't UTF-8
		var numbers []byte
		var list []int
		json.Unmarshal(j.Message, &list)
		for _, n := range list {
			numbers = append(numbers, byte(n))
		}
		text = strings.ToValidUTF8(string(numbers), "\uFFFD")
	}
	e := parseText(text)
	if us, err := strconv.ParseInt(j.Time, 10, 64); err == nil {
		e.at = time.UnixMicro(us)
	}
	switch n, err := strconv.Atoi(j.Priority); {
	case err != nil:
	case n <= 3:
		e.level = "error"
	case n == 4:
		e.level = "warning"
	}
	return e
}

// parseText reads a line as the server writes it: key=value, with quotes where there have to
// be some. Any other line is a text.
func parseText(line string) event {
	e := event{level: "info"}
	said := false
	for rest := line; rest != ""; {
		key, after, found := strings.Cut(rest, "=")
		if quoted, err := strconv.QuotedPrefix(rest); err == nil { // "again in"=1s
			key, _ = strconv.Unquote(quoted)
			after, found = strings.CutPrefix(rest[len(quoted):], "=")
		} else if strings.ContainsAny(key, " \"") {
			found = false
		}
		if !found || key == "" {
			return event{level: "info", text: line}
		}
		value := after
		if quoted, err := strconv.QuotedPrefix(after); err == nil {
			value, _ = strconv.Unquote(quoted)
			after = after[len(quoted):]
		} else {
			value, _, _ = strings.Cut(after, " ")
			after = after[len(value):]
		}
		rest = strings.TrimPrefix(after, " ")
		if rest == after && rest != "" {
			return event{level: "info", text: line}
		}
		switch key {
		case "time":
			e.at, _ = time.Parse(time.RFC3339Nano, value)
		case "level":
			e.level = strings.ToLower(strings.Replace(value, "WARN", "WARNING", 1))
		case "msg":
			e.text, said = value, true
		default:
			e.fields = append(e.fields, field{key, value})
		}
	}
	if !said {
		return event{level: "info", text: line}
	}
	return e
}
