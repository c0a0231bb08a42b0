package session_test

import (
	"context"
	"encoding/gob"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/noipchat/noipchat/daemon/client"
	"github.com/noipchat/noipchat/daemon/message"
	"github.com/noipchat/noipchat/daemon/session"
	"github.com/noipchat/noipchat/daemon/transport"
	"github.com/noipchat/noipchat/daemon/wire"
)

// keep duplicates a descriptor, as a handoff does.
func keep(c syscall.Conn) (copied int, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	if e := raw.Control(func(fd uintptr) { copied, err = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0) }); e != nil {
		return 0, e
	}
	return copied, err
}

// pause brings a server to where it can be exported.
func (s *server) pause() {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	check(s.t, s.host.Pause(ctx))
	check(s.t, s.spool.Settle(ctx))
}

// handOver makes another server of s, with its sessions and its disk.
func (s *server) handOver(o options) *server {
	s.t.Helper()
	s.pause()
	state, err := s.host.Export(keep)
	check(s.t, err)
	var b strings.Builder
	check(s.t, gob.NewEncoder(&b).Encode(state))
	marks := s.counters.Export()
	s.stop() // its copies of the connections are closed, and nobody is told

	var again session.State
	check(s.t, gob.NewDecoder(strings.NewReader(b.String())).Decode(&again))
	next := open(s.t, s.net, s.dir, o)
	next.counters.Resume(marks)
	again.Open(nil)
	if lost := next.host.Resume(again); lost > 0 {
		s.t.Fatalf("%d of %d sessions are lost:\n%s", lost, len(again.Sessions), next.log.lines)
	}
	next.host.Start()
	return next
}

// TestHandOver: two talk over server after server, and never log in again.
func TestHandOver(t *testing.T) {
	s := open(t, loopback{}, t.TempDir(), options{})
	s.add("alice", "bob", "carol")
	alice, bob, carol := s.enter("alice").come(), s.enter("bob").come(), s.enter("carol")
	var texts []string
	for n := range 5 {
		first := fmt.Sprint("before ", n)
		alice.send(first, bob, carol)
		s.pause() // wherever that message is
		s.host.Reclaim()
		s = s.handOver(options{})
		second := fmt.Sprint("after ", n)
		m := alice.send(second, bob)
		alice.learns(m, bob.address(), message.Delivered)
		texts = append(texts, first, second)
		bob.has(texts...)
	}
	if n := s.host.Stats().Logins.Load(); n != 0 {
		t.Errorf("the last server has seen %d logins", n)
	}
	for _, i := range s.host.Sessions() {
		if i.Traffic.Submitted+i.Traffic.Given < 5 {
			t.Errorf("a session has not gone on: %+v", i)
		}
	}
	carol.o.Dial = func(ctx context.Context, _ string) (transport.Conn, error) { return s.net.dial(ctx, s.address) }
	var err error
	carol.c, err = client.New(carol.store, carol.o)
	check(t, err)
	carol.come()
	carol.has("before 0", "before 1", "before 2", "before 3", "before 4")
}

// TestHandOverUnread: what a device was given and does not read, sealed, in the kernel
// or waiting, comes once and in order; and so do acks that it is owed.
func TestHandOverUnread(t *testing.T) {
	s := open(t, loopback{}, t.TempDir(), options{})
	s.add("alice", "bob")
	alice, bob := s.enter("alice").come(), s.enter("bob")
	r := bob.raw(t)
	body := func(n int) string { return fmt.Sprintf("%05d%s", n, strings.Repeat("x", 30_000)) }
	const count = 300 // more than the window, and than what the kernel takes
	for n := range count {
		alice.send(body(n), bob)
		if n%60 == 30 {
			s = s.handOver(options{})
		}
	}
	s = s.handOver(options{})
	for n := range count {
		e := r.expect(body(n))
		if n%50 == 49 {
			check(t, r.say(wire.AppendAck(nil, &wire.Ack{Upto: r.received})))
			s = s.handOver(options{})
		}
		if e.From != alice.address() {
			t.Fatalf("message %d is from %s", n, e.From)
		}
	}
	check(t, r.say(wire.AppendAck(nil, &wire.Ack{Upto: r.received})))
	alice.until("the end", func() bool {
		pending, err := alice.store.Outbox(message.Normal, 0, 1)
		check(t, err)
		return len(pending) == 0
	})
	if n := s.host.Stats().Logins.Load(); n != 0 {
		t.Errorf("the last server has seen %d logins", n)
	}
}

// TestBusyPause: who is busy keeps a pause from coming about, and nobody loses anything
// by that.
func TestBusyPause(t *testing.T) {
	s := open(t, loopback{}, t.TempDir(), options{})
	s.add("alice", "bob")
	alice, bob := s.enter("alice").come(), s.enter("bob").come()
	logins := s.host.Stats().Logins.Load()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for n := range 50 {
		alice.send(fmt.Sprint(n), bob)
		s.host.Pause(ctx) // it has no time
		s.host.Reclaim()
	}
	m := alice.send("the end", bob)
	alice.learns(m, bob.address(), message.Delivered)
	if n := s.host.Stats().Logins.Load(); n != logins {
		t.Errorf("%d logins", n-logins)
	}
}
