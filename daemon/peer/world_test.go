package peer_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sync/errgroup"

	"github.com/noipchat/noipchat/daemon/client"
	"github.com/noipchat/noipchat/daemon/identity"
	"github.com/noipchat/noipchat/daemon/message"
	"github.com/noipchat/noipchat/daemon/peer"
	"github.com/noipchat/noipchat/daemon/relay"
	"github.com/noipchat/noipchat/daemon/session"
	"github.com/noipchat/noipchat/daemon/spool"
	"github.com/noipchat/noipchat/daemon/transport"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const password = "a good password"

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// network is what the servers of a world listen on and dial.
type network interface {
	Listen(address string) (transport.Listener, error)
	Dial(ctx context.Context, address string) (transport.Conn, error)
}

// world is servers and what connects them, in a bubble or on the loopback interface.
type world struct {
	t       testing.TB
	net     network
	servers map[string]*server
	hops    int
	journal spool.Options // the measures of journals

	mu    sync.Mutex
	cut   map[[2]string]bool // cables that are cut
	conns map[[2]string][]transport.Conn
	dials map[[2]string]int  // how often each was dialled by
	holes map[[2]string]bool // cables in which all that is written from now on is lost
	bytes map[[2]string]*carried
}

// carried is what has gone over a cable, from and to who has dialled.
type carried struct{ out, in atomic.Int64 }

// since returns that since it was last asked.
func (c *carried) since() (out, in int64) { return c.out.Swap(0), c.in.Swap(0) }

// carried returns what counts a cable's bytes.
func (w *world) carried(a, b string) *carried {
	w.mu.Lock()
	defer w.mu.Unlock()
	k := cable(a, b)
	if w.bytes[k] == nil {
		w.bytes[k] = new(carried)
	}
	return w.bytes[k]
}

// hole is the dialling end of a connection whose cable may become a hole.
type hole struct {
	transport.Conn
	w     *world
	cable [2]string
	bytes *carried
	is    bool // guarded by w.mu
}

func (h *hole) lost() bool {
	h.w.mu.Lock()
	defer h.w.mu.Unlock()
	h.is = h.is || h.w.holes[h.cable]
	return h.is
}

func (h *hole) Write(b []byte) (int, error) {
	if h.lost() {
		return len(b), nil
	}
	n, err := h.Conn.Write(b)
	h.bytes.out.Add(int64(n))
	return n, err
}

func (h *hole) TryWrite(b []byte) (int, error) {
	if h.lost() {
		return len(b), nil
	}
	n, err := h.Conn.TryWrite(b)
	h.bytes.out.Add(int64(n))
	return n, err
}

func (h *hole) Read(b []byte) (int, error) {
	n, err := h.Conn.Read(b)
	h.bytes.in.Add(int64(n))
	return n, err
}

// Borrow implements transport.Conn.
func (h *hole) Borrow(lend func() []byte, giveBack func([]byte)) ([]byte, int, error) {
	b, n, err := h.Conn.Borrow(lend, giveBack)
	h.bytes.in.Add(int64(n))
	return b, n, err
}

func newWorld(t testing.TB) *world {
	return &world{t: t, net: new(transport.Memory), journal: spool.Options{JournalFile: 1 << 18, JournalFiles: 4}, servers: map[string]*server{}, cut: map[[2]string]bool{}, conns: map[[2]string][]transport.Conn{}, holes: map[[2]string]bool{}, bytes: map[[2]string]*carried{}, dials: map[[2]string]int{}, hops: 10}
}

// server is a whole server but for its configuration and control socket.
type server struct {
	w        *world
	name     string
	dir      string
	address  string
	key      identity.Key
	users    *identity.Users
	servers  *identity.Servers
	spool    *spool.Spool
	relay    *relay.Relay
	host     *session.Host
	peers    *peer.Peers
	conf     peer.Config
	counters *identity.Counters
	stop     func()       // once
	clock    atomic.Int64 // by how many nanoseconds its wall clock is wrong
	total    int64        // bytes that may wait here; 0: the default
}

// add makes a server that may be dialled and dials nobody yet.
func (w *world) add(names ...string) {
	for _, name := range names {
		s := &server{w: w, name: name, dir: w.t.TempDir(), address: fmt.Sprintf("192.0.2.%d:1", len(w.servers)+1), conf: peer.Config{MaxHops: w.hops, Open: true, Flood: 1 << 20}}
		w.mu.Lock() // somebody may dial already
		w.servers[name] = s
		w.mu.Unlock()
		s.start()
	}
}

func (s *server) start() {
	t := s.w.t
	t.Helper()
	var err error
	log := slog.New(slog.DiscardHandler)
	if testing.Verbose() {
		log = slog.New(slog.NewTextHandler(&lines{t, s.name}, &slog.HandlerOptions{Level: slog.LevelInfo}))
	}
	s.key, _, err = identity.LoadOrCreateKey(filepath.Join(s.dir, "key"))
	check(t, err)
	hasher, err := identity.NewHasher(identity.Cost{Memory: 8, Passes: 1, Lanes: 1}, 2)
	check(t, err)
	users, damaged, err := identity.OpenUsers(s.dir, s.name, identity.Options{Hasher: hasher, Now: s.now})
	check(t, errors.Join(append(damaged, err)...))
	s.users = users
	s.servers, err = identity.OpenServers(s.dir, s.name, s.key.Public())
	check(t, err)
	s.servers.Configure(nil, identity.AcceptUnknown)
	var r atomic.Pointer[relay.Relay]
	s.spool, err = spool.Open(filepath.Join(s.dir, "spool"), spool.Options{
		JournalFile: s.w.journal.JournalFile, JournalFiles: s.w.journal.JournalFiles, MaxAge: 30 * 24 * time.Hour,
		Envelope: message.EnvelopeOf, Now: s.now, Total: s.total,
		Expired: func(t *spool.Turn, q *spool.Queue, e *spool.Entry) {
			var l relay.Ledger
			r.Load().Expired(t, &l, q, e, false)
			r.Load().Close(t, &l)
		},
	})
	check(t, err)
	s.relay = relay.New(s.name, s.spool)
	r.Store(s.relay)
	s.counters, err = identity.OpenCounters(s.dir)
	check(t, err)
	s.peers, err = peer.New(peer.Options{
		Home: s.name, Key: s.key, State: s.dir, Servers: s.servers, Relay: s.relay, Spool: s.spool, Log: log, Dial: s.dial, MaxWait: 10 * time.Second,
	})
	check(t, err)
	s.host = session.New(s.name, s.key, s.users, s.counters, s.relay, s.spool, session.Options{Links: s.peers.Accept})
	for _, u := range s.users.List() {
		s.host.Refresh(u.Name)
	}
	l, err := s.w.net.Listen(s.address)
	check(t, err)
	if a := l.Addr().String(); a != s.address { // on real sockets; others read it
		s.address = a
	}
	s.peers.Configure(s.conf)
	ctx, cancel := context.WithCancel(context.Background())
	spooling, endSpool := context.WithCancel(context.Background())
	var g, below errgroup.Group
	g.Go(func() error { return s.host.Serve(l) })
	g.Go(func() error { return s.host.Watch(ctx) })
	s.peers.Start(ctx)
	g.Go(func() error { return s.peers.Run(ctx) })
	below.Go(func() error { return s.spool.Run(spooling) })
	s.stop = sync.OnceFunc(func() {
		cancel()
		l.Close()
		check(t, g.Wait())
		why := message.Defer(message.CodeStopping, time.Second, "going down")
		s.peers.Close(why)
		s.host.Close(why)
		endSpool()
		check(t, errors.Join(below.Wait(), s.counters.Close(), s.servers.Close()))
	})
	t.Cleanup(s.stop)
}

// now is the server's wall clock.
func (s *server) now() time.Time { return time.Now().Add(time.Duration(s.clock.Load())) }

func (s *server) restart() {
	s.stop()
	s.start()
}

// image copies the state as a SIGKILL or a power cut at this moment would leave it.
func (s *server) image() (dir string) {
	s.w.t.Helper()
	synctest.Wait() // nobody writes
	dir = s.w.t.TempDir()
	check(s.w.t, filepath.WalkDir(s.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		to := filepath.Join(dir, strings.TrimPrefix(path, s.dir))
		if d.IsDir() {
			return os.MkdirAll(to, 0o700)
		}
		b, err := os.ReadFile(path)
		return errors.Join(err, os.WriteFile(to, b, 0o600))
	}))
	return dir
}

// restore has the server go on from an image.
func (s *server) restore(dir string) {
	s.stop()
	s.dir = dir
	s.start()
}

type lines struct {
	t    testing.TB
	name string
}

func (l *lines) Write(b []byte) (int, error) {
	l.t.Logf("%v %s: %s", time.Now().Format("15:04:05"), l.name, strings.TrimSpace(string(b)))
	return len(b), nil
}

func cable(a, b string) [2]string {
	if a > b {
		a, b = b, a
	}
	return [2]string{a, b}
}

// dial is how a server dials in this world.
func (s *server) dial(ctx context.Context, a transport.Address) (transport.Conn, error) {
	var to string
	s.w.mu.Lock()
	for name, o := range s.w.servers {
		if o.address == a.Remote {
			to = name
		}
	}
	k := cable(s.name, to)
	if a.Local != "" { // one of several cables, as "b/dear" is another way between a and b
		k[1] += "/" + a.Local
	}
	cut := s.w.cut[k]
	s.w.dials[k]++
	s.w.mu.Unlock()
	if cut {
		return nil, errors.New("the cable is cut")
	}
	var conn transport.Conn
	var err error
	if m, ok := s.w.net.(*transport.Memory); ok {
		conn, err = m.DialLine(ctx, a.Remote, a.Line)
	} else {
		conn, err = s.w.net.Dial(ctx, a.Remote)
	}
	if err == nil {
		conn = &hole{Conn: conn, w: s.w, cable: k, bytes: s.w.carried(s.name, to)}
		s.w.mu.Lock()
		s.w.conns[k] = append(s.w.conns[k], conn)
		s.w.mu.Unlock()
	}
	return conn, err
}

// plug connects the cable between two servers, or cuts it.
func (w *world) plug(a, b string, up bool) { w.plugCable(cable(a, b), up) }

// plugDear is plug for their dear cable: see storm.
func (w *world) plugDear(a, b string, up bool) {
	k := cable(a, b)
	k[1] += "/dear"
	w.plugCable(k, up)
}

func (w *world) plugCable(k [2]string, up bool) {
	w.mu.Lock()
	w.cut[k] = !up
	conns := w.conns[k]
	if !up {
		w.conns[k] = nil
	}
	w.mu.Unlock()
	if !up {
		for _, c := range conns {
			c.Close()
		}
	}
}

// hole has all lost from now on that is written into a cable by who has dialled, or ends that
// for new connections: those into which something was written are dead.
func (w *world) hole(a, b string, is bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.holes[cable(a, b)] = is
}

// String says what waits where, and by which ways it could go.
func (w *world) String() string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(w.servers)) {
		s := w.servers[name]
		fmt.Fprintf(&b, "%s: links to %v, routes", name, s.peers.Names())
		for _, r := range s.peers.Routes() {
			fmt.Fprintf(&b, " %s by %s", r.Server, r.Via)
		}
		for _, q := range s.spool.Queues() {
			if i := q.Info(); i.Messages > 0 {
				fmt.Fprintf(&b, "\n\t%s has %d, the oldest for %v, pumped: %v", i.Name, i.Messages, i.Oldest, i.Pumped)
			}
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// link makes a a peer of b's, which it dials.
func (w *world) link(a, b string, timeout time.Duration) {
	w.lay(a, b, timeout, transport.Properties{})
}

// lay is link over a line, of which b knows nothing.
func (w *world) lay(a, b string, timeout time.Duration, line transport.Properties) {
	s := w.servers[a]
	s.conf.Peers = append(s.conf.Peers, peer.Peer{Name: b, Ways: []peer.Way{{
		Address: transport.Address{Kind: "tcp", Remote: w.servers[b].address, Line: line}, Timeout: timeout, Cost: 10,
	}}})
	s.peers.Configure(s.conf)
}

// person is a user with one device.
type person struct {
	t     testing.TB
	s     *server
	name  string
	store *client.Store
	c     *client.Client
	leave func() error
	deaf  atomic.Pointer[chan struct{}] // closed when he reads on; nil: he does
}

// deafness is a connection of a person who may not read for a while.
type deafness struct {
	transport.Conn
	p *person
}

// Borrow implements transport.Conn.
func (d *deafness) Borrow(lend func() []byte, giveBack func([]byte)) ([]byte, int, error) {
	b, n, err := d.Conn.Borrow(lend, giveBack)
	if until := d.p.deaf.Load(); until != nil {
		<-*until
	}
	return b, n, err
}

// plugs has somebody not read, and returns how that ends.
func (p *person) plugs() (hear func()) {
	until := make(chan struct{})
	p.deaf.Store(&until)
	return sync.OnceFunc(func() {
		p.deaf.Store(nil)
		close(until)
	})
}

// enter makes a user with a device that is not connected yet.
func (w *world) enter(name, home string) *person {
	w.t.Helper()
	s := w.servers[home]
	check(w.t, s.users.Add(w.t.Context(), name, password))
	s.host.Refresh(name)
	p := &person{t: w.t, s: s, name: name}
	var err error
	p.store, err = client.OpenStore(w.t.TempDir())
	check(w.t, err)
	w.t.Cleanup(func() { p.store.Close() })
	dial := func(ctx context.Context, address string) (transport.Conn, error) {
		c, err := w.net.Dial(ctx, address)
		if err != nil {
			return nil, err
		}
		return &deafness{c, p}, nil
	}
	o := client.Options{Dial: dial, MaxWait: time.Second}
	_, err = client.Login(w.t.Context(), p.store, client.Entry{Address: p.address(), Servers: []string{s.address}, Key: s.key.Public(), Standing: identity.Pinned, Password: password}, o)
	check(w.t, err)
	p.c, err = client.New(p.store, o)
	check(w.t, err)
	return p
}

func (p *person) address() message.Address { return message.Join(p.name, p.s.name) }

func (p *person) come() *person {
	p.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.c.Run(ctx) }()
	p.leave = sync.OnceValue(func() error {
		cancel()
		return <-done
	})
	leave := p.leave
	p.t.Cleanup(func() { leave() })
	p.until("a session", func() bool { up, _ := p.c.Connected(); return up })
	return p
}

// toggle has somebody leave who is there, and come who isn't.
func (p *person) toggle() {
	if p.leave == nil {
		p.come()
		return
	}
	p.leave()
	p.leave = nil
}

func (p *person) until(what string, is func() bool) {
	p.t.Helper()
	late := time.After(24 * time.Hour) // what is lost on its way is sent again in growing intervals
	for {
		changed := p.c.Changed()
		if is() {
			return
		}
		select {
		case <-changed:
		case <-late:
			p.t.Fatalf("%s waits in vain for %s\n%s", p.name, what, p.s.w)
		}
	}
}

func (p *person) send(body string, to ...*person) client.Message { return p.write(body, 0, to...) }

func (p *person) write(body string, life time.Duration, to ...*person) client.Message {
	p.t.Helper()
	o := client.Outgoing{Body: []byte(body), Lifetime: life}
	for _, r := range to {
		o.To = append(o.To, r.address())
	}
	m, err := p.c.Send(context.Background(), o)
	check(p.t, err)
	return m
}

func (p *person) sendFile(name string, size int, life time.Duration, to ...*person) client.Message {
	p.t.Helper()
	o := client.OutgoingFile{Path: filepath.Join(p.t.TempDir(), name), Lifetime: life}
	check(p.t, os.WriteFile(o.Path, make([]byte, size), 0o600))
	for _, r := range to {
		o.To = append(o.To, r.address())
	}
	m, err := p.c.SendFile(context.Background(), o)
	check(p.t, err)
	return m
}

func (p *person) fate(m client.Message, receiver message.Address) client.Recipient {
	p.t.Helper()
	m, _, err := p.store.Status(m.ID)
	check(p.t, err)
	for _, r := range m.Recipients {
		if r.Address == receiver {
			return r
		}
	}
	return client.Recipient{}
}

func (p *person) learns(m client.Message, receiver *person, want message.State) {
	p.t.Helper()
	p.until(fmt.Sprintf("%v of %s", want, receiver.name), func() bool { return p.fate(m, receiver.address()).State >= want })
	if r := p.fate(m, receiver.address()); r.State != want {
		p.t.Fatalf("%s is told %v (%s) of %s, not %v", p.name, r.State, r.Reason, receiver.name, want)
	}
}

// texts are what has come, files by their names.
func (p *person) texts() (texts []string) {
	p.t.Helper()
	history, err := p.store.History(client.Query{Only: client.In})
	check(p.t, err)
	for _, m := range history {
		if m.File != nil {
			m.Body = m.File.Name + m.File.Damage
		}
		texts = append(texts, m.Body)
	}
	return texts
}

func (p *person) has(want ...string) {
	p.t.Helper()
	p.until(fmt.Sprint(want), func() bool { return len(p.texts()) >= len(want) })
	if got := p.texts(); !slices.Equal(got, want) {
		p.t.Fatalf("%s has %q, not %q", p.name, got, want)
	}
}

// linked waits until a server has links to these.
func (s *server) linked(names ...string) {
	s.w.t.Helper()
	slices.SortFunc(names, cmp.Compare[string])
	for range 3600 {
		if slices.Equal(s.peers.Names(), names) {
			return
		}
		time.Sleep(time.Second)
	}
	s.w.t.Fatalf("%s has links to %v, not to %v", s.name, s.peers.Names(), names)
}

func bubble(t *testing.T, play func(t *testing.T, w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { play(t, newWorld(t)) })
}

// hasAll fails unless somebody has just these, in any order.
func (p *person) hasAll(want []string) {
	p.t.Helper()
	got := p.texts()
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		p.t.Errorf("%s has %q, not %q", p.name, got, want)
	}
}
