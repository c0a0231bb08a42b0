package session_test

import (
	stdbytes "bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/noipchat/noipchat/daemon/client"
	"github.com/noipchat/noipchat/daemon/identity"
	"github.com/noipchat/noipchat/daemon/message"
	"github.com/noipchat/noipchat/daemon/session"
	"github.com/noipchat/noipchat/daemon/spool"
	"github.com/noipchat/noipchat/daemon/transport"
	"github.com/noipchat/noipchat/daemon/wire"
)

// logged counts the lines of the log that contain all of some words.
func (j *journal) logged(words ...string) (n int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, line := range j.lines {
		all := true
		for _, w := range words {
			all = all && strings.Contains(line, w)
		}
		if all {
			n++
		}
	}
	return n
}

// talk is two who have a conversation; each call is one more message of it. Of a busy
// machine one message may wait for its turn; most may not.
func talk(t *testing.T, alice, bob *person) func() {
	t.Helper()
	n := len(bob.texts())
	var took []time.Duration
	t.Cleanup(func() {
		slices.Sort(took)
		if len(took) > 0 && took[len(took)/2] > 100*time.Millisecond {
			t.Errorf("alice's messages to bob take %v", took)
		}
	})
	return func() {
		t.Helper()
		n++
		start := time.Now()
		m := alice.send(fmt.Sprint("message ", n), bob)
		alice.learns(m, bob.address(), message.Delivered)
		took = append(took, time.Since(start))
	}
}

// goodBeginning is the first message of a handshake.
func goodBeginning() []byte {
	key := identity.NewKey().Public()
	return append([]byte(wire.Magic+"\x00\x20"), key[:32]...)
}

// TestNoHandshake: whoever can't shake hands is gone with a line in the log, and is
// noticed by nobody else.
func TestNoHandshake(t *testing.T) {
	random := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(rand.Uint32())
		}
		return b
	}
	cases := map[string][]byte{
		"nothing":              nil,
		"another protocol":     []byte("GET / HTTP/1.1\r\nHost: server1\r\n\r\n"),
		"a later version":      append([]byte("NoI\x02\x00\x20"), random(32)...),
		"too long a message":   append([]byte(wire.Magic+"\xff\xff"), random(70_000)...),
		"an empty message":     append([]byte(wire.Magic), 0, 0),
		"a key of zeros":       append([]byte(wire.Magic+"\x00\x20"), make([]byte, 32)...),
		"a second one too big": append(append(goodBeginning(), 0xff, 0xff), random(70_000)...),
		"a forged second one":  append(append(goodBeginning(), 0, 200), random(200)...),
	}
	for i := range 30 {
		cases[fmt.Sprint("random bytes ", i)] = random(rand.IntN(3000))
		cases[fmt.Sprint("random bytes after a good beginning ", i)] = append(goodBeginning(), random(1+rand.IntN(3000))...)
	}
	whole := append(append(goodBeginning(), 0, 200), random(200)...)
	for i := range whole {
		if (i < 50 || i%16 == 0) && i != len(goodBeginning()) { // that is a question: TestAsked
			cases[fmt.Sprint("cut off after ", i)] = whole[:i]
		}
	}
	scene(t, options{}, []string{"alice", "bob"}, func(t *testing.T, s *server, p []*person) {
		alice, bob := p[0].come(), p[1].come()
		next := talk(t, alice, bob)
		said := s.log.logged("a connection without a handshake")
		failed := s.host.Stats().HandshakeFail.Load()
		for name, what := range cases {
			conn, err := s.net.dial(t.Context(), s.address)
			check(t, err)
			go io.Copy(io.Discard, conn)
			conn.SetDeadline(time.Now().Add(time.Second))
			conn.Write(what) // the server may be gone before the end
			conn.Close()
			synctest.Wait()
			said++
			failed++
			if n := s.log.logged("a connection without a handshake", "source=", "reason="); n != said {
				t.Errorf("%s: %d lines in the log, not %d", name, n, said)
				said = n
			}
			if n := s.host.Stats().HandshakeFail.Load(); n != failed {
				t.Errorf("%s: counted are %d failures, not %d", name, n, failed)
			}
		}
		next()
		if sessions, pending := s.host.Count(); sessions != 2 || pending != 0 {
			t.Errorf("%d sessions, and %d who haven't logged in", sessions, pending)
		}
	})
}

// TestAsked: who wants to know a server's key, as a device does before it sends a password,
// is no stranger that can't shake hands.
func TestAsked(t *testing.T) {
	scene(t, options{}, nil, func(t *testing.T, s *server, _ []*person) {
		name, key, err := client.Meet(t.Context(), []string{s.address}, client.Options{Dial: s.net.dial})
		if err != nil || name != home || key != s.key.Public() {
			t.Errorf("%s has the key %v: %v", name, key, err)
		}
		synctest.Wait()
		if n := s.host.Stats().HandshakeFail.Load(); n != 0 || s.log.logged("asked for this server's key", "source=") != 1 {
			t.Errorf("%d failures are counted, and the log has %q", n, s.log.lines)
		}
		if _, pending := s.host.Count(); pending != 0 {
			t.Errorf("%d wait to log in", pending)
		}
	})
}

// TestSlowStrangers: who sends a byte a second, or nothing, is gone in 10 s.
func TestSlowStrangers(t *testing.T) {
	scene(t, options{}, []string{"alice", "bob"}, func(t *testing.T, s *server, p []*person) {
		alice, bob := p[0].come(), p[1].come()
		next := talk(t, alice, bob)
		for name, pace := range map[string]time.Duration{"a byte a second": time.Second, "nothing": time.Hour} {
			conn, err := s.net.dial(t.Context(), s.address)
			check(t, err)
			start := time.Now()
			gone := make(chan time.Duration)
			go func() {
				io.Copy(io.Discard, conn)
				gone <- time.Since(start)
			}()
			go func() {
				for _, c := range append(goodBeginning(), make([]byte, 100)...) {
					time.Sleep(pace)
					if _, err := conn.Write([]byte{c}); err != nil {
						return
					}
				}
			}()
			next()
			if d := <-gone; d != 10*time.Second {
				t.Errorf("%s: gone after %v", name, d)
			}
			if s.log.logged("a connection without a handshake", "it took too long") == 0 {
				t.Errorf("%s: nothing in the log", name)
			}
			conn.Close()
		}
		time.Sleep(time.Hour) // until the slow ones have noticed
	})
}

// sealed makes records of what a device would say next, a frame in each, without
// sending them. The device can say nothing else any more.
func (r *raw) sealed(frames ...[]byte) (records [][]byte) {
	near, far := transport.MemoryPipe("test")
	state := r.conn.Export()
	c, err := wire.Resume(near, wire.State{In: state.In, Out: state.Out})
	check(r.t, err)
	for _, f := range frames {
		check(r.t, c.Flush(&bytes{f}))
	}
	c.Close()
	all, err := io.ReadAll(far)
	check(r.t, err)
	for len(all) > 0 {
		n := 2 + int(binary.BigEndian.Uint16(all))
		records, all = append(records, all[:n]), all[n:]
	}
	if len(records) != len(frames) {
		r.t.Fatalf("%d records of %d frames", len(records), len(frames))
	}
	return records
}

// TestBreakers: a device that breaks the protocol is told so, where that is still
// possible, and cut; a line says who and why; others don't notice.
func TestBreakers(t *testing.T) {
	text := func(r *raw, p []*person) []byte { return r.envelope("from mallory", nil, p[1].address()) }
	frame := func(kind byte, body string) []byte { return append([]byte{kind, byte(len(body))}, body...) }
	replace := func(b []byte, old, new string) []byte { return stdbytes.Replace(b, []byte(old), []byte(new), 1) }
	for name, c := range map[string]struct {
		frames func(r *raw, p []*person) []byte                // said in good records
		stream func(r *raw, p []*person, good [][]byte) []byte // or what becomes of three
		why    string                                          // in the log and the goodbye
	}{
		"an unknown frame":         {frames: func(*raw, []*person) []byte { return frame(0x3f, "") }, why: "type 63"},
		"a frame of the server's":  {frames: func(*raw, []*person) []byte { return wire.AppendWelcome(nil, wire.Welcome{}) }, why: "doesn't belong here"},
		"a frame that is cut off":  {frames: func(r *raw, p []*person) []byte { b := text(r, p); return b[:len(b)-1] }, why: "cut off"},
		"too long a frame":         {frames: func(*raw, []*person) []byte { return []byte("\x01\xce\xff\xff\xff\xff") }, why: "length"},
		"a length in a long form":  {frames: func(*raw, []*person) []byte { return []byte("\x05\xcc\x00") }, why: "length"},
		"a ping with something in": {frames: func(*raw, []*person) []byte { return frame(5, "x") }, why: "a ping of 1 bytes"},
		"an envelope of no form":   {frames: func(*raw, []*person) []byte { return frame(1, "\x93\xc0\x00\x80nonsense") }, why: "envelope"},
		"a text that is not UTF-8": {frames: func(r *raw, p []*person) []byte { return replace(text(r, p), "from mallory", "fro\xff\xfemallory") }, why: "UTF-8"},
		"a receiver of no form":    {frames: func(r *raw, p []*person) []byte { return replace(text(r, p), "bob@server1", "bob@ser\x1b[1m") }, why: "not an address"},
		"a receiver with a path":   {frames: func(r *raw, p []*person) []byte { return replace(text(r, p), "bob@server1", "../../../.x") }, why: "not an address"},
		"an ack of what never was": {frames: func(*raw, []*person) []byte { return wire.AppendAck(nil, &wire.Ack{Upto: 7}) }, why: "it acks 7"},
		"an ack without an end":    {frames: func(*raw, []*person) []byte { return wire.AppendAck(nil, &wire.Ack{Upto: 1 << 62}) }, why: "it acks"},
		"an ack with exceptions": {frames: func(*raw, []*person) []byte {
			return wire.AppendAck(nil, &wire.Ack{Exceptions: []wire.Exception{{Number: 1, State: message.Held}}})
		}, why: "without exceptions"},
		"a request of no form": {frames: func(*raw, []*person) []byte { return frame(7, "\x93\x01") }, why: "request"},
		"more than the window": {frames: func(r *raw, p []*person) []byte {
			var all []byte
			for range 65 {
				all = append(all, r.envelope("much", nil, "dave@server1")...)
			}
			return all
		}, why: "window"},
		"a flood of pings": {frames: func(*raw, []*person) []byte { return stdbytes.Repeat(wire.AppendPing(nil), 30_000) }, why: "doesn't read"},

		"a bit that has flipped": {stream: func(_ *raw, _ []*person, good [][]byte) []byte {
			good[1][10] ^= 1
			return slices.Concat(good...)
		}, why: "record"},
		"a record again": {stream: func(_ *raw, _ []*person, good [][]byte) []byte {
			return slices.Concat(good[0], good[0])
		}, why: "record"},
		"records in another order": {stream: func(_ *raw, _ []*person, good [][]byte) []byte {
			return slices.Concat(good[0], good[2], good[1])
		}, why: "record"},
		"a record that is left out": {stream: func(_ *raw, _ []*person, good [][]byte) []byte {
			return good[2]
		}, why: "record"},
		"a record of nothing": {stream: func(*raw, []*person, [][]byte) []byte {
			return []byte{0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
		}, why: "a record of 16 bytes"},
		"random bytes": {stream: func(*raw, []*person, [][]byte) []byte { return stdbytes.Repeat([]byte{0, 99, 7}, 1000) }, why: "record"},
	} {
		t.Run(name, func(t *testing.T) {
			o := options{session: session.Options{Window: wire.Window{Count: 64, Bytes: 1 << 20}}, spool: spool.Options{Moment: time.Hour}}
			scene(t, o, []string{"alice", "bob", "mallory", "dave"}, func(t *testing.T, s *server, p []*person) {
				alice, bob, mallory := p[0].come(), p[1].come(), p[2].raw(t)
				p[3].raw(t) // takes and doesn't ack
				next := talk(t, alice, bob)
				next()
				if c.frames != nil {
					mallory.say(c.frames(mallory, p))
				} else {
					good := mallory.sealed(text(mallory, p), text(mallory, p), text(mallory, p))
					mallory.conn.Transport().Write(c.stream(mallory, p, good))
				}
				why := mallory.goodbye()
				switch {
				case why == nil && c.frames != nil && !strings.Contains(name, "flood"):
					t.Error("there is no goodbye")
				case why != nil && (why.Code != message.CodeProtocol || !strings.Contains(why.Reason, c.why)):
					t.Errorf("goodbye: %v", why)
				}
				synctest.Wait()
				if s.log.logged("broke the protocol", "mallory@server1", "source=", c.why) != 1 {
					t.Errorf("the log doesn't say that it is for %q:\n%s", c.why, strings.Join(s.log.lines, "\n"))
				}
				next()
				if sessions, _ := s.host.Count(); sessions != 3 {
					t.Errorf("%d sessions", sessions)
				}
			})
		})
	}
}

// TestLaterFrames: what a later version may send is skipped.
func TestLaterFrames(t *testing.T) {
	scene(t, options{}, []string{"alice", "bob"}, func(t *testing.T, s *server, p []*person) {
		bob, mallory := p[1].come(), p[0].raw(t)
		mallory.say(append([]byte("\x40\x03abc\xff\x00"), mallory.envelope("after it", nil, bob.address())...))
		bob.has("after it")
	})
}

// TestNeverReads: for who is there and takes nothing, messages go to disk like for
// one who is away. His server spends no more on him than a window, and nobody waits.
func TestNeverReads(t *testing.T) {
	scene(t, options{}, []string{"alice", "bob", "mallory"}, func(t *testing.T, s *server, p []*person) {
		alice, bob := p[0].come(), p[1].come()
		mallory := p[2].raw(t)
		next := talk(t, alice, bob)
		const many = 1000
		text := strings.Repeat("x", 5000)
		for range many / 50 {
			for range 50 {
				alice.send(text, p[2])
			}
			next()
			if b := s.spool.HandBytes(); b > 6<<20 {
				t.Fatalf("%d bytes are in hand for one who takes nothing", b)
			}
		}
		last := alice.send("the last", p[2])
		alice.learns(last, p[2].address(), message.Held)
		mallory.conn.Close()
		mallory = p[2].raw(t)
		go mallory.ackAll()
		alice.learns(last, p[2].address(), message.Delivered)
		if mallory.received < many {
			t.Errorf("%d of %d came at last", mallory.received, many+1)
		}
	})
}

// files has this process open as many files as it may, for a test, and returns how
// many that is.
func files(t testing.TB) uint64 {
	t.Helper()
	var before syscall.Rlimit
	check(t, syscall.Getrlimit(syscall.RLIMIT_NOFILE, &before))
	check(t, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: before.Max, Max: before.Max}))
	t.Cleanup(func() { syscall.Setrlimit(syscall.RLIMIT_NOFILE, &before) })
	return before.Max
}

// crowd is a network where many wait to be accepted when the server begins to listen.
type crowd struct {
	memory
	conns []transport.Conn // in the order in which they came
}

func (c *crowd) listen(t testing.TB) transport.Listener {
	l := c.memory.listen(t)
	for range 12 {
		conn, err := c.dial(t.Context(), l.Addr().String())
		check(t, err)
		t.Cleanup(func() { conn.Close() })
		c.conns = append(c.conns, conn)
	}
	return l
}

// TestOldestGoes: of strangers who come at once the first are sent away, whichever
// goroutine runs first.
func TestOldestGoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := new(crowd)
		open(t, net, t.TempDir(), options{session: session.Options{Pending: 16}}) // 4 of one source
		synctest.Wait()
		for i, c := range net.conns {
			c.SetReadDeadline(time.Now().Add(time.Millisecond))
			_, err := c.Read(make([]byte, 1))
			if stays := errors.Is(err, os.ErrDeadlineExceeded); stays != (i >= len(net.conns)-4) {
				t.Errorf("number %d of %d: %v", i+1, len(net.conns), err)
			}
		}
	})
}

// TestNobodyLogsIn: 10,000 connections that say nothing, or stop in the middle of
// the handshake, on real sockets. An honest one comes in all the same.
func TestNobodyLogsIn(t *testing.T) {
	const many = 10_000
	if n := files(t); n < many+3000 {
		t.Skipf("this process may have %d files, and %d are needed", n, many+3000)
	}
	s := open(t, loopback{}, t.TempDir(), options{})
	s.add("alice", "bob")
	alice, bob := s.enter("alice").come(), s.enter("bob").come()
	next := talk(t, alice, bob)
	next()
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc + m.StackInuse
	}
	start := heap()
	var conns []transport.Conn
	t.Cleanup(func() {
		for _, c := range conns {
			c.Close()
		}
	})
	beginning := goodBeginning()
	for i := range many {
		c, err := transport.Dial(context.Background(), "tcp", "", s.address)
		check(t, err)
		conns = append(conns, c)
		c.Write(beginning[:i%len(beginning)])
		if i%1000 == 999 {
			next()
			carol := fmt.Sprint("carol", i)
			s.add(carol)
			s.enter(carol) // a login by password between all the others
		}
	}
	if used := heap() - start; used > 40<<20 {
		t.Errorf("%d connections cost %d bytes", many, used)
	}
	next()
	// From one address, a quarter of the 1,024 that may wait.
	if _, pending := s.host.Count(); pending > 256 {
		t.Errorf("%d wait to log in", pending)
	}
	if n := s.host.Stats().Evicted.Load(); n < many-256-1000 {
		t.Errorf("%d were sent away", n)
	}
}
