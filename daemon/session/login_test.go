package session_test

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/noipchat/noipchat/daemon/client"
	"github.com/noipchat/noipchat/daemon/identity"
	"github.com/noipchat/noipchat/daemon/message"
	"github.com/noipchat/noipchat/daemon/transport"
	"github.com/noipchat/noipchat/daemon/wire"
)

// knock tries to log in and returns the answer: nil is yes.
func (s *server) knock(t testing.TB, key identity.Key, say func(*wire.ClientHello)) *message.Refusal {
	t.Helper()
	c, _ := s.shake(t, key, say)
	defer c.Close()
	r := &raw{t: t, conn: c}
	f := r.next()
	if f.t != wire.WelcomeFrame {
		t.Fatalf("a %v for a welcome", f.t)
	}
	w, err := wire.ParseWelcome(f.body)
	check(t, err)
	if w.No != nil {
		if f := r.next(); f.t != 0 {
			t.Errorf("a %v after a no", f.t)
		}
	}
	return w.No
}

func byPassword(user, password string) func(*wire.ClientHello) {
	return func(h *wire.ClientHello) { h.Method, h.User, h.Password = wire.ByPassword, user, password }
}

// TestStrangers: whoever is not let in learns nothing of why, at the same cost.
func TestStrangers(t *testing.T) {
	o := options{identity: identity.Options{Failures: 1000, AddressFails: 1000}}
	scene(t, o, []string{"alice", "off", "gone"}, func(t *testing.T, s *server, p []*person) {
		alice, off, gone := p[0], p[1], p[2]
		check(t, s.users.Disable("off", true))
		check(t, s.users.Remove("gone"))
		other := alice.c.Account().Seed
		other[0]++
		key := identity.KeyFromSeed
		byDevice := func(user string) func(*wire.ClientHello) {
			return func(h *wire.ClientHello) { h.Method, h.User = wire.ByDevice, user }
		}
		var first *message.Refusal
		for _, c := range []struct {
			name   string
			key    identity.Key
			say    func(*wire.ClientHello)
			hashes uint64
		}{
			{"wrong password", identity.NewKey(), byPassword("alice", "a wrong password"), 1},
			{"wrong password, known device", key(alice.c.Account().Seed), byPassword("alice", "a wrong password"), 1},
			{"unknown user", identity.NewKey(), byPassword("nobody", password), 1},
			{"disabled user", identity.NewKey(), byPassword("off", password), 1},
			{"disabled user, wrong password", identity.NewKey(), byPassword("off", "a wrong password"), 1},
			{"removed user", key(gone.c.Account().Seed), byPassword("gone", password), 1},
			{"no password", identity.NewKey(), byPassword("alice", ""), 0},
			{"no password, unknown user", identity.NewKey(), byPassword("nobody", ""), 0},
			{"impossible password", identity.NewKey(), byPassword("alice", "a\x00password"), 0},
			{"impossible password, unknown user", identity.NewKey(), byPassword("nobody", "a\x00password"), 0},
			{"unknown device", key(other), byDevice("alice"), 0},
			{"device of another user", key(off.c.Account().Seed), byDevice("alice"), 0},
			{"device of a user that isn't", key(alice.c.Account().Seed), byDevice("nobody"), 0},
			{"disabled user's device", key(off.c.Account().Seed), byDevice("off"), 0},
			{"removed user's device", key(gone.c.Account().Seed), byDevice("gone"), 0},
		} {
			before, start := s.hasher.Evaluations(), time.Now()
			no := s.knock(t, c.key, c.say)
			if no == nil || no.Code != message.CodeBadLogin || !no.Permanent {
				t.Errorf("%s: %v", c.name, no)
			}
			if first == nil {
				first = no
			}
			if !reflect.DeepEqual(no, first) {
				t.Errorf("%s is told %q, and others %q", c.name, no, first)
			}
			if n := s.hasher.Evaluations() - before; n != c.hashes {
				t.Errorf("%s: %d hashes, not %d", c.name, n, c.hashes)
			}
			if d := time.Since(start); d != 0 {
				t.Errorf("%s: somebody waited for %v", c.name, d)
			}
		}
		if n := s.host.Stats().LoginFail[message.CodeBadLogin].Load(); n != 15 {
			t.Errorf("%d failures were counted", n)
		}
		if no := s.knock(t, key(alice.c.Account().Seed), byDevice("alice")); no != nil {
			t.Errorf("alice: %v", no)
		}
	})
}

// TestTooManyFailures: an account and an address have to wait, known or not, and
// only so long.
func TestTooManyFailures(t *testing.T) {
	o := options{identity: identity.Options{Failures: 5, AddressFails: 20}}
	scene(t, o, []string{"alice", "bob"}, func(t *testing.T, s *server, p []*person) {
		fails := 0
		fail := func(user string, want message.Code) {
			t.Helper()
			before := s.hasher.Evaluations()
			no := s.knock(t, identity.NewKey(), byPassword(user, "a wrong password"))
			if no == nil || no.Code != want {
				t.Fatalf("failure %d, of %s: %v", fails, user, no)
			}
			if want == message.CodeLater && (no.Permanent || no.After <= 0 || no.After > 15*time.Minute || s.hasher.Evaluations() != before) {
				t.Fatalf("%v, %d hashes", no, s.hasher.Evaluations()-before)
			}
			fails++
		}
		for _, user := range []string{"alice", "nobody"} {
			for range 5 {
				fail(user, message.CodeBadLogin)
			}
			fail(user, message.CodeLater)
		}
		if no := s.knock(t, identity.NewKey(), byPassword("alice", password)); no == nil || no.Code != message.CodeLater {
			t.Errorf("the right password at the wrong time: %v", no)
		}
		p[0].come() // a device is not kept out by strangers
		for i := range 10 {
			fail(fmt.Sprint("user", i/5), message.CodeBadLogin)
		}
		fail("bob", message.CodeLater) // now it is the address
		if no := s.knock(t, identity.NewKey(), byPassword("bob", password)); no == nil || no.Code != message.CodeLater {
			t.Errorf("the address still may: %v", no)
		}
		time.Sleep(15 * time.Minute)
		if no := s.knock(t, identity.NewKey(), byPassword("alice", password)); no != nil {
			t.Errorf("after the window: %v", no)
		}
	})
}

// TestAddresses: failures from one address don't keep another out.
func TestAddresses(t *testing.T) {
	s := open(t, loopback{}, t.TempDir(), options{identity: identity.Options{AddressFails: 3}})
	s.add("alice")
	from := func(ip string) *message.Refusal {
		dialler := from{loopback{}, ip}
		other := *s
		other.net = dialler
		return other.knock(t, identity.NewKey(), byPassword("alice", "a wrong password"))
	}
	for range 3 {
		if no := from("127.0.0.2"); no == nil || no.Code != message.CodeBadLogin {
			t.Fatal(no)
		}
	}
	if no := from("127.0.0.2"); no == nil || no.Code != message.CodeLater {
		t.Error(no)
	}
	if no := from("127.0.0.3"); no == nil || no.Code != message.CodeBadLogin {
		t.Error(no)
	}
}

// from dials from an address.
type from struct {
	loopback
	ip string
}

func (f from) dial(ctx context.Context, address string) (transport.Conn, error) {
	return transport.Dial(ctx, "tcp", f.ip, address)
}

// TestJoining: who may become a user.
func TestJoining(t *testing.T) {
	o := options{identity: identity.Options{JoinsPerHour: 3}}
	scene(t, o, []string{"alice"}, func(t *testing.T, s *server, p []*person) {
		alice := p[0].come()
		join := func(user, invite string) error {
			t.Helper()
			e := s.entry(user)
			e.Join, e.Invite = true, invite
			store, err := client.OpenStore(t.TempDir())
			check(t, err)
			defer store.Close()
			_, err = client.Login(t.Context(), store, e, alice.o)
			return err
		}
		want := func(what string, err error, code message.Code) {
			t.Helper()
			if no := refusal(err); err == nil && code != 0 || err != nil && (no == nil || no.Code != code) {
				t.Errorf("%s: %v, want %v", what, err, code)
			}
		}
		want("closed", join("bob", ""), message.CodeClosed)
		want("closed, and there is one", join("alice", ""), message.CodeClosed)

		s.users.SetMode(identity.InviteOnly)
		token, err := s.users.Invite(identity.InviteOptions{Uses: 2})
		check(t, err)
		want("no invitation", join("bob", ""), message.CodeClosed)
		want("no invitation, and there is one", join("alice", ""), message.CodeClosed)
		want("a wrong one", join("bob", strings.Repeat("a", len(token))), message.CodeClosed)
		want("the name is taken", join("alice", token), message.CodeExists)
		want("a name that is none", join("bob@server1", token), message.CodeInvalid)
		want("an invitation", join("bob", token), 0)
		m := alice.write(client.Outgoing{Body: []byte("welcome"), To: []message.Address{"bob@" + home}})
		alice.learns(m, "bob@"+home, message.Held)
		want("its second use", join("carol", token), 0)
		want("its third use", join("dave", token), message.CodeClosed)
		own, err := s.users.Invite(identity.InviteOptions{User: "eve", ValidFor: time.Hour})
		check(t, err)
		want("somebody else's", join("dave", own), message.CodeNotAllowed)
		time.Sleep(2 * time.Hour)
		want("too old", join("eve", own), message.CodeClosed)

		s.users.SetMode(identity.Open)
		for i := range 3 {
			want("open", join(fmt.Sprint("user", i), ""), 0)
		}
		want("too many", join("user3", ""), message.CodeLater)
		time.Sleep(time.Hour)
		want("an hour later", join("user3", ""), 0)
	})
}

// TestPassword: a user changes it over his session; his devices stay.
func TestPassword(t *testing.T) {
	scene(t, options{}, []string{"alice", "bob"}, func(t *testing.T, s *server, p []*person) {
		alice, bob := p[0].come(), p[1].come()
		ctx := t.Context()
		if no := refusal(alice.c.Password(ctx, "a wrong password", "another password")); no == nil || no.Code != message.CodeBadLogin {
			t.Errorf("a wrong old password: %v", no)
		}
		if no := refusal(alice.c.Password(ctx, password, "short")); no == nil || no.Code != message.CodeInvalid {
			t.Errorf("a password that is none: %v", no)
		}
		if no := s.knock(t, identity.NewKey(), byPassword("alice", password)); no != nil {
			t.Errorf("nothing was changed, and %v", no)
		}
		check(t, alice.c.Password(ctx, password, "another password"))
		if no := s.knock(t, identity.NewKey(), byPassword("alice", password)); no == nil {
			t.Error("the old one is still good")
		}
		if no := s.knock(t, identity.NewKey(), byPassword("alice", "another password")); no != nil {
			t.Errorf("the new one: %v", no)
		}
		m := bob.send("hi", alice)
		alice.has("hi")
		bob.until("held or delivered", func() bool { return bob.fate(m, alice.address()).State >= message.Held })
		alice.leave()
		alice.come()

		_, err := alice.c.Ask(ctx, 99, "x")
		if no := refusal(err); no == nil || no.Code != message.CodeInvalid {
			t.Errorf("an unknown request: %v", err)
		}
		for range 10 {
			alice.c.Password(ctx, "a wrong password", "a third password")
		}
		if no := refusal(alice.c.Password(ctx, "another password", "a third password")); no == nil || no.Code != message.CodeLater {
			t.Errorf("after ten failures: %v", no)
		}
	})
}

// TestPasswordDelaysNobody: a hash takes time, and whoever gets a message from the
// one who waits for it does not wait too.
func TestPasswordDelaysNobody(t *testing.T) {
	s := open(t, loopback{}, t.TempDir(), options{cost: identity.Cost{Memory: 64 << 10, Passes: 6, Lanes: 1}})
	s.add("alice", "bob")
	alice, bob := s.enter("alice").raw(t), s.enter("bob").raw(t)
	start := time.Now()
	alice.say(append(alice.envelope("hi", nil, bob.address),
		wire.AppendRequest(nil, wire.Request{Number: 1, Op: wire.OpPassword, Args: []string{password, "another password"}})...))
	answered := make(chan time.Duration)
	go func() {
		for alice.next().t != wire.AnswerFrame {
		}
		answered <- time.Since(start)
	}()
	bob.expect("hi")
	waited := time.Since(start)
	if hashed := <-answered; waited > hashed/2 {
		t.Errorf("bob waits %v for a hash of alice's that takes %v", waited, hashed)
	}
}

// TestShutOut: a user is removed or disabled while he is connected.
func TestShutOut(t *testing.T) {
	scene(t, options{}, []string{"alice", "bob", "carol"}, func(t *testing.T, s *server, p []*person) {
		alice, bob, carol := p[0].come(), p[1].come(), p[2].come()
		check(t, s.users.Disable("bob", true))
		s.host.Refresh("bob")
		if err := ended(bob); refusal(err) == nil || refusal(err).Code != message.CodeRemoved {
			t.Errorf("bob's session ends with %v", err)
		}
		check(t, s.users.Remove("carol"))
		s.host.Refresh("carol")
		if err := ended(carol); refusal(err) == nil || refusal(err).Code != message.CodeRemoved {
			t.Errorf("carol's session ends with %v", err)
		}
		m := alice.send("still there?", bob, carol)
		alice.learns(m, bob.address(), message.Held)
		if r := alice.learns(m, carol.address(), message.Refused); r.Code != message.CodeNoUser {
			t.Errorf("%v", r.Code)
		}
		check(t, s.users.Disable("bob", false))
		s.host.Refresh("bob")
		bob.come().has("still there?")
		if sessions, pending := s.host.Count(); sessions != 2 || pending != 0 {
			t.Errorf("%d sessions, %d pending", sessions, pending)
		}
		dev := bob.c.Account().Device
		check(t, s.users.RemoveDevice("bob", dev))
		s.host.Refresh("bob")
		if err := ended(bob); !client.Final(err) {
			t.Errorf("%v", err)
		}
	})
}

// ended waits until a client gives up, and returns why.
func ended(p *person) error {
	p.t.Helper()
	synctest.Wait()
	up, _ := p.c.Connected()
	if up {
		p.t.Errorf("%s is still connected", p.name)
	}
	err := p.leave()
	if err == nil {
		err = errors.New("nothing was said")
	}
	return err
}

// TestShutOutAtLogin: whoever is removed in the middle of his login has no session.
func TestShutOutAtLogin(t *testing.T) {
	scene(t, options{}, []string{"alice"}, func(t *testing.T, s *server, p []*person) {
		for range 200 {
			done := make(chan *raw)
			go func() { done <- p[0].tryRaw(nil) }()
			check(t, s.users.Disable("alice", true))
			s.host.Refresh("alice")
			r := <-done
			synctest.Wait()
			if n, _ := s.host.Count(); n != 0 {
				t.Fatal("a disabled user has a session")
			}
			r.conn.Close()
			check(t, s.users.Disable("alice", false))
			s.host.Refresh("alice")
			synctest.Wait()
		}
	})
}

// TestLies: what a device may not write.
func TestLies(t *testing.T) {
	scene(t, options{}, []string{"alice", "bob", "mallory"}, func(t *testing.T, s *server, p []*person) {
		alice, bob, mallory := p[0].come(), p[1], p[2].raw(t)
		m := alice.send("hello", bob)
		alice.learns(m, bob.address(), message.Held)
		report := func(state message.State, receiver *person, kind message.Kind) func(*message.Envelope) {
			return func(e *message.Envelope) {
				r := message.Report{State: state, Receiver: receiver.address(), Device: m.Device, Counters: message.Ranges{{First: m.Counter, Last: m.Counter}}}
				if kind == message.Bounce {
					r.Code = message.CodeQuota
				}
				e.Kind, e.Priority, e.Body = kind, message.Urgent, r.Append(nil)
			}
		}
		for _, c := range []struct {
			name   string
			change func(*message.Envelope)
		}{
			{"a read receipt for another", report(message.Read, bob, message.Receipt)},
			{"a delivered receipt", report(message.Delivered, p[2], message.Receipt)},
			{"a held receipt", report(message.Held, p[2], message.Receipt)},
			{"a bounce", report(message.Refused, bob, message.Bounce)},
			{"a bounce for himself", report(message.Expired, p[2], message.Bounce)},
			{"a receipt of nothing", func(e *message.Envelope) { e.Kind, e.Body = message.Receipt, nil }},
			{"another's name", func(e *message.Envelope) { e.From = bob.address() }},
			{"another's name and device", func(e *message.Envelope) { e.From, e.Device = bob.address(), bob.c.Account().Device }},
			{"another device", func(e *message.Envelope) { e.Device++ }},
			{"the server's name", func(e *message.Envelope) { e.From = home }},
			{"a bounce of the server's", func(e *message.Envelope) { report(message.Refused, bob, message.Bounce)(e); e.From = home }},
		} {
			mallory.say(mallory.envelope("lie", c.change, alice.address()))
			x := mallory.verdict()
			if x.State != message.Refused || x.Refusal.Code != message.CodeNotAllowed || !x.Refusal.Permanent {
				t.Errorf("%s: %v %v", c.name, x.State, x.Refusal)
			}
		}
		mallory.say(mallory.envelope("truth", nil, alice.address()))
		alice.has("truth")
		if r := alice.fate(m, bob.address()); r.State != message.Held {
			t.Errorf("alice believes that her message is %v", r.State)
		}
		// What mallory says of himself is his to say, and says nothing of others.
		mallory.say(mallory.envelope("", report(message.Read, p[2], message.Receipt), alice.address()))
		time.Sleep(time.Second)
		if r := alice.fate(m, bob.address()); r.State != message.Held {
			t.Errorf("alice believes that her message is %v", r.State)
		}
	})
}
