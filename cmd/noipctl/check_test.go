package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/noipchat/noipchat/cmd/cli"
	"github.com/noipchat/noipchat/daemon"
	"github.com/noipchat/noipchat/daemon/config"
	"github.com/noipchat/noipchat/daemon/control"
)

// patient is a server that runs in this process, to be made ill.
type patient struct {
	*app
	t                  *testing.T
	config, state, dir string
}

func newPatient(t *testing.T, text string) *patient {
	t.Helper()
	dir, err := os.MkdirTemp("", "patient") // short: sockets are in it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	p := &patient{t: t, dir: dir, config: filepath.Join(dir, "noipchat.toml"), state: filepath.Join(dir, "state")}
	p.app = &app{socket: filepath.Join(dir, "run", "control.sock"), timeout: 10 * time.Second}
	p.write(p.config, strings.ReplaceAll(text, "DIR", dir))
	d, err := daemon.Open(t.Context(), daemon.Options{Config: p.config, State: p.state, Runtime: filepath.Join(dir, "run"), Version: "test", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- d.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return p
}

func (p *patient) write(path, text string) {
	p.t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		p.t.Fatal(err)
	}
}

func (p *patient) must(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

const well = `name = "server1"
[[interface]]
kind = "unix"
bind = "DIR/chat.sock"
public = ["203.0.113.5:10001"]
[limits]
sessions = 100
`

// held is an address, with a port that is free, on which another program listens.
func held(t *testing.T, network, address string) string {
	t.Helper()
	cmd := exec.Command("hold", network, address)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close(); cmd.Wait() })
	at, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(at)
}

// TestCheck provokes what can be provoked in one process. Units, firewalls and disks are
// the lab's: packaging TestCheck.
func TestCheck(t *testing.T) {
	taken := held(t, "tcp", "127.0.0.1:0")
	for _, test := range []struct {
		name, text  string
		ill         func(*patient)
		about, what string // of the finding; "": there is none
	}{
		{name: "well", text: well},
		{"port", well + "[[interface]]\nbind = \"" + taken + "\"\n", nil, "port", "hold, pid "},
		{"address", well + "[[interface]]\nbind = \"192.0.2.1:10001\"\n", nil, "address", "192.0.2.1:10001 is no address of this machine"},
		{"public", strings.Replace(well, "public", "#", 1), nil, "public", "no interface has an address that others are told"},
		{"reload refused", well, func(p *patient) {
			p.write(p.config, "nmae = 1\n"+well)
			p.daemon().Reload(t.Context(), 0)
		}, "reload", "noipchat.toml:1: unknown key nmae"},
		{"restart", well, func(p *patient) {
			p.write(p.config, strings.ReplaceAll("log = \"stderr\"\n"+well, "DIR", p.dir))
			p.daemon().Reload(t.Context(), 0)
		}, "reload", "log can't change while the server runs"},
		{"mistake", well, func(p *patient) { p.write(p.config, "name = [\n") }, "configuration", "noipchat.toml:1: "},
		{"gone", well, func(p *patient) { p.must(os.Remove(p.config)) }, "configuration", "there is no configuration"},
		{"clock", well, func(p *patient) {
			later := time.Now().Add(48 * time.Hour)
			p.must(os.Chtimes(filepath.Join(p.state, "key"), later, later))
		}, "clock", "the clock was put back"},
		{"key mode", well, func(p *patient) { p.must(os.Chmod(filepath.Join(p.state, "key"), 0o644)) }, "owner", "others may read the private key"},
		{"state mode", well, func(p *patient) { p.must(os.Chmod(p.state, 0o755)) }, "owner", "is open to others"},
		{"key gone", well, func(p *patient) { p.must(os.Remove(filepath.Join(p.state, "key"))) }, "key", "key is gone"},
		{"key changed", well, func(p *patient) {
			other := newPatient(t, well)
			key, err := os.ReadFile(filepath.Join(other.state, "key"))
			p.must(err)
			p.write(filepath.Join(p.state, "key"), string(key))
		}, "key", "is not the key that is in use"},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := newPatient(t, test.text)
			if test.ill != nil {
				test.ill(p)
			}
			found := p.check(t.Context(), p.config)
			found = slices.DeleteFunc(found, func(f finding) bool { return f.What == "nobody keeps this machine's clock right" }) // true, where tests run
			if test.about == "" {
				if len(found) > 0 {
					t.Errorf("of a healthy server it says %q", found)
				}
				return
			}
			if !slices.ContainsFunc(found, func(f finding) bool {
				return f.About == test.about && strings.Contains(f.What, test.what) && f.Type != ""
			}) {
				t.Errorf("want %s: %s\nhave %q", test.about, test.what, found)
			}
		})
	}
}

// TestCheckPort: who listens on [::] may have the port of IPv4 too, or not.
func TestCheckPort(t *testing.T) {
	for _, test := range []struct {
		network, address, bind string // held, with port 0; and wanted, with the same port
		taken                  bool
	}{
		{"tcp", ":0", "0.0.0.0", true},
		{"tcp", ":0", "127.0.0.1", true},
		{"tcp", ":0", "[::]", true},
		{"tcp6", "[::]:0", "0.0.0.0", false},
		{"tcp6", "[::]:0", "[::1]", true},
		{"tcp4", "0.0.0.0:0", "[::]", false},
		{"tcp4", "127.0.0.1:0", "0.0.0.0", true},
		{"tcp6", "[::1]:0", "127.0.0.1", false},
	} {
		at := held(t, test.network, test.address)
		bind := test.bind + at[strings.LastIndex(at, ":"):]
		c := &checkup{ctx: t.Context(), disk: &config.Config{Interfaces: []config.Interface{{Kind: "tcp", Bind: bind}}}}
		c.interfaces()
		if taken := len(c.found) == 1 && c.found[0].About == "port" && strings.Contains(c.found[0].What, "is taken: hold, pid "); taken != test.taken || len(c.found) > 1 {
			t.Errorf("%s, when %s %s is held: %q", bind, test.network, at, c.found)
		}
	}
}

// TestCheckDescriptors: where no systemd has started the server, what is to be typed is not for one.
func TestCheckDescriptors(t *testing.T) {
	p := newPatient(t, strings.Replace(well, "sessions = 100", "sessions = 1000000\npending = 1000000", 1))
	for _, f := range p.check(t.Context(), p.config) {
		if f.About == "descriptors" {
			if !strings.Contains(f.What, "needs 2000200 ") || !strings.HasPrefix(f.Type, "editor "+p.config+"   # fewer sessions: ") || !strings.Contains(f.Type, "ulimit -n 2000200") || strings.Contains(f.Type, "systemctl") {
				t.Errorf("it says to type %s", f.Type)
			}
			return
		}
	}
	t.Error("it is not found")
}

// TestCheckOwner: what another user owns is found, which only root can make so.
func TestCheckOwner(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give files away")
	}
	p := newPatient(t, well)
	p.must(os.Chown(filepath.Join(p.state, "users"), 65534, 65534))
	if found := p.check(t.Context(), p.config); !slices.ContainsFunc(found, func(f finding) bool { return f.About == "owner" && strings.Contains(f.What, "users has another owner") }) {
		t.Errorf("%q", found)
	}
}

// TestCheckLinks: a peer that refuses us, and one that shows another key than we have of it,
// are found, and why.
func TestCheckLinks(t *testing.T) {
	there := newPatient(t, strings.Replace(well, "server1", "server2", 1))
	link := "\n[[peer]]\nname = \"server2\"\nkey = \"%s\"\n[[peer.link]]\nkind = \"unix\"\nremote = \"" + filepath.Join(there.dir, "chat.sock") + "\"\ntimeout = \"0s\"\n"
	s, err := there.daemon().Status(t.Context())
	there.must(err)
	for key, about := range map[string]string{s.Key: "peer", serverKey(9).String(): "key"} {
		here := newPatient(t, well+fmt.Sprintf(link, key))
		enough := time.After(time.Minute)
		for {
			found := here.check(t.Context(), here.config)
			if slices.ContainsFunc(found, func(f finding) bool { return f.About == about && strings.HasPrefix(f.What, "server2 ") }) {
				t.Logf("%q", found)
				break
			}
			select {
			case <-enough:
				t.Fatalf("nothing of %s: %q", about, found)
			case <-time.After(20 * time.Millisecond): // between two attempts
			}
		}
	}
}

// TestCheckReach: a peer is asked whether this server can be reached at what others are told.
func TestCheckReach(t *testing.T) {
	at := held(t, "tcp", "127.0.0.1:0") // somebody listens there, and is no server
	both := func(own, other string) string {
		return strings.NewReplacer("server1", own, "203.0.113.5:10001", at).Replace(well) +
			fmt.Sprintf("\n[federation]\nunknown = \"accept\"\n[[peer]]\nname = %q\n", other)
	}
	there := newPatient(t, both("server2", "server1"))
	here := newPatient(t, both("server1", "server2")+"[[peer.link]]\nkind = \"unix\"\nremote = \""+filepath.Join(there.dir, "chat.sock")+"\"\n")
	enough := time.After(time.Minute)
	for {
		found := here.check(t.Context(), here.config)
		if slices.ContainsFunc(found, func(f finding) bool {
			return f.About == "public" && f.Level == severe && strings.HasPrefix(f.What, "others are told "+at+", and server2 doesn't reach this server there: ")
		}) {
			t.Logf("%q", found)
			return
		}
		select {
		case <-enough:
			t.Fatalf("it is not found: %q", found)
		case <-time.After(20 * time.Millisecond): // until there is a link
		}
	}
}

// TestCheckPeers: what is wrong with other servers is found in what the daemon says of
// them.
func TestCheckPeers(t *testing.T) {
	a, b := serverKey(1).Fingerprint(), serverKey(2).Fingerprint()
	c := &checkup{status: &control.Status{Server: "server1", State: t.TempDir()}, peers: []control.Peer{
		{Name: "server2", Fingerprint: a, Standing: "pinned", RefusedFingerprint: b, State: control.Down},
		{Name: "server3", Fingerprint: a, Standing: "pinned", State: control.Down, Messages: 4, Error: "server3 refuses: not known there"},
		{Name: "server4", Fingerprint: a, Standing: "waiting"},
		{Name: "server4", Fingerprint: b, Standing: "waiting"},
		{Name: "server5", Fingerprint: b, Standing: "waiting"},
		{Name: "server6", Fingerprint: b, Standing: "distrusted", Origin: "x:1"},
		{Name: "server9", State: control.Down, Links: control.List[control.Link]{{}}, Error: "invalid: the server there is called server1, not server9"},
		{Name: "server7", Fingerprint: a, Standing: "pinned", State: control.Up},
		{Name: "server7", Fingerprint: a, Standing: "pinned", State: control.Down, Error: "it has dialled, and stops"},
	}}
	c.routes = []control.Route{{Server: "server7", Fingerprint: a}, {Server: "server10", Fingerprint: a}, {Server: "server10", Fingerprint: b}}
	c.reach = []control.Reach{
		{Peer: "server7", Address: "203.0.113.5:1", Problem: "connection refused", ClockSeconds: -7200.4},
		{Peer: "server8", Address: "203.0.113.5:1", ClockSeconds: 59},
		{Peer: "server9", Address: "203.0.113.5:1", Silent: "no answer", ClockSeconds: 1000},
		{Peer: "server8", Address: "203.0.113.5:2", Problem: "no answer within 5s"},
	}
	c.keys()
	c.names()
	c.links()
	c.reached()
	for _, w := range []string{
		"warning public others are told 203.0.113.5:1, and server7 doesn't reach",
		"error public others are told 203.0.113.5:2, and server8 doesn't reach this server there: no answer within 5s",
		"warning clock the clock of server7 is 2h0m0s behind ours",
	} {
		if !slices.ContainsFunc(c.found, func(f finding) bool { return strings.HasPrefix(f.Level+" "+f.About+" "+f.What, w) }) {
			t.Errorf("%s is not in %q", w, c.found)
		}
	}
	if n := len(c.found); n != 11 {
		t.Errorf("%d findings: %q", n, c.found)
	}
	c.found = slices.DeleteFunc(c.found, func(f finding) bool { return f.About == "public" || f.About == "clock" })
	want := []string{
		"error key " + "server2 showed another key",
		"error name " + "2 servers call themselves server4",
		"error name " + "server9 calls itself server1, as this server does",
		"error name " + "2 keys are known of server10: " + a + ", " + b,
		"warning peer " + "server3 is not connected, and 4 messages wait for it: server3 refuses: not known there",
		"warning peer " + "server5 waits to be trusted",
		"warning peer " + "server6 is configured, and distrusted",
	}
	for _, w := range want {
		if !slices.ContainsFunc(c.found, func(f finding) bool {
			return strings.HasPrefix(f.Level+" "+f.About+" "+f.What, w) && strings.HasPrefix(f.Type, "noipctl ")
		}) {
			t.Errorf("%s is not in %q", w, c.found)
		}
	}
	for _, f := range c.found {
		if strings.Contains(f.What, "server7") {
			t.Errorf("of a healthy peer: %q", f)
		}
	}
}

func TestCheckGenerated(t *testing.T) {
	dir := t.TempDir()
	c := &checkup{disk: &config.Config{Interfaces: []config.Interface{{Kind: "tcp", Bind: "192.0.2.1:1"}, {Kind: "tcp", Bind: "[fe80::1%eth0]:1"}}}}
	unit := func(name, description string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("[Unit]\nDescription=NoIPChat server, interface "+description+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	unit("noipchat-a.socket", "tcp 192.0.2.1:1")
	unit("noipchat-b.socket", "tcp [fe80::1%%eth0]:1")
	if c.generated(dir); len(c.found) > 0 {
		t.Errorf("of units that are right: %q", c.found)
	}
	unit("noipchat-b.socket", "tcp 192.0.2.9:1")
	if c.generated(dir); len(c.found) != 1 || !strings.Contains(c.found[0].What, "lacks 1 (tcp [fe80::1%eth0]:1) and has 1 that are gone (tcp 192.0.2.9:1)") {
		t.Errorf("%q", c.found)
	}
}

// TestCheckExits: the exit code, and what scripts read.
func TestCheckExits(t *testing.T) {
	for _, test := range []struct {
		found []finding
		code  int
	}{
		{nil, 0}, {[]finding{{Level: mild, About: "disk"}}, 0}, {[]finding{{Level: severe, About: "running"}}, cli.ExitUnreachable},
		{[]finding{{Level: severe, About: "running"}, {Level: severe, About: "port"}}, cli.ExitConfig},
	} {
		code := 0
		if err := verdict(test.found); err != nil {
			code = err.(*cli.Error).Code
		}
		if code != test.code {
			t.Errorf("%q: exit code %d, want %d", test.found, code, test.code)
		}
	}
	p := newPatient(t, well)
	p.must(os.Chmod(p.state, 0o755))
	out, err := exec.Command("noipctl", "check", "--json", "--socket", p.socket).Output()
	if exit, ok := err.(*exec.ExitError); !ok || exit.ExitCode() != cli.ExitConfig {
		t.Errorf("%v: %s", err, out)
	}
	var f struct {
		Schema int
		finding
	}
	if err := json.Unmarshal([]byte(strings.SplitN(string(out), "\n", 2)[0]), &f); err != nil || f.Schema != 1 || f.Type != "chmod 700 "+p.state {
		t.Errorf("%v: %s", err, out)
	}
	cmd := exec.Command("noipctl", "check", "--socket", filepath.Join(p.dir, "none.sock"), "--config", p.config)
	shown, err := cmd.CombinedOutput()
	if exit, ok := err.(*exec.ExitError); !ok || exit.ExitCode() != cli.ExitUnreachable || !strings.Contains(string(shown), "▸ noipchatd --config "+p.config) {
		t.Errorf("%v: %s", err, shown)
	}
}

func TestProcAddress(t *testing.T) {
	for text, want := range map[string]string{"0100007F:2711": "127.0.0.1:10001", "00000000:0016": "0.0.0.0:22", "00000000000000000000000001000000:2711": "[::1]:10001",
		"0000000000000000FFFF00000100007F:2711": "127.0.0.1:10001"} {
		if have, ok := procAddress(text); !ok || have != netip.MustParseAddrPort(want) {
			t.Errorf("%s is %v, want %s", text, have, want)
		}
	}
	for _, text := range []string{"", ":", "0100007F", "0100007F:12345", "01007F:1", "0100007G:1"} {
		if have, ok := procAddress(text); ok {
			t.Errorf("%q is %v", text, have)
		}
	}
}
