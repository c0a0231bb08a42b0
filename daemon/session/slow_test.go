package session_test

import (
	stdbytes "bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/noipchat/noipchat/daemon/client"
	"github.com/noipchat/noipchat/daemon/message"
	"github.com/noipchat/noipchat/daemon/transport"
)

// radio is a line on which all must be usable still: 120 bytes a second, a round trip
// of 5 seconds, one side at a time.
var radio = transport.Properties{Rate: 1200, Latency: 2500 * time.Millisecond, Exclusive: true}

// line dials by a slow line and counts what goes over it.
type line struct {
	s        *server
	up, down atomic.Uint64

	mu     sync.Mutex
	conns  []*metered
	broken bool
	dialed time.Time // the last time
}

type metered struct {
	transport.Conn
	l *line
}

func (m *metered) Write(b []byte) (int, error) {
	n, err := m.Conn.Write(b)
	m.l.up.Add(uint64(n))
	return n, err
}

func (m *metered) TryWrite(b []byte) (int, error) {
	n, err := m.Conn.TryWrite(b)
	m.l.up.Add(uint64(n))
	return n, err
}

func (m *metered) Read(b []byte) (int, error) {
	n, err := m.Conn.Read(b)
	m.l.down.Add(uint64(n))
	return n, err
}

func (m *metered) Borrow(lend func() []byte, giveBack func([]byte)) ([]byte, int, error) {
	b, n, err := m.Conn.Borrow(lend, giveBack)
	m.l.down.Add(uint64(n))
	return b, n, err
}

func (l *line) dial(ctx context.Context, address string) (transport.Conn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.broken {
		return nil, errors.New("no way")
	}
	a, err := transport.ParseAddress(address)
	if err != nil {
		return nil, err
	}
	c, err := l.s.net.(*memory).DialLine(ctx, a.Remote, a.Line)
	if err != nil {
		return nil, err
	}
	m := &metered{c, l}
	l.conns, l.dialed = append(l.conns, m), time.Now()
	return m, nil
}

// cut ends the connection, and breaks the line if it is not to be made again.
func (l *line) cut(broken bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.broken = broken
	l.conns[len(l.conns)-1].Close()
}

func (l *line) mend() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.broken = false
}

// made tells how many connections were made, and when the last one was.
func (l *line) made() (n int, last time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.conns), l.dialed
}

// bytes returns what went up and down since it was last asked.
func (l *line) bytes() (up, down uint64) { return l.up.Swap(0), l.down.Swap(0) }

// far makes a person one behind a slow line.
func (p *person) far(is transport.Properties) *line {
	l := &line{s: p.s}
	p.o.Dial, p.o.MaxWait = l.dial, 0
	account, _, err := p.store.Account()
	check(p.t, err)
	account.Servers = []string{transport.Address{Kind: "tcp", Remote: p.s.address, Line: is}.String()}
	check(p.t, p.store.SetAccount(account))
	p.c, err = client.New(p.store, p.o)
	check(p.t, err)
	return l
}

// TestBudget: what it costs to talk over a slow line, in bytes and in time. The table
// in docs/protocol.md has these figures.
func TestBudget(t *testing.T) {
	scene(t, options{}, []string{"alice", "bob"}, func(t *testing.T, s *server, p []*person) {
		alice, bob := p[0], p[1].come()
		l := alice.far(radio)
		start := time.Now()
		alice.come()
		up, down := l.bytes()
		t.Logf("login: %d bytes up, %d down, %v", up, down, time.Since(start).Round(time.Millisecond))
		documented(t, "login by device, all of it", fmt.Sprint(up+down))
		time.Sleep(24 * time.Hour)
		if up, down := l.bytes(); up+down != 0 {
			t.Errorf("a day of silence has %d bytes up and %d down", up, down)
		}
		documented(t, "a day of silence", "0")
		text := strings.Repeat("a", 200)
		for n := range 5 {
			start := time.Now()
			m := alice.send(text, bob)
			alice.learns(m, bob.address(), message.Delivered)
			up, down := l.bytes()
			t.Logf("text %d: %d bytes up, %d down, %v", n+1, up, down, time.Since(start).Round(time.Millisecond))
			switch {
			case n == 0:
				documented(t, "text of 200 bytes and its ack, device to server, the first", fmt.Sprintf("%d + %d", up, down))
			case up+down > 300:
				t.Errorf("text %d has %d bytes up and %d down", n+1, up, down)
			case n > 1: // the second one comes so soon that its time is shorter
				documented(t, "the same from the second on", fmt.Sprintf("%d + %d = %d", up, down, up+down))
			}
			time.Sleep(time.Duration(n) * time.Hour)
		}
		for n := range 3 {
			m := bob.send(text, alice)
			bob.learns(m, alice.address(), message.Delivered)
			time.Sleep(time.Minute)
			up, down := l.bytes()
			t.Logf("text %d to alice: %d bytes up, %d down", n+1, up, down)
			switch {
			case n > 0 && up+down > 300:
				t.Errorf("text %d to alice has %d bytes up and %d down", n+1, up, down)
			case n > 0:
				documented(t, "server to device", fmt.Sprintf("%d + %d = %d", down, up, up+down))
			}
		}
		synctest.Wait()
		if n, _ := l.made(); n != 1 {
			t.Errorf("%d connections were made", n)
		}
	})
}

// documented fails unless the table of section 8 of the protocol has a row whose second column begins
// with a figure.
func documented(t *testing.T, row, figure string) {
	t.Helper()
	b, err := os.ReadFile("../../docs/protocol.md")
	check(t, err)
	for line := range strings.Lines(string(b)) {
		if columns := strings.Split(line, " | "); len(columns) > 1 && columns[0] == "| "+row {
			if got := strings.TrimPrefix(columns[1], figure); got == columns[1] || got != "" && !strings.ContainsAny(got[:1], ":,") {
				t.Errorf("%s: it is %s, and docs/protocol.md says %s", row, figure, columns[1])
			}
			return
		}
	}
	t.Errorf("docs/protocol.md has no row %q", row)
}

// TestFirstMessage: who has been there before says what he has to say after one round
// trip, together with his login.
func TestFirstMessage(t *testing.T) {
	scene(t, options{}, []string{"alice", "bob"}, func(t *testing.T, s *server, p []*person) {
		alice, bob := p[0], p[1].come()
		l := alice.far(radio)
		alice.come()
		l.cut(true)
		m := alice.send("written in the dark", bob)
		time.Sleep(time.Hour)
		l.mend()
		for wait := 0; len(bob.texts()) == 0 && wait < 1200; wait++ { // alice tries again within a minute
			time.Sleep(100 * time.Millisecond)
		}
		bob.has("written in the dark")
		_, dialed := l.made()
		d := time.Since(dialed)
		most := 3*radio.Latency + radio.Time(45+170+95+130) // out, back, out
		t.Logf("it has arrived %v after the connection was made", d)
		if d > most {
			t.Errorf("it arrives after %v, and could after %v", d, most)
		}
		alice.learns(m, bob.address(), message.Delivered)
	})
}

// TestFirstLarge: what doesn't fit into the first record goes as soon as the welcome has
// come, though nothing else happens.
func TestFirstLarge(t *testing.T) {
	scene(t, options{}, []string{"alice", "bob"}, func(t *testing.T, s *server, p []*person) {
		alice, bob := p[0], p[1].come()
		l := alice.far(radio)
		alice.come()
		l.cut(true)
		text := strings.Repeat("x", 3000)
		m := alice.send(text, bob)
		time.Sleep(time.Hour)
		l.mend()
		time.Sleep(time.Minute + 10*radio.Latency + radio.Time(len(text)+1000)) // a minute before she tries again
		if r := alice.fate(m, bob.address()); r.State != message.Delivered {
			t.Errorf("it is %v", r.State)
		}
	})
}

// TestSlowest: as slow as a line may be, everybody waits for it.
func TestSlowest(t *testing.T) {
	scene(t, options{}, []string{"alice", "bob"}, func(t *testing.T, s *server, p []*person) {
		alice, bob := p[0], p[1].come()
		l := alice.far(transport.Properties{Rate: 100, Latency: 20 * time.Second, Exclusive: true})
		m := alice.write(client.Outgoing{Body: []byte("slowly"), To: []message.Address{bob.address()}})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- alice.c.Run(ctx) }()
		for start := time.Now(); len(bob.texts()) == 0 && time.Since(start) < time.Hour; {
			time.Sleep(time.Second)
		}
		time.Sleep(10 * time.Minute)
		if r := alice.fate(m, bob.address()); r.State != message.Delivered {
			_, err := alice.c.Connected()
			t.Errorf("it is %v: %v", r.State, err)
		}
		if n, _ := l.made(); n != 1 {
			t.Errorf("%d connections were made", n)
		}
		cancel()
		check(t, <-done)
	})
}

// TestFileAndText: a file both ways, and texts that overtake it; every so often the
// line breaks, and what was cut off goes on.
func TestFileAndText(t *testing.T) {
	modem := transport.Properties{Rate: 9600, Latency: 300 * time.Millisecond}
	scene(t, options{}, []string{"alice", "bob"}, func(t *testing.T, s *server, p []*person) {
		alice, bob := p[0], p[1].come()
		l := alice.far(modem)
		alice.come()
		const parts, size = 3, 50_000
		for n := range parts {
			body := stdbytes.Repeat([]byte{byte('a' + n)}, size)
			alice.write(client.Outgoing{Priority: message.Bulk, Body: body, To: []message.Address{bob.address()}})
			bob.write(client.Outgoing{Priority: message.Bulk, Body: body, To: []message.Address{alice.address()}})
		}
		begin := time.Now()
		var want []string
		for n := 0; time.Since(begin) < 10*time.Minute; n++ {
			text := fmt.Sprint("text ", n)
			want = append(want, text)
			alice.send(text, bob)
			bob.send(text, alice)
			start := time.Now()
			for _, who := range []*person{alice, bob} {
				who.until(text, func() bool { return slices.Contains(who.texts(), text) })
			}
			if d := time.Since(start); d > 2*time.Second+modem.Latency+modem.Time(300) {
				t.Errorf("%s takes %v", text, d)
			}
			time.Sleep(5 * time.Second)
			if n%3 == 2 {
				l.cut(false)
				alice.until("a new session", func() bool { up, _ := alice.c.Connected(); return up })
				time.Sleep(time.Second)
			}
		}
		up, down := l.bytes()
		conns, _ := l.made()
		t.Logf("%d bytes up and %d down, over %d connections", up, down, conns)
		if most := uint64(parts*size*11/10 + conns*1500 + len(want)*300); up > most || down > most {
			t.Errorf("more than %d: what was there is sent again", most)
		}
		for _, who := range []*person{alice, bob} {
			large := 0
			small := slices.DeleteFunc(who.texts(), func(s string) bool {
				if len(s) == size {
					large++
				}
				return len(s) == size
			})
			if !slices.Equal(small, want) || large != parts {
				t.Errorf("%s has %d of %d texts, and %d of %d parts", who.name, len(small), len(want), large, parts)
			}
		}
	})
}
