package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/charmbracelet/x/ansi"

	"github.com/noipchat/noipchat/daemon/control"
)

// TestWatchScreen: on a terminal, however much there is to show, nothing wraps or scrolls, and what
// matters most is there.
func TestWatchScreen(t *testing.T) {
	dir := t.TempDir()
	o := newOffice(filepath.Join(dir, "noipchat.toml"))
	for i := range 10 {
		o.handoffs = append(o.handoffs, control.Handoff{At: time.Now(), From: "0.1.0", To: "0.2.0", Sessions: 17, Links: 3, Reason: fmt.Sprintf("вручную 手动 %d 手动手动手动手动", i)})
	}
	socket := filepath.Join(dir, "control.sock")
	l, err := control.Listen(socket, control.Mode)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	log := slog.New(slog.DiscardHandler)
	go func() { ended <- control.Serve(ctx, l, control.NewHandler(o, log), log) }()
	t.Cleanup(func() { cancel(); <-ended })

	who := onTerminal(t, "xterm", "watch", "--every", "100ms", "--socket", socket)
	const home = "\x1b[H"
	who.await(home)
	for _, size := range []struct{ columns, rows int }{{120, 40}, {80, 24}, {79, 24}, {31, 5}} {
		who.resize(uint16(size.columns), uint16(size.rows))
		for end := time.Now().Add(20 * time.Second); ; { // what was drawn before is still to be read
			who.keys.SetReadDeadline(end)
			for b := make([]byte, 4<<10); !strings.Contains(who.seen, home); {
				n, err := who.keys.Read(b)
				if who.seen += string(b[:n]); err != nil {
					t.Fatalf("%v; the screen has\n%q", err, who.seen)
				}
			}
			var frame string
			frame, who.seen, _ = strings.Cut(who.seen, home)
			wrong := misfit(frame, size.columns, size.rows)
			if wrong == "" {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("%v: %s\n%s", size, wrong, frame)
			}
		}
	}
	if err := who.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if code := who.end(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// misfit says what is wrong with a screen; "": nothing.
func misfit(frame string, columns, rows int) string {
	drawn := strings.Split(strings.ReplaceAll(frame, "\r\n", "\n"), "\n")
	full := false
	for _, row := range drawn {
		n := ansi.StringWidth(row)
		if n > columns || !utf8.ValidString(row) {
			return fmt.Sprintf("%d columns: %q", n, row)
		}
		full = full || n == columns
	}
	if len(drawn) > rows || rows < 40 && (len(drawn) < rows || !full) {
		return fmt.Sprintf("%d rows, full: %v", len(drawn), full)
	}
	if rows >= 24 {
		for _, want := range []string{"server       server1", "queues       1 with", "peers        4, up 1", "disk  ", "notice  "} {
			if !strings.Contains(frame, want) {
				return want + " is not there"
			}
		}
	}
	return ""
}
