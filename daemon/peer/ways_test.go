package peer_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/noipchat/noipchat/daemon/message"
	"github.com/noipchat/noipchat/daemon/peer"
	"github.com/noipchat/noipchat/daemon/transport"
	"github.com/noipchat/noipchat/daemon/wire"
)

// way is one by a cable of that name.
func (w *world) way(to, cable string, cost int, timeout time.Duration, line transport.Properties) peer.Way {
	return peer.Way{Address: transport.Address{Kind: "tcp", Local: cable, Remote: w.servers[to].address, Line: line}, Timeout: timeout, Cost: cost}
}

// ways makes b a peer of a's with several ways, the cheapest first.
func (w *world) ways(a, b string, ways ...peer.Way) {
	s := w.servers[a]
	s.conf.Peers = append(s.conf.Peers, peer.Peer{Name: b, Ways: ways})
	s.peers.Configure(s.conf)
}

// dialled tells how often a cable between a and b was dialled by, both ways.
func (w *world) dialled(a, b string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.dials[cable(a, b)]
}

// by is the cable of the link that a or b has dialled; "": there is none.
func (w *world) by(a, b string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, pair := range [][2]string{{a, b}, {b, a}} {
		for _, x := range w.servers[pair[0]].peers.States() {
			if x.Name == pair[1] && x.Up && x.Cost > 0 {
				return map[int]string{10: "cheap", 500: "dear"}[x.Cost]
			}
		}
	}
	return ""
}

// goesBy waits until the link between a and b is by a cable, and returns how long that took.
func (w *world) goesBy(a, b, cable string) time.Duration {
	w.t.Helper()
	began := time.Now()
	for w.by(a, b) != cable {
		if time.Since(began) > 10*time.Minute {
			w.t.Fatalf("the link between %s and %s is by %q, not by %q\n%s", a, b, w.by(a, b), cable, w)
		}
		time.Sleep(100 * time.Millisecond)
	}
	return time.Since(began)
}

// TestCheaperWay: a link that goes by a dear way, because the cheap one couldn't be had, goes
// back to that when it can be had again, whoever dials which, with mail under way both ways: nothing is lost, or
// comes twice; and then it stays.
func TestCheaperWay(t *testing.T) {
	none := transport.Properties{}
	for name, lay := range map[string]func(w *world){
		"one dials": func(w *world) {
			w.ways("a", "b", w.way("b", "cheap", 10, 0, none), w.way("b", "dear", 500, 0, none))
		},
		"both dial": func(w *world) {
			w.ways("a", "b", w.way("b", "cheap", 10, 0, none), w.way("b", "dear", 500, 0, none))
			w.ways("b", "a", w.way("a", "cheap", 10, 0, none), w.way("a", "dear", 500, 0, none))
		},
		"one has the cheap way, the other the dear one": func(w *world) {
			w.ways("a", "b", w.way("b", "cheap", 10, 0, none))
			w.ways("b", "a", w.way("a", "dear", 500, 0, none))
		},
		"and the other way round": func(w *world) {
			w.ways("b", "a", w.way("a", "cheap", 10, 0, none))
			w.ways("a", "b", w.way("b", "dear", 500, 0, none))
		},
		"closed when idle": func(w *world) { // people write oftener than that
			w.ways("a", "b", w.way("b", "cheap", 10, 15*time.Second, none), w.way("b", "dear", 500, 15*time.Second, none))
			w.ways("b", "a", w.way("a", "cheap", 10, 15*time.Second, none), w.way("a", "dear", 500, 15*time.Second, none))
		},
	} {
		if testing.Short() && name != "both dial" { // the race detector takes ten times as long
			continue
		}
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				w.add("a", "b", "c")
				w.link("b", "c", 0) // c is behind b
				lay(w)
				alice, bob, carol := w.enter("alice", "a").come(), w.enter("bob", "b").come(), w.enter("carol", "c").come()
				var writing sync.WaitGroup
				ctx, stop := context.WithCancel(t.Context())
				wrote := map[*person]*[]string{alice: new([]string), carol: new([]string)}
				for _, p := range []*person{alice, carol} {
					to := map[*person][]*person{alice: {bob, carol}, carol: {alice}}[p]
					writing.Go(func() {
						for n := 0; ctx.Err() == nil; n++ {
							body := fmt.Sprint(p.name, n)
							if n%10 == 9 { // so that something is under way
								body += strings.Repeat(" and so on", 5000)
							}
							p.send(body, to...)
							*wrote[p] = append(*wrote[p], body)
							time.Sleep(4 * time.Second)
						}
					})
				}
				w.goesBy("a", "b", "cheap")
				for range 2 {
					time.Sleep(time.Minute)
					w.plug("a", "b/cheap", false)
					if d := w.goesBy("a", "b", "dear"); d > 20*time.Second {
						t.Errorf("it takes %v to take the dear way", d)
					}
					time.Sleep(3 * time.Minute)
					if by := w.by("a", "b"); by != "dear" {
						t.Errorf("the cheap way is cut, and the link is by %q", by)
					}
					w.plug("a", "b/cheap", true)
					if d := w.goesBy("a", "b", "cheap"); d > 2*time.Minute {
						t.Errorf("it takes %v to go back to the cheap way", d)
					}
				}
				time.Sleep(time.Minute)
				links, dials := w.servers["a"].state("b").Links, w.dialled("a", "b/cheap")+w.dialled("a", "b/dear")
				time.Sleep(10 * time.Minute)
				if now := w.servers["a"].state("b").Links; now != links {
					t.Errorf("links came up %d times, and nothing was wrong", now-links)
				}
				if now := w.dialled("a", "b/cheap") + w.dialled("a", "b/dear"); now != dials {
					t.Errorf("the peer was dialled %d times, and nothing was wrong", now-dials)
				}
				stop()
				writing.Wait()
				time.Sleep(time.Hour)
				bob.hasAll(*wrote[alice])
				carol.hasAll(*wrote[alice])
				alice.hasAll(*wrote[carol])
				w.empty()
			})
		})
	}
}

// TestCheaperSilent: a cheaper way with a timeout is not opened when nothing is to be said,
// and is when much is.
func TestCheaperSilent(t *testing.T) {
	if testing.Short() {
		t.Skip("the race detector takes ten times as long for these hours")
	}
	bubble(t, func(t *testing.T, w *world) {
		w.add("a", "b")
		w.plug("a", "b/cheap", false)
		w.ways("a", "b", w.way("b", "cheap", 10, 15*time.Second, transport.Properties{}), w.way("b", "dear", 500, 0, transport.Properties{Rate: 9600}))
		w.goesBy("a", "b", "dear")
		w.plug("a", "b/cheap", true)
		time.Sleep(time.Hour)
		alice, bob := w.enter("alice", "a").come(), w.enter("bob", "b").come()
		before := w.dialled("a", "b/cheap")
		for n := range 3 {
			alice.learns(alice.send(fmt.Sprint(n), bob), bob, message.Delivered)
			time.Sleep(time.Hour)
		}
		if n := w.dialled("a", "b/cheap") - before; n > 0 || w.by("a", "b") != "dear" {
			t.Errorf("the cheap way was dialled %d times for some words, and the link is by %q", n, w.by("a", "b"))
		}
		m := alice.sendFile("film", 1_000_000, 0, bob) // 18 minutes by the dear way
		if d := w.goesBy("a", "b", "cheap"); d > 2*time.Minute {
			t.Errorf("a film takes the cheap way after %v", d)
		}
		alice.learns(m, bob, message.Delivered)
		w.goesBy("a", "b", "dear") // which stays up, and the cheap one doesn't
		before = w.dialled("a", "b/cheap")
		time.Sleep(time.Hour)
		if n := w.dialled("a", "b/cheap") - before; n > 0 {
			t.Errorf("the cheap way was dialled %d times, and nothing was to be said", n)
		}
		bob.has("0", "1", "2", "film")
	})
}

// TestCheaperQuiet: a cheaper way by a line where every byte counts is tried seldom; and at
// once, if somebody wants it.
func TestCheaperQuiet(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.add("a", "b")
		w.plug("a", "b/cheap", false)
		w.ways("a", "b", w.way("b", "cheap", 10, 0, transport.Properties{Rate: 1200, Exclusive: true}), w.way("b", "dear", 500, 0, transport.Properties{}))
		w.goesBy("a", "b", "dear")
		time.Sleep(3 * time.Hour)
		before := w.dialled("a", "b/cheap")
		time.Sleep(24 * time.Hour)
		if n := w.dialled("a", "b/cheap") - before; n < 100 || n > 300 {
			t.Errorf("it was tried %d times in a day, and not about every 10 minutes, 60 times the longest wait here", n)
		}
		w.plug("a", "b/cheap", true)
		w.servers["a"].peers.Retry("b")
		if d := w.goesBy("a", "b", "cheap"); d > 30*time.Second {
			t.Errorf("it takes %v", d)
		}
	})
}

// TestNoFlapping: a cheaper way by which links come up and don't last doesn't take the
// place of a good one again and again.
func TestNoFlapping(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.add("a", "b")
		w.plug("a", "b/cheap", false)
		w.ways("a", "b", w.way("b", "cheap", 10, 0, transport.Properties{}), w.way("b", "dear", 500, 0, transport.Properties{}))
		alice, bob := w.enter("alice", "a").come(), w.enter("bob", "b").come()
		var want []string
		up := 0
		for began := time.Now(); time.Since(began) < 6*time.Hour; {
			w.plug("a", "b/cheap", true)
			for range 60 {
				if w.by("a", "b") == "cheap" {
					up++
					break
				}
				time.Sleep(time.Second)
			}
			want = append(want, fmt.Sprint(len(want)))
			alice.send(want[len(want)-1], bob)
			w.plug("a", "b/cheap", false) // as soon as it is used
			w.goesBy("a", "b", "dear")
		}
		if up < 3 || up > 80 {
			t.Errorf("in 6 hours it took the place of the dear one %d times", up)
		}
		w.plug("a", "b/cheap", true)
		time.Sleep(2 * time.Hour)
		if by := w.by("a", "b"); by != "cheap" {
			t.Errorf("in the end it lasts, and the link is by %q", by)
		}
		bob.hasAll(want)
	})
}

// TestDeadLink: a link that would stay, and is dead, doesn't keep away for long another one that
// is dialled because of that.
func TestDeadLink(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.add("a", "m")
		dead := w.lie("m", w.servers["m"].key, "a", func(h *wire.ClientHello) { h.Cost = 10 })
		defer dead.conn.Close()
		w.servers["a"].linked("m")
		time.Sleep(time.Second)
		w.ways("a", "m", w.way("m", "dear", 500, 0, transport.Properties{}))
		time.Sleep(time.Second)
		synctest.Wait()
		if by := w.by("a", "m"); by != "" {
			t.Errorf("the link is by %q at once", by)
		}
		if d := w.goesBy("a", "m", "dear"); d > 30*time.Second {
			t.Errorf("it takes %v", d)
		}
	})
}

// TestNext: when a peer is dialled again is told as long as that is to come; and why the
// ways were none is one line.
func TestNext(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.add("a", "b")
		w.plug("a", "b/cheap", false)
		w.plug("a", "b/dear", false)
		w.ways("a", "b", w.way("b", "cheap", 10, 0, transport.Properties{}), w.way("b", "dear", 500, 0, transport.Properties{}))
		a := w.servers["a"]
		for range 100 {
			time.Sleep(time.Second)
			synctest.Wait()
			if x := a.state("b"); x.Next.Before(time.Now()) || strings.Contains(x.Err.Error(), "\n") || strings.Count(x.Err.Error(), "the cable is cut") != 2 {
				t.Fatalf("the next attempt is in %v, after %q", time.Until(x.Next), x.Err)
			}
		}
		w.plug("a", "b/dear", true)
		w.goesBy("a", "b", "dear")
		w.servers["b"].stop()
		synctest.Wait()
		a.conf.Peers = nil
		a.peers.Configure(a.conf)
		time.Sleep(time.Hour)
		if x := a.state("b"); !x.Next.IsZero() {
			t.Errorf("the next attempt is in %v, of a peer that is none any more", time.Until(x.Next))
		}
	})
}
