package main

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/noipchat/noipchat/daemon/identity"
	"github.com/noipchat/noipchat/daemon/transport"
	"github.com/noipchat/noipchat/daemon/wire"
)

// bridge is between a server and another one that dials it. It has the keys of both, so
// that it is to each what the other would be; it records what both seal, and seals it anew.
type bridge struct {
	ctx      context.Context
	from, to *stage
	l        transport.Listener
	dial     func(context.Context) (transport.Conn, error) // to
	closed   context.CancelFunc
	running  sync.WaitGroup

	mu    sync.Mutex    // guards what follows
	tapes []*tape       // of what servers have sent
	slow  chan struct{} // it doesn't read before this is closed
}

// newBridge takes connections of from, and makes ones of its own to to.
func newBridge(t testing.TB, l transport.Listener, from, to *stage, dial func(context.Context) (transport.Conn, error)) *bridge {
	b := &bridge{from: from, to: to, l: l, dial: dial}
	b.ctx, b.closed = context.WithCancel(context.Background())
	t.Cleanup(func() { b.close() })
	b.running.Go(func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			b.running.Go(func() { b.span(near) }) // servers say why it ends
		}
	})
	return b
}

// close ends all, and returns what was recorded.
func (b *bridge) close() []*tape {
	b.closed()
	b.l.Close()
	b.running.Wait()
	return b.tapes
}

// hold keeps it from reading until the function that it returns is called.
func (b *bridge) hold() (release func()) {
	wake := make(chan struct{})
	b.mu.Lock()
	defer b.mu.Unlock()
	b.slow = wake
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.slow = nil
		close(wake)
	}
}

// span connects what has dialled with the other server, until one of them ends.
func (b *bridge) span(near transport.Conn) error {
	defer near.Close()
	far, err := b.dial(b.ctx)
	for patience := 200; err != nil && patience > 0 && b.ctx.Err() == nil; patience-- {
		time.Sleep(10 * time.Millisecond) // it was killed, and is started again
		far, err = b.dial(b.ctx)
	}
	if err != nil {
		return err
	}
	defer far.Close()
	stop := context.AfterFunc(b.ctx, func() { near.Close(); far.Close() })
	defer stop()
	theirs, err := identity.LoadKey(filepath.Join(b.from.dir, "state", "key"))
	if err != nil {
		return err
	}
	ours, err := identity.LoadKey(filepath.Join(b.to.dir, "state", "key"))
	if err != nil {
		return err
	}
	var in, out *wire.Conn
	out, err = wire.Open(far, theirs, func(h wire.ServerHello) (hello wire.ClientHello, err error) {
		in, hello, err = wire.Answer(near, ours, h)
		return hello, err
	})
	if err != nil {
		return err
	}
	a, err := b.record(near, in)
	if err != nil {
		return err
	}
	z, err := b.record(far, out)
	if err != nil {
		return err
	}
	var both errgroup.Group
	for _, way := range [][2]*shore{{a, z}, {z, a}} {
		both.Go(func() error {
			defer a.conn.Close()
			defer z.conn.Close()
			return b.carry(way[0], way[1])
		})
	}
	return both.Wait()
}

func (b *bridge) record(conn transport.Conn, c *wire.Conn) (*shore, error) {
	tape, c, err := record(conn, c)
	if err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tapes = append(b.tapes, tape)
	return &shore{conn: c}, nil
}

// carry takes all that comes from one side to the other.
func (b *bridge) carry(from, to *shore) error {
	for {
		b.mu.Lock()
		slow := b.slow
		b.mu.Unlock()
		if slow != nil {
			select {
			case <-slow:
			case <-b.ctx.Done():
			}
		}
		err := from.conn.Receive(func(plain []byte) error {
			to.mu.Lock()
			defer to.mu.Unlock()
			to.plain = append(to.plain, plain)
			return nil
		})
		if err := errors.Join(err, to.conn.Flush(to)); err != nil {
			return err
		}
	}
}

// shore is one side of a bridge, with what is to go there, a record each.
type shore struct {
	conn  *wire.Conn
	mu    sync.Mutex // guards what follows
	plain [][]byte
}

// Fill implements wire.Source.
func (s *shore) Fill(dst []byte, room int) ([]byte, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.plain) == 0 || len(s.plain[0]) > room {
		return dst, len(s.plain) > 0
	}
	dst = append(dst, s.plain[0]...)
	s.plain = s.plain[1:]
	return dst, len(s.plain) > 0
}

// record has a tape run from here on.
func record(conn transport.Conn, c *wire.Conn) (*tape, *wire.Conn, error) {
	state := c.Export()
	t := &tape{Conn: conn, from: state.In, b: slices.Clone(state.Partial)}
	c, err := wire.Resume(t, state)
	return t, c, err
}

// narrow makes a socket's buffers such, at both ends, as are soon full: how much the other
// end's kernel takes goes by the size of a segment.
func narrow(_, _ string, c syscall.RawConn) (err error) {
	e := c.Control(func(fd uintptr) {
		err = errors.Join(unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 4<<10),
			unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_MAXSEG, 536))
	})
	return errors.Join(e, err)
}

func dialNarrow(ctx context.Context, address string) (transport.Conn, error) {
	d := net.Dialer{Control: narrow}
	c, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	f, err := c.(*net.TCPConn).File()
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fd, err := unix.Dup(int(f.Fd()))
	if err != nil {
		return nil, err
	}
	return transport.Carried{FD: fd}.Conn(nil)
}

// pair is a server that is linked with another one by a bridge, and a flock, a quarter of
// which is at that other server. None of them runs yet.
type pair struct {
	*theatre
	other  *theatre
	bridge *bridge
	f      *flock
}

func newPair(t *testing.T, patience time.Duration) *pair {
	t.Helper()
	p := &pair{theatre: newTheatre(t, patience), other: newTheatre(t, patience)}
	p.other.name = "server2"
	config := net.ListenConfig{Control: narrow}
	l, err := config.Listen(t.Context(), "tcp", "127.0.0.1:0")
	p.must(err)
	f, err := l.(*net.TCPListener).File()
	p.must(err)
	p.must(l.Close())
	narrowed, err := transport.FromFile(f)
	p.must(err)
	p.bridge = newBridge(t, narrowed, p.other.stage, p.stage, func(ctx context.Context) (transport.Conn, error) { return dialNarrow(ctx, p.address) })
	p.must(p.add("[[peer]]\nname = \"server2\"\n"))
	p.must(p.other.configure())
	p.must(p.other.add("[[peer]]\nname = \"server1\"\n[[peer.link]]\nremote = %q\ntimeout = \"0s\"\n", narrowed.Addr()))
	p.f = newFlock(t, 20, p.stage, p.other.stage, p.stage, p.stage)
	return p
}

// hindered is a pair of which the other server runs and goes on, and whose messages are so
// large that what isn't read fills all buffers.
func hindered(t *testing.T, mortal bool) *pair {
	t.Helper()
	p := newPair(t, 5*time.Minute)
	p.other.start()
	t.Setenv("NOIPCHAT_STEP", filepath.Join(p.dir, "step")) // p's, as it starts later
	p.f.mortal, p.f.padding, p.f.pause = mortal, 30<<10, 50*time.Millisecond
	return p
}

// clog has some birds not read, and buffers filled to the first of them, which are more than
// the kernel's, others write half of a record, and nobody read the link, until the function
// that it returns is called.
func (p *pair) clog() (release func()) {
	p.t.Helper()
	writer := p.f.birds[len(p.f.birds)-1]
	ahead := func(n uint64) {
		writer.mu.Lock()
		defer writer.mu.Unlock()
		writer.ahead = n
	}
	read, cross := p.f.hinder(lazy), p.bridge.hold()
	ahead(filled)
	p.must(p.f.advance(p.ctx, []*bird{writer}, filled))
	return func() {
		ahead(0)
		read()
		cross()
	}
}

const (
	lazy   = 4
	filled = 100 // messages of such a flock are more than the buffers of a connection
)

// end has all arrive, and looks at every nonce that was ever used.
func (p *pair) end() {
	p.t.Helper()
	texts, err := p.f.settle(p.ctx)
	p.must(err)
	p.must(p.f.leave())
	seen, connections := nonces{}, 0
	for _, b := range p.f.birds {
		p.must(seen.hear(b.tapes...))
		connections += len(b.tapes)
	}
	devices := len(seen)
	tapes := p.bridge.close()
	p.must(seen.hear(tapes...))
	if len(tapes) == 0 || len(seen) == devices {
		p.t.Error("nothing was heard of the link")
	}
	p.t.Logf("%d texts over %d connections of devices and %d of links, %d and %d nonces, none twice",
		texts, connections, len(tapes)/2, devices, len(seen)-devices)
}

// TestHandoffKilledHeard: a server is killed at any moment of a handoff, again and again, with
// buffers full: no message is lost, and no nonce is used twice, neither to devices nor on the
// link, by neither end.
func TestHandoffKilledHeard(t *testing.T) {
	kills := 6
	if os.Getenv("NOIPCHAT_LONG") != "" {
		kills = 100
	} else if testing.Short() {
		kills = 2
	}
	seed := rand.Uint64()
	rnd := rand.New(rand.NewPCG(seed, 0))
	t.Logf("seed %d", seed)
	p := hindered(t, true)
	p.start()
	p.linked(1)
	p.must(p.f.come(p.ctx))
	for n := range kills {
		p.must(p.f.advance(p.ctx, p.f.birds, 2)) // all are there again
		release := p.clog()
		for range 1 + rnd.IntN(3) {
			p.server.Process.Signal(syscall.SIGUSR2)
		}
		time.Sleep(time.Duration(rnd.Int64N(int64(250 * time.Millisecond)))) // a handoff takes about half of that
		if n%2 == 0 {
			release() // and hear what comes after it, too
			p.must(p.f.advance(p.ctx, p.f.birds, 2))
			release = func() {}
		}
		p.kill(syscall.SIGKILL)
		release()
		p.start()
	}
	p.end()
}
