package main

import (
	"bufio"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/noipchat/noipchat/daemon/client"
	"github.com/noipchat/noipchat/daemon/message"
)

// TestDemoSignal: a signal ends the demo, whenever it comes, and leaves no folder; that is no
// success before all has arrived.
func TestDemoSignal(t *testing.T) {
	for name, c := range map[string]struct {
		args  []string
		until string
	}{
		"first":  {[]string{"demo"}, "server1 runs at"},
		"second": {[]string{"demo"}, "three servers in a row"},
		"keep":   {[]string{"demo", "--keep"}, "and for its admin"},
	} {
		if testing.Short() && name != "second" { // the race detector takes ten times as long
			continue
		}
		t.Run(name, func(t *testing.T) {
			tmp := t.TempDir()
			cmd := exec.CommandContext(t.Context(), os.Args[0], c.args...)
			cmd.Env = append(os.Environ(), "TMPDIR="+tmp)
			var failed strings.Builder
			cmd.Stderr = &failed
			out, err := cmd.StdoutPipe()
			if err == nil {
				err = cmd.Start()
			}
			if err != nil {
				t.Fatal(err)
			}
			defer time.AfterFunc(2*time.Minute, func() { cmd.Process.Kill() }).Stop()
			var said []string
			for lines := bufio.NewScanner(out); lines.Scan(); {
				said = append(said, lines.Text())
				if strings.Contains(lines.Text(), c.until) {
					if name == "keep" {
						chat(t, tmp)
					}
					cmd.Process.Signal(os.Interrupt)
				}
			}
			text := strings.Join(said, "\n")
			code := 75
			if name == "keep" {
				code = 0
			}
			if err := cmd.Wait(); cmd.ProcessState.ExitCode() != code || (failed.Len() > 0) != (code > 0) || !strings.Contains(text, c.until) {
				t.Errorf("it ends with %v: %s\n%s", err, failed.String(), text)
			}
			if ended := strings.Contains(text, "2 of 2 messages arrived, each once"); ended != (name == "keep") {
				t.Errorf("it has come to its end: %v\n%s", ended, text)
			}
			if left, err := os.ReadDir(tmp); err != nil || len(left) > 0 {
				t.Errorf("it leaves %v, %v", left, err)
			}
		})
	}
}

// chat does what demo --keep proposes.
func chat(t *testing.T, tmp string) {
	t.Helper()
	noipchat := filepath.Join(t.TempDir(), "noipchat")
	if out, err := exec.Command("go", "build", "-o", noipchat, "../noipchat").CombinedOutput(); err != nil {
		t.Errorf("building noipchat: %v\n%s", err, out)
	}
	dirs, _ := filepath.Glob(filepath.Join(tmp, "noipchat-demo-*", "0"))
	if len(dirs) != 1 {
		t.Fatalf("the first server's folder is one of %v", dirs)
	}
	out, err := exec.Command(noipchat, "--home", filepath.Join(dirs[0], "alice"), "send", "bob@server1", "-m", "hello", "--wait", "held", "--timeout", "1m").CombinedOutput()
	if err != nil {
		t.Errorf("send: %v\n%s", err, out)
	}
}

// TestDemoCount: the demo's count takes nothing that is missing, in another place, or there
// once more than it was sent.
func TestDemoCount(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	s := &stage{name: "server1", dir: t.TempDir(), out: t.Output(), began: time.Now()}
	defer s.kill(syscall.SIGKILL)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(s.configure())
	must(s.start(ctx))
	status, err := s.admin.Status(ctx)
	must(err)
	bob, err := s.cast(ctx, "bob", status.Key)
	must(err)
	bob.come(ctx)
	defer bob.leave()
	var sent []client.Message
	for range 3 {
		m, err := bob.c.Send(ctx, client.Outgoing{To: []message.Address{bob.address()}, Body: []byte("to myself")})
		must(err)
		must(bob.learns(ctx, s, m, bob, message.Delivered))
		sent = append(sent, m)
	}
	must(s.count(history{bob, sent}))
	for name, want := range map[string][]client.Message{
		"missing": append(slices.Clone(sent), sent[0]), "in another place": {sent[1], sent[0], sent[2]}, "one too many": sent[:2],
	} {
		if s.count(history{bob, want}) == nil {
			t.Errorf("%s: it is taken", name)
		}
	}
}
