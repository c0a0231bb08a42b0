package daemon_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/noipchat/noipchat/daemon"
	"github.com/noipchat/noipchat/daemon/client"
	"github.com/noipchat/noipchat/daemon/control"
	"github.com/noipchat/noipchat/daemon/identity"
	"github.com/noipchat/noipchat/daemon/message"
	"github.com/noipchat/noipchat/daemon/transport"
)

// house is a server that runs in this process, and its configuration.
type house struct {
	*daemon.Daemon
	t      *testing.T
	dir    string
	log    lines
	opened int // times that the log was opened again
}

type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (h *house) path() string { return filepath.Join(h.dir, "noipchat.toml") }

func (h *house) write(text string) {
	h.t.Helper()
	if err := os.WriteFile(h.path(), []byte(text), 0o600); err != nil {
		h.t.Fatal(err)
	}
}

// run starts a server with a configuration.
func run(t *testing.T, text string) *house {
	t.Helper()
	h := &house{t: t, dir: t.TempDir()}
	h.write(text)
	ctx, cancel := context.WithCancel(context.Background())
	d, err := daemon.Open(ctx, daemon.Options{
		Config: h.path(), State: filepath.Join(h.dir, "state"), Runtime: filepath.Join(h.dir, "run"), Version: "test",
		Log: slog.New(slog.NewTextHandler(&h.log, nil)), Reopen: func() error { h.opened++; return nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	h.Daemon = d
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(time.Minute):
			t.Error("it doesn't stop")
		}
		goleak.VerifyNone(t)
	})
	return h
}

// free returns addresses that nobody listens on, all with another port.
func free(t *testing.T, n int) (all []string) {
	t.Helper()
	ip := transport.Loopback()
	for range n {
		l, err := net.Listen("tcp", ip)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		all = append(all, l.Addr().String())
	}
	return all
}

func answers(address string) bool {
	c, err := net.Dial("tcp", address)
	if err == nil {
		c.Close()
	}
	return err == nil
}

// reload takes the configuration, unless the server has seen by itself that it
// changed: then there is nothing to change any more, and its log says what did.
func (h *house) reload() {
	h.t.Helper()
	if _, err := h.Reload(h.t.Context(), 0); err != nil {
		h.t.Fatal(err)
	}
}

func (h *house) logged(text string) bool {
	h.log.mu.Lock()
	defer h.log.mu.Unlock()
	return strings.Contains(strings.ReplaceAll(h.log.b.String(), `\"`, `"`), text)
}

func (h *house) state() control.Status {
	h.t.Helper()
	s, err := h.Status(h.t.Context())
	if err != nil {
		h.t.Fatal(err)
	}
	return s
}

func named(binds ...string) string {
	text := "name = \"server1\"\n"
	for _, b := range binds {
		text += fmt.Sprintf("[[interface]]\nbind = %q\n", b)
	}
	return text
}

// online logs a device in and keeps it connected. The result tells whether what it
// sends to itself comes back.
func (h *house) online(address string) (talks func(text string)) {
	h.t.Helper()
	ctx := h.t.Context()
	if _, err := h.AddUser(ctx, "alice", "not a secret"); err != nil {
		h.t.Fatal(err)
	}
	key, err := identity.ParsePublicKey(h.state().Key)
	if err != nil {
		h.t.Fatal(err)
	}
	store, err := client.OpenStore(filepath.Join(h.dir, "alice"))
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { store.Close() })
	_, err = client.Login(ctx, store, client.Entry{
		Address: "alice@server1", Servers: []string{address}, Key: key, Standing: identity.Pinned, Password: "not a secret", Label: "test",
	}, client.Options{})
	if err != nil {
		h.t.Fatal(err)
	}
	c, err := client.New(store, client.Options{})
	if err != nil {
		h.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { c.Run(ctx) })
	h.t.Cleanup(func() { cancel(); running.Wait() })
	return func(text string) {
		h.t.Helper()
		m, err := c.Send(ctx, client.Outgoing{To: []message.Address{"alice@server1"}, Body: []byte(text)})
		if err != nil {
			h.t.Fatal(err)
		}
		late := time.After(time.Minute)
		for {
			changed := c.Changed()
			now, _, err := store.Status(m.ID)
			if err != nil {
				h.t.Fatal(err)
			}
			if len(now.Recipients) == 1 && now.Recipients[0].State == message.Delivered {
				return
			}
			select {
			case <-changed:
			case <-late:
				h.t.Fatalf("%q is %s", text, now.State)
			}
		}
	}
}

// TestReload changes everything that can change under a connection that stays.
func TestReload(t *testing.T) {
	at := free(t, 5)
	h := run(t, named(at[0]))
	talks := h.online(at[0])
	talks("one")
	first, err := h.Sessions(t.Context())
	if err != nil || len(first) != 1 {
		t.Fatalf("%v, %v", first, err)
	}

	h.write(named(at[1], at[2]) + "[metrics]\nlisten = \"" + at[3] + "\"\n[spool]\nquota = \"1MiB\"\n")
	h.reload()
	for _, want := range []string{"+ interface[tcp " + at[1] + "].bind", "- interface[tcp " + at[0] + "].bind", "~ metrics.listen = ", `~ spool.quota = "1MiB" (was "256MiB")`} {
		if !h.logged(want) {
			t.Errorf("%q is not in:\n%s", want, h.log.b.String())
		}
	}
	if answers(at[0]) || !answers(at[1]) || !answers(at[2]) {
		t.Error("the interfaces are not those of the new configuration")
	}
	r, err := http.Get("http://" + at[3] + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(r.Body)
	r.Body.Close()
	http.DefaultClient.CloseIdleConnections()
	if !bytes.Contains(body, []byte("noipchat_sessions 1")) {
		t.Errorf("the metrics are:\n%s", body)
	}
	talks("two")

	// From all addresses of a port to one, and back: each is in the way of the other.
	_, port, _ := net.SplitHostPort(at[1])
	for _, bind := range []string{"0.0.0.0:" + port, at[1]} {
		h.write(named(bind))
		h.reload()
		if s := h.state(); len(s.Interfaces) != 1 || s.Interfaces[0].Bind != bind || !answers(at[1]) {
			t.Errorf("to %s: %+v", bind, s.Interfaces)
		}
	}
	if answers(at[3]) {
		t.Error("the metrics are still there")
	}
	talks("three")
	if now, _ := h.Sessions(t.Context()); len(now) != 1 || now[0].ID != first[0].ID {
		t.Errorf("the session was %v, and is %v", first, now)
	}
	if c := h.state().Config; c.LastError != "" || h.opened == 0 {
		t.Errorf("%+v, the log was opened %d times", c, h.opened)
	}
}

// TestRefusedReload: what is bad changes nothing, and is said everywhere.
func TestRefusedReload(t *testing.T) {
	at := free(t, 3)
	h := run(t, named(at[0]))
	taken, err := net.Listen("tcp", at[1])
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	_, port, _ := net.SplitHostPort(at[1])
	for _, bad := range []struct{ text, why string }{
		{"name = \"server1\"\nmax_hop = 3\n" + named(at[2])[len("name = \"server1\"\n"):], "noipchat.toml:2: unknown key max_hop"},
		{strings.Replace(named(at[2]), "server1", "server2", 1), "name can't change while the server runs"},
		{named(at[2], at[1]), "address already in use"},
		{named("0.0.0.0:"+port, at[2]), "address already in use"},
		{named(at[2], "192.0.2.1:10001"), "cannot assign requested address"},
		{named(at[2]) + "[metrics]\nlisten = \"" + at[1] + "\"\n", "[metrics] listen"},
		{"", "name is missing"},
	} {
		h.write(bad.text)
		_, err := h.Reload(t.Context(), 0)
		if err == nil || !errors.Is(err, control.ErrConfig) || !strings.Contains(err.Error(), bad.why) {
			t.Errorf("not %q: %v", bad.why, err)
		}
		s := h.state()
		if !strings.Contains(s.Config.LastError, bad.why) {
			t.Errorf("the status says %q", s.Config.LastError)
		}
		if !answers(at[0]) || answers(at[2]) || len(s.Interfaces) != 1 || s.Interfaces[0].Bind != at[0] {
			t.Errorf("after %q the interfaces are %v", bad.why, s.Interfaces)
		}
	}
	h.write(named(at[0]))
	h.reload()
	if said := h.state().Config.LastError; said != "" {
		t.Errorf("the old one again: %q", said)
	}
}

// TestBusyMetrics: a server starts without its metrics, says so, and has them after a
// reload that finds the address free.
func TestBusyMetrics(t *testing.T) {
	at := free(t, 2)
	taken, err := net.Listen("tcp", at[1])
	if err != nil {
		t.Fatal(err)
	}
	h := run(t, named(at[0])+"[metrics]\nlisten = \""+at[1]+"\"\n")
	if s := h.state(); len(s.Notices) != 1 || !strings.Contains(s.Notices[0], "[metrics] listen: ") || !answers(at[0]) {
		t.Errorf("the notices are %q", s.Notices)
	}
	taken.Close()
	h.reload()
	if !answers(at[1]) {
		t.Error("there are no metrics")
	}
}

// TestConfirm: who locks himself out is let in again.
func TestConfirm(t *testing.T) {
	at := free(t, 3)
	h := run(t, named(at[0]))
	if _, err := h.Reload(t.Context(), time.Minute); err == nil || !strings.Contains(err.Error(), "nothing to return to") {
		t.Errorf("at the start: %v", err)
	}
	if err := h.ConfirmReload(t.Context()); err == nil {
		t.Error("nothing waits, and is confirmed")
	}
	h.write(named(at[1]))
	h.until("the change is taken", func() bool { return answers(at[1]) && !answers(at[0]) }) // or that would be done after the return
	if r, err := h.Reload(t.Context(), 50*time.Millisecond); err != nil || r.ReturnsAt.IsZero() {
		t.Errorf("%+v, %v", r, err)
	}
	h.until("it returns and says so", func() bool {
		return answers(at[0]) && !answers(at[1]) && h.state().Config.LastError != ""
	})
	if c := h.state().Config; !strings.Contains(c.LastError, "nobody confirmed") || !c.ReturnsAt.IsZero() {
		t.Errorf("%+v", c)
	}
	h.write(named(at[2]))
	if _, err := h.Reload(t.Context(), time.Minute); err != nil || h.state().Config.ReturnsAt.IsZero() {
		t.Error(err)
	}
	if err := h.ConfirmReload(t.Context()); err != nil || !answers(at[2]) || !h.state().Config.ReturnsAt.IsZero() {
		t.Errorf("confirmed: %v", err)
	}
}

// until waits for what another goroutine does soon.
func (h *house) until(what string, true func() bool) {
	h.t.Helper()
	for late := time.Now().Add(time.Minute); !true(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(late) {
			h.t.Fatalf("not so: %s", what)
		}
	}
}

// TestWatched: a change of the files is taken, or refused, by itself.
func TestWatched(t *testing.T) {
	at := free(t, 2)
	h := run(t, named(at[0]))
	h.write(named(at[1]))
	h.until("the change is taken", func() bool { return answers(at[1]) && !answers(at[0]) })
	h.write("nonsense")
	h.until("nonsense is refused", func() bool { return strings.Contains(h.state().Config.LastError, "noipchat.toml:1:") })
	if !answers(at[1]) {
		t.Error("and the interface is gone")
	}
}

// TestBadInterface: one that can't be opened at the start stays so without a word
// at a reload, and is opened when it can be.
func TestBadInterface(t *testing.T) {
	at := free(t, 2)
	taken, err := net.Listen("tcp", at[1])
	if err != nil {
		t.Fatal(err)
	}
	h := run(t, named(at...))
	if s := h.state(); len(s.Interfaces) != 2 || s.Interfaces[1].State != control.Failed {
		t.Errorf("%+v", s.Interfaces)
	}
	h.reload()
	taken.Close()
	h.reload()
	if s := h.state(); !answers(at[1]) || s.Interfaces[1].State != control.Listening {
		t.Errorf("%+v", s.Interfaces)
	}
}

// TestNoInterface: a server that can listen nowhere doesn't start.
func TestNoInterface(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "noipchat.toml")
	if err := os.WriteFile(path, []byte(named("192.0.2.1:10001")), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := daemon.Open(t.Context(), daemon.Options{Config: path, State: dir, Runtime: dir, Log: slog.New(slog.DiscardHandler)})
	if !errors.Is(err, syscall.EADDRNOTAVAIL) {
		t.Error(err)
	}
}
