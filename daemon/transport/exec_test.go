package transport

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// logged is what a log says.
type logged struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// shell runs a script of sh as a command.
func shell(t *testing.T, script string) (*command, *logged) {
	t.Helper()
	var l logged
	c, err := start([]string{"sh", "-c", script}, Properties{}, slog.New(slog.NewTextHandler(&l, nil)))
	if err != nil {
		t.Fatal(err)
	}
	return c.(*command), &l
}

func descriptors(t *testing.T) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

// alive tells whether a process group has members but for zombies, which whoever is
// their parent now has to reap.
func alive(t *testing.T, group int) bool {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range all {
		stat, _ := os.ReadFile(path)
		_, fields, _ := strings.Cut(string(stat), ") ")
		var state string
		var parent, pgrp int
		fmt.Sscan(fields, &state, &parent, &pgrp)
		if pgrp == group && state != "Z" {
			return true
		}
	}
	return false
}

// TestCommandEnds: whatever a command does, nothing of it is left after Close: no
// process of its group, no zombie, no goroutine, no file.
func TestCommandEnds(t *testing.T) {
	before := descriptors(t)
	for name, c := range map[string]struct {
		script string
		most   time.Duration
	}{
		"ends with its input":           {"echo ready; cat >/dev/null", execGrace},
		"ends when it is asked":         {"echo ready; exec sleep 1000", execGrace + execTerm},
		"has to be made to":             {"trap '' TERM; echo ready; while :; do sleep 1000; done", execGrace + execTerm + time.Second},
		"leaves others behind":          {"sleep 1000 & echo ready; cat >/dev/null", execGrace},
		"leaves others with its output": {"(trap '' TERM; sleep 1000) & echo ready", execGrace},
		"has ended":                     {"echo ready; exit 3", execGrace},
	} {
		t.Run(name, func(t *testing.T) {
			defer goleak.VerifyNone(t)
			took := time.Hour
			for try := 0; try < 3 && took > c.most+2*time.Second; try++ { // the machine may stand still for once
				took = closing(t, c.script)
			}
			if took > c.most+2*time.Second {
				t.Errorf("closing takes %v", took)
			}
		})
	}
	if n := descriptors(t); n != before {
		t.Errorf("%d files are open, and were %d", n, before)
	}
}

// closing closes a command when it has said that it is ready, looks whether anything is left,
// and returns how long Close took.
func closing(t *testing.T, script string) (took time.Duration) {
	t.Helper()
	cmd, _ := shell(t, script)
	if _, err := io.ReadFull(cmd, make([]byte, 6)); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if err := cmd.Close(); err != nil {
		t.Error(err)
	}
	took = time.Since(start)
	for deadline := time.Now().Add(time.Minute); alive(t, cmd.pid); {
		if time.Now().After(deadline) {
			t.Fatal("its group is still there")
		}
	}
	if err := unix.Kill(cmd.pid, 0); err != unix.ESRCH {
		t.Errorf("it was not reaped: %v", err)
	}
	cmd.Close()
	return took
}

// TestCommandSays: standard error goes to the log, by the line and bounded, and the
// last line says why the stream ended.
func TestCommandSays(t *testing.T) {
	cmd, log := shell(t, `echo one >&2; printf 'a%.0s' $(seq 5000) >&2; printf '\nbad \377 \033[31m\n' >&2; echo 'no way there' >&2; exit 255`)
	_, err := cmd.Read(make([]byte, 1))
	if !errors.Is(err, io.EOF) || !strings.Contains(fmt.Sprint(err), `exit status 255, and said "no way there"`) {
		t.Errorf("it ends with %v", err)
	}
	var b lender
	if _, err := b.borrow(cmd); !errors.Is(err, io.EOF) || !strings.Contains(fmt.Sprint(err), "no way there") {
		t.Errorf("and again with %v", err)
	}
	cmd.Close()
	if _, err := cmd.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	text := log.String()
	for _, want := range []string{"text=one", `text="no way there"`, "command=sh", strings.Repeat("a", maxErrorLine), `bad � \x1b[31m`} {
		if !strings.Contains(text, want) {
			t.Errorf("the log lacks %q:\n%s", want, text)
		}
	}
	if strings.Contains(text, strings.Repeat("a", maxErrorLine+1)) || strings.Count(text, "\n") != 4 {
		t.Errorf("the log has too much:\n%s", text)
	}
}

func TestCommandThatIsNotThere(t *testing.T) {
	before := descriptors(t)
	for _, what := range []string{"/nowhere/at/all x", "'/'", "", "'"} {
		if c, err := Dial(t.Context(), "exec", "", what); err == nil || c != nil || !strings.Contains(err.Error(), "running") {
			t.Errorf("%q: %v, %v", what, c, err)
		}
	}
	if l, err := Listen(t.Context(), "exec", "x"); err == nil || l != nil {
		t.Error(l, err)
	}
	if n := descriptors(t); n != before {
		t.Errorf("%d files are open, and were %d", n, before)
	}
}

// TestCommandSpeaks: what it is given it gets whole, and a quiet end is a quiet end.
func TestCommandSpeaks(t *testing.T) {
	c, err := Address{Kind: "exec", Remote: `sh -c 'printf %s- "$0" "$1"; cat' 'two words' ''`, Line: Properties{Rate: 1200}}.Dial(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if c.Properties().Rate != 1200 || c.RemoteAddr().Network() != "exec" || c.RemoteAddr().String() != "sh" {
		t.Errorf("%v at %v", c.Properties(), c.RemoteAddr())
	}
	send(t, c, "and what it is told")
	c.(*command).CloseWrite()
	if all, err := io.ReadAll(c); string(all) != "two words--and what it is told" || err != nil {
		t.Errorf("%q, %v", all, err)
	}
}
