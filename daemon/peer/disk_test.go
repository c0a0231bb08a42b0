package peer_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/noipchat/noipchat/daemon/client"
	"github.com/noipchat/noipchat/daemon/message"
)

// burn has a server lose its disk; it gets a new one with nothing on it but its key, if it
// has a copy of that.
func (s *server) burn(keepsKey bool) {
	s.w.t.Helper()
	dir := s.w.t.TempDir()
	if keepsKey {
		key, err := os.ReadFile(filepath.Join(s.dir, "key"))
		check(s.w.t, err)
		check(s.w.t, os.WriteFile(filepath.Join(dir, "key"), key, 0o600))
	}
	s.restore(dir)
}

// empty waits until nothing is left anywhere, and fails if envelopes are on the move then.
func (w *world) empty() {
	w.t.Helper()
	count := func() (left, moved int64) {
		for _, s := range w.servers {
			n, _ := s.spool.Waiting()
			left += n
			for _, p := range s.peers.States() {
				moved += p.Sent + p.Received
			}
		}
		return left, moved
	}
	left, before := count()
	for range 180 {
		if left == 0 {
			break
		}
		time.Sleep(time.Minute)
		left, before = count()
	}
	time.Sleep(time.Hour)
	if left, after := count(); left != 0 || after != before {
		w.t.Errorf("%d envelopes are left, and %d have moved in an hour\n%s", left, after-before, w)
	}
}

// TestBurnt: what a server on the way had taken over, and lost with its disk, arrives all
// the same, once: by that server, be its key the old one or a new one that is trusted, or
// by another.
func TestBurnt(t *testing.T) {
	for _, c := range []struct {
		name            string
		copied          bool // there was no route: it has copies
		keepsKey, trust bool
		around          bool
	}{
		{"old key", false, true, false, false},
		{"new key", false, false, true, false},
		{"another way", false, false, false, true},
		{"copies, old key", true, true, false, false},
		{"copies, new key", true, false, true, false},
		{"copies, another way", true, false, false, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				w.add("a", "b", "c", "d")
				for _, k := range [][2]string{{"a", "b"}, {"b", "c"}, {"a", "d"}, {"d", "c"}} {
					w.plug(k[0], k[1], !c.copied && k[0] != "d" && k[1] != "d")
					w.link(k[0], k[1], 0)
				}
				time.Sleep(time.Minute)
				alice, carol := w.enter("alice", "a").come(), w.enter("carol", "c").come()
				w.hole("b", "c", true) // b takes it, and it gets no further
				m := alice.send("by way of b", carol)
				w.plug("a", "b", true)
				alice.learns(m, carol, message.Held)
				time.Sleep(time.Second)
				w.plug("b", "c", false)
				w.hole("b", "c", false)
				time.Sleep(10 * time.Minute)
				b := w.servers["b"]
				if n, _ := b.spool.Waiting(); n == 0 {
					t.Errorf("b has not taken it\n%s", w)
				}
				if n, _ := w.servers["a"].spool.Waiting(); n != 1 {
					t.Errorf("a does not keep it\n%s", w)
				}
				b.burn(c.keepsKey)
				if c.trust {
					w.plug("b", "c", true)
					time.Sleep(time.Minute)
					for _, s := range []string{"a", "c"} {
						_, err := w.servers[s].servers.Trust(b.key.Public().Fingerprint())
						check(t, err)
					}
				}
				if c.around {
					w.plug("a", "d", true)
					w.plug("d", "c", true)
				} else {
					w.plug("b", "c", true)
				}
				carol.has("by way of b")
				alice.learns(m, carol, message.Delivered)
				w.empty()
				carol.has("by way of b")
			})
		})
	}
}

// TestThereAndBack: a server has taken an envelope, and the way on goes back by the one
// that brought it, where it may still be known.
func TestThereAndBack(t *testing.T) {
	for _, slow := range []bool{false, true} {
		t.Run(fmt.Sprint("slow=", slow), func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				// home ─ a ─ b ─ c ─ d, and a dear way from a to c
				w.add("home", "a", "b", "c", "d")
				for _, k := range [][2]string{{"home", "a"}, {"a", "b"}, {"b", "c"}, {"c", "d"}} {
					w.link(k[0], k[1], 0)
				}
				w.link("a", "c", 0)
				a := w.servers["a"]
				a.conf.Peers[len(a.conf.Peers)-1].Ways[0].Cost = 1000
				a.peers.Configure(a.conf)
				time.Sleep(time.Minute)
				alice, dora := w.enter("alice", "home").come(), w.enter("dora", "d").come()
				var want []string
				var sent []client.Message
				for i := range 20 {
					want = append(want, fmt.Sprint(i))
					w.hole("b", "c", true) // b takes it, and it gets no further
					sent = append(sent, alice.send(want[i], dora))
					if slow {
						time.Sleep(time.Second) // b has it on its disk
					}
					w.plug("b", "c", false)
					w.hole("b", "c", false)
					start := time.Now()
					alice.learns(sent[i], dora, message.Delivered)
					if d := time.Since(start); d > 2*time.Minute {
						t.Errorf("it takes %v", d)
					}
					w.plug("b", "c", true)
					w.servers["b"].linked("a", "c")
					time.Sleep(time.Minute)
				}
				dora.has(want...)
				w.empty()
			})
		})
	}
}

// TestOldImage: a server goes on from what its disk was some time ago, while others have
// gone on. Routes to it work again, and what others have acked is shown, and once.
func TestOldImage(t *testing.T) {
	for seed := range seeds(2, 100) {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) { oldImage(t, w, rand.New(rand.NewPCG(seed, 7))) })
		})
	}
}

func oldImage(t *testing.T, w *world, r *rand.Rand) {
	// a ─ x ─ b ─ c, and sometimes a ─ c
	names := []string{"a", "x", "b", "c"}
	w.add(names...)
	cables := [][2]string{{"a", "x"}, {"x", "b"}, {"b", "c"}, {"a", "c"}}[:3+r.IntN(2)]
	for _, c := range cables {
		w.link(c[0], c[1], 0)
	}
	time.Sleep(time.Minute)
	people := map[string]*person{}
	for _, name := range names {
		people[name] = w.enter("user-"+name, name).come()
	}
	x := w.servers["x"]
	type letter struct {
		m        client.Message
		from, to string
	}
	var letters []letter
	want := map[string][]string{}
	write := func(from, to string) {
		body := fmt.Sprint(len(letters), " from ", from)
		letters = append(letters, letter{people[from].send(body, people[to]), from, to})
		want[to] = append(want[to], body)
	}
	life := func() {
		for range 12 {
			switch r.IntN(5) {
			case 0:
				c := cables[r.IntN(len(cables))]
				w.plug(c[0], c[1], r.IntN(2) == 0)
			case 1: // what waits for him at x is gone with its disk; its author's home has it
				people["x"].toggle()
			default:
				from, to := names[r.IntN(4)], names[r.IntN(4)]
				if from != to && from != "x" { // what x has acked to its own user is gone with its disk
					write(from, to)
				}
			}
			time.Sleep(time.Duration(r.IntN(60_000)) * time.Millisecond)
		}
	}
	life()
	if people["x"].leave == nil {
		people["x"].come()
	}
	write("x", "c")
	people["x"].until("an ack", func() bool {
		return people["x"].fate(letters[len(letters)-1].m, people["c"].address()).State >= message.Held
	})
	old := x.image()
	life()
	for range r.IntN(4) { // the numbers of its starts go on
		x.restart()
	}
	life()
	time.Sleep(time.Duration(r.IntN(8)) * time.Hour)
	x.restore(old)
	for _, c := range cables {
		w.plug(c[0], c[1], true)
	}
	life()
	for _, c := range cables {
		w.plug(c[0], c[1], true)
	}
	if people["x"].leave == nil {
		people["x"].come()
	}
	for _, l := range letters {
		people[l.from].learns(l.m, people[l.to], message.Delivered)
	}
	late := time.Now()
	for _, to := range names {
		for _, from := range names {
			if from != to {
				write(from, to)
				people[from].learns(letters[len(letters)-1].m, people[to], message.Delivered)
			}
		}
	}
	if d := time.Since(late); d > 5*time.Minute {
		t.Errorf("mail takes %v\n%s", d, w)
	}
	w.empty()
	for name, want := range want {
		people[name].hasAll(want)
	}
}

// TestAhead: a server that starts with a clock that is years ahead has mail that looks as if
// its lifetime were over; it passes it on, and nobody on its way or at its end believes that.
func TestAhead(t *testing.T) {
	for _, c := range []struct {
		name   string // the server
		copied bool   // the links were never up
	}{{"a", false}, {"b", false}, {"a", true}} {
		t.Run(fmt.Sprint(c.name, " copied=", c.copied), func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				w.add("a", "b", "c")
				for _, k := range [][2]string{{"a", "b"}, {"b", "c"}} {
					w.plug(k[0], k[1], !c.copied)
					w.link(k[0], k[1], 0)
				}
				time.Sleep(time.Minute)
				alice, carol := w.enter("alice", "a").come(), w.enter("carol", "c").come()
				w.plug("a", "b", c.name == "b")
				w.plug("b", "c", false)
				m := alice.send("patience", carol)
				alice.learns(m, carol, message.Held)
				time.Sleep(time.Minute)
				s := w.servers[c.name]
				s.stop()
				s.clock.Store(int64(year))
				s.start()
				start := time.Now()
				w.plug("a", "b", true)
				if c.copied {
					time.Sleep(time.Minute)
					w.plug("a", "b", false)
				}
				w.plug("b", "c", true)
				carol.has("patience")
				w.plug("a", "b", true)
				alice.learns(m, carol, message.Delivered)
				if d := time.Since(start); d > 3*time.Minute {
					t.Errorf("it takes %v", d)
				}
			})
		})
	}
}
