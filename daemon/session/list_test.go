package session_test

import (
	"testing"

	"github.com/noipchat/noipchat/daemon/client"
	"github.com/noipchat/noipchat/daemon/message"
)

// TestList: who gets a message to a list knows whom else it went to, and can answer all.
func TestList(t *testing.T) {
	scene(t, options{}, []string{"alice", "bob", "carol"}, func(t *testing.T, s *server, p []*person) {
		alice, bob, carol := p[0].come(), p[1].come(), p[2].come()
		alice2 := s.second(alice).come()
		list, err := alice.store.SetList(t.Context(), "friends", []message.Address{bob.address(), carol.address()})
		check(t, err)
		_, err = alice.store.EnqueueToList(t.Context(), list, client.Outgoing{Body: []byte("hello all")})
		check(t, err)
		alice.c.Kick()
		bob.has("hello all")
		carol.has("hello all")
		history, err := bob.store.History(client.Query{})
		check(t, err)
		theirs, ok, err := bob.store.ListByID(history[0].ListID())
		if check(t, err); !ok || history[0].List != "friends" || theirs.Owner != alice.address() || len(theirs.Members) != 3 {
			t.Fatalf("bob knows the list as %+v, and the message as %+v", theirs, history[0])
		}
		_, err = bob.store.EnqueueToList(t.Context(), theirs, client.Outgoing{Body: []byte("hello you")})
		check(t, err)
		bob.c.Kick()
		alice.has("hello you")
		carol.has("hello all", "hello you")
		alice2.has("hello you")
		alice2.until("the list", func() bool {
			l, ok, err := alice2.store.List("friends")
			check(t, err)
			return ok && l.Owner == alice.address()
		})
	})
}
