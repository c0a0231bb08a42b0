package peer_test

import (
	"testing"
	"time"

	"github.com/noipchat/noipchat/daemon/message"
)

// TestIdleCut: a cable is pulled while its link is closed because nobody needs it. What
// goes by it then goes another way, which has to be asked for over links that are closed.
func TestIdleCut(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.add("a", "b", "c", "d", "e")
		for _, l := range []string{"ab", "bc", "cd", "de", "ea"} {
			w.link(l[:1], l[1:], 15*time.Second)
			w.link(l[1:], l[:1], 15*time.Second)
		}
		time.Sleep(time.Minute)
		alice, carol := w.enter("alice", "a").come(), w.enter("carol", "c").come()
		alice.learns(alice.send("the short way", carol), carol, message.Delivered)
		time.Sleep(time.Minute)
		if up := w.servers["a"].peers.Names(); len(up) > 0 {
			t.Fatalf("links to %v are up", up)
		}
		w.plug("a", "b", false)
		began := time.Now()
		alice.learns(alice.send("the long way", carol), carol, message.Delivered)
		if d := time.Since(began); d > 10*time.Second {
			t.Errorf("it took %v", d)
		}
		carol.has("the short way", "the long way")
	})
}

// TestStays: a new link is not closed as if nobody had needed it for as long as its
// server runs.
func TestStays(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.add("a", "b")
		time.Sleep(time.Hour)
		w.link("a", "b", 15*time.Second)
		time.Sleep(14 * time.Second)
		w.servers["a"].linked("b")
	})
}

// TestIdleDialled: a link that the other side has closed, and that can't be dialled from
// here, is no way.
func TestIdleDialled(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.add("a", "b", "c", "d")
		w.link("b", "a", 15*time.Second)
		for _, l := range []string{"ac", "cd", "db"} {
			w.link(l[:1], l[1:], 0)
		}
		time.Sleep(time.Minute)
		alice, bob := w.enter("alice", "a").come(), w.enter("bob", "b").come()
		w.servers["a"].linked("c")
		began := time.Now()
		alice.learns(alice.send("by the others", bob), bob, message.Delivered)
		if d := time.Since(began); d > 10*time.Second {
			t.Errorf("it took %v", d)
		}
	})
}

// TestIdleRemoved: a peer that is removed while its link is closed is no way.
func TestIdleRemoved(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.add("a", "b", "c")
		for _, l := range []string{"ac", "cb"} {
			w.link(l[:1], l[1:], 0)
		}
		w.link("a", "b", 15*time.Second)
		time.Sleep(time.Minute)
		a := w.servers["a"]
		a.linked("c")
		a.conf.Peers = a.conf.Peers[:1]
		a.peers.Configure(a.conf)
		alice, bob := w.enter("alice", "a").come(), w.enter("bob", "b").come()
		began := time.Now()
		alice.learns(alice.send("by the other", bob), bob, message.Delivered)
		if d := time.Since(began); d > 10*time.Second {
			t.Errorf("it took %v", d)
		}
	})
}
