package session_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sync/errgroup"

	"github.com/noipchat/noipchat/daemon/client"
	"github.com/noipchat/noipchat/daemon/identity"
	"github.com/noipchat/noipchat/daemon/message"
	"github.com/noipchat/noipchat/daemon/relay"
	"github.com/noipchat/noipchat/daemon/session"
	"github.com/noipchat/noipchat/daemon/spool"
	"github.com/noipchat/noipchat/daemon/transport"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	home     = "server1"
	password = "a good password"
	patience = time.Minute // a test that waits longer has failed
)

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// network is where a server listens and its clients dial.
type network interface {
	listen(t testing.TB) transport.Listener
	dial(ctx context.Context, address string) (transport.Conn, error)
}

// memory is a network in a bubble.
type memory struct{ transport.Memory }

func (m *memory) listen(t testing.TB) transport.Listener {
	t.Helper()
	l, err := m.Listen("192.0.2.1:1")
	check(t, err)
	return l
}

func (m *memory) dial(ctx context.Context, address string) (transport.Conn, error) {
	return m.Dial(ctx, address)
}

// loopback is the real thing.
type loopback struct{}

func (loopback) listen(t testing.TB) transport.Listener {
	t.Helper()
	l, err := transport.Listen(t.Context(), "tcp", "127.0.0.1:0")
	check(t, err)
	return l
}

func (loopback) dial(ctx context.Context, address string) (transport.Conn, error) {
	return transport.Dial(ctx, "tcp", "", address)
}

// options are the measures of all rooms of a server.
type options struct {
	session  session.Options
	spool    spool.Options
	identity identity.Options
	cost     identity.Cost // of a password's hash; the least there is if it is zero
}

// server is a whole server but for its configuration and control socket.
type server struct {
	t        testing.TB
	net      network
	dir      string
	address  string
	key      identity.Key
	hasher   *identity.Hasher
	users    *identity.Users
	counters *identity.Counters
	spool    *spool.Spool
	relay    *relay.Relay
	host     *session.Host
	log      *journal
	stop     func() // orderly, once
}

// open starts a server on the state in dir.
func open(t testing.TB, net network, dir string, o options) *server {
	t.Helper()
	s := &server{t: t, net: net, dir: dir, log: &journal{}}
	log := slog.New(s.log)
	var err error
	s.key, _, err = identity.LoadOrCreateKey(filepath.Join(dir, "key"))
	check(t, err)
	if o.cost == (identity.Cost{}) {
		o.cost = identity.Cost{Memory: 8, Passes: 1, Lanes: 1}
	}
	s.hasher, err = identity.NewHasher(o.cost, 2)
	check(t, err)
	o.identity.Hasher, o.identity.Log = s.hasher, log
	var damaged []error
	s.users, damaged, err = identity.OpenUsers(dir, home, o.identity)
	check(t, errors.Join(append(damaged, err)...))
	var expiring atomic.Pointer[relay.Relay]
	if o.spool.JournalFile == 0 {
		o.spool.JournalFile, o.spool.JournalFiles = 1<<18, 4
	}
	o.spool.Log = log
	kept := cmp.Or(o.spool.MaxAge, 30*24*time.Hour)
	o.spool.Expired = func(t *spool.Turn, q *spool.Queue, e *spool.Entry) {
		var l relay.Ledger
		r := expiring.Load()
		r.Expired(t, &l, q, e, e.Life() >= kept)
		r.Close(t, &l)
	}
	s.spool, err = spool.Open(filepath.Join(dir, "spool"), o.spool)
	check(t, err)
	s.relay = relay.New(home, s.spool)
	expiring.Store(s.relay)
	o.session.Log = log
	s.counters, err = identity.OpenCounters(dir)
	check(t, err)
	s.host = session.New(home, s.key, s.users, s.counters, s.relay, s.spool, o.session)
	for _, u := range s.users.List() {
		s.host.Refresh(u.Name)
	}
	l := net.listen(t)
	s.address = l.Addr().String()

	ctx, cancel := context.WithCancel(context.Background())
	spooling, endSpool := context.WithCancel(context.Background())
	var g, below errgroup.Group
	g.Go(func() error { return s.host.Serve(l) })
	g.Go(func() error { return s.host.Watch(ctx) })
	below.Go(func() error { return s.spool.Run(spooling) })
	s.stop = sync.OnceFunc(func() {
		cancel()
		l.Close()
		if err := g.Wait(); err != nil {
			t.Error(err)
		}
		s.host.Close(message.Defer(message.CodeStopping, time.Second, "the server is going down"))
		endSpool()
		if err := errors.Join(below.Wait(), s.counters.Close()); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(s.stop)
	return s
}

// add makes users.
func (s *server) add(names ...string) {
	s.t.Helper()
	for _, name := range names {
		check(s.t, s.users.Add(s.t.Context(), name, password))
		s.host.Refresh(name)
	}
}

// journal is a log that tests read.
type journal struct {
	mu    sync.Mutex
	lines []string
}

func (j *journal) Enabled(context.Context, slog.Level) bool { return true }
func (j *journal) WithAttrs([]slog.Attr) slog.Handler       { return j }
func (j *journal) WithGroup(string) slog.Handler            { return j }
func (j *journal) Handle(_ context.Context, r slog.Record) error {
	line := r.Message
	r.Attrs(func(a slog.Attr) bool {
		line += fmt.Sprintf(" %s=%v", a.Key, a.Value)
		return true
	})
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, line)
	return nil
}

// person is a user with one device.
type person struct {
	t     testing.TB
	s     *server
	name  string
	dir   string
	o     client.Options
	store *client.Store
	c     *client.Client
	leave func() error // disconnects, and returns what Run returned
}

// enter logs a person in for the first time; he is not connected then.
func (s *server) enter(name string) *person {
	s.t.Helper()
	p := &person{t: s.t, s: s, name: name, dir: s.t.TempDir(), o: client.Options{Dial: s.net.dial, MaxWait: time.Second}}
	p.open()
	_, err := client.Login(s.t.Context(), p.store, s.entry(name), p.o)
	check(s.t, err)
	p.c, err = client.New(p.store, p.o)
	check(s.t, err)
	return p
}

func (s *server) entry(name string) client.Entry {
	return client.Entry{Address: message.Join(name, home), Servers: []string{s.address}, Key: s.key.Public(),
		Standing: identity.Pinned, Password: password, Label: "of a test"}
}

func (p *person) open() {
	p.t.Helper()
	var err error
	p.store, err = client.OpenStore(p.dir)
	check(p.t, err)
	store := p.store
	p.t.Cleanup(func() { store.Close() })
}

func (p *person) address() message.Address { return message.Join(p.name, home) }

// come connects.
func (p *person) come() *person {
	p.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	c := p.c
	go func() { done <- c.Run(ctx) }()
	p.leave = sync.OnceValue(func() error {
		cancel()
		return <-done
	})
	leave := p.leave
	p.t.Cleanup(func() { leave() })
	p.until("a session", func() bool { up, _ := c.Connected(); return up })
	return p
}

// until waits for something that the client learns.
func (p *person) until(what string, is func() bool) {
	p.t.Helper()
	late := time.After(patience)
	for {
		changed := p.c.Changed()
		if is() {
			return
		}
		select {
		case <-changed:
		case <-late:
			_, err := p.c.Connected()
			p.t.Fatalf("%s waits in vain for %s (%v)", p.name, what, err)
		}
	}
}

func (p *person) send(body string, to ...*person) client.Message {
	p.t.Helper()
	var addresses []message.Address
	for _, r := range to {
		addresses = append(addresses, r.address())
	}
	return p.write(client.Outgoing{Body: []byte(body), To: addresses})
}

func (p *person) write(o client.Outgoing) client.Message {
	p.t.Helper()
	m, err := p.c.Send(context.Background(), o)
	check(p.t, err)
	return m
}

// fate is what a sender knows of one receiver.
func (p *person) fate(m client.Message, receiver message.Address) client.Recipient {
	p.t.Helper()
	m, ok, err := p.store.Status(m.ID)
	check(p.t, err)
	for _, r := range m.Recipients {
		if r.Address == receiver {
			return r
		}
	}
	p.t.Fatalf("message %v to %s is not there (%v)", m.ID, receiver, ok)
	return client.Recipient{}
}

// learns waits until the sender knows a state.
func (p *person) learns(m client.Message, receiver message.Address, want message.State) client.Recipient {
	p.t.Helper()
	p.until(fmt.Sprintf("%v of %s", want, receiver), func() bool { return p.fate(m, receiver).State >= want })
	r := p.fate(m, receiver)
	if r.State != want {
		p.t.Fatalf("%s is told %v (%s) of %s, not %v", p.name, r.State, r.Reason, receiver, want)
	}
	return r
}

// texts are what has come in, in its order.
func (p *person) texts() (texts []string) {
	p.t.Helper()
	history, err := p.store.History(client.Query{Only: client.In})
	check(p.t, err)
	for _, m := range history {
		texts = append(texts, m.Body)
	}
	return texts
}

// has waits for exactly these texts.
func (p *person) has(want ...string) {
	p.t.Helper()
	p.until(fmt.Sprint(want), func() bool { return len(p.texts()) >= len(want) })
	if got := p.texts(); !slices.Equal(got, want) {
		p.t.Fatalf("%s has %q, not %q", p.name, got, want)
	}
}

// reads shows all that has come in, and sends the read receipts.
func (p *person) reads() {
	p.t.Helper()
	for {
		next, err := p.store.Next("reader", 100)
		check(p.t, err)
		if len(next) == 0 {
			break
		}
		check(p.t, p.store.Advance("reader", next[len(next)-1]))
	}
	_, err := p.store.EnqueueReadReceipts(context.Background())
	check(p.t, err)
	p.c.Kick()
}
