package main

import (
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
	cmd  *exec.Cmd
	seen string // and not looked at
}

// guideOn starts noipctl guide on a terminal, with a folder for its configuration.
func guideOn(t *testing.T, term string, args ...string) (who *typist, dir string) {
	t.Helper()
	keys, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Skip("no pseudo-terminals here:", err)
	}
	t.Cleanup(func() { keys.Close() })
	n, err := unix.IoctlGetInt(int(keys.Fd()), unix.TIOCGPTN)
	err = errors.Join(err, unix.IoctlSetPointerInt(int(keys.Fd()), unix.TIOCSPTLCK, 0),
		unix.IoctlSetWinsize(int(keys.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 40, Col: 120}))
	if err != nil {
		t.Fatal(err)
	}
	tty, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer tty.Close()
	dir = t.TempDir()
	program, err := exec.LookPath("noipctl") // this test, as testscript has put it there
	if err != nil {
		t.Fatal(err)
	}
	who = &typist{t: t, keys: keys}
	who.cmd = exec.Command(program, append([]string{"guide", "--config", filepath.Join(dir, "noipchat.toml"), "--socket", filepath.Join(dir, "none.sock")}, args...)...)
	who.cmd.Env = append(os.Environ(), "TERM="+term)
	who.cmd.Stdin, who.cmd.Stdout, who.cmd.Stderr = tty, tty, tty
	who.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := who.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { who.cmd.Process.Kill(); who.cmd.Wait() })
	return who, dir
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

// TestGuideGivenUp: Ctrl-C at any question leaves nothing.
func TestGuideGivenUp(t *testing.T) {
	for n, question := range asked {
		for _, term := range []string{"xterm-256color", "dumb"} {
			t.Run(question+" "+term, func(t *testing.T) {
				t.Parallel()
				w, dir := guideOn(t, term)
				for _, before := range asked[:n] {
					w.await(before)
					w.keys.WriteString("\r")
				}
				w.await(question)
				w.keys.WriteString("\x03")
				if code := w.end(); code == 0 {
					t.Errorf("exit code 0:\n%s", w.seen)
				}
				if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
					t.Errorf("it has left %v, %v", left, err)
				}
			})
		}
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
