package main

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/noipchat/noipchat/daemon/config"
)

// typist drives a program on a pseudo-terminal.
type typist struct {
	t    *testing.T
	keys *os.File
	fd   int // of keys
	cmd  *exec.Cmd
	seen string // and not looked at
}

// guideOn starts noipctl guide on a terminal, with a folder for its configuration.
func guideOn(t *testing.T, term string, args ...string) (who *typist, dir string) {
	t.Helper()
	dir = t.TempDir()
	return onTerminal(t, term, append([]string{"guide", "--config", filepath.Join(dir, "noipchat.toml"), "--socket", filepath.Join(dir, "none.sock")}, args...)...), dir
}

// onTerminal starts noipctl on a terminal.
func onTerminal(t *testing.T, term string, args ...string) *typist {
	t.Helper()
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0) // of os.File, Fd ends all deadlines
	if err != nil {
		t.Skip("no pseudo-terminals here:", err)
	}
	keys := os.NewFile(uintptr(fd), "/dev/ptmx")
	t.Cleanup(func() { keys.Close() })
	who := &typist{t: t, keys: keys, fd: fd}
	who.resize(120, 40)
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	err = errors.Join(err, unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0))
	if err != nil {
		t.Fatal(err)
	}
	tty, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer tty.Close()
	program, err := exec.LookPath("noipctl") // this test, as testscript has put it there
	if err != nil {
		t.Fatal(err)
	}
	who.cmd = exec.Command(program, args...)
	who.cmd.Env = append(os.Environ(), "TERM="+term)
	who.cmd.Stdin, who.cmd.Stdout, who.cmd.Stderr = tty, tty, tty
	who.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := who.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { who.cmd.Process.Kill(); who.cmd.Wait() })
	return who
}

// resize sets the terminal's columns and rows.
func (w *typist) resize(columns, rows uint16) {
	w.t.Helper()
	if err := unix.IoctlSetWinsize(w.fd, unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: columns}); err != nil {
		w.t.Fatal(err)
	}
}

// await waits until the screen shows a text that it did not show before.
func (w *typist) await(text string) {
	w.t.Helper()
	w.keys.SetReadDeadline(time.Now().Add(time.Minute))
	for b := make([]byte, 4<<10); !strings.Contains(w.seen, text); {
		n, err := w.keys.Read(b)
		if w.seen += string(b[:n]); err != nil {
			w.t.Fatalf("waiting for %q: %v; the screen has\n%q", text, err, w.seen)
		}
	}
	_, w.seen, _ = strings.Cut(w.seen, text)
}

// end waits for the program's end, reading on, and returns its exit code.
func (w *typist) end() int {
	w.t.Helper()
	w.keys.SetReadDeadline(time.Now().Add(time.Minute))
	for b := make([]byte, 4<<10); ; {
		n, err := w.keys.Read(b)
		if w.seen += string(b[:n]); err != nil {
			break // EIO: nobody has the terminal any more
		}
	}
	w.cmd.Wait()
	return w.cmd.ProcessState.ExitCode()
}

// asked are the questions, by words that are in none of the others, in their order.
var asked = []string{"name of this server", "The port", "addresses to listen", "others reach this", "may make an account", "first user", "Other servers", "Where the log goes", "Shall it?"}

// TestGuideOnTerminal: what is proposed makes a server, with a form and with lines.
func TestGuideOnTerminal(t *testing.T) {
	for name, args := range map[string][]string{"form": {"xterm-256color"}, "dumb": {"dumb"}, "plain": {"xterm-256color", "--plain"}} {
		t.Run(name, func(t *testing.T) {
			w, dir := guideOn(t, args[0], args[1:]...)
			for _, question := range asked {
				w.await(question)
				w.keys.WriteString("\r")
			}
			if code := w.end(); code != 0 {
				t.Fatalf("exit code %d:\n%s", code, w.seen)
			}
			c, err := config.Load(filepath.Join(dir, "noipchat.toml"))
			if err != nil || c.Interfaces[0].Bind != "0.0.0.0:10001" || c.Register.Mode != "closed" {
				t.Errorf("%+v, %v", c, err)
			}
		})
	}
}

// TestGuideGivenUp: Ctrl-C at any question leaves nothing, and has done nothing.
func TestGuideGivenUp(t *testing.T) {
	const form, lines = "xterm-256color", "dumb"
	const down = "\x1b[B"
	all := []struct {
		question string
		keys     map[string]string // that answer it
	}{
		{asked[0], nil}, {asked[1], nil}, {asked[2], nil}, {asked[3], nil},
		{"may make an account", map[string]string{form: down + "\r", lines: "2\r"}},
		{"first user", map[string]string{form: "alice\r", lines: "alice\r"}},
		{"How alice comes in", map[string]string{form: down + "\r", lines: "2\r"}},
		{"password of alice", map[string]string{form: "a good password\r", lines: "a good password\r"}},
		{"Other servers", nil}, {"Where the log goes", nil},
		{"The firewall", map[string]string{form: "\x1b[A\r", lines: "1\r"}},
		{"Shall it?", nil},
	}
	bin := t.TempDir()
	ran := filepath.Join(bin, "ran")
	ufw := "#!/bin/sh\n[ \"$1\" = status ] && echo 'Status: active' || touch " + ran + "\n"
	if err := os.WriteFile(filepath.Join(bin, "ufw"), []byte(ufw), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+string(os.PathListSeparator)+os.Getenv("PATH"))
	for n, last := range all {
		for _, term := range []string{form, lines} {
			t.Run(last.question+" "+term, func(t *testing.T) {
				w, dir := guideOn(t, term)
				for _, before := range all[:n] {
					w.await(before.question)
					w.keys.WriteString(cmp.Or(before.keys[term], "\r"))
					if before.question == "password of alice" && term == lines {
						w.await("again: ")
						w.keys.WriteString("a good password\r")
					}
				}
				w.await(last.question)
				w.keys.WriteString("\x03")
				if code := w.end(); code == 0 {
					t.Errorf("exit code 0:\n%s", w.seen)
				}
				if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
					t.Errorf("it has left %v, %v", left, err)
				}
				if _, err := os.Stat(ran); err == nil {
					t.Error("it has opened the firewall")
				}
			})
		}
	}
}

// TestFormAgain: a form that asks again says why above each question, and takes "-" for none.
func TestFormAgain(t *testing.T) {
	w, dir := guideOn(t, "xterm-256color", "--listen", "127.0.0.1:10001")
	drop := filepath.Join(dir, "conf.d", "x.toml")
	if err := errors.Join(os.Mkdir(filepath.Dir(drop), 0o700), os.WriteFile(drop, []byte("max_hops = 0\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	const none, screen, why = "- is none", "\x1b[?1049h", "x.toml:1: max_hops"
	questions := []string{"Users are user@name", none, "closed: you make them", "nothing for none", "noipctl peer line", "the journal:"}
	for _, question := range questions {
		w.await(question)
		if question == none {
			w.keys.WriteString("\x15-")
		}
		w.keys.WriteString("\r")
	}
	w.await(why)
	for _, question := range questions {
		w.await(screen)
		w.await(why)
		w.await(question)
		if question == none {
			if err := os.Remove(drop); err != nil {
				t.Fatal(err)
			}
		}
		w.keys.WriteString("\r")
	}
	w.await("Shall it?")
	w.keys.WriteString("\r")
	if code := w.end(); code != 0 {
		t.Fatalf("exit code %d:\n%s", code, w.seen)
	}
	if c, err := config.Load(filepath.Join(dir, "noipchat.toml")); err != nil || len(c.Interfaces[0].Public) > 0 {
		t.Errorf("%+v, %v", c, err)
	}
}

func TestSetPublic(t *testing.T) {
	two := []config.Interface{{Kind: "tcp", Bind: "192.168.1.10:1"}, {Kind: "tcp", Bind: "0.0.0.0:2"}, {Kind: "tcp", Bind: "[::]:1"}}
	for _, test := range []struct {
		words []string
		want  [][]string // nil: what is left out
	}{
		{nil, [][]string{{}, nil, nil}},
		{[]string{"192.168.1.10:1"}, [][]string{nil, nil, nil}},
		{[]string{"203.0.113.5:2"}, [][]string{{}, {"203.0.113.5:2"}, nil}},
		{[]string{"203.0.113.5:9", "[2001:db8::1]:9"}, [][]string{{"203.0.113.5:9"}, nil, {"[2001:db8::1]:9"}}},
	} {
		s := &setup{interfaces: slices.Clone(two)}
		if err := s.setPublic(test.words); err != nil {
			t.Errorf("%v: %v", test.words, err)
		}
		for n, want := range test.want {
			if have := s.interfaces[n].Public; !slices.Equal(have, want) || (have == nil) != (want == nil) {
				t.Errorf("%v: interface %d has %#v, want %#v", test.words, n, have, want)
			}
		}
	}
}

func TestDiff(t *testing.T) {
	words := func(s string) []string { return strings.Fields(s) }
	have := strings.Join(diff(words("a b c d e"), words("a c x e f")), ",")
	if want := "  a,- b,  c,- d,+ x,  e,+ f"; have != want {
		t.Errorf("have %s, want %s", have, want)
	}
	many := make([]string, 3000)
	for i := range many {
		many[i] = fmt.Sprint(i)
	}
	other := slices.Clone(many)
	slices.Reverse(other)
	if have := strings.Join(diff(many, other), ","); have != "- 3000 lines,+ 3000 lines" {
		t.Errorf("%.60s", have)
	}
}

const ruleset = `table ip nat {
	chain postrouting { type nat hook postrouting priority 100; }
}
table inet filter {
	chain input {
		type filter hook input priority filter; policy drop;
		ct state established,related accept
		tcp dport { 22, 10001-10003 } accept
		tcp dport 443 counter packets 0 bytes 0 accept
		tcp dport 25 drop
	}
}
`

func TestNftables(t *testing.T) {
	table, chain, found := closedChain(ruleset)
	if !found || strings.Join(table, " ") != "inet filter" || chain != "input" {
		t.Errorf("%v %s %v", table, chain, found)
	}
	if _, _, found := closedChain(strings.ReplaceAll(ruleset, "policy drop", "policy accept")); found {
		t.Error("a chain that accepts is taken for one that drops")
	}
	for port, want := range map[uint16]bool{22: true, 10001: true, 10002: true, 10004: false, 443: true, 25: false, 80: false} {
		if nftAccepts(ruleset, port) != want {
			t.Errorf("port %d: %v", port, !want)
		}
	}
}

// FuzzOlder: whatever the older server's files say, what is taken of them is good.
func FuzzOlder(f *testing.F) {
	const server = "<Configuration><Server><Name>Server1</Name><Interfaces><Interface><InterfaceIP>192.168.1.10</InterfaceIP><IP>203.0.113.5</IP><Port>10001</Port></Interface></Interfaces></Server></Configuration>"
	const peer = `[{"Name": "Server2", "LocalIP": "192.168.1.10", "RemoteIP": "198.51.100.7", "RemotePort": 10001, "TimeOut": 15}]`
	f.Add(server, peer)
	f.Add(strings.Replace(server, "Server1", "se\"rver", 1), peer)
	f.Add(server, strings.Replace(peer, "15", "-1", 1))
	f.Add(server, strings.Replace(peer, "192.168.1.10", "fe80::1%\\\"\\n", 1))
	f.Add(strings.Replace(server, "192.168.1.10", "fe80::1%\"", 1), "[]")
	f.Fuzz(func(t *testing.T, server, peers string) {
		s := &setup{path: "/nowhere/noipchat.toml", register: "closed", log: "journal", peers: map[string]string{}}
		if s.parseOlder([]byte(server)) != nil || s.parseOlderPeers([]byte(peers)) != nil {
			return
		}
		if _, _, err := s.files(); err != nil {
			for _, e := range err.(config.Errors) { // what the older server's file says may be no good; but it is TOML
				if e.Key == "" {
					t.Errorf("%v\n%s %v", err, s.fresh(), s.peers)
				}
			}
		}
	})
}
