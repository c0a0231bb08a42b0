package session_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/noipchat/noipchat/daemon/client"
	"github.com/noipchat/noipchat/daemon/identity"
	"github.com/noipchat/noipchat/daemon/message"
	"github.com/noipchat/noipchat/daemon/transport"
	"github.com/noipchat/noipchat/daemon/wire"
)

// dialer notes when it is asked, and may have no way.
type dialer struct {
	s      *server
	mu     sync.Mutex
	broken bool
	asked  []time.Time
	conns  []transport.Conn
}

func (d *dialer) dial(ctx context.Context, address string) (transport.Conn, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.asked = append(d.asked, time.Now())
	if d.broken {
		return nil, errors.New("no way")
	}
	c, err := d.s.net.dial(ctx, address)
	d.conns = append(d.conns, c)
	return c, err
}

// cut breaks the way, and mend makes it good again.
func (d *dialer) cut() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.broken, d.asked = true, nil
	for _, c := range d.conns {
		c.Close()
	}
}

func (d *dialer) mend() []time.Time {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.broken = false
	return d.asked
}

// through is a person whose client dials by d.
func (s *server) through(name string, d *dialer) *person {
	s.t.Helper()
	p := s.enter(name)
	p.o.Dial, p.o.MaxWait = d.dial, 0
	var err error
	p.c, err = client.New(p.store, p.o)
	check(s.t, err)
	return p
}

// TestReconnect: 15 ms after a cut, then twice that, up to a minute, each shortened
// by up to a half; for ever; and from the beginning after a good session.
func TestReconnect(t *testing.T) {
	scene(t, options{}, []string{"alice"}, func(t *testing.T, s *server, p []*person) {
		d := &dialer{s: s}
		s.add("bob")
		alice, bob := p[0].come(), s.through("bob", d).come()
		for round := range 2 {
			time.Sleep(time.Hour) // a good session
			start := time.Now()
			d.cut()
			time.Sleep(10 * time.Minute)
			m := bob.send("written in the dark", alice)
			asked := d.mend()
			bob.learns(m, alice.address(), message.Delivered)
			if len(asked) < 20 || len(asked) > 40 {
				t.Fatalf("round %d: %d attempts in 10 minutes", round, len(asked))
			}
			wait, last := 15*time.Millisecond, start
			for i, at := range asked {
				if pause := at.Sub(last); pause > wait || pause < wait/2-time.Millisecond {
					t.Errorf("round %d: attempt %d comes after %v, not between %v and %v", round, i, pause, wait/2, wait)
				}
				wait, last = min(2*wait, time.Minute), at
			}
		}
		alice.has("written in the dark", "written in the dark")
	})
}

// TestManyRestarts: a server that is gone every other second is found again at once by who
// got something from it each time.
func TestManyRestarts(t *testing.T) {
	scene(t, options{}, []string{"alice"}, func(t *testing.T, s *server, p []*person) {
		d := &dialer{s: s}
		s.add("bob")
		alice, bob := p[0].come(), s.through("bob", d).come()
		for range 12 {
			m := alice.send("are you there?", bob)
			time.Sleep(time.Second)
			alice.learns(m, bob.address(), message.Delivered)
			d.cut()
			time.Sleep(time.Second)
			asked := d.mend()
			start := time.Now()
			bob.until("a session", func() bool { up, _ := bob.c.Connected(); return up })
			if late := time.Since(start); late > time.Second {
				t.Fatalf("after %d attempts, it comes back %v after the server", len(asked), late)
			}
		}
	})
}

// TestComeBackLater: a server that stops says when to come back, and is believed.
func TestComeBackLater(t *testing.T) {
	scene(t, options{}, []string{"alice"}, func(t *testing.T, s *server, p []*person) {
		d := &dialer{s: s}
		s.add("bob")
		bob := s.through("bob", d).come()
		d.mu.Lock()
		d.broken, d.asked = true, nil
		d.mu.Unlock()
		start := time.Now()
		s.host.End(s.host.Sessions()[0].ID, message.Defer(message.CodeStopping, 20*time.Second, "the server is going down"))
		time.Sleep(time.Minute)
		if asked := d.mend(); len(asked) == 0 || asked[0].Sub(start) < 20*time.Second || asked[0].Sub(start) > 30*time.Second {
			t.Errorf("told to come back in 20 s, it comes at %v, and it is %v", asked, start)
		}
		bob.until("a session", func() bool { up, _ := bob.c.Connected(); return up })
	})
}

// TestChangedKey: who shows another key than the one that is pinned gets nothing,
// and the user is shown both.
func TestChangedKey(t *testing.T) {
	scene(t, options{}, []string{"alice"}, func(t *testing.T, s *server, p []*person) {
		alice := p[0].come()
		alice.leave()
		other := identity.NewKey()
		var heard []wire.ClientHello
		alice.o.Dial = func(context.Context, string) (transport.Conn, error) {
			near, far := transport.MemoryPipe("impostor")
			go func() {
				_, hello, err := wire.Answer(far, other, wire.ServerHello{Name: home, Window: wire.Window{Count: 1, Bytes: 1 << 20}})
				if err == nil {
					heard = append(heard, hello)
				}
				far.Close()
			}()
			return near, nil
		}
		var err error
		alice.c, err = client.New(alice.store, alice.o)
		check(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		start := time.Now()
		err = alice.c.Run(ctx)
		var changed *identity.ChangedKeyError
		if !errors.As(err, &changed) || !client.Final(err) || time.Since(start) > time.Second {
			t.Fatalf("Run ends with %v, after %v", err, time.Since(start))
		}
		for _, key := range []identity.PublicKey{s.key.Public(), other.Public()} {
			if !strings.Contains(err.Error(), key.Fingerprint()) {
				t.Errorf("%q doesn't show %s", err, key.Fingerprint())
			}
		}
		synctest.Wait()
		if len(heard) != 0 {
			t.Errorf("the impostor is told %+v", heard)
		}
	})
}

// TestResend: a connection that breaks at any byte costs nothing and repeats
// nothing.
func TestResend(t *testing.T) {
	scene(t, options{}, []string{"alice"}, func(t *testing.T, s *server, p []*person) {
		d := &dialer{s: s}
		s.add("bob")
		alice, bob := p[0].come(), s.through("bob", d).come()
		var want []string
		var last client.Message
		for i := range 40 {
			for range 3 {
				text := strings.Repeat("x", i*7) + string(rune('a'+i%26))
				last = bob.send(text, alice)
				want = append(want, text)
			}
			if i%2 == 0 {
				d.cut()
				d.mend()
			}
		}
		bob.learns(last, alice.address(), message.Delivered)
		alice.has(want...)
	})
}

// TestTryAgain: what the home won't take now it is given again, and nothing waits for
// that but what comes after it for the same receiver.
func TestTryAgain(t *testing.T) {
	o := options{}
	o.spool.Total = 4000
	scene(t, o, []string{"alice", "bob", "carol"}, func(t *testing.T, s *server, p []*person) {
		alice, bob := p[0].come(), p[1].come()
		first := alice.send(strings.Repeat("x", 3000), p[2]) // carol is away: it fills the spool
		alice.learns(first, p[2].address(), message.Held)
		second := alice.send(strings.Repeat("y", 3000), p[2])
		third := alice.send("to bob, who is there", bob)
		alice.learns(third, bob.address(), message.Delivered)
		if r := alice.fate(second, p[2].address()); r.State != message.Queued {
			t.Errorf("with a full spool the second is %v", r.State)
		}
		p[2].come().has(strings.Repeat("x", 3000))
		last := alice.send("and then", p[2], bob)
		time.Sleep(2 * time.Minute) // it was told to come again in one
		alice.learns(second, p[2].address(), message.Delivered)
		alice.learns(last, p[2].address(), message.Delivered)
		p[2].has(strings.Repeat("x", 3000), strings.Repeat("y", 3000), "and then")
		bob.has("to bob, who is there", "and then")
	})
}
