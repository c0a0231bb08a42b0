package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/noipchat/noipchat/daemon/client"
	"github.com/noipchat/noipchat/daemon/control"
	"github.com/noipchat/noipchat/daemon/message"
)

// moving is a server with people who talk, and its copies elsewhere.
type moving struct {
	*stage
	t       *testing.T
	ctx     context.Context
	noipctl string
	people  map[string]*person
	mu      sync.Mutex
	sent    map[string][]client.Message
}

func newMoving(t *testing.T) *moving {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	m := &moving{
		stage: &stage{name: "server1", dir: filepath.Join(t.TempDir(), "old"), out: t.Output(), began: time.Now()},
		t:     t, ctx: ctx, noipctl: filepath.Join(t.TempDir(), "noipctl"), people: map[string]*person{}, sent: map[string][]client.Message{},
	}
	if out, err := exec.Command("go", "build", "-o", m.noipctl, "../noipctl").CombinedOutput(); err != nil {
		t.Fatalf("building noipctl: %v\n%s", err, out)
	}
	m.must(m.configure())
	m.must(m.start(ctx))
	t.Cleanup(func() { m.kill(syscall.SIGKILL) })
	status, err := m.admin.Status(ctx)
	m.must(err)
	for _, name := range []string{"alice", "bob", "carol", "dave"} {
		m.people[name], err = m.cast(ctx, name, status.Key)
		m.must(err)
		t.Cleanup(m.people[name].leave)
	}
	return m
}

func (m *moving) must(err error) {
	m.t.Helper()
	if err != nil {
		m.t.Fatalf("%v\nthe server says:\n%s", err, m.log.String())
	}
}

// talk has somebody write to carol, who is here, and dave, who is away, until ctx ends: ten
// messages, and the next when a server answers for them.
func (m *moving) talk(ctx context.Context, name string) {
	p := m.people[name]
	for n := 0; ; n++ {
		sent, err := p.c.Send(m.ctx, client.Outgoing{
			To: []message.Address{m.people["carol"].address(), m.people["dave"].address()}, Body: fmt.Appendf(nil, "%s %d", name, n),
		})
		if err != nil {
			m.t.Error(err)
			return
		}
		m.mu.Lock()
		m.sent[name] = append(m.sent[name], sent)
		m.mu.Unlock()
		if n%10 == 9 {
			err = p.until(ctx, func() (bool, error) { return len(m.acked(name)) == n+1, nil })
		}
		if err != nil || ctx.Err() != nil {
			return
		}
	}
}

// acked are the messages that a server answers for by now.
func (m *moving) acked(name string) (all []client.Message) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, sent := range m.sent[name] {
		now, _, err := m.people[name].store.Status(sent.ID)
		m.must(err)
		if !slices.ContainsFunc(now.Recipients, func(r client.Recipient) bool { return r.State < message.Held }) {
			all = append(all, sent)
		}
	}
	return all
}

func (m *moving) runs(args ...string) string {
	m.t.Helper()
	out, err := m.try(args...)
	if err != nil {
		m.t.Fatalf("noipctl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

func (m *moving) try(args ...string) (string, error) {
	cmd := exec.CommandContext(m.ctx, m.noipctl, append([]string{"--socket", filepath.Join(m.dir, "run", "control.sock")}, args...)...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// passphrase makes a file with one.
func (m *moving) passphrase() string {
	path := filepath.Join(filepath.Dir(m.dir), "pass")
	m.must(os.WriteFile(path, []byte("correct horse battery staple\n"), 0o600))
	return path
}

func (m *moving) file() string { return filepath.Join(filepath.Dir(m.dir), "server1.age") }

func (m *moving) export() { m.runs("export", m.file(), "--passphrase-file", m.passphrase()) }

// importing is the command that makes the server in a folder of what was exported.
func (m *moving) importing(dir string) []string {
	return []string{"import", m.file(), "--passphrase-file", m.passphrase(), "--state", filepath.Join(dir, "state"), "--config", filepath.Join(dir, "noipchat.toml")}
}

func (m *moving) imported() (dir string) {
	dir = filepath.Join(filepath.Dir(m.dir), "new")
	m.runs(m.importing(dir)...)
	return dir
}

// elsewhere has the same server go on with another folder.
func (m *moving) elsewhere(dir string) {
	next := &stage{name: m.name, dir: dir, out: m.out, began: m.began, address: m.address}
	next.admin = control.New(filepath.Join(dir, "run", "control.sock"))
	m.stage = next
	m.must(next.start(m.ctx))
}

// all checks that these have come to somebody, and each of all that did come once.
func (m *moving) all(name string, from string, acked []client.Message) {
	m.t.Helper()
	p := m.people[name]
	have := map[message.ID]int{}
	m.must(p.until(m.ctx, func() (bool, error) {
		got, err := p.store.History(client.Query{Only: client.In, With: m.people[from].address()})
		clear(have)
		for _, g := range got {
			have[g.ID]++
		}
		return !slices.ContainsFunc(acked, func(a client.Message) bool { return have[a.ID] == 0 }), err
	}))
	for id, n := range have {
		if n != 1 {
			m.t.Errorf("%s has %s %d times", name, id, n)
		}
	}
}

// TestExportImport exports a server while people talk, kills it some time later, imports
// it elsewhere and has the same people go on there: what was acked before the export
// arrives, nothing twice, and what was only queued then and later arrives too.
func TestExportImport(t *testing.T) {
	m := newMoving(t)
	for _, name := range []string{"alice", "bob", "carol"} {
		m.people[name].come(m.ctx)
	}
	ctx, done := context.WithCancel(m.ctx)
	defer done()
	var talking sync.WaitGroup
	for _, name := range []string{"alice", "bob"} {
		talking.Go(func() { m.talk(ctx, name) })
	}
	for len(m.acked("alice")) < 20 || len(m.acked("bob")) < 20 {
		m.must(m.ctx.Err())
	}
	before := map[string][]client.Message{"alice": m.acked("alice"), "bob": m.acked("bob")}
	m.export()
	after := len(m.acked("alice"))

	again := m.importing(filepath.Join(filepath.Dir(m.dir), "new"))
	if out, err := m.try(again...); err == nil || !strings.Contains(out, "runs elsewhere, with this key") {
		t.Errorf("while the old one runs, import says: %v %s", err, out)
	}
	m.kill(syscall.SIGKILL)
	next := m.imported()
	if out, err := m.try(again...); err == nil || !strings.Contains(out, "there is a server here") {
		t.Errorf("a second import says: %v %s", err, out)
	}
	m.elsewhere(next)
	n := len(m.acked("alice"))
	m.must(m.people["alice"].until(m.ctx, func() (bool, error) { return len(m.acked("alice")) > n, nil }))
	done()
	talking.Wait()
	m.people["dave"].come(m.ctx)
	for _, from := range []string{"alice", "bob"} {
		for _, to := range []string{"carol", "dave"} {
			m.all(to, from, before[from])
		}
	}
	// What the old one acked last is lost with it; what is written now isn't.
	for _, from := range []string{"alice", "bob"} {
		last, err := m.people[from].c.Send(m.ctx, client.Outgoing{To: []message.Address{m.people["dave"].address()}, Body: []byte("the last")})
		m.must(err)
		m.must(m.people[from].learns(m.ctx, m.stage, last, m.people["dave"], message.Delivered))
	}
	t.Logf("%d and %d acked before the export, %d of alice's after it, %d and %d in all",
		len(before["alice"]), len(before["bob"]), after, len(m.sent["alice"]), len(m.sent["bob"]))
}

// TestImportOldDevice imports a server that went on after its export, and brings back a
// device that is older still: no number is used twice.
func TestImportOldDevice(t *testing.T) {
	m := newMoving(t)
	alice, carol := m.people["alice"], m.people["carol"]
	carol.come(m.ctx)
	m.export()
	old := filepath.Join(filepath.Dir(m.dir), "alice")
	m.must(alice.store.Close())
	m.must(os.CopyFS(old, os.DirFS(filepath.Join(m.dir, "alice", "default"))))
	open := func(dir string) {
		var err error
		alice.store, err = client.OpenStore(dir)
		m.must(err)
		alice.c, err = client.New(alice.store, client.Options{})
		m.must(err)
		alice.come(m.ctx)
	}
	write := func(text string) {
		sent, err := alice.c.Send(m.ctx, client.Outgoing{To: []message.Address{carol.address()}, Body: []byte(text)})
		m.must(err)
		m.must(alice.learns(m.ctx, m.stage, sent, carol, message.Delivered))
	}
	open(filepath.Join(m.dir, "alice", "default"))
	write("one") // after the export: the server that is imported knows of neither
	write("two")
	alice.leave()
	m.must(alice.store.Close())
	m.kill(syscall.SIGKILL)

	m.elsewhere(m.imported())
	open(old)
	write("three")
	have, err := carol.store.History(client.Query{Only: client.In})
	m.must(err)
	var texts []string
	for _, h := range have {
		texts = append(texts, string(h.Body))
	}
	slices.Sort(texts)
	if got := strings.Join(texts, " "); got != "one three two" {
		t.Errorf("carol has %q: a number was used twice", got)
	}
}

// TestPlainCopy copies the folder of a server, as people do: of one that is stopped it is
// all of it; of one that runs it starts, whatever is missing from it.
func TestPlainCopy(t *testing.T) {
	m := newMoving(t)
	m.people["alice"].come(m.ctx)
	ctx, done := context.WithCancel(m.ctx)
	defer done()
	var talking sync.WaitGroup
	talking.Go(func() { m.talk(ctx, "alice") })
	for len(m.acked("alice")) < 20 {
		m.must(m.ctx.Err())
	}
	running := filepath.Join(filepath.Dir(m.dir), "running")
	cp := exec.Command("cp", "-a", m.dir, running) // which may find that a file has just gone
	out, err := cp.CombinedOutput()
	t.Logf("cp of a server that runs: %v %s", err, out)
	done()
	talking.Wait()
	m.kill(syscall.SIGTERM)
	acked := m.acked("alice")
	stopped := filepath.Join(filepath.Dir(m.dir), "stopped")
	m.must(exec.Command("cp", "-a", m.dir, stopped).Run())

	m.elsewhere(running)
	status, err := m.admin.Status(m.ctx)
	m.must(err)
	t.Logf("the copy of a server that ran has %d of %d messages; it says: %v", status.Queues.Messages, len(acked)*2, status.Notices)
	m.kill(syscall.SIGTERM)

	m.elsewhere(stopped)
	for _, to := range []string{"carol", "dave"} {
		m.people[to].come(m.ctx)
		m.all(to, "alice", acked)
	}
}

// TestImportAnnounces imports a server that has started more often since its export than
// its peer can have forgotten: mail goes both ways all the same.
func TestImportAnnounces(t *testing.T) {
	m := newMoving(t)
	other := &stage{name: "server2", out: m.out, dir: filepath.Join(filepath.Dir(m.dir), "2"), began: m.began}
	m.must(other.configure())
	m.must(other.add("[federation]\nunknown = \"accept\"\n"))
	m.must(other.start(m.ctx))
	defer other.kill(syscall.SIGKILL)
	status, err := other.admin.Status(m.ctx)
	m.must(err)
	erin, err := other.cast(m.ctx, "erin", status.Key)
	m.must(err)
	erin.come(m.ctx)
	defer erin.leave()
	m.must(m.add("[[peer]]\nname = \"server2\"\n[[peer.link]]\nremote = %q\ntimeout = \"0s\"\n", other.address))
	m.kill(syscall.SIGTERM)
	m.must(m.start(m.ctx))
	m.export()
	alice := m.people["alice"]
	alice.come(m.ctx)
	there := func() {
		t.Helper()
		for _, way := range [][2]*person{{alice, erin}, {erin, alice}} {
			sent, err := way[0].c.Send(m.ctx, client.Outgoing{To: []message.Address{way[1].address()}, Body: []byte("are you there?")})
			m.must(err)
			m.must(way[0].learns(m.ctx, m.stage, sent, way[1], message.Delivered))
		}
	}
	for range 3 {
		m.kill(syscall.SIGKILL)
		m.must(m.start(m.ctx))
		there()
	}
	m.kill(syscall.SIGKILL)
	m.elsewhere(m.imported())
	there()
}

// TestHandoffExport hands over while somebody takes an export: he is not waited for, knows
// that it is not whole, and gets another one.
func TestHandoffExport(t *testing.T) {
	h := newTheatre(t, patience)
	h.start()
	state := filepath.Join(h.dir, "state")
	h.must(os.WriteFile(filepath.Join(state, "large"), nil, 0o600))
	h.must(os.Truncate(filepath.Join(state, "large"), 64<<20)) // more than is on its way
	half, err := h.admin.Export(h.ctx)
	h.must(err)
	defer half.Close()
	_, err = io.ReadFull(half, make([]byte, 1<<20))
	h.must(err)
	if _, err := h.admin.Export(h.ctx); err == nil {
		t.Error("there are two exports at a time")
	}
	_, err = h.handOver("test")
	h.must(err)
	if _, err := io.Copy(io.Discard, half); !errors.Is(err, control.ErrUnreachable) {
		t.Errorf("the first one ends with %v", err)
	}
	if _, err := os.Stat(filepath.Join(state, "export")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("its links are still there: %v", err)
	}
	whole, err := h.admin.Export(h.ctx)
	h.must(err)
	defer whole.Close()
	if n, err := io.Copy(io.Discard, whole); err != nil || n < 64<<20 {
		t.Errorf("the second has %d bytes: %v", n, err)
	}
}
