package peer_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/noipchat/noipchat/daemon/client"
	"github.com/noipchat/noipchat/daemon/message"
	"github.com/noipchat/noipchat/daemon/spool"
	"github.com/noipchat/noipchat/daemon/transport"
)

// TestSlowLink: over a link between servers on a slow line what is large goes both ways,
// whoever has dialled, and its acks come back.
func TestSlowLink(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.add("a", "b")
		w.lay("a", "b", 0, transport.Properties{Rate: 9600, Latency: 300 * time.Millisecond})
		time.Sleep(time.Minute)
		alice, bob := w.enter("alice", "a").come(), w.enter("bob", "b").come()
		for _, c := range [][2]*person{{alice, bob}, {bob, alice}} {
			by, to := c[0], c[1]
			m := by.sendFile("a file", message.PartSize+1, 0, to)
			time.Sleep(10 * time.Second)
			start := time.Now()
			text := strings.Repeat("x", 60<<10-200)
			by.learns(by.send(text, to), to, message.Delivered)
			by.learns(m, to, message.Delivered)
			if took := time.Since(start); took > 3*time.Minute { // 2 at full speed
				t.Errorf("from %s to %s it takes %v", by.name, to.name, took)
			}
			to.has(text, "a file")
		}
	})
}

// limit sets the bytes that may wait for one destination at a server, and for all.
func (s *server) limit(quota, total int64) {
	s.spool.SetLimits(spool.Limits{Quota: quota, Total: total, Hand: 64 << 20, MaxAge: 30 * 24 * time.Hour})
}

// TestFullThere: what the receiver's server has no room for isn't offered to it again and
// again, and comes soon after there is room.
func TestFullThere(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.add("a", "b")
		w.link("a", "b", 0)
		a, b := w.servers["a"], w.servers["b"]
		b.limit(400<<10, 1<<30)
		time.Sleep(time.Minute)
		alice, bob := w.enter("alice", "a").come(), w.enter("bob", "b")
		m := alice.sendFile("large", 200*message.PartSize, 0, bob)
		time.Sleep(time.Hour)
		sent := a.state("b").Sent
		time.Sleep(time.Hour)
		if again := a.state("b").Sent - sent; again > 400 {
			t.Errorf("in an hour %d parts of 200 are offered in vain", again)
		}
		start := time.Now()
		bob.come().has("large")
		alice.learns(m, bob, message.Delivered)
		if took := time.Since(start); took > 20*time.Minute {
			t.Errorf("it takes %v", took)
		}
	})
}

// TestOneHasRoom: of two receivers of a file at one server, the one for whom no room is
// left doesn't have it sent again and again to the other one.
func TestOneHasRoom(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.add("a", "b", "c")
		w.link("a", "b", 0)
		w.link("b", "c", 0)
		c := w.servers["c"]
		c.limit(300<<10, 1<<30)
		time.Sleep(time.Minute)
		alice, carol, dan := w.enter("alice", "a").come(), w.enter("carol", "c").come(), w.enter("dan", "c")
		const parts = 20
		m := alice.sendFile("large", parts*message.PartSize, 0, carol, dan)
		alice.learns(m, carol, message.Delivered)
		time.Sleep(12 * time.Hour)
		if n := c.host.Sessions()[0].Traffic.Given; n > parts+10 {
			t.Errorf("a file of %d parts is given to carol in %d", parts, n)
		}
		dan.come().has("large")
		alice.learns(m, dan, message.Delivered)
		carol.has("large")
	})
}

// TestBothFull: two servers that are full of what each has for the other one still give
// that to who is there.
func TestBothFull(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.add("a", "b")
		w.plug("a", "b", false)
		w.link("a", "b", 0)
		time.Sleep(time.Minute)
		alice, bob := w.enter("alice", "a").come(), w.enter("bob", "b").come()
		var want []string
		for i := range 20 {
			want = append(want, fmt.Sprint(i, strings.Repeat("x", 50<<10)))
		}
		for _, c := range [][2]*person{{alice, bob}, {bob, alice}} {
			c[0].s.limit(1<<30, 600<<10)
			for _, text := range want {
				c[0].send(text, c[1])
			}
		}
		time.Sleep(10 * time.Minute)
		for name, s := range w.servers {
			if _, bytes := s.spool.Waiting(); bytes < 540<<10 {
				t.Errorf("%s is not full: %d bytes", name, bytes)
			}
		}
		w.plug("a", "b", true)
		start := time.Now()
		alice.hasAllOf(want)
		bob.hasAllOf(want)
		if took := time.Since(start); took > time.Hour {
			t.Errorf("it takes %v", took)
		}
	})
}

func (p *person) hasAllOf(want []string) {
	p.t.Helper()
	p.until("all texts", func() bool { return len(p.texts()) >= len(want) })
	p.hasAll(slices.Clone(want))
}

// TestCutUnderWay: whoever is cut off while acks are under way sends again what they are
// about, and nothing of it is left anywhere when all has arrived.
func TestCutUnderWay(t *testing.T) {
	for _, pause := range []time.Duration{time.Millisecond, 10 * time.Millisecond, 60 * time.Millisecond, time.Second} {
		if testing.Short() && pause != 10*time.Millisecond { // the race detector takes ten times as long
			continue
		}
		t.Run(fmt.Sprint(pause), func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				w.add("a", "b", "c")
				w.link("a", "b", 0)
				w.link("b", "c", 0)
				time.Sleep(time.Minute)
				alice, carol, dan := w.enter("alice", "a").come(), w.enter("carol", "c"), w.enter("dan", "c").come()
				m := alice.sendFile("large", 20*message.PartSize, 0, carol, dan)
				var want []string
				for n := range 20 {
					want = append(want, fmt.Sprint("text ", n))
					alice.send(want[n], carol, dan)
					time.Sleep(pause)
					alice.toggle()
					alice.toggle()
				}
				alice.learns(m, dan, message.Delivered)
				alice.learns(m, carol, message.Held)
				carol.come()
				alice.learns(m, carol, message.Delivered)
				carol.hasAllOf(append(want, "large"))
				dan.hasAllOf(append(want, "large"))
				time.Sleep(10 * time.Minute)
				for name, s := range w.servers {
					if n, _ := s.spool.Waiting(); n != 0 {
						t.Errorf("at %s %d are left", name, n)
					}
				}
			})
		})
	}
}

// TestLargeAway: a file for somebody who is away is held about as soon as one for somebody at
// the same server, however far his home is: nobody waits for what will take its time. So is a text.
func TestLargeAway(t *testing.T) {
	for hops := range 3 {
		if testing.Short() && hops != 2 { // the race detector takes ten times as long
			continue
		}
		t.Run(fmt.Sprint(hops), func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				w.journal = spool.Options{JournalFile: 4 << 20, JournalFiles: 6}
				w.add("s0", "s1", "s2")
				w.link("s0", "s1", 0)
				w.link("s1", "s2", 0)
				time.Sleep(time.Minute)
				alice, bob := w.enter("alice", "s0").come(), w.enter("bob", fmt.Sprint("s", hops))
				for n := range 2 { // the second one after receipts that took their time
					start := time.Now()
					m := alice.sendFile("large", 100*message.PartSize, 0, bob)
					alice.learns(m, bob, message.Held)
					if took := time.Since(start); took > 200*time.Millisecond {
						t.Errorf("file %d is held after %v", n+1, took)
					}
					start = time.Now()
					text := alice.send("a text", bob)
					alice.learns(text, bob, message.Held)
					if took := time.Since(start); took > 10*time.Millisecond {
						t.Errorf("text %d is held after %v", n+1, took)
					}
					time.Sleep(300 * time.Millisecond)
					bob.come()
					alice.learns(m, bob, message.Delivered)
					alice.learns(text, bob, message.Delivered)
					bob.toggle()
				}
			})
		})
	}
}

// TestPassedOn: what only passes by servers on its way between two who are online touches no
// disk, be it much.
func TestPassedOn(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.add("a", "b", "c", "d")
		w.link("a", "b", 0)
		w.link("c", "b", 0)
		w.link("c", "d", 0)
		time.Sleep(time.Minute)
		alice, dan := w.enter("alice", "a").come(), w.enter("dan", "d").come()
		var want []string
		var m client.Message
		for n := range 200 {
			want = append(want, fmt.Sprint("text ", n))
			m = alice.send(want[n], dan)
		}
		alice.learns(m, dan, message.Delivered)
		alice.learns(alice.sendFile("large", 100*message.PartSize, 0, dan), dan, message.Delivered)
		dan.hasAllOf(append(want, "large"))
		for name, s := range w.servers {
			if n := s.spool.Stats().Bytes.Load(); n != 0 {
				t.Errorf("at %s %d bytes went to the journal", name, n)
			}
		}
	})
}
