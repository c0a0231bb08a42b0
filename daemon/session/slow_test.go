package session_test

import (
	"context"
	"strings"
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
	s     *server
	is    transport.Properties
	conns []*metered
	up    atomic.Uint64 // bytes of connections before the last
	down  atomic.Uint64
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
	c, err := l.s.net.(*memory).DialLine(ctx, address, l.is)
	if err != nil {
		return nil, err
	}
	m := &metered{c, l}
	l.conns = append(l.conns, m)
	return m, nil
}

// cut ends the connection as a line does that breaks: neither side is told.
func (l *line) cut() { l.conns[len(l.conns)-1].Close() }

// bytes returns what went up and down since it was last asked.
func (l *line) bytes() (up, down uint64) { return l.up.Swap(0), l.down.Swap(0) }

// far makes a person one behind a slow line.
func (p *person) far(is transport.Properties) *line {
	l := &line{s: p.s, is: is}
	p.o.Dial, p.o.MaxWait = l.dial, 0
	var err error
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
		time.Sleep(24 * time.Hour)
		if up, down := l.bytes(); up+down != 0 {
			t.Errorf("a day of silence has %d bytes up and %d down", up, down)
		}
		text := strings.Repeat("a", 200)
		for n := range 5 {
			start := time.Now()
			m := alice.send(text, bob)
			alice.learns(m, bob.address(), message.Delivered)
			up, down := l.bytes()
			t.Logf("text %d: %d bytes up, %d down, %v", n+1, up, down, time.Since(start).Round(time.Millisecond))
			if n > 0 && up+down > 300 {
				t.Errorf("text %d has %d bytes up and %d down", n+1, up, down)
			}
			time.Sleep(time.Duration(n) * time.Hour)
		}
		for n := range 3 {
			m := bob.send(text, alice)
			bob.learns(m, alice.address(), message.Delivered)
			time.Sleep(time.Minute)
			up, down := l.bytes()
			t.Logf("text %d to alice: %d bytes up, %d down", n+1, up, down)
			if n > 0 && up+down > 300 {
				t.Errorf("text %d to alice has %d bytes up and %d down", n+1, up, down)
			}
		}
		synctest.Wait()
	})
}
