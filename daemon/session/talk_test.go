package session_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/noipchat/noipchat/daemon/client"
	"github.com/noipchat/noipchat/daemon/message"
	"github.com/noipchat/noipchat/daemon/relay"
	"github.com/noipchat/noipchat/daemon/session"
	"github.com/noipchat/noipchat/daemon/spool"
)

// scene is a server with users, in a bubble.
func scene(t *testing.T, o options, names []string, play func(t *testing.T, s *server, p []*person)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := open(t, &memory{}, t.TempDir(), o)
		var people []*person
		for _, name := range names {
			s.add(name)
			people = append(people, s.enter(name))
		}
		synctest.Wait()
		play(t, s, people)
	})
}

// TestOnline: between two who are online nothing touches the server's disk.
func TestOnline(t *testing.T) {
	scene(t, options{}, []string{"alice", "bob"}, func(t *testing.T, s *server, p []*person) {
		alice, bob := p[0].come(), p[1].come()
		stats := s.spool.Stats()
		before := stats.Bytes.Load()
		m := alice.send("hello", bob)
		alice.learns(m, bob.address(), message.Delivered)
		bob.has("hello")
		bob.reads()
		alice.learns(m, bob.address(), message.Read)
		time.Sleep(time.Minute)
		if n := stats.Bytes.Load() - before; n != 0 || stats.Filed.Load() != 0 || stats.HandDone.Load() == 0 {
			t.Errorf("%d bytes went to the journal, %d entries to files, %d from hand to hand", n, stats.Filed.Load(), stats.HandDone.Load())
		}
		if d, h := s.relay.Stats().Delivered.Load(), s.relay.Stats().Held.Load(); d != 2 || h != 0 {
			t.Errorf("counted are %d delivered and %d held, not the text and its receipt", d, h)
		}
	})
}

func TestAbsent(t *testing.T) {
	scene(t, options{}, []string{"alice", "bob"}, func(t *testing.T, s *server, p []*person) {
		alice, bob := p[0].come(), p[1]
		m := alice.send("are you there?", bob)
		alice.learns(m, bob.address(), message.Held)
		if n, _ := s.spool.Waiting(); n != 1 {
			t.Errorf("%d wait", n)
		}
		time.Sleep(time.Hour)
		bob.come().has("are you there?")
		alice.learns(m, bob.address(), message.Delivered)
		alice.leave()
		bob.reads()
		synctest.Wait()
		alice.come().learns(m, bob.address(), message.Read) // the receipt has waited
		time.Sleep(time.Second)
		if n, b := s.spool.Waiting(); n != 0 || b != 0 {
			t.Errorf("%d messages of %d bytes are left", n, b)
		}
	})
}

// TestWithoutDevice: what comes for a user before his first login waits for it,
// over a restart too.
func TestWithoutDevice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var net memory
		dir := t.TempDir()
		s := open(t, &net, dir, options{})
		s.add("alice", "bob")
		alice := s.enter("alice").come()
		to := []message.Address{"bob@" + home}
		m1 := alice.write(client.Outgoing{Body: []byte("one"), To: to})
		alice.learns(m1, to[0], message.Held)
		s.stop()
		s = open(t, &net, dir, options{})
		m2 := alice.write(client.Outgoing{Body: []byte("two"), To: to})
		alice.learns(m2, to[0], message.Held)
		bob := s.enter("bob").come()
		bob.has("one", "two")
		alice.learns(m1, to[0], message.Delivered)
		alice.learns(m2, to[0], message.Delivered)
	})
}

// TestManyReceivers: each receiver has a fate of his own.
func TestManyReceivers(t *testing.T) {
	o := options{spool: spool.Options{Quota: 3000}}
	scene(t, o, []string{"alice", "bob", "carol", "dave"}, func(t *testing.T, s *server, p []*person) {
		alice, bob, carol, dave := p[0].come(), p[1].come(), p[2], p[3]
		for range 2 {
			m := alice.send(strings.Repeat("x", 1300), dave)
			alice.learns(m, dave.address(), message.Held)
		}
		m := alice.write(client.Outgoing{Body: []byte(strings.Repeat("y", 600)), To: []message.Address{
			bob.address(), carol.address(), dave.address(), "nobody@" + home, "eve@server2",
		}})
		alice.learns(m, bob.address(), message.Delivered)
		alice.learns(m, carol.address(), message.Held)
		for address, code := range map[message.Address]message.Code{
			dave.address(): message.CodeQuota, "nobody@" + home: message.CodeNoUser, "eve@server2": message.CodeNoRoute,
		} {
			if r := alice.learns(m, address, message.Refused); r.Code != code || r.Reason == "" {
				t.Errorf("%s: %v %q, not %v", address, r.Code, r.Reason, code)
			}
			if n := s.relay.Stats().Refused[code].Load(); n != 1 {
				t.Errorf("%v is counted %d times", code, n)
			}
		}
		time.Sleep(time.Second)
		if pending, err := alice.store.Outbox(message.Normal, 0, 10); err != nil || len(pending) != 0 {
			t.Errorf("%d messages stay in the outbox, %v", len(pending), err)
		}
		dave.come().until("two texts", func() bool { return len(dave.texts()) == 2 })
		alice.send("again", dave) // there is room now
		dave.until("a third", func() bool { return len(dave.texts()) == 3 })
	})
}

// TestExpiry: what waits too long bounces with the reason, but not right after a
// start: a clock that was set says nothing of ages.
func TestExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var net memory
		dir := t.TempDir()
		s := open(t, &net, dir, options{})
		s.add("alice", "bob")
		alice, bob := s.enter("alice").come(), s.enter("bob")
		m := alice.write(client.Outgoing{Body: []byte("dinner?"), To: []message.Address{bob.address()}, Lifetime: time.Hour})
		alice.learns(m, bob.address(), message.Held)
		time.Sleep(30 * time.Minute)
		s.stop()
		time.Sleep(2 * time.Hour)
		s = open(t, &net, dir, options{})
		alice.until("a session", func() bool { up, _ := alice.c.Connected(); return up })
		time.Sleep(9 * time.Minute) // of grace there are ten
		alice.learns(m, bob.address(), message.Held)
		time.Sleep(2 * time.Minute)
		if r := alice.learns(m, bob.address(), message.Expired); r.Code != message.CodeExpired || r.Reason != "server1 kept it until its lifetime was over" {
			t.Errorf("%v %q", r.Code, r.Reason)
		}
		bob.s = s
		bob.come()
		time.Sleep(time.Second)
		bob.has()
		// What is too old when it is submitted is refused at once.
		alice.leave()
		m = alice.write(client.Outgoing{Body: []byte("late"), To: []message.Address{bob.address()}, Lifetime: time.Second})
		time.Sleep(time.Minute)
		alice.come().learns(m, bob.address(), message.Expired)
	})
}

// TestRemoved: an admin takes a message out, and its sender is told.
func TestRemoved(t *testing.T) {
	scene(t, options{}, []string{"alice", "bob"}, func(t *testing.T, s *server, p []*person) {
		alice, bob := p[0].come(), p[1]
		m := alice.send("oops", bob)
		alice.learns(m, bob.address(), message.Held)
		q := s.spool.Find(relay.QueueName(bob.address(), bob.c.Account().Device))
		var turn spool.Turn
		var l relay.Ledger
		no := message.Refuse(message.CodeRemoved, "an admin removed it")
		n := q.Remove([]message.ID{m.ID}, func(e *spool.Entry) { s.relay.Bounce(&turn, &l, q, e, message.Refused, no) })
		s.relay.Close(&turn, &l)
		turn.Run()
		if n != 1 {
			t.Fatalf("%d were removed", n)
		}
		if r := alice.learns(m, bob.address(), message.Refused); r.Code != message.CodeRemoved || r.Reason != no.Reason {
			t.Errorf("%v %q", r.Code, r.Reason)
		}
		bob.come()
		time.Sleep(time.Minute)
		bob.has()
		if events := s.relay.Trail(m.ID); len(events) != 1 || events[0].State != message.Refused {
			t.Errorf("the trail is %v", events)
		}
	})
}

// TestNoRoom: a refusal that may end is none. The client keeps the message, says
// why as long as that is so, and tries again.
func TestNoRoom(t *testing.T) {
	o := options{spool: spool.Options{Total: 3000}}
	scene(t, o, []string{"alice", "bob", "carol"}, func(t *testing.T, s *server, p []*person) {
		alice, bob, carol := p[0].come(), p[1], p[2].come()
		var sent []client.Message
		for _, text := range []string{"first", "second", "third"} {
			sent = append(sent, alice.send(text+strings.Repeat(" ", 1300), bob))
		}
		alice.learns(sent[1], bob.address(), message.Held)
		time.Sleep(time.Hour)
		if r := alice.fate(sent[2], bob.address()); r.State != message.Queued || r.Reason != "the server's spool is full" {
			t.Fatalf("the third is %v: %s", r.State, r.Reason)
		}
		m := alice.send("hi", carol) // others are not stopped by it
		alice.learns(m, carol.address(), message.Delivered)
		bob.come()
		bob.until("three texts", func() bool { return len(bob.texts()) == 3 })
		alice.learns(sent[2], bob.address(), message.Delivered)
		if r := alice.fate(sent[2], bob.address()); r.Code != 0 || r.Reason != "" {
			t.Errorf("it is %v, and still: %s", r.State, r.Reason)
		}
	})
}

// TestReplaced: the same device logs in again; the session before is told so, and
// what it was given and has not acked comes over the new one.
func TestReplaced(t *testing.T) {
	scene(t, options{}, []string{"alice", "bob"}, func(t *testing.T, s *server, p []*person) {
		alice, bob := p[0].come(), p[1]
		deaf := bob.raw(t) // takes and doesn't ack
		m1 := alice.send("one", bob)
		alice.learns(m1, bob.address(), message.Held)
		deaf.expect("one")
		bob.come()
		if why := deaf.goodbye(); why.Code != message.CodeReplaced || !why.Permanent {
			t.Errorf("the first session ends because of %v", why)
		}
		bob.has("one")
		alice.learns(m1, bob.address(), message.Delivered)
		if n, _ := s.host.Count(); n != 2 {
			t.Errorf("%d sessions", n)
		}
		// And the other way round: a client that is replaced does not fight.
		bob.raw(t)
		bob.until("its end", func() bool { up, err := bob.c.Connected(); return !up && err != nil })
		time.Sleep(time.Hour)
		if err := bob.leave(); !client.Final(err) {
			t.Errorf("Run ended with %v", err)
		}
	})
}

// TestReplacedAtOnce: however many connections of one device log in at the same
// moment, one of them gets what comes.
func TestReplacedAtOnce(t *testing.T) {
	rounds := 300
	if testing.Short() {
		rounds = 50
	}
	scene(t, options{}, []string{"alice", "bob"}, func(t *testing.T, s *server, p []*person) {
		alice, bob := p[0].come(), p[1]
		for range rounds {
			raws := make(chan *raw, 4)
			for range cap(raws) {
				go func() { raws <- bob.tryRaw(nil) }()
			}
			var last []*raw
			for range cap(raws) {
				last = append(last, <-raws)
			}
			synctest.Wait()
			if n, _ := s.host.Count(); n != 2 {
				t.Fatalf("%d sessions", n)
			}
			m := alice.send("x", bob)
			for _, r := range last {
				go r.ackAll()
			}
			alice.learns(m, bob.address(), message.Delivered)
			for _, r := range last {
				r.conn.Close()
			}
			synctest.Wait()
		}
	})
}

// TestIdle: who is silent too long is let go, and who pings is not.
func TestIdle(t *testing.T) {
	o := options{session: session.Options{Idle: 10 * time.Minute}}
	scene(t, o, []string{"alice", "bob"}, func(t *testing.T, s *server, p []*person) {
		alice := p[0].come()
		mute := p[1].raw(t)
		start := time.Now()
		if why := mute.goodbye(); why.Code != message.CodeIdle || why.Permanent {
			t.Errorf("%v", why)
		}
		if after := time.Since(start); after < 10*time.Minute || after > 12*time.Minute {
			t.Errorf("after %v", after)
		}
		time.Sleep(24 * time.Hour)
		if up, err := alice.c.Connected(); !up {
			t.Errorf("a client that does nothing is let go: %v", err)
		}
		if n := s.host.Stats().Logins.Load(); n != 4 {
			t.Errorf("%d logins", n)
		}
	})
}

// TestStop: an orderly stop says when to come back, and what was in hand is on disk.
func TestStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var net memory
		dir := t.TempDir()
		s := open(t, &net, dir, options{spool: spool.Options{Moment: time.Hour}})
		s.add("alice", "bob")
		alice, bob := s.enter("alice").come(), s.enter("bob")
		synctest.Wait()
		deaf := bob.raw(t)
		m := alice.send("in hand", bob)
		deaf.expect("in hand")
		if r := alice.fate(m, bob.address()); r.State != message.Queued {
			t.Fatalf("alice is told %v of what is in hand only", r.State)
		}
		s.stop()
		if why := deaf.goodbye(); why.Code != message.CodeStopping || why.After != time.Second {
			t.Errorf("%v", why)
		}
		open(t, &net, dir, options{})
		bob.come().has("in hand")
		alice.learns(m, bob.address(), message.Delivered)
	})
}
