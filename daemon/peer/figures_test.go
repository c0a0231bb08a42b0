package peer_test

import (
	"testing"
	"time"

	"github.com/noipchat/noipchat/daemon/identity"
	"github.com/noipchat/noipchat/daemon/message"
)

// TestFigures: what an admin is shown of a peer is so while it is away, and when it has come.
func TestFigures(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.add("a", "b")
		w.plug("a", "b", false)
		w.link("a", "b", 0)
		a := w.servers["a"]
		alice, bob := w.enter("alice", "a").come(), w.enter("bob", "b").come()
		m := alice.send("hello", bob)
		alice.learns(m, bob, message.Held)
		alice.learns(alice.send("to nobody I know", &person{name: "nina", s: &server{name: "nowhere"}}), &person{name: "nina", s: &server{name: "nowhere"}}, message.Held)
		time.Sleep(time.Hour)
		s := a.state("b")
		if s.Up || !s.Wanted || !s.Configured || s.Links != 0 || s.Failures < 300 || s.Waiting != 1 || s.Kept != 0 || s.Untouched < time.Hour {
			t.Errorf("while it is away: %+v", s)
		}
		if f := a.peers.Figures(); f.Stuck.Waiting != 1 || f.Stuck.Untouched < time.Hour || f.Routes != 0 || f.CopyRoom != 1<<20 {
			t.Errorf("while it is away: %+v", f)
		}
		w.plug("a", "b", true)
		alice.learns(m, bob, message.Delivered)
		time.Sleep(time.Second)
		s = a.state("b")
		if !s.Up || s.Links != 1 || s.Waiting != 0 || s.Untouched != 0 || s.Sent < 1 || s.RTT == 0 {
			t.Errorf("when it is there: %+v", s)
		}
		if n := a.peers.Figures().Routes; n != 1 {
			t.Errorf("ways lead to %d servers", n)
		}
		w.lie("b", identity.NewKey(), "a")
		if n := a.peers.Figures().Impostors; n != 1 {
			t.Errorf("%d impostors", n)
		}
	})
}
