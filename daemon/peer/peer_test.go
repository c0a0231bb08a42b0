package peer_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/noipchat/noipchat/daemon/message"
	"github.com/noipchat/noipchat/daemon/peer"
	"github.com/noipchat/noipchat/daemon/relay"
	"github.com/noipchat/noipchat/daemon/spool"
)

// TestTwoServers: between two who are online at two servers nothing touches a disk, and
// the sender knows.
func TestTwoServers(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.add("a", "b")
		w.link("a", "b", 0)
		w.servers["a"].linked("b")
		alice, bob := w.enter("alice", "a").come(), w.enter("bob", "b").come()
		before := w.servers["a"].spool.Stats().Bytes.Load() + w.servers["b"].spool.Stats().Bytes.Load()
		m := alice.send("hello", bob)
		bob.has("hello")
		alice.learns(m, bob, message.Delivered)
		if events := w.servers["b"].relay.Trail(m.ID); len(events) != 1 || events[0].State != message.Delivered || events[0].Receiver != bob.address() || events[0].Path.Unpack().String() != "a, b" {
			t.Errorf("b remembers %+v", events)
		}
		answer := bob.send("hello you", alice)
		alice.has("hello you")
		bob.learns(answer, alice, message.Delivered)
		time.Sleep(time.Minute)
		if n := w.servers["a"].spool.Stats().Bytes.Load() + w.servers["b"].spool.Stats().Bytes.Load() - before; n != 0 {
			t.Errorf("%d bytes went to the journals", n)
		}
		for name, s := range w.servers {
			if n, b := s.spool.Waiting(); n != 0 || b != 0 {
				t.Errorf("at %s %d messages of %d bytes are left", name, n, b)
			}
		}
	})
}

// TestAwayElsewhere: what is for somebody who is away at another server waits there, and
// here, until he has it.
func TestAwayElsewhere(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.add("a", "b")
		w.link("a", "b", 0)
		w.servers["a"].linked("b")
		alice, bob := w.enter("alice", "a").come(), w.enter("bob", "b")
		nobody := &person{name: "nobody", s: w.servers["b"]}
		m := alice.send("while you are away", bob, nobody)
		alice.learns(m, bob, message.Held)
		alice.learns(m, nobody, message.Refused)
		time.Sleep(time.Hour)
		for name, s := range w.servers {
			if n, _ := s.spool.Waiting(); n != 1 {
				t.Errorf("at %s %d messages wait", name, n)
			}
		}
		bob.come().has("while you are away")
		alice.learns(m, bob, message.Delivered)
		time.Sleep(time.Minute)
		for name, s := range w.servers {
			if n, _ := s.spool.Waiting(); n != 0 {
				t.Errorf("at %s %d messages are left", name, n)
			}
		}
	})
}

// TestLine: a message crosses a line of ten servers whose links are all up; one whose links
// were up together and are up one at a time from then on; and one whose never were.
func TestLine(t *testing.T) {
	for _, c := range []struct {
		name          string
		together, met bool
	}{{"together", true, true}, {"one at a time", false, true}, {"never together", false, false}} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				const n = 10
				name := func(i int) string { return fmt.Sprint("s", i) }
				for i := range n {
					w.add(name(i))
				}
				for i := range n - 1 {
					w.plug(name(i), name(i+1), c.met)
					w.link(name(i), name(i+1), 0)
				}
				time.Sleep(time.Minute)
				alice, bob, carol := w.enter("alice", name(0)).come(), w.enter("bob", name(n-1)).come(), w.enter("carol", name(n-2)).come()
				if !c.together {
					for i := range n - 1 {
						w.plug(name(i), name(i+1), false)
					}
				}
				m := alice.send("along the line", bob, carol)
				if !c.together {
					alice.learns(m, bob, message.Held)
					for round := 0; alice.fate(m, bob.address()).State < message.Delivered; round++ {
						if round > 2*n {
							t.Fatal("it does not arrive")
						}
						for i := range n - 1 {
							w.plug(name(i), name(i+1), true)
							time.Sleep(2 * time.Minute)
							w.plug(name(i), name(i+1), false)
							time.Sleep(time.Second)
						}
					}
				}
				bob.has("along the line")
				alice.learns(m, bob, message.Delivered)
				alice.learns(m, carol, message.Delivered)
				synctest.Wait()
				time.Sleep(time.Minute)
				path := alice.fate(m, bob.address()).Path
				for i := range n {
					if len(path) != n || path[i].Server != name(i) || i > 0 && path[i].Age < path[i-1].Age {
						t.Fatalf("alice is told that it came by %v", path)
					}
				}
				if !c.together && path[n-1].Age < 9*60 {
					t.Errorf("it came by %v, sooner than the cables were in", path)
				}
				for name, s := range w.servers {
					if left, _ := s.spool.Waiting(); left != 0 {
						t.Errorf("at %s %d are left", name, left)
					}
				}
				if events := w.servers[name(n-1)].relay.Trail(m.ID); len(events) != 1 || events[0].State != message.Delivered || !events[0].Path.Same(path.Pack()) {
					t.Errorf("the last one remembers %+v", events)
				}
			})
		})
	}
}

// TestHeldThere: while a receiver is away his server says that it has the message, by which
// way it came, and no way is doubted because no more is heard.
func TestHeldThere(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.add("a", "b", "c")
		w.link("a", "b", 0)
		w.link("b", "c", 0)
		time.Sleep(10 * time.Second)
		alice, bob := w.enter("alice", "a").come(), w.enter("bob", "c")
		m := alice.send("wake up", bob)
		time.Sleep(6 * time.Hour) // in which it is offered again some times
		if f := alice.fate(m, bob.address()); f.State != message.Held || f.Path.String() != "a, b, c" {
			t.Errorf("it is %v, and came by %v", f.State, f.Path)
		}
		events := w.servers["a"].relay.Trail(m.ID)
		if n := len(events); n < 2 || !slices.ContainsFunc(events, func(e relay.Event) bool { return e.Via == "b" }) ||
			!slices.ContainsFunc(events, func(e relay.Event) bool { return e.State == message.Held && e.Path.Unpack().String() == "a, b, c" }) {
			t.Errorf("its home knows %+v", events)
		}
		for _, name := range []string{"a", "b"} {
			for _, r := range w.servers[name].peers.Routes() {
				if r.Doubted {
					t.Errorf("%s doubts the way to %s", name, r.Server)
				}
			}
		}
		bob.come()
		bob.has("wake up")
		alice.learns(m, bob, message.Delivered)
	})
}

// TestOrder: what waits for a server stays in its order when no way leads there any more, so that
// copies are made of what comes then, and the server itself comes back.
func TestOrder(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.add("a", "b")
		w.link("a", "b", 0)
		a := w.servers["a"]
		a.linked("b")
		alice, bob := w.enter("alice", "a").come(), w.enter("bob", "b").come()
		w.plug("a", "b", false)
		time.Sleep(time.Minute)
		alice.learns(alice.send("one", bob), bob, message.Held)
		a.conf.Peers = []peer.Peer{{Name: "b"}} // it can't be dialled now, so no way leads there
		a.peers.Configure(a.conf)
		time.Sleep(time.Minute)
		alice.learns(alice.send("two", bob), bob, message.Held)
		w.link("b", "a", 0)
		w.plug("a", "b", true)
		bob.has("one", "two")
		time.Sleep(time.Hour)
		bob.has("one", "two")
		for name, s := range w.servers {
			if n, _ := s.spool.Waiting(); n != 0 {
				t.Errorf("at %s %d are left", name, n)
			}
		}
	})
}

// TestHole: a link that swallows what is sent, and says nothing, is given up while
// something waits for an ack, and what waits goes by the next one.
func TestHole(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.add("a", "b")
		w.link("a", "b", 0)
		w.servers["a"].linked("b")
		alice, bob := w.enter("alice", "a").come(), w.enter("bob", "b").come()
		w.hole("a", "b", true)
		start := time.Now()
		m := alice.send("into the hole", bob)
		alice.learns(m, bob, message.Held)
		time.Sleep(time.Minute)
		w.hole("a", "b", false)
		bob.has("into the hole")
		alice.learns(m, bob, message.Delivered)
		if d := time.Since(start); d > 90*time.Second {
			t.Errorf("it took %v", d)
		}
	})
}

// TestPause: nobody is heard for a while, the link stays, and what was sent meanwhile
// arrives; and a peer that was down meanwhile is dialled again.
func TestPause(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.add("a", "b")
		w.link("a", "b", 0)
		a := w.servers["a"]
		a.linked("b")
		alice, bob := w.enter("alice", "a").come(), w.enter("bob", "b").come()
		for n := range 3 {
			up := a.peers.States()[0].Since
			a.peers.Still()
			a.peers.Pause()
			m := alice.send(fmt.Sprint("meanwhile ", n), bob)
			alice.learns(m, bob, message.Held)
			time.Sleep(10 * time.Second)
			if state := alice.fate(m, bob.address()).State; state != message.Held {
				t.Errorf("in a pause it is %v", state)
			}
			if n == 2 {
				w.plug("a", "b", false)
				w.plug("a", "b", true)
			}
			a.peers.Reclaim()
			alice.learns(m, bob, message.Delivered)
			if same := a.peers.States()[0].Since.Equal(up); same != (n < 2) {
				t.Errorf("after pause %d the same link is there: %v", n, same)
			}
		}
		bob.has("meanwhile 0", "meanwhile 1", "meanwhile 2")
	})
}

// TestHops: a message crosses as many servers as it may, and one more makes it wait.
func TestHops(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.hops = 2
		w.add("a", "b", "c", "d")
		w.link("a", "b", 0)
		w.link("b", "c", 0)
		w.link("c", "d", 0)
		time.Sleep(time.Minute)
		alice, carol, dora := w.enter("alice", "a").come(), w.enter("carol", "c").come(), w.enter("dora", "d").come()
		alice.learns(alice.send("over one", carol), carol, message.Delivered)
		alice.learns(alice.send("over two", dora), dora, message.Delivered)
		for _, s := range w.servers {
			s.conf.MaxHops = 1
			s.peers.Configure(s.conf)
		}
		alice.learns(alice.send("over one again", carol), carol, message.Delivered)
		m := alice.send("over two again", dora)
		alice.learns(m, dora, message.Held)
		time.Sleep(3 * time.Hour)
		if got := dora.texts(); len(got) != 1 {
			t.Errorf("dora has %q", got)
		}
		w.link("b", "d", 0)
		alice.learns(m, dora, message.Delivered)
	})
}

// TestRefuseUnverified: who refuses what he can't verify has its author told.
func TestRefuseUnverified(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.add("a", "b", "c")
		w.servers["c"].conf.Refuse = true
		w.link("a", "b", 0)
		w.link("c", "b", 0)
		time.Sleep(time.Minute)
		alice, carol := w.enter("alice", "a").come(), w.enter("carol", "c").come()
		m := alice.send("who am I?", carol)
		alice.learns(m, carol, message.Refused)
		if why := alice.fate(m, carol.address()).Reason; why != "the key of a is not known here" {
			t.Errorf("it is refused because %q", why)
		}
		time.Sleep(time.Minute)
		for name, s := range w.servers {
			if left, _ := s.spool.Waiting(); left != 0 {
				t.Errorf("at %s %d are left", name, left)
			}
		}
	})
}

// TestBackoff: who loses a link that held is there again at once, however often.
func TestBackoff(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.add("a", "b")
		w.link("a", "b", 0)
		w.servers["a"].linked("b")
		for n := range 12 {
			time.Sleep(time.Hour)
			w.servers["b"].peers.EndLinks(message.Defer(message.CodeStopping, 0, "for a test"))
			time.Sleep(100 * time.Millisecond)
			if names := w.servers["a"].peers.Names(); len(names) != 1 {
				t.Fatalf("after loss %d there are links to %q", n+1, names)
			}
		}
	})
}

// TestShortLinks: links that never hold for long, and carry something each time, come back
// as soon as they can.
func TestShortLinks(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.add("a", "b")
		w.link("a", "b", 0)
		w.servers["a"].linked("b")
		alice, bob := w.enter("alice", "a").come(), w.enter("bob", "b").come()
		for n := range 12 {
			m := alice.send("quick", bob)
			time.Sleep(time.Second)
			alice.learns(m, bob, message.Delivered)
			w.plug("a", "b", false)
			time.Sleep(time.Second)
			w.plug("a", "b", true)
			time.Sleep(time.Second)
			if names := w.servers["a"].peers.Names(); len(names) != 1 {
				t.Fatalf("a second after outage %d there are links to %q", n+1, names)
			}
		}
	})
}

// TestCopiesForTwoServers: of a message for users of two servers that no route leads to, both
// have copies that wait in the same queues, also over restarts.
func TestCopiesForTwoServers(t *testing.T) {
	for _, again := range []bool{false, true} {
		bubble(t, func(t *testing.T, w *world) {
			w.add("a", "b", "c", "d")
			for _, cable := range [][2]string{{"a", "b"}, {"b", "c"}, {"b", "d"}} {
				w.link(cable[0], cable[1], 0)
				w.plug(cable[0], cable[1], true)
				time.Sleep(time.Minute)
				w.plug(cable[0], cable[1], false)
			}
			alice, bob, dave := w.enter("alice", "a").come(), w.enter("bob", "c").come(), w.enter("dave", "d").come()
			m := alice.send("to both", bob, dave)
			alice.learns(m, dave, message.Held)
			for _, cable := range [][2]string{{"a", "b"}, {"b", "c"}, {"b", "d"}, {"b", "d"}, {"b", "c"}, {"a", "b"}} {
				if again {
					w.servers["a"].restart()
					w.servers["b"].restart()
				}
				w.plug(cable[0], cable[1], true)
				time.Sleep(2 * time.Minute)
				w.plug(cable[0], cable[1], false)
				time.Sleep(time.Second)
			}
			bob.has("to both")
			dave.has("to both")
			alice.learns(m, bob, message.Delivered)
			alice.learns(m, dave, message.Delivered)
		})
	}
}

// TestHomeKeeps: the home of what has gone as copies keeps it, whoever took them, and gives
// it to who can deliver it when all others are gone.
func TestHomeKeeps(t *testing.T) {
	for _, far := range []string{"aa", "z"} { // before and behind the queue for copies
		bubble(t, func(t *testing.T, w *world) {
			w.add("a", "b", "c", far)
			w.link("a", "b", 0)
			time.Sleep(time.Minute)
			w.plug("a", "b", false)
			alice, bob := w.enter("alice", "a").come(), w.enter("bob", far).come()
			m := alice.send("still here", bob)
			alice.learns(m, bob, message.Held)
			w.link("a", "c", 0)
			time.Sleep(time.Minute)
			if n, _ := w.servers["c"].spool.Waiting(); n != 1 {
				t.Fatalf("%d wait at c", n)
			}
			w.servers["b"].stop()
			w.servers["c"].stop()
			w.link("a", far, 0)
			bob.has("still here")
			alice.learns(m, bob, message.Delivered)
		})
	}
}

// TestArrivedCopies: when the receipt comes back, who has still copies of the message for
// others gives them up: its home, and the servers beside the receiver's.
func TestArrivedCopies(t *testing.T) {
	for _, again := range []bool{false, true} {
		bubble(t, func(t *testing.T, w *world) {
			w.add("a", "b", "c", "x", "y") // a–b–c, and x and y beside a and b
			for _, cable := range [][2]string{{"a", "x"}, {"b", "y"}, {"a", "b"}, {"c", "b"}} {
				w.link(cable[0], cable[1], 0)
				w.plug(cable[0], cable[1], true)
				time.Sleep(time.Minute)
				w.plug(cable[0], cable[1], false)
			}
			alice, bob := w.enter("alice", "a").come(), w.enter("bob", "c").come()
			m := alice.send("once", bob)
			for i, cable := range [][2]string{{"a", "b"}, {"b", "c"}, {"a", "b"}} {
				if again && i == 1 {
					w.servers["b"].restart()
				}
				w.plug(cable[0], cable[1], true)
				time.Sleep(2 * time.Minute)
				w.plug(cable[0], cable[1], false)
				time.Sleep(time.Second)
			}
			alice.learns(m, bob, message.Delivered)
			for server, other := range map[string]string{"a": "x", "b": "y"} {
				if q := w.servers[server].spool.Find(spool.CopiesFor(other)); q == nil || q.Waits(message.Priorities) {
					t.Errorf("%v: %s keeps a copy for %s", again, server, other)
				}
			}
			bob.has("once")
		})
	}
}

// TestReach: a peer tries an address of ours, and says what it finds; it does so for peers
// of its configuration only.
func TestReach(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.add("a", "b", "c")
		w.link("a", "b", 0)
		w.link("b", "a", 0)
		w.link("c", "b", 0)
		time.Sleep(time.Minute)
		for _, c := range []struct{ who, address, want string }{
			{"a", w.servers["a"].address, "<nil>"},
			{"a", w.servers["c"].address, "another server answers there: c, with the key " + w.servers["c"].key.Public().Fingerprint() + " <nil>"},
			{"a", "192.0.2.77:1", "connection refused <nil>"},
			{"a", "example.org:1", "that is no address with a port <nil>"},
			{"a", "", "that is no address with a port <nil>"},
			{"c", w.servers["c"].address, "not-allowed: only peers that b has configured may ask for that"},
		} {
			r, err := w.servers[c.who].peers.Reach(t.Context(), "b", c.address)
			if said := strings.TrimSpace(fmt.Sprint(r.Problem, " ", err)); !strings.Contains(said, c.want) || r.Clock.Abs() > time.Second {
				t.Errorf("%s at %q: %s, with %v; not %s", c.who, c.address, said, r.Clock, c.want)
			}
		}
		if _, err := w.servers["a"].peers.Reach(t.Context(), "nobody", ""); err == nil {
			t.Error("a peer that is none answers")
		}
		w.servers["b"].stop()
		if _, err := w.servers["a"].peers.Reach(t.Context(), "b", "192.0.2.77:1"); err == nil {
			t.Error("a peer that is gone answers")
		}
	})
}

// TestIdle: a link that is closed when nobody needs it costs no mail its way: there is one
// again for the news of a way that it leads to; and if there can't be one, mail goes by another.
func TestIdle(t *testing.T) {
	both := func(w *world, a, b string, idle time.Duration) {
		w.link(a, b, idle)
		w.link(b, a, idle)
	}
	t.Run("news", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			w.add("a", "b", "c")
			both(w, "a", "b", 5*time.Second)
			time.Sleep(time.Hour)
			alice, carol := w.enter("alice", "a").come(), w.enter("carol", "c").come()
			m := alice.sendFile("photo", 1000, 0, carol)
			time.Sleep(time.Hour)
			start := time.Now()
			w.link("c", "b", 0)
			alice.learns(m, carol, message.Delivered)
			if d := time.Since(start); d > 2*time.Minute {
				t.Errorf("it takes %v", d)
			}
			time.Sleep(time.Hour)
			if names := w.servers["a"].peers.Names(); len(names) != 0 {
				t.Errorf("a keeps its links to %q", names)
			}
		})
	})
	t.Run("dead", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			w.add("a", "b", "c")
			both(w, "a", "b", 5*time.Second)
			w.link("a", "c", 0)
			w.link("c", "b", 0)
			time.Sleep(time.Hour)
			alice, bob := w.enter("alice", "a").come(), w.enter("bob", "b").come()
			w.plug("a", "b", false)
			start := time.Now()
			alice.learns(alice.send("around", bob), bob, message.Delivered)
			if d := time.Since(start); d > 2*time.Minute {
				t.Errorf("it takes %v", d)
			}
		})
	})
}

// TestCost: a link costs what the configuration says, whoever of the two has dialled.
func TestCost(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.add("a", "b")
		w.link("a", "b", 0)
		w.link("b", "a", 0)
		for _, s := range w.servers {
			s.conf.Peers[0].Ways[0].Cost = 50
			s.peers.Configure(s.conf)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		for name, s := range w.servers {
			if routes := s.peers.Routes(); len(routes) != 1 || routes[0].Metric < 50 {
				t.Errorf("%s has the routes %+v", name, routes)
			}
		}
	})
}

// TestRetry: an admin needn't wait for the time of the next attempt.
func TestRetry(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.add("a", "b")
		w.plug("a", "b", false)
		w.link("a", "b", 0)
		time.Sleep(time.Hour)
		w.plug("a", "b", true)
		a := w.servers["a"].peers
		a.Retry("b")
		synctest.Wait()
		if names := a.Names(); len(names) != 1 {
			t.Errorf("there are links to %v", names)
		}
		a.Retry("nobody")
	})
}
