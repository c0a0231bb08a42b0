package session_test

import (
	"slices"
	"testing"

	"github.com/noipchat/noipchat/daemon/client"
	"github.com/noipchat/noipchat/daemon/identity"
	"github.com/noipchat/noipchat/daemon/message"
)

func (p *person) key() identity.PublicKey { return identity.KeyFromSeed(p.c.Account().Seed).Public() }

// devices asks the home.
func (p *person) devices(of message.Address) []identity.PublicKey {
	p.t.Helper()
	keys, err := p.c.Keys(p.t.Context(), of)
	check(p.t, err)
	return keys
}

// TestKeys: who is logged in learns which devices a user has; who is no user looks
// like one who has none.
func TestKeys(t *testing.T) {
	scene(t, options{}, []string{"alice", "bob"}, func(t *testing.T, s *server, p []*person) {
		alice, bob := p[0].come(), p[1]
		s.add("carol")
		second := s.enter("bob")
		if have := alice.devices(bob.address()); !slices.Equal(have, identity.SortKeys([]identity.PublicKey{bob.key(), second.key()})) {
			t.Errorf("bob has %v", have)
		}
		if have := alice.devices(alice.address()); !slices.Equal(have, []identity.PublicKey{alice.key()}) {
			t.Errorf("alice has %v", have)
		}
		for _, nobody := range []message.Address{"carol@server1", "dave@server1", "bob@server2", "server1", "", "not an address"} {
			if have := alice.devices(nobody); have != nil {
				t.Errorf("%s has %v", nobody, have)
			}
		}
	})
}

// TestChangedDevices: nothing goes to devices that somebody has not verified, and
// all else goes as ever.
func TestChangedDevices(t *testing.T) {
	scene(t, options{}, []string{"alice", "bob", "carol"}, func(t *testing.T, s *server, p []*person) {
		alice, bob, carol := p[0].come(), p[1], p[2]
		check(t, alice.store.AddContact("Bob", bob.address()))
		check(t, alice.store.AddContact("Carol", carol.address()))
		verify := func() {
			t.Helper()
			check(t, alice.store.VerifyContact(bob.address(), alice.devices(bob.address())))
		}
		trust := func(who *person, want client.Trust) {
			t.Helper()
			if c, err := alice.store.Contact(string(who.address())); err != nil || c.Trust != want {
				t.Errorf("%s is %v, %v; want %v", who.name, c.Trust, err, want)
			}
		}
		verify()
		alice.learns(alice.send("one", bob), bob.address(), message.Held)
		trust(bob, client.Verified)

		// He has another device. In this session his home was asked; in the next one it is asked again.
		s.enter("bob")
		alice.learns(alice.send("two", bob), bob.address(), message.Held)
		check(t, alice.leave())
		m := alice.send("three", bob, carol)
		alice.come()
		alice.learns(m, carol.address(), message.Held)
		if r := alice.learns(m, bob.address(), message.Refused); r.Code != message.CodeNotAllowed {
			t.Errorf("it is refused with %+v", r)
		}
		trust(bob, client.Changed)
		trust(carol, client.Unverified)
		alice.learns(alice.send("four", bob), bob.address(), message.Refused)
		path, _ := made(t, "plan.pdf", 5*message.PartSize)
		m = alice.sendFile(path, bob, carol)
		alice.learns(m, bob.address(), message.Refused)
		alice.learns(m, carol.address(), message.Held)
		alice.learns(alice.send("five", carol), carol.address(), message.Held)

		// It goes again as soon as he is verified, in the same session.
		verify()
		alice.learns(alice.send("six", bob), bob.address(), message.Held)
		trust(bob, client.Verified)

		// One less is no change; none at all is: whoever comes next would get what waits.
		check(t, alice.leave())
		check(t, s.users.RemoveDevice("bob", bob.c.Account().Device))
		s.host.Refresh("bob")
		alice.come()
		alice.learns(alice.send("seven", bob), bob.address(), message.Held)
		trust(bob, client.Verified)
		check(t, alice.leave())
		user, _ := s.users.Show("bob")
		check(t, s.users.RemoveDevice("bob", user.Devices[0].ID))
		s.host.Refresh("bob")
		alice.come()
		alice.learns(alice.send("eight", bob), bob.address(), message.Refused)
		trust(bob, client.Changed)

		// A contact that was never verified is marked, and written to.
		s.enter("carol")
		check(t, alice.leave())
		alice.come()
		alice.learns(alice.send("nine", carol), carol.address(), message.Held)
		trust(carol, client.Changed)

		// Who is no contact any more is not watched.
		check(t, alice.store.RemoveContact(bob.address()))
		alice.learns(alice.send("ten", bob), bob.address(), message.Held)
	})
}
