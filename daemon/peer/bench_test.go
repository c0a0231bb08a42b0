package peer_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/noipchat/noipchat/daemon/identity"
	"github.com/noipchat/noipchat/daemon/message"
	"github.com/noipchat/noipchat/daemon/spool"
	"github.com/noipchat/noipchat/daemon/transport"
	"github.com/noipchat/noipchat/daemon/wire"
)

// loopback is real sockets.
type loopback struct{}

func (loopback) Listen(string) (transport.Listener, error) {
	return transport.Listen(context.Background(), "tcp", "127.0.0.1:0")
}

func (loopback) Dial(ctx context.Context, address string) (transport.Conn, error) {
	return transport.Dial(ctx, "tcp", "", address)
}

// line is n servers on real sockets, with the journals that are shipped, each linked to
// the next. It returns when they know the routes.
func line(b *testing.B, n int) *world {
	w := newWorld(b)
	w.net, w.journal = loopback{}, spool.Options{JournalFile: 32 << 20, JournalFiles: 6}
	for i := range n {
		w.add(fmt.Sprint("s", i))
	}
	for i := range n - 1 {
		w.link(fmt.Sprint("s", i), fmt.Sprint("s", i+1), 0)
	}
	if n > 1 {
		w.servers["s0"].linked("s1")
	}
	for n > 2 && (len(w.servers["s0"].peers.Routes()) < n-1 || len(w.servers[fmt.Sprint("s", n-1)].peers.Routes()) < n-1) {
		time.Sleep(10 * time.Millisecond) // nothing tells of routes
	}
	return w
}

// raw is a device whose connection a benchmark reads and writes by itself: nothing of
// it is on disk.
type raw struct {
	conn    *wire.Conn
	address message.Address
	device  message.DeviceID
	unsaid  []byte
	frame   []byte // of a text, and where in it the counter is
	counter int
	sent    uint64
	acked   uint64 // frames of ours
	got     uint64 // envelopes
	texts   int    // of them, that nobody has counted
}

// raw makes a user with a device, and connects it.
func (w *world) raw(name, home string) *raw {
	s, key := w.servers[home], identity.NewKey()
	check(w.t, s.users.Add(context.Background(), name, password))
	s.host.Refresh(name)
	open := func(h wire.ClientHello) *wire.Conn {
		h.Window, h.User = wire.Window{Count: 1024, Bytes: 4 << 20}, name
		conn, err := w.net.Dial(context.Background(), s.address)
		check(w.t, err)
		c, err := wire.Open(conn, key, func(wire.ServerHello) (wire.ClientHello, error) { return h, nil })
		check(w.t, err)
		_, _, err = c.ReceiveWelcome()
		check(w.t, err)
		w.t.Cleanup(func() { c.Close() })
		return c
	}
	open(wire.ClientHello{Method: wire.ByPassword, Password: password}).Close()
	return &raw{conn: open(wire.ClientHello{Method: wire.ByDevice}), address: message.Join(name, home), device: key.Public().DeviceID()}
}

// writes sets what r sends, and to whom.
func (r *raw) writes(t testing.TB, size int, to *raw) {
	const first = 1 << 32 // it has as many digits as all that follow
	e := message.Envelope{Kind: message.Text, Priority: message.Normal, From: r.address, Device: r.device, Counter: first, To: []message.Address{to.address}, Body: bytes.Repeat([]byte("a"), size)}
	r.frame = wire.AppendEnvelope(nil, wire.Transit{}, written(t, e))
	r.counter = bytes.Index(r.frame, binary.BigEndian.AppendUint64([]byte{0xcf}, first)) + 1
}

// send sends n texts together.
func (r *raw) send(n int) error {
	for range n {
		r.sent++
		r.unsaid = append(r.unsaid, r.frame...)
		binary.BigEndian.PutUint64(r.unsaid[len(r.unsaid)-len(r.frame)+r.counter:], 1<<32+r.sent)
	}
	return r.conn.Flush(r)
}

// Fill implements wire.Source.
func (r *raw) Fill(b []byte, room int) ([]byte, bool) {
	start, rest := len(b), r.unsaid
	for len(rest) > 0 {
		_, _, next, err := wire.Next(rest)
		n := len(rest) - len(next)
		if err != nil || len(b)-start+n > room {
			break
		}
		b, rest = append(b, rest[:n]...), next
	}
	r.unsaid = r.unsaid[:copy(r.unsaid, rest)]
	return b, len(rest) > 0
}

// receive reads once, and acks the envelopes that came.
func (r *raw) receive() error {
	before := r.got
	err := r.conn.Receive(func(plain []byte) error {
		for len(plain) > 0 {
			t, body, rest, err := wire.Next(plain)
			if err != nil {
				return err
			}
			plain = rest
			switch t {
			case wire.EnvelopeFrame:
				r.got++
				if _, envelope, err := wire.ParseEnvelope(body); err != nil {
					return err
				} else if len(envelope) > 2 && envelope[2] == byte(message.Text) {
					r.texts++
				}
			case wire.AckFrame:
				var ack wire.Ack
				if err := wire.ParseAck(body, &ack); err != nil {
					return err
				}
				r.acked = ack.Upto
			}
		}
		return nil
	})
	if err == nil && r.got > before {
		r.unsaid = wire.AppendAck(r.unsaid, &wire.Ack{Upto: r.got})
		err = r.conn.Flush(r)
	}
	return err
}

// usage is what this process and the disks of its servers have had to do.
type usage struct {
	cpu   time.Duration
	syncs uint64
}

func (w *world) usage() (u usage) {
	var r syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &r)
	u.cpu = time.Duration(r.Utime.Nano() + r.Stime.Nano())
	for _, s := range w.servers {
		u.syncs += s.spool.Stats().Syncs.Load()
	}
	return u
}

// report tells what n messages have cost since before.
func (w *world) report(b *testing.B, before usage, n int) {
	now := w.usage()
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "msg/s")
	b.ReportMetric((now.cpu-before.cpu).Seconds()/float64(n)*100_000, "cpu-s/100k")
	b.ReportMetric(float64(now.syncs-before.syncs)/float64(n), "syncs/msg")
}

// BenchmarkLine has 50 users at the first server of a line send texts to 50 at the last,
// over real sockets, 64 under way for each; all are online, and the receivers ack at
// once. One operation is a message, until it has come and its sender has its ack. With one server that is what relaying
// costs; what is more with one server more is the price of a hop. The devices' own work is in all of it.
func BenchmarkLine(b *testing.B) {
	for _, size := range []int{64, 1024} {
		for servers := 1; servers <= 3; servers++ {
			b.Run(fmt.Sprintf("size=%d/servers=%d", size, servers), func(b *testing.B) { alongLine(b, servers, size) })
		}
	}
}

func alongLine(b *testing.B, servers, size int) {
	const pairs, window = 50, 64
	w := line(b, servers)
	var senders, receivers [pairs]*raw
	for i := range pairs {
		senders[i], receivers[i] = w.raw(fmt.Sprint("from", i), "s0"), w.raw(fmt.Sprint("to", i), fmt.Sprint("s", servers-1))
		senders[i].writes(b, size, receivers[i])
	}
	var all, reading sync.WaitGroup
	var come atomic.Int64
	enough := make(chan struct{})
	for _, r := range receivers {
		reading.Go(func() {
			for r.receive() == nil {
				n := int64(r.texts)
				r.texts = 0
				if sum := come.Add(n); sum >= int64(b.N) && sum-n < int64(b.N) {
					close(enough)
				}
			}
		})
	}
	b.ReportAllocs()
	b.ResetTimer()
	before := w.usage()
	for i, r := range senders {
		n := uint64(b.N / pairs)
		if i < b.N%pairs {
			n++
		}
		all.Go(func() {
			for r.acked < n {
				err := r.send(int(min(n-r.sent, window-(r.sent-r.acked))))
				if err == nil {
					err = r.receive()
				}
				if err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	<-enough // what a server holds is acked before it has come
	b.StopTimer()
	w.report(b, before, b.N)
	for _, r := range receivers {
		r.conn.Close()
	}
	reading.Wait()
}

// BenchmarkWaiting has 10,000 texts wait for another server, and measures how long they
// take to their receiver there from the moment in which the link comes up. One operation
// is all of them.
func BenchmarkWaiting(b *testing.B) {
	const count = 10_000
	w := line(b, 2)
	s0 := w.servers["s0"]
	alice, bob := w.raw("alice", "s0"), w.raw("bob", "s1")
	alice.writes(b, 1024, bob)
	b.StopTimer()
	b.ResetTimer()
	var used usage
	for round := 1; round <= b.N; round++ {
		w.plug("s0", "s1", false)
		s0.linked()
		for n := uint64(round * count); alice.acked < n; {
			check(b, alice.send(int(min(n-alice.sent, 64-(alice.sent-alice.acked)))))
			check(b, alice.receive())
		}
		w.plug("s0", "s1", true)
		b.StartTimer()
		before := w.usage()
		s0.conf.Peers[0].Ways[0].Cost ^= 1 // it is dialled at once
		s0.peers.Configure(s0.conf)
		for bob.texts < round*count {
			check(b, bob.receive())
		}
		b.StopTimer()
		now := w.usage()
		used.cpu, used.syncs = used.cpu+now.cpu-before.cpu, used.syncs+now.syncs-before.syncs
	}
	n := float64(b.N * count)
	b.ReportMetric(n/b.Elapsed().Seconds(), "msg/s")
	b.ReportMetric(used.cpu.Seconds()/n*100_000, "cpu-s/100k")
	b.ReportMetric(float64(used.syncs)/n, "syncs/msg")
}

// BenchmarkIdleLink has 200 servers linked to one over real sockets. The memory is that
// of the one, and of the other ends' connections, which have no goroutines.
func BenchmarkIdleLink(b *testing.B) {
	const links = 200
	for range b.N {
		w := line(b, 1)
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		var conns []*wire.Conn
		for i := range links {
			conn, err := w.net.Dial(context.Background(), w.servers["s0"].address)
			check(b, err)
			c, err := wire.Open(conn, identity.NewKey(), func(wire.ServerHello) (wire.ClientHello, error) {
				return wire.ClientHello{Window: wire.Window{Count: 1024, Bytes: 4 << 20}, Method: wire.ByLink, User: fmt.Sprint("peer", i)}, nil
			})
			check(b, err)
			_, _, err = c.ReceiveWelcome()
			check(b, err)
			conns = append(conns, c)
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapAlloc+after.StackInuse-before.HeapAlloc-before.StackInuse)/links, "B/link")
		for _, c := range conns {
			c.Close()
		}
		w.servers["s0"].stop()
	}
}
