package peer_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/noipchat/noipchat/daemon/client"
	"github.com/noipchat/noipchat/daemon/identity"
	"github.com/noipchat/noipchat/daemon/message"
	"github.com/noipchat/noipchat/daemon/peer"
	"github.com/noipchat/noipchat/daemon/wire"
)

// state is how it stands with a server's peer.
func (s *server) state(peer string) (found peer.State) {
	s.w.t.Helper()
	for _, x := range s.peers.States() {
		if x.Name == peer {
			return x
		}
	}
	s.w.t.Fatalf("%s has no peer %s", s.name, peer)
	return found
}

// TestOneCopyPerBranch: a message to many users of three servers crosses each link once.
func TestOneCopyPerBranch(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.add("a", "b", "c", "d", "e")
		w.link("a", "b", 0)
		beyond := []string{"c", "d", "e"}
		for _, name := range beyond {
			w.link("b", name, 0)
		}
		time.Sleep(time.Minute)
		alice := w.enter("alice", "a").come()
		var there []*person
		var out client.Outgoing
		for _, name := range beyond {
			there = append(there, w.enter("user00", name).come())
			for i := range 20 {
				user := fmt.Sprintf("user%02d", i)
				if i > 0 {
					check(t, w.servers[name].users.Add(t.Context(), user, password))
					w.servers[name].host.Refresh(user)
				}
				out.To = append(out.To, message.Join(user, name))
			}
		}
		for n := range 3 {
			out.Body = fmt.Appendf(nil, "message %d", n)
			m, err := alice.c.Send(t.Context(), out)
			check(t, err)
			for _, p := range there {
				alice.learns(m, p, message.Delivered)
			}
			for _, r := range out.To {
				alice.until("all", func() bool { return alice.fate(m, r).State >= message.Held })
			}
			want := int64(n + 1)
			if sent := w.servers["a"].state("b").Sent; sent != want {
				t.Errorf("%d messages have crossed the link from a to b %d times", want, sent)
			}
			for _, name := range beyond {
				if sent := w.servers["b"].state(name).Sent; sent != want {
					t.Errorf("%d messages have crossed the link from b to %s %d times", want, name, sent)
				}
			}
		}
		for _, p := range there {
			p.has("message 0", "message 1", "message 2")
		}
	})
}

// TestListPerBranch: what is written to a list of 100 members, more than an envelope has room
// for, goes once to each of three servers.
func TestListPerBranch(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.add("a", "c", "d", "e")
		var members []message.Address
		var there []*person
		for i, name := range []string{"c", "d", "e"} {
			w.link("a", name, 0)
			there = append(there, w.enter("user00", name).come())
			for n := range []int{34, 33, 33}[i] {
				user := fmt.Sprintf("user%02d", n)
				if n > 0 {
					check(t, w.servers[name].users.Add(t.Context(), user, password))
					w.servers[name].host.Refresh(user)
				}
				members = append(members, message.Join(user, name))
			}
		}
		time.Sleep(time.Minute)
		alice := w.enter("alice", "a").come()
		list, err := alice.store.SetList(t.Context(), "all", members)
		check(t, err)
		alice.c.Kick()
		time.Sleep(10 * time.Second) // what is only held is offered again after a minute
		before := map[string]int64{}
		for _, p := range there {
			before[p.s.name] = w.servers["a"].state(p.s.name).Sent
		}
		all, err := alice.store.EnqueueToList(t.Context(), list, client.Outgoing{Body: []byte("hello all")})
		check(t, err)
		alice.c.Kick()
		for _, m := range all {
			for _, r := range m.Recipients {
				alice.until("all", func() bool { return alice.fate(m, r.Address).State >= message.Held })
			}
		}
		for _, p := range there {
			p.has("hello all")
			if sent := w.servers["a"].state(p.s.name).Sent - before[p.s.name]; sent != 1 {
				t.Errorf("the link to %s was crossed %d times", p.s.name, sent)
			}
		}
	})
}

// TestPartly: of a message that crosses a link once for two servers, each is ended by
// itself, and its author is told so.
func TestPartly(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.add("a", "b", "c", "d")
		w.link("a", "b", 0)
		w.link("b", "c", 0)
		w.link("b", "d", 0)
		time.Sleep(time.Minute)
		alice, carol, dora := w.enter("alice", "a").come(), w.enter("carol", "c").come(), w.enter("dora", "d")
		nobody := &person{name: "nobody", s: w.servers["c"]}
		m := alice.send("to both", carol, dora, nobody)
		alice.learns(m, carol, message.Delivered)
		alice.learns(m, nobody, message.Refused)
		alice.learns(m, dora, message.Held)
		time.Sleep(time.Hour)
		if waiting := w.servers["a"].state("b"); waiting.Kept != 1 || waiting.Waiting != 0 || waiting.Untouched != 0 {
			t.Errorf("at a, as one of two is done: %+v", waiting.Load)
		}
		dora.come().has("to both")
		alice.learns(m, dora, message.Delivered)
		time.Sleep(time.Minute)
		for name, s := range w.servers {
			if n, _ := s.spool.Waiting(); n != 0 {
				t.Errorf("at %s %d messages are left", name, n)
			}
		}
	})
}

// TestTogetherThenAlone: of two servers that a message goes to by one link, the one that
// is too far away doesn't keep it from the other.
func TestTogetherThenAlone(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.hops = 1
		w.add("a", "b", "c", "d", "e")
		for _, l := range []string{"ab", "bc", "bd", "de"} {
			w.link(l[:1], l[1:], 0)
		}
		time.Sleep(time.Minute)
		alice, carol, emma := w.enter("alice", "a").come(), w.enter("carol", "c").come(), w.enter("emma", "e").come()
		start := time.Now()
		m := alice.send("to near and far", carol, emma)
		alice.learns(m, carol, message.Delivered)
		if took := time.Since(start); took > 2*time.Minute {
			t.Errorf("it takes %v", took)
		}
		alice.learns(m, emma, message.Held)
	})
}

// TestPassing: a message that waits in hand for a device that doesn't read may be passed by
// more than a window of others: they are acked before it.
func TestPassing(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.add("a", "b")
		w.link("a", "b", 0)
		time.Sleep(time.Minute)
		alice, bob, dave := w.enter("alice", "a").come(), w.enter("bob", "b").come(), w.enter("dave", "b").come()
		link := w.servers["a"].state("b").Since
		synctest.Wait()
		hear := dave.plugs()
		start := time.Now()
		first := alice.send("I wait", dave)
		want := make([]string, 300)
		var last client.Message
		for i := range want {
			want[i] = strings.Repeat("x", 30<<10)
			last = alice.send(want[i], bob)
		}
		alice.learns(last, bob, message.Delivered)
		if took := time.Since(start); took >= 50*time.Millisecond {
			t.Errorf("they took %v: what waited was on disk before", took)
		}
		hear()
		bob.has(want...)
		alice.learns(first, dave, message.Delivered)
		if now := w.servers["a"].state("b").Since; now != link {
			t.Errorf("the link of %v was lost, and is up since %v", link, now)
		}
	})
}

// TestNobodyStarves: a server that sends as fast as it can over a link of which the other
// end takes its time delays what others send by that link to other servers by few messages
// at most; what is less urgent delays it by none.
func TestNobodyStarves(t *testing.T) {
	for _, c := range []struct {
		kind     message.Kind
		priority message.Priority
		most     int
	}{{message.Text, message.Normal, 32}, {message.File, message.Bulk, 0}} {
		t.Run(c.kind.String(), func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				w.add("a")
				a := w.servers["a"]
				a.conf.Peers = []peer.Peer{{Name: "b", Reaches: []string{"c", "d"}}}
				a.peers.Configure(a.conf)
				alice := w.enter("alice", "a").come()
				b, m := w.lie("b", identity.NewKey(), "a"), w.lie("m", identity.NewKey(), "a")
				b.sullen = true
				const flood = 3000
				for i := range flood {
					e := text("mallory@m", "carol@c", uint64(i+1), "me first")
					e.Kind, e.Priority = c.kind, c.priority
					m.mu.Lock()
					m.unsaid = append(m.unsaid, wire.AppendEnvelope(nil, wire.Transit{Passage: message.Passage{Hops: 9, Path: message.Path{{Server: "m"}}.Pack()}}, written(t, e)))
					m.mu.Unlock()
					if i%500 == 499 { // below the window
						m.say()
					}
				}
				m.lives()
				before := len(b.got)
				if before == 0 || before > flood/2 {
					t.Fatalf("%d of %d have gone on at once", before, flood)
				}
				dora := &person{t: t, name: "dora", s: &server{name: "d"}}
				alice.learns(alice.send("and now me", dora), dora, message.Held)
				b.mu.Lock()
				b.sullen = false
				b.mu.Unlock()
				b.say(wire.AppendAck(nil, &wire.Ack{Upto: uint64(before)}))
				time.Sleep(time.Minute)
				synctest.Wait()
				at := slices.IndexFunc(b.got, func(x letter) bool { return x.From == alice.address() })
				if late := at - before; at < 0 || late > c.most || len(b.got) <= flood {
					t.Errorf("of %d that have come alice's text has %d before it, %d of them sent before she wrote", len(b.got), at, before)
				}
			})
		})
	}
}
