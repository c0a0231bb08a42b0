package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/noipchat/noipchat/daemon/control"
	"github.com/noipchat/noipchat/daemon/transport"
)

// programs is the folder of the three programs, built for these tests.
var programs string

func TestMain(m *testing.M) {
	var err error
	if programs, err = os.MkdirTemp("", "noipchat-programs-"); err != nil {
		panic(err)
	}
	out, err := exec.Command("go", "build", "-o", programs, "../noipchatd", "../noipctl", ".").CombinedOutput()
	if err != nil {
		fmt.Fprintf(os.Stderr, "building the programs: %v\n%s", err, out)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(programs)
	os.Exit(code)
}

// TestScripts runs testdata/script: conversations as people and scripts have them,
// with real programs. Besides testscript's own commands there are
//
//	server [start|stop|kill]   noipchatd with $WORK/noipchat.toml, which is made if it isn't there
//	people NAME…               users with the password "a good password", each with a profile in $WORK/NAME
//	[root]                     whether the test runs as root
//	documented                 standard output of the last command is messages as docs/user.md describes them
func TestScripts(t *testing.T) { testscript.Run(t, params("testdata/script")) }

func params(dir string) testscript.Params {
	return testscript.Params{
		Dir: dir,
		Setup: func(e *testscript.Env) error {
			e.Setenv("PATH", programs+string(os.PathListSeparator)+os.Getenv("PATH"))
			e.Setenv("NOIPCHAT_SOCKET", filepath.Join(e.WorkDir, "run", "control.sock"))
			e.Setenv("PASSWORD", "a good password")
			e.Setenv("HOME", e.WorkDir)
			return nil
		},
		Condition: func(cond string) (bool, error) {
			if cond != "root" {
				return false, fmt.Errorf("what is %q?", cond)
			}
			return os.Geteuid() == 0, nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"server": server, "people": people, "documented": documented},
	}
}

// running are the servers of scripts, which run in parallel, by their folders.
var running sync.Map // of *exec.Cmd

// server starts and ends the script's server.
func server(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: server start|stop|kill")
	}
	work := ts.Getenv("WORK")
	how := syscall.SIGTERM
	switch args[0] {
	case "start":
		ts.Check(start(ts, work))
		return
	case "kill":
		how = syscall.SIGKILL
	}
	found, _ := running.LoadAndDelete(work)
	cmd := found.(*exec.Cmd)
	ts.Check(cmd.Process.Signal(how))
	if err := cmd.Wait(); err != nil && how == syscall.SIGTERM {
		ts.Fatalf("the server ends with %v:\n%s", err, cmd.Stderr)
	}
}

func start(ts *testscript.TestScript, work string) error {
	config := filepath.Join(work, "noipchat.toml")
	if _, err := os.Stat(config); err != nil {
		l, err := net.Listen("tcp", transport.Loopback())
		if err != nil {
			return err
		}
		ts.Setenv("SERVER", l.Addr().String())
		l.Close()
		toml := fmt.Sprintf("name = \"server1\"\nlog = \"stderr\"\n[[interface]]\nbind = %q\n", ts.Getenv("SERVER"))
		extra, _ := os.ReadFile(filepath.Join(work, "extra.toml"))
		if err := os.WriteFile(config, append([]byte(toml), extra...), 0o600); err != nil {
			return err
		}
	}
	cmd := exec.Command(filepath.Join(programs, "noipchatd"), "--config", "noipchat.toml", "--state", "state", "--runtime", "run") // as the README has it
	cmd.Dir = work
	var log strings.Builder
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		return err
	}
	running.Store(work, cmd)
	ts.Defer(func() {
		if running.CompareAndDelete(work, cmd) {
			cmd.Process.Kill()
			cmd.Wait()
			ts.Logf("the server's log:\n%s", log.String())
		}
	})
	admin := control.New(ts.Getenv("NOIPCHAT_SOCKET"))
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for {
		status, err := admin.Status(ctx)
		if err == nil {
			ts.Setenv("KEY", status.Key)
			ts.Setenv("FINGERPRINT", status.Fingerprint)
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the server doesn't answer: %w:\n%s", err, log.String())
		case <-time.After(10 * time.Millisecond): // between two attempts
		}
	}
}

func people(ts *testscript.TestScript, neg bool, names []string) {
	for _, name := range names {
		for _, command := range []string{
			`noipctl user add ` + name + ` --password-stdin`,
			`noipchat --home "$WORK/` + name + `" login ` + name + `@server1 --server "$SERVER" --key "$KEY" --password-stdin`,
		} {
			ts.Check(ts.Exec("sh", "-c", `echo "$PASSWORD" | `+command))
		}
	}
}

// documented holds messages to the table of the manual: all fields of them are in it, and
// nearly all that are in it are in one of them. Where a field is words, they are there too.
func documented(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) > 0 {
		ts.Fatalf("usage: documented")
	}
	manual, err := os.ReadFile("../../docs/user.md")
	ts.Check(err)
	_, table, _ := strings.Cut(string(manual), "print **messages**:\n\n| field | |\n| --- | --- |\n")
	table, _, _ = strings.Cut(table, "\n\n")
	told := map[string]string{} // what is said of a field
	for row := range strings.SplitSeq(table, "\n") {
		cells := strings.SplitN(row, "|", 4)
		for _, field := range quoted(cells[1]) {
			told[field] = cells[2]
		}
	}
	seen := map[string]bool{"unverified": true, "path": true, "damage": true} // one server has none of these
	see := func(where, field, saidOf string) {
		if seen[field] = true; !slices.Contains(quoted(saidOf), field) {
			ts.Fatalf("%s %q: the manual says %q", where, field, saidOf)
		}
	}
	for line := range strings.Lines(ts.ReadFile("stdout")) {
		var m map[string]any
		ts.Check(json.Unmarshal([]byte(line), &m))
		delete(m, "schema")
		for field := range m {
			if _, ok := told[field]; !ok {
				ts.Fatalf("the manual has no field %q", field)
			}
			seen[field] = true
		}
		see("kind", m["kind"].(string), told["kind"])
		if m["out"] == false {
			see("state", m["state"].(string), told["state"])
		}
		if file, ok := m["file"].(map[string]any); ok {
			for field := range file {
				see("file", field, told["file"])
			}
		}
		recipients, _ := m["recipients"].([]any)
		for _, r := range recipients {
			for field := range r.(map[string]any) {
				see("recipients", field, told["recipients"])
			}
		}
	}
	for field, what := range told {
		all := []string{field}
		if field == "file" || field == "recipients" || field == "kind" {
			all = append(all, quoted(what)...)
		}
		for _, f := range all {
			if !seen[f] {
				ts.Fatalf("the manual has %q, and no message", f)
			}
		}
	}
}

// quoted are the words between backquotes.
func quoted(text string) (all []string) {
	for i, part := range strings.Split(text, "`") {
		if i%2 == 1 {
			all = append(all, part)
		}
	}
	return all
}

// TestManuals runs the commands in the manuals, in their order, in one shell each. What needs
// a systemd is run by TestHandbook in packaging, which also counts that nothing is left out.
func TestManuals(t *testing.T) {
	dir := t.TempDir()
	manuals, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range manuals {
		name, people := strings.TrimSuffix(filepath.Base(path), ".md"), ""
		if name == "user" {
			people = "people alice bob\nexec rm -rf alice bob\n"
		}
		manual, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(manual), "\n```sh\n") {
			continue
		}
		var script strings.Builder
		for i, block := range strings.Split(string(manual), "```sh\n") {
			if i > 0 {
				block, _, _ = strings.Cut(block, "```")
				script.WriteString(block)
			}
		}
		text := strings.ReplaceAll(script.String(), "203.0.113.5:10001", `"$SERVER"`)
		if strings.Count(text, "\n") < 10 {
			t.Fatalf("%s.md has the commands %q only", name, text)
		}
		// What it leaves running when a command fails, a bot, would keep the test from ending.
		text = "trap 'code=$?; trap \"\" TERM; kill 0; exit $code' EXIT\n" + text
		archive := "server start\n" + people + "exec setsid --wait sh -eux manual.sh\nserver stop\n-- extra.toml --\n[register]\nmode = \"invite\"\n-- manual.sh --\n" + text
		if err := os.WriteFile(filepath.Join(dir, name+".txtar"), []byte(archive), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	testscript.Run(t, params(dir))
}
