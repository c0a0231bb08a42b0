package main

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/noipchat/noipchat/daemon/systemd"
)

// TestParseLog: what the server's two handlers write is read as it was meant.
func TestParseLog(t *testing.T) {
	var text, journal bytes.Buffer
	logs := map[*bytes.Buffer]*slog.Logger{&text: slog.New(slog.NewTextHandler(&text, nil)), &journal: slog.New(systemd.NewHandler(&journal, slog.LevelInfo))}
	for b, log := range logs {
		log.Warn("a device = \"odd\"", "user", "alice@server1", "reason", "two\nlines = \x1b", "empty", "", "again in", 7)
		line := strings.TrimSpace(b.String())
		if b == &journal {
			line = strings.TrimPrefix(line, "<4>")
		}
		e := parseText(line)
		want := []field{{"user", "alice@server1"}, {"reason", "two\nlines = \x1b"}, {"empty", ""}, {"again in", "7"}}
		if e.text != "a device = \"odd\"" || !slices.Equal(e.fields, want) {
			t.Errorf("%s\nis %+v", line, e)
		}
		if b == &text && (e.level != "warning" || time.Since(e.at) > time.Minute) {
			t.Errorf("%+v", e)
		}
	}
	e := parseJournal(`{"__REALTIME_TIMESTAMP":"1764086400000000","PRIORITY":"3","MESSAGE":"msg=running server=server1"}`)
	if e.level != "error" || e.text != "running" || e.fields[0] != (field{"server", "server1"}) || e.at.UTC().Format(time.DateTime) != "2025-11-25 16:00:00" {
		t.Errorf("%+v", e)
	}
	e = parseJournal(`{"__REALTIME_TIMESTAMP":"1","PRIORITY":"6","MESSAGE":[109,115,103,61,255]}`)
	if e.text != "\uFFFD" || e.level != "info" {
		t.Errorf("bytes: %+v", e)
	}
}

// FuzzLog: no line of a log makes a parser panic, and what is no line of ours is shown whole.
func FuzzLog(f *testing.F) {
	f.Add(`time=2026-11-25T16:00:00.5Z level=INFO msg="a login was refused" user=bob`)
	f.Add(`{"__REALTIME_TIMESTAMP":"1764086400000000","PRIORITY":"3","MESSAGE":"msg=a"}`)
	f.Add(`{"MESSAGE":[109,-1,300]}`)
	f.Add(`msg="open`)
	f.Add(`a=b c`)
	f.Fuzz(func(t *testing.T, line string) {
		parseJournal(line)
		e := parseText(line)
		if e.text != line && !strings.Contains(line, "msg=") {
			t.Errorf("%q is %+v", line, e)
		}
	})
}

// TestFollow: what is written after the beginning is shown too, also to a file that took its place.
func TestFollow(t *testing.T) {
	path := filepath.Join(t.TempDir(), "server.log")
	add := func(text string) {
		t.Helper()
		f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err == nil {
			_, err = f.WriteString(text + "\n")
			f.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	add("msg=one user=alice")
	add("msg=two user=bob")
	cmd := exec.Command("noipctl", "log", "--follow", "--file", path, "--user", "alice", "--socket", "none.sock")
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Signal(syscall.SIGTERM)
	seen := ""
	await := func(text string) {
		t.Helper()
		for b := make([]byte, 1<<10); !strings.Contains(seen, text); {
			n, err := out.Read(b)
			if seen += string(b[:n]); err != nil {
				t.Fatalf("%v: %s", err, seen)
			}
		}
	}
	await("one")
	add("msg=three user=alice")
	await("three")
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	add("msg=four user=alice")
	await("four")
	if strings.Contains(seen, "two") {
		t.Errorf("bob's is there too: %s", seen)
	}
}

// TestWatch: a line each time, on a screen the whole of it, also while the server is away.
func TestWatch(t *testing.T) {
	p := newPatient(t, well)
	for _, test := range []struct {
		app    *app
		screen bool
		want   []string
	}{
		{p.app, false, []string{"server1: 0 sessions, 0 messages wait, 0 of 0 peers up, "}},
		{p.app, true, []string{"\x1b[?1049h", "\x1b[H", "\x1b[Kserver       server1\n", "\x1b[?1049l"}},
		{&app{socket: p.socket, json: true, timeout: time.Second}, false, []string{`{"schema":1,"version":"test"`}},
		{&app{socket: p.socket + "x", json: true, timeout: time.Second}, false, []string{`{"schema":1,"error":"no daemon answers`}},
		{&app{socket: p.socket + "x", timeout: time.Second}, true, []string{"no daemon answers"}},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		w := &until{n: 3, then: cancel}
		if err := test.app.watch(ctx, w, time.Millisecond, test.screen); err != nil {
			t.Error(err)
		}
		for _, want := range test.want {
			if !strings.Contains(w.String(), want) {
				t.Errorf("%q is not in %q", want, w.String())
			}
		}
	}
}

// until is a buffer that ends something when it was written to so often.
type until struct {
	b    bytes.Buffer
	n    int
	then func()
}

func (u *until) String() string { return u.b.String() }

func (u *until) Write(p []byte) (int, error) {
	if u.n--; u.n == 0 {
		u.then()
	}
	return u.b.Write(p)
}
