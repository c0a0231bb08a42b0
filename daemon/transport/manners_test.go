package transport

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

// network is a way to listen and dial that all tests of manners are run on.
type network struct {
	name   string
	listen func(t *testing.T) Listener
	dial   func(ctx context.Context, at net.Addr) (Conn, error)
}

func networks() []network {
	var m Memory
	of := func(kind, address string) network {
		return network{kind + " " + address,
			func(t *testing.T) Listener {
				if kind == "unix" {
					address = filepath.Join(t.TempDir(), "s")
				}
				l, err := Listen(t.Context(), kind, address)
				if errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.EAFNOSUPPORT) {
					t.Skip(err)
				}
				if err != nil {
					t.Fatal(err)
				}
				return l
			},
			func(ctx context.Context, at net.Addr) (Conn, error) { return Dial(ctx, kind, "", at.String()) },
		}
	}
	return []network{
		of("tcp", "127.0.0.1:0"), of("tcp", "[::1]:0"), of("unix", ""),
		{"memory",
			func(t *testing.T) Listener {
				l, err := m.Listen("server")
				if err != nil {
					t.Fatal(err)
				}
				return l
			},
			func(ctx context.Context, at net.Addr) (Conn, error) { return m.Dial(ctx, at.String()) },
		},
	}
}

// TestMain is also the command of the tests of kind exec, which connects its input
// and output to a Unix socket.
func TestMain(m *testing.M) {
	if len(os.Args) != 3 || os.Args[1] != spliceTo {
		os.Exit(m.Run())
	}
	signal.Ignore(syscall.SIGPIPE)
	c, err := Dial(context.Background(), "unix", "", os.Args[2])
	if err == nil {
		err = Splice(c, os.Stdin, os.Stdout)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

const spliceTo = "splice-to"

// commands is a network of commands that are connected to a socket: it can't be
// listened at, and is held to the same manners.
func commands() network {
	for _, n := range networks() {
		if n.name == "unix " {
			return network{"exec", n.listen, func(ctx context.Context, at net.Addr) (Conn, error) {
				return Dial(ctx, "exec", "", fmt.Sprintf("'%s' %s '%s'", os.Args[0], spliceTo, at))
			}}
		}
	}
	panic("no unix")
}

// carrying is TCP whose two ends were made by another image.
func carrying() network {
	n := networks()[0]
	again := func(c Conn, err error) (Conn, error) {
		if err != nil {
			return nil, err
		}
		defer c.Close()
		k, err := Carry(c, keepOpen)
		if err != nil {
			return nil, err
		}
		return k.Conn(nil)
	}
	listen, dial := n.listen, n.dial
	n.name = "carried"
	n.listen = func(t *testing.T) Listener { return secondHand{listen(t), again} }
	n.dial = func(ctx context.Context, a net.Addr) (Conn, error) { return again(dial(ctx, a)) }
	return n
}

type secondHand struct {
	Listener
	again func(Conn, error) (Conn, error)
}

func (l secondHand) Accept() (Conn, error) { return l.again(l.Listener.Accept()) }

// everywhere runs a test on a connection of each network. Both ends are closed
// after it, and no goroutine may be left.
func everywhere(t *testing.T, test func(t *testing.T, a, b Conn)) {
	for _, n := range append(networks(), commands(), carrying()) {
		t.Run(n.name, func(t *testing.T) {
			defer goleak.VerifyNone(t)
			n.meet(t, test)
		})
	}
}

// meet runs a test on one connection of a network.
func (n network) meet(t *testing.T, test func(t *testing.T, a, b Conn)) {
	l := n.listen(t)
	defer l.Close()
	a, err := n.dial(t.Context(), l.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	b, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	test(t, a, b)
}

// lender lends buffers and counts those that are out.
type lender struct{ lent, out int }

func (l *lender) lend() []byte {
	l.lent++
	l.out++
	return make([]byte, 100)
}
func (l *lender) giveBack([]byte) { l.out-- }

func (l *lender) borrow(c Conn) (string, error) {
	b, n, err := c.Borrow(l.lend, l.giveBack)
	if err != nil {
		return "", err
	}
	l.giveBack(b)
	return string(b[:n]), nil
}

func send(t *testing.T, c Conn, s string) {
	t.Helper()
	if n, err := c.Write([]byte(s)); n != len(s) || err != nil {
		t.Fatalf("writing: %d, %v", n, err)
	}
}

func TestBorrow(t *testing.T) {
	everywhere(t, func(t *testing.T, a, b Conn) {
		var l lender
		send(t, a, "hello")
		if s, err := l.borrow(b); s != "hello" || err != nil {
			t.Fatalf("%q, %v", s, err)
		}
		got := make(chan string)
		go func() {
			s, _ := l.borrow(b)
			got <- s
		}()
		send(t, a, string(make([]byte, 150)))
		if s := <-got; len(s) != 100 {
			t.Errorf("a buffer of 100 bytes got %d", len(s))
		}
		if s, err := l.borrow(b); len(s) != 50 || err != nil {
			t.Errorf("then %d, %v", len(s), err)
		}
		a.Close()
		for range 2 {
			if s, err := l.borrow(b); err != io.EOF {
				t.Errorf("at the end: %q, %v", s, err)
			}
		}
		if l.out != 0 {
			t.Errorf("%d buffers did not come back", l.out)
		}
	})
}

func TestEnds(t *testing.T) {
	var l lender
	everywhere(t, func(t *testing.T, a, b Conn) {
		send(t, a, "last words")
		a.Close()
		if all, err := io.ReadAll(b); string(all) != "last words" || err != nil {
			t.Errorf("what was written before the end: %q, %v", all, err)
		}
		// Whether the first write fails is a matter of time; one of them does.
		deadline := time.Now().Add(time.Minute)
		for {
			_, err := b.TryWrite([]byte("hello?"))
			if errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) {
				break
			}
			if err != nil || time.Now().After(deadline) {
				t.Fatalf("writing to nobody: %v", err)
			}
		}
		for what, err := range map[string]error{
			"Read":     second(a.Read(make([]byte, 9))),
			"Borrow":   second(l.borrow(a)),
			"Write":    second(a.Write([]byte("x"))),
			"TryWrite": second(a.TryWrite([]byte("x"))),
		} {
			if !errors.Is(err, net.ErrClosed) {
				t.Errorf("%s after Close: %v", what, err)
			}
		}
	})
}

// TestPending: there is something to read when Borrow would not wait.
func TestPending(t *testing.T) {
	everywhere(t, func(t *testing.T, a, b Conn) {
		var l lender
		if b.Pending() {
			t.Error("something, and nothing was sent")
		}
		send(t, a, string(make([]byte, 150)))
		arrives := func() {
			for end := time.Now().Add(time.Minute); !b.Pending(); runtime.Gosched() {
				if time.Now().After(end) {
					t.Fatal("nothing comes")
				}
			}
		}
		arrives()
		l.borrow(b)
		if !b.Pending() {
			t.Error("a part was read, and there is nothing")
		}
		l.borrow(b)
		if b.Pending() {
			t.Error("all was read, and there is something")
		}
		a.Close()
		arrives()
		if s, err := l.borrow(b); err != io.EOF {
			t.Errorf("the end: %q, %v", s, err)
		}
		b.Close()
		if b.Pending() {
			t.Error("something after Close")
		}
	})
}

func second[T any](_ T, err error) error { return err }

func TestCloseWakes(t *testing.T) {
	everywhere(t, func(t *testing.T, a, b Conn) {
		var l lender
		full(t, a)
		ends := make(chan error)
		go func() { ends <- second(l.borrow(a)) }()
		go func() { ends <- second(a.Write(make([]byte, plenty))) }()
		a.Close()
		for range 2 {
			if err := <-ends; !errors.Is(err, net.ErrClosed) {
				t.Errorf("a reader or a writer was ended with %v", err)
			}
		}
		if l.out != 0 {
			t.Error("a buffer did not come back")
		}
	})
}

const plenty = 64 << 20 // bytes, more than all buffers of a connection

// full writes until nothing goes any more, and returns how much went. A little later there
// may be room again, but not for all: a kernel, or a command, passes on what it has.
func full(t *testing.T, c Conn) (total int) {
	t.Helper()
	for quiet := 0; quiet < 3; {
		n, err := c.TryWrite(make([]byte, 1<<20))
		if err != nil {
			t.Fatal(err)
		}
		total += n
		if n > 0 {
			quiet = 0
		} else {
			quiet++
		}
		if total > 1<<30 {
			t.Fatal("it takes everything")
		}
	}
	return total
}

func TestTryWrite(t *testing.T) {
	everywhere(t, func(t *testing.T, a, b Conn) {
		if n, err := a.TryWrite(nil); n != 0 || err != nil {
			t.Errorf("nothing: %d, %v", n, err)
		}
		total := full(t, a)
		if n, err := io.CopyN(io.Discard, b, int64(total)); err != nil {
			t.Fatalf("%d of %d bytes arrived, %v", n, total, err)
		}
		if n, err := a.TryWrite([]byte("again")); n != 5 || err != nil {
			t.Errorf("when it was read: %d, %v", n, err)
		}
		got := make([]byte, 5)
		if _, err := io.ReadFull(b, got); string(got) != "again" {
			t.Errorf("%q, %v", got, err)
		}
	})
}

func TestDeadlines(t *testing.T) {
	everywhere(t, func(t *testing.T, a, b Conn) {
		var l lender
		over := func(what string, err error) {
			t.Helper()
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%s: %v", what, err)
			}
		}
		past := time.Unix(1, 0)
		send(t, a, "there is something")
		b.SetReadDeadline(past)
		over("Borrow when there is something to read", second(l.borrow(b)))
		over("Read when there is something to read", second(b.Read(make([]byte, 9))))
		b.SetReadDeadline(time.Time{})
		if s, err := l.borrow(b); s != "there is something" {
			t.Errorf("%q, %v: it was lost", s, err)
		}
		ends := make(chan error)
		go func() { ends <- second(l.borrow(b)) }()
		b.SetReadDeadline(past)
		over("a reader that was waiting", <-ends)
		b.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
		over("a reader that waits", second(l.borrow(b)))
		b.SetReadDeadline(time.Time{})

		a.SetWriteDeadline(past)
		over("TryWrite", second(a.TryWrite([]byte("x"))))
		over("Write", second(a.Write([]byte("x"))))
		a.SetWriteDeadline(time.Time{})
		total := full(t, a)
		a.SetWriteDeadline(time.Now().Add(10 * time.Millisecond))
		n, err := a.Write(make([]byte, plenty))
		over("Write when it is full", err)
		total += n
		a.SetDeadline(time.Time{})
		if _, err := io.CopyN(io.Discard, b, int64(total)); err != nil {
			t.Error(err)
		}
		send(t, a, "and on")
		if s, err := l.borrow(b); s != "and on" {
			t.Errorf("%q, %v", s, err)
		}
		if l.out != 0 {
			t.Error("a buffer did not come back")
		}
	})
}

// TestBothWays sends much in both directions at once, by all ways of writing.
func TestBothWays(t *testing.T) {
	everywhere(t, func(t *testing.T, a, b Conn) {
		const size = 3 << 20
		data := make([]byte, size)
		for i := range data {
			data[i] = byte(i * 7 >> 3)
		}
		done := make(chan error)
		for _, c := range []Conn{a, b} {
			go func() {
				rest := data
				for len(rest) > 0 {
					n, err := c.TryWrite(rest[:min(len(rest), 100_000)])
					if n == 0 && err == nil {
						n, err = c.Write(rest[:1])
					}
					if err != nil {
						done <- err
						return
					}
					rest = rest[n:]
				}
				done <- nil
			}()
			go func() {
				var got []byte
				buf := make([]byte, 5000)
				for len(got) < size {
					b, n, err := c.Borrow(func() []byte { return buf }, func([]byte) {})
					if err != nil {
						done <- err
						return
					}
					got = append(got, b[:n]...)
				}
				if !bytes.Equal(got, data) {
					done <- errors.New("it came out otherwise")
					return
				}
				done <- nil
			}()
		}
		for range 4 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	})
}

func TestListeners(t *testing.T) {
	for _, n := range networks() {
		t.Run(n.name, func(t *testing.T) {
			defer goleak.VerifyNone(t)
			l := n.listen(t)
			ends := make(chan error)
			go func() { ends <- second(l.Accept()) }()
			l.Close()
			if err := <-ends; !errors.Is(err, net.ErrClosed) {
				t.Errorf("Accept ends with %v", err)
			}
			if err := second(l.Accept()); !errors.Is(err, net.ErrClosed) {
				t.Errorf("and again with %v", err)
			}
			if _, err := n.dial(t.Context(), l.Addr()); !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, syscall.ENOENT) {
				t.Errorf("dialling what is closed: %v", err)
			}
		})
	}
}

// TestClosedBeforeAccept: who dialled, and was not accepted, is told.
func TestClosedBeforeAccept(t *testing.T) {
	for _, n := range networks() {
		t.Run(n.name, func(t *testing.T) {
			l := n.listen(t)
			c, err := n.dial(t.Context(), l.Addr())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			l.Close()
			var b lender
			if s, err := b.borrow(c); err != io.EOF && !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("%q, %v", s, err)
			}
		})
	}
}

// TestMemoryInBubble: time and waiting are known to synctest.
func TestMemoryInBubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var m Memory
		l, err := m.Listen("server")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := m.Listen("server"); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("listening twice: %v", err)
		}
		go func() {
			c, err := l.Accept()
			if err != nil {
				t.Error(err)
				return
			}
			time.Sleep(20 * time.Hour)
			io.Copy(c, c)
			c.Close()
		}()
		c, err := m.Dial(t.Context(), "server")
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		send(t, c, "after twenty hours")
		c.SetReadDeadline(start.Add(time.Hour))
		var b lender
		if _, err := b.borrow(c); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != time.Hour {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		c.SetReadDeadline(start.Add(2 * time.Hour)) // replaced before it comes
		c.SetReadDeadline(time.Time{})
		if s, err := b.borrow(c); s != "after twenty hours" || time.Since(start) != 20*time.Hour {
			t.Errorf("%q, %v after %v", s, err, time.Since(start))
		}
		c.SetDeadline(time.Now().Add(time.Hour)) // its timer ends with it
		c.Close()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		for { // the backlog is bounded
			if c, err = m.Dial(ctx, "server"); err != nil {
				break
			}
			defer c.Close()
		}
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("dialling a full backlog: %v", err)
		}
		l.Close()
	})
}
