package peer_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/noipchat/noipchat/daemon/client"
	"github.com/noipchat/noipchat/daemon/identity"
	"github.com/noipchat/noipchat/daemon/message"
	"github.com/noipchat/noipchat/daemon/peer"
	"github.com/noipchat/noipchat/daemon/wire"
)

// liar is a link of a server that says what it likes: a test puts its frames together by
// hand. It acks what it gets, unless it is sullen, and passes nothing on.
type liar struct {
	t    testing.TB
	name string
	key  identity.Key
	conn *wire.Conn
	done chan struct{} // the reader has ended

	mu      sync.Mutex // guards what follows
	unsaid  [][]byte
	sullen  bool
	welcome *wire.Welcome
	end     *message.Refusal // of the goodbye
	got     []letter
	said    map[uint64]wire.Exception // by frame
	upto    uint64                    // frames of ours that are acked
	updates []wire.RouteUpdate
	answers []uint32
	pongs   int
}

// letter is an envelope with what goes with it.
type letter struct {
	message.Envelope
	transit wire.Transit
}

// lie opens a link to a server, with what its hello says besides.
func (w *world) lie(name string, key identity.Key, to string, besides ...func(*wire.ClientHello)) *liar {
	w.t.Helper()
	conn, err := w.net.Dial(context.Background(), w.servers[to].address)
	check(w.t, err)
	l := &liar{t: w.t, name: name, key: key, done: make(chan struct{}), said: map[uint64]wire.Exception{}}
	l.conn, err = wire.Open(conn, key, func(wire.ServerHello) (wire.ClientHello, error) {
		h := wire.ClientHello{Window: wire.Window{Count: 1024, Bytes: 4 << 20}, Method: wire.ByLink, User: name}
		for _, b := range besides {
			b(&h)
		}
		return h, nil
	})
	check(w.t, err)
	go l.read()
	w.t.Cleanup(func() {
		l.conn.Close()
		<-l.done
	})
	synctest.Wait()
	return l
}

func (l *liar) read() {
	defer close(l.done)
	for err := error(nil); err == nil; {
		err = l.conn.Receive(l.hear)
	}
}

func (l *liar) hear(plain []byte) error {
	var ack wire.Ack
	for len(plain) > 0 {
		t, body, rest, err := wire.Next(plain)
		if err != nil {
			return err
		}
		plain = rest
		l.mu.Lock()
		switch t {
		case wire.WelcomeFrame:
			var w wire.Welcome
			w, err = wire.ParseWelcome(body)
			l.welcome = &w
		case wire.GoodbyeFrame:
			l.end, err = wire.ParseGoodbye(body)
		case wire.EnvelopeFrame:
			var x letter
			var raw []byte
			x.transit, raw, err = wire.ParseEnvelope(body)
			err = errors.Join(err, x.Parse(raw))
			l.got = append(l.got, x)
			if !l.sullen {
				l.unsaid = append(l.unsaid, wire.AppendAck(nil, &wire.Ack{Upto: uint64(len(l.got))}))
			}
		case wire.AckFrame:
			err = wire.ParseAck(body, &ack)
			l.upto = max(l.upto, ack.Upto)
			for _, x := range ack.Exceptions {
				l.said[x.Number] = x
			}
		case wire.RoutesFrame:
			var m wire.Routes
			m, err = wire.ParseRoutes(bytes.Clone(body))
			l.updates = append(l.updates, m.Updates...)
			if m.Answer != 0 {
				l.answers, l.updates = append(l.answers, m.Answer), m.Updates
			}
		case wire.PongFrame:
			l.pongs++
		}
		l.mu.Unlock()
		if err != nil {
			l.t.Error("what an honest server says:", err)
			return err
		}
	}
	l.conn.Flush(l)
	return nil
}

// Fill implements wire.Source.
func (l *liar) Fill(b []byte, room int) ([]byte, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for start := len(b); len(l.unsaid) > 0; l.unsaid = l.unsaid[1:] {
		if len(b)-start+len(l.unsaid[0]) > room {
			return b, true
		}
		b = append(b, l.unsaid[0]...)
	}
	return b, false
}

// say sends bytes, and waits until they had their effect.
func (l *liar) say(plain ...[]byte) {
	l.t.Helper()
	l.mu.Lock()
	l.unsaid = append(l.unsaid, plain...)
	l.mu.Unlock()
	l.conn.Flush(l)
	time.Sleep(time.Second)
	synctest.Wait()
}

// bring sends an envelope as it is, and returns what was said of its receiver: nil for
// that it was taken. A link's first one is number 1.
func (l *liar) bring(number uint64, t wire.Transit, raw []byte) *message.Refusal {
	l.t.Helper()
	l.say(wire.AppendEnvelope(nil, t, raw))
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.upto != number {
		l.t.Fatalf("%d frames are acked, not %d; the link's end: %v", l.upto, number, l.end)
	}
	return l.said[number].Refusal
}

// letters waits until so many envelopes of a kind have come, and returns them.
func (l *liar) letters(kind message.Kind, n int) (all []letter) {
	l.t.Helper()
	for range 3600 {
		l.mu.Lock()
		all = all[:0]
		for _, x := range l.got {
			if x.Kind == kind {
				all = append(all, x)
			}
		}
		l.mu.Unlock()
		if len(all) >= n {
			return all
		}
		time.Sleep(time.Second)
	}
	l.t.Fatalf("%d envelopes of kind %v came, not %d", len(all), kind, n)
	return nil
}

// ended is why the other side has ended the link; "": it hasn't.
func (l *liar) ended() string {
	select {
	case <-l.done:
	default:
		return ""
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.welcome != nil && l.welcome.No != nil:
		return l.welcome.No.Code.String() + ": " + l.welcome.No.Reason
	case l.end != nil:
		return l.end.Code.String() + ": " + l.end.Reason
	}
	return "no word"
}

// lives fails if a link doesn't answer.
func (l *liar) lives() {
	l.t.Helper()
	before := l.pongs
	l.say(wire.AppendPing(nil))
	if l.pongs == before {
		l.t.Errorf("the link of %s is dead: %s", l.name, l.ended())
	}
}

// written returns an envelope's bytes.
func written(t testing.TB, e message.Envelope) []byte {
	t.Helper()
	raw, err := e.Append(nil)
	check(t, err)
	return raw
}

// text is one to one receiver.
func text(from, to message.Address, counter uint64, body string) message.Envelope {
	return message.Envelope{Kind: message.Text, Priority: message.Normal, From: from, Device: 5, Counter: counter, To: []message.Address{to}, Body: []byte(body)}
}

// forge returns an envelope's bytes with something changed.
func forge(t testing.TB, e message.Envelope, change func(*message.Envelope)) []byte {
	t.Helper()
	e.To = slices.Clone(e.To)
	change(&e)
	return written(t, e)
}

// path is one of servers without ages, of any length.
func path(names ...string) (p message.PackedPath) {
	p = message.AppendArray(nil, 2*len(names))
	for _, name := range names {
		p = append(message.AppendString(p, name), 0)
	}
	return p
}

// passage is what goes with an envelope that key signs.
func passage(key identity.Key, raw []byte, names ...string) message.Passage {
	return message.Passage{Hops: 5, Path: path(names...), Proof: message.Prove(key.Sign, [][]byte{raw})[0]}
}

// marks returns which of what somebody has is marked as unverified.
func (p *person) marks() (marks []bool) {
	p.t.Helper()
	history, err := p.store.History(client.Query{Only: client.In})
	check(p.t, err)
	for _, m := range history {
		marks = append(marks, m.Unverified)
	}
	return marks
}

// knows has a server know others' keys, as if it had met them.
func (s *server) knows(others ...string) {
	for _, o := range others {
		_, err := s.servers.Meet(o, s.w.servers[o].key.Public())
		check(s.w.t, err)
	}
}

// TestAltered: what a server on the way changes is never shown as verified. If the home's
// key is known it is refused, so that it can't take the place of what was written.
func TestAltered(t *testing.T) {
	other := identity.NewKey()
	public := other.Public()
	changes := map[string]func(*letter) []byte{
		"body": func(x *letter) []byte {
			return forge(t, x.Envelope, func(e *message.Envelope) { e.Body = []byte("I hate you") })
		},
		"counter": func(x *letter) []byte { return forge(t, x.Envelope, func(e *message.Envelope) { e.Counter += 1000 }) },
		"author": func(x *letter) []byte {
			return forge(t, x.Envelope, func(e *message.Envelope) { e.From = "mallory@a" })
		},
		"receivers": func(x *letter) []byte {
			return forge(t, x.Envelope, func(e *message.Envelope) { e.To = append(e.To, "carol@c"); x.transit.Open = 0 })
		},
		"no proof":  func(x *letter) []byte { x.transit.Passage.Proof = message.Proof{}; return x.Raw },
		"signature": func(x *letter) []byte { x.transit.Passage.Proof.Signature[7] ^= 1; return x.Raw },
		"proof of its own": func(x *letter) []byte {
			raw := forge(t, x.Envelope, func(e *message.Envelope) { e.Body = []byte("I hate you") })
			x.transit.Passage.Proof = message.Prove(other.Sign, [][]byte{raw})[0]
			return raw
		},
		"key of its own": func(x *letter) []byte {
			raw := forge(t, x.Envelope, func(e *message.Envelope) { e.Body = []byte("I hate you") })
			x.transit.Passage.Proof, x.transit.Passage.Key = message.Prove(other.Sign, [][]byte{raw})[0], public[:]
			return raw
		},
	}
	for _, c := range []struct {
		name          string
		known, refuse bool
	}{{"known", true, false}, {"unknown", false, false}, {"unknown, refuse", false, true}} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				w.add("a", "c")
				s := w.servers["c"]
				s.conf.Refuse = c.refuse
				s.peers.Configure(s.conf)
				if c.known {
					s.knows("a")
				}
				key := identity.NewKey()
				from, to := w.lie("m", key, "a"), w.lie("m", key, "c")
				alice, bob := w.enter("alice", "a").come(), w.enter("bob", "c").come()
				w.enter("carol", "c")
				var want []string
				number := uint64(0)
				for name, change := range changes {
					before := len(bob.marks())
					alice.send("I love you, "+name, bob)
					sent := from.letters(message.Text, len(want)+1)
					x := sent[len(sent)-1]
					want = append(want, string(x.Body))
					changed := x
					changed.transit.Passage.Proof.Signature = slices.Clone(x.transit.Passage.Proof.Signature)
					number++
					no := to.bring(number, changed.transit, change(&changed))
					refused, shown := c.known || c.refuse, bob.marks()[before:]
					if c.known != (no != nil) || refused != (len(shown) == 0) || slices.Contains(shown, false) {
						t.Errorf("%s: the server says %v; bob has %q, marked %v", name, no, bob.texts()[before:], shown)
					}
					if !c.known {
						continue
					}
					number++
					if no := to.bring(number, x.transit, x.Raw); no != nil {
						t.Errorf("%s: what is genuine is refused: %v", name, no)
					}
				}
				if c.known {
					bob.has(want...)
					if slices.Contains(bob.marks(), true) {
						t.Error("what is genuine is marked")
					}
				}
			})
		})
	}
}

// TestProofIsTheHomes: a server signs what is from its own users, and not what is said to
// have crossed nobody: the home's proof goes on as it came.
func TestProofIsTheHomes(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.add("a", "b")
		m, n := w.lie("m", identity.NewKey(), "b"), w.lie("n", identity.NewKey(), "b")
		from := w.lie("m", m.key, "a")
		w.enter("alice", "a").come().send("hello", &person{name: "bob", s: &server{name: "nowhere"}})
		x := from.letters(message.Text, 1)[0]
		proof := x.transit.Passage.Proof.Signature
		x.transit.Passage.Path = nil
		m.say(wire.AppendEnvelope(nil, x.transit, x.Raw))
		if p := n.letters(message.Text, 1)[0].transit.Passage; !bytes.Equal(p.Proof.Signature, proof) {
			t.Errorf("it goes on with another proof, over %v", p.Path)
		}
	})
}

// TestInvented: mail in the name of a home that has not sent it.
func TestInvented(t *testing.T) {
	for _, c := range []struct {
		name                  string
		known, refuse, signed bool
		taken                 bool
	}{
		{"known", true, false, false, false},
		{"known, signed by the liar", true, false, true, false},
		{"known, refuse", true, true, true, false},
		{"unknown", false, false, false, true},
		{"unknown, signed by the liar", false, false, true, true},
		{"unknown, refuse", false, true, true, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				w.add("a", "b")
				s := w.servers["b"]
				s.conf.Refuse = c.refuse
				s.peers.Configure(s.conf)
				if c.known {
					s.knows("a")
				}
				bob := w.enter("bob", "b").come()
				key := identity.NewKey()
				m := w.lie("m", key, "b")
				raw := written(t, text("alice@a", bob.address(), 1, "trust me"))
				var p message.Passage
				if c.signed {
					p = passage(key, raw, "a", "m")
					public := key.Public()
					p.Key = public[:]
				}
				if no := m.bring(1, wire.Transit{Passage: p}, raw); (c.known && !c.taken) != (no != nil) { // if the key isn't known, its author is told
					t.Errorf("the server says %v", no)
				}
				if marks := bob.marks(); c.taken != (len(marks) == 1) || slices.Contains(marks, false) {
					t.Errorf("bob has %q, marked %v", bob.texts(), marks)
				}
				if ours := written(t, text("alice@b", bob.address(), 1, "trust me")); m.bring(2, wire.Transit{}, ours) != nil || len(bob.texts()) > 1 {
					t.Errorf("bob has %q, one of them from his own home", bob.texts())
				}
			})
		})
	}
}

// TestForgedReceipt: a receipt of a server whose key is known, and that hasn't written it,
// deletes nothing, and the author doesn't hear of it.
func TestForgedReceipt(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.add("a", "b")
		w.servers["a"].knows("b")
		w.link("a", "b", 0)
		w.plug("a", "b", false)
		alice, bob := w.enter("alice", "a").come(), w.enter("bob", "b").come()
		time.Sleep(time.Minute)
		sent := alice.send("it is safe", bob)
		alice.learns(sent, bob, message.Held)
		key := identity.NewKey()
		public := key.Public()
		m := w.lie("m", key, "a")
		for i, c := range []struct {
			name   string
			state  message.State
			author message.Address
			sign   string // who
		}{
			{"delivered", message.Delivered, "b", ""},
			{"delivered, signed by the liar", message.Delivered, "b", "m"},
			{"delivered, with the liar's key", message.Delivered, "b", "key"},
			{"read", message.Read, "bob@b", "key"},
			{"refused", message.Refused, "b", "key"},
			{"expired", message.Expired, "b", ""},
			{"delivered, by the liar itself", message.Delivered, "m", ""},
			{"read, by a user of the liar", message.Read, "bob@m", ""},
			{"refused, by the liar itself", message.Refused, "m", ""},
			{"delivered, by our own", message.Delivered, "a", "key"},
		} {
			report := message.Report{State: c.state, Receiver: bob.address(), Device: sent.Device, Counters: message.Ranges{{First: sent.Counter, Last: sent.Counter}}}
			kind := message.Receipt
			if c.state == message.Refused || c.state == message.Expired {
				kind, report.Code = message.Bounce, message.CodeNoUser
			}
			number := uint64(i + 1)
			raw := written(t, message.Envelope{Kind: kind, Priority: message.Urgent, From: c.author, Device: 9, Counter: number, To: []message.Address{alice.address()}, Body: report.Append(nil)})
			var p message.Passage
			if c.sign != "" {
				p = passage(key, raw, "b", "m")
			}
			if c.sign == "key" {
				p.Key = public[:]
			}
			m.bring(number, wire.Transit{Passage: p}, raw)
			if n, _ := w.servers["a"].spool.Waiting(); n != 1 {
				t.Errorf("%s: %d messages wait at a", c.name, n)
			}
			if fate := alice.fate(sent, bob.address()); fate.State != message.Held {
				t.Errorf("%s: alice is told %v (%s)", c.name, fate.State, fate.Reason)
			}
		}
		w.plug("a", "b", true)
		bob.has("it is safe")
		alice.learns(sent, bob, message.Delivered)
	})
}

// TestForgedUnmet: of a server that was never met, and whose key nobody has pinned, no receipt deletes
// anything that is signed by another key than the first, also after a restart; and none at
// all where mail of such servers is refused.
func TestForgedUnmet(t *testing.T) {
	for _, refuse := range []bool{false, true} {
		t.Run(fmt.Sprint("refuse=", refuse), func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				w.add("a", "h", "b")
				w.link("a", "h", 0)
				w.link("h", "b", 0)
				time.Sleep(time.Minute)
				alice, bob := w.enter("alice", "a").come(), w.enter("bob", "b").come()
				a := w.servers["a"]
				if !refuse {
					alice.learns(alice.send("hello", bob), bob, message.Delivered)
				}
				w.plug("h", "b", false)
				time.Sleep(time.Minute)
				a.conf.Refuse = refuse
				a.restart() // b's announcement is forgotten
				time.Sleep(time.Minute)
				sent := alice.send("it is safe", bob)
				alice.learns(sent, bob, message.Held)
				key := identity.NewKey()
				public := key.Public()
				m := w.lie("m", key, "a")
				for i, state := range []message.State{message.Delivered, message.Refused, message.Read} {
					author := message.Address("b")
					if state == message.Read {
						author = bob.address()
					}
					for j, signed := range []bool{true, false} {
						report := message.Report{State: state, Receiver: bob.address(), Device: sent.Device, Counters: message.Ranges{{First: sent.Counter, Last: sent.Counter}}}
						kind := message.Receipt
						if state == message.Refused {
							kind, report.Code = message.Bounce, message.CodeNoUser
						}
						number := uint64(2*i + j + 1)
						raw := written(t, message.Envelope{Kind: kind, Priority: message.Urgent, From: author, Device: 9, Counter: number, To: []message.Address{alice.address()}, Body: report.Append(nil)})
						var p message.Passage
						if signed {
							p = passage(key, raw, "b", "m")
							p.Key = public[:]
						}
						m.bring(number, wire.Transit{Passage: p}, raw)
						if n, _ := a.spool.Waiting(); n == 0 {
							t.Fatalf("%v, signed: %v: nothing waits at a", state, signed)
						}
						if fate := alice.fate(sent, bob.address()); fate.State != message.Held {
							t.Errorf("%v, signed: %v: alice is told %v (%s)", state, signed, fate.State, fate.Reason)
						}
					}
				}
				if refuse {
					return
				}
				w.plug("h", "b", true)
				bob.has("hello", "it is safe")
				alice.learns(sent, bob, message.Delivered)
				time.Sleep(time.Hour)
				w.empty()
			})
		})
	}
}

// TestReplayed: what comes again counts once, be it a message or a receipt; and a server
// that acks and passes nothing on loses nothing.
func TestReplayed(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.add("a", "c")
		w.servers["a"].knows("c")
		w.servers["c"].knows("a")
		key := identity.NewKey()
		from, to := w.lie("m", key, "a"), w.lie("m", key, "c")
		alice, bob := w.enter("alice", "a").come(), w.enter("bob", "c").come()
		first := alice.send("first", bob)
		x := from.letters(message.Text, 1)[0]
		for n := range uint64(4) {
			if no := to.bring(n+1, x.transit, x.Raw); no != nil {
				t.Fatal(no)
			}
		}
		bob.has("first")
		r := to.letters(message.Receipt, 1)[0]
		if w, _ := w.servers["a"].spool.Waiting(); w != 1 || alice.fate(first, bob.address()).State != message.Held {
			t.Errorf("%d messages wait at a, and no receipt has come", w)
		}
		second := alice.send("second", bob)
		for n := range uint64(4) {
			if no := from.bring(n+1, r.transit, r.Raw); no != nil {
				t.Fatal(no)
			}
		}
		alice.learns(first, bob, message.Delivered)
		if w, _ := w.servers["a"].spool.Waiting(); w != 1 || alice.fate(second, bob.address()).State != message.Held {
			t.Errorf("%d messages wait at a, and one has no receipt", w)
		}
		if got := bob.texts(); len(got) != 1 || bob.marks()[0] {
			t.Errorf("bob has %q", got)
		}
	})
}

// TestImpostor: a server with our own name, or a peer's with another key, gets no link,
// and the peer keeps its own.
func TestImpostor(t *testing.T) {
	for name, reason := range map[string]string{"a": "own name", "b": "another key"} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				w.add("a", "b")
				w.link("a", "b", 0)
				w.servers["a"].linked("b")
				m := w.lie(name, identity.NewKey(), "a")
				if why := m.ended(); !strings.Contains(why, reason) {
					t.Errorf("the link ends with %q", why)
				}
				w.lie("m", identity.NewKey(), "a").lives()
				w.servers["a"].linked("b", "m")
				alice, bob := w.enter("alice", "a").come(), w.enter("bob", "b").come()
				alice.send("undisturbed", bob)
				bob.has("undisturbed")
			})
		})
	}
}

// id is a server as routes name it.
func id(name string, key identity.PublicKey) wire.ServerID {
	device := key.DeviceID()
	s := wire.ServerID{Name: name}
	for i := range s.Key {
		s.Key[i] = byte(device >> (56 - 8*i))
	}
	return s
}

// TestFalseAnnouncement: an announcement that its server has not signed ends the link that
// brought it, and only that.
func TestFalseAnnouncement(t *testing.T) {
	cases := []struct {
		name  string
		spoil func(u *wire.RouteUpdate, key identity.Key)
	}{
		{"signature", func(u *wire.RouteUpdate, _ identity.Key) { u.Announcement[len(u.Announcement)-1] ^= 1 }},
		{"another name", func(u *wire.RouteUpdate, _ identity.Key) { u.Name = "y" }},
		{"another key", func(u *wire.RouteUpdate, _ identity.Key) { u.Key[3] ^= 1 }},
		{"another epoch", func(u *wire.RouteUpdate, _ identity.Key) { u.Epoch++ }},
		{"another number", func(u *wire.RouteUpdate, _ identity.Key) { u.Number++ }},
		{"signed by another", func(u *wire.RouteUpdate, key identity.Key) {
			a, _ := wire.ParseAnnouncement(u.Announcement)
			u.Announcement = a.Sign(key)
		}},
		{"cut off", func(u *wire.RouteUpdate, _ identity.Key) { u.Announcement = u.Announcement[:20] }},
		{"no announcement", func(u *wire.RouteUpdate, _ identity.Key) { u.Announcement = []byte{0xc0} }},
	}
	bubble(t, func(t *testing.T, w *world) {
		w.add("a")
		key, theirs := identity.NewKey(), identity.NewKey()
		n := w.lie("n", identity.NewKey(), "a")
		a := wire.Announcement{Name: "x", Key: theirs.Public(), Epoch: 3, Number: 4}
		for i, c := range slices.Concat(cases, cases) {
			m := w.lie("m", key, "a")
			u := wire.RouteUpdate{ServerID: id("x", a.Key), Epoch: 3, Number: 4, Metric: 10, Announcement: a.Sign(theirs)}
			c.spoil(&u, key)
			r := &wire.Routes{Updates: []wire.RouteUpdate{u}}
			if i >= len(cases) {
				r = &wire.Routes{Requests: []wire.RouteRequest{{ServerID: u.ServerID, Epoch: u.Epoch, Number: u.Number, Hops: 255, Proof: u.Announcement}}}
			}
			m.say(wire.AppendRoutes(nil, r))
			if why := m.ended(); !strings.HasPrefix(why, "protocol: ") {
				t.Errorf("%s: the link ends with %q", c.name, why)
			}
			if routes := w.servers["a"].peers.Routes(); slices.ContainsFunc(routes, func(r peer.Route) bool { return r.Server == "x" || r.Server == "y" }) {
				t.Errorf("%s: there are routes %v", c.name, routes)
			}
			n.lives()
		}
		w.lie("m", key, "a").lives() // it may come again
	})
}

// TestNumberOfOurs: who hears an announcement of its own that is newer than what it has
// said, because its disk is an old one, jumps above it. Somebody else's with its name is
// nothing to it.
func TestNumberOfOurs(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.add("a", "b")
		w.link("a", "b", 0)
		s := w.servers["a"]
		s.linked("b")
		key := identity.NewKey()
		m := w.lie("m", key, "a")
		update := func(key identity.Key, epoch, number uint32) []byte {
			a := wire.Announcement{Name: "a", Key: key.Public(), Epoch: epoch, Number: number}
			return wire.AppendRoutes(nil, &wire.Routes{Updates: []wire.RouteUpdate{{ServerID: id("a", a.Key), Epoch: epoch, Number: number, Metric: 10, Announcement: a.Sign(key)}}})
		}
		newest := func() (epoch uint32) {
			m.mu.Lock()
			defer m.mu.Unlock()
			for _, u := range m.updates {
				if u.Name == "a" {
					epoch = max(epoch, u.Epoch)
				}
			}
			return epoch
		}
		m.say(update(key, 5000, 1))
		time.Sleep(time.Minute)
		if n := newest(); n == 0 || n >= 5000 {
			t.Errorf("it announces itself with epoch %d", n)
		}
		m.say(update(s.key, 1000, 7))
		time.Sleep(time.Minute)
		if n := newest(); n <= 1000 || n >= 5000 {
			t.Errorf("it announces itself with epoch %d", n)
		}
		m.lives()
		before := newest()
		s.restart()
		s.linked("b")
		m = w.lie("m", key, "a")
		time.Sleep(time.Minute)
		if n := newest(); n <= before {
			t.Errorf("after a start it announces itself with epoch %d, not above %d", n, before)
		}
		alice, bob := w.enter("alice", "a").come(), w.enter("bob", "b").come()
		alice.learns(alice.send("hello", bob), bob, message.Delivered)
	})
}

// TestAnew: a server that has forgotten what was said on a link is answered, told
// everything again, and is not believed what it said before.
func TestAnew(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.add("a", "b")
		w.link("a", "b", 0)
		w.servers["a"].linked("b")
		time.Sleep(10 * time.Second)
		m := w.lie("m", identity.NewKey(), "a")
		time.Sleep(10 * time.Second)
		x := identity.NewKey()
		a := wire.Announcement{Name: "x", Key: x.Public(), Epoch: 1}
		u := wire.RouteUpdate{ServerID: id("x", a.Key), Epoch: 1, Metric: 10, Announcement: a.Sign(x)}
		routes := func(number uint32, updates ...wire.RouteUpdate) []byte {
			return wire.AppendRoutes(nil, &wire.Routes{Anew: number, Updates: updates})
		}
		via := func(want string) {
			t.Helper()
			if have := w.servers["a"].via("x"); have != want {
				t.Errorf("the way to x is by %q, not %q", have, want)
			}
		}
		m.say(routes(0, u))
		via("m")
		m.say(routes(70000))
		via("")
		time.Sleep(time.Second)
		m.mu.Lock()
		var names []string
		for _, u := range m.updates { // since the answer
			names = append(names, u.Name)
		}
		if slices.Sort(names); !slices.Equal(m.answers, []uint32{70000}) || !slices.Equal(names, []string{"a", "b"}) {
			t.Errorf("it is answered %v, and told of %q", m.answers, names)
		}
		m.mu.Unlock()
		m.say(routes(70001, u))
		via("m")
		m.lives()
	})
}

// TestNonsense: bytes that are no frames, or that say what can't be, end their link with a
// clear error, and no other.
func TestNonsense(t *testing.T) {
	mail := written(t, text("mallory@m", "bob@a", 1, "x"))
	frame := func(t wire.Type, body ...byte) []byte {
		return append(message.AppendUint([]byte{byte(t)}, uint64(len(body))), body...)
	}
	long := strings.Repeat("n", message.MaxName)
	envelope := func(t wire.Transit) []byte { return wire.AppendEnvelope(nil, t, mail) }
	of := func(n int, say []byte) [][]byte { return slices.Repeat([][]byte{say}, n) }
	cases := []struct {
		name string
		say  [][]byte
		live bool // the link goes on
	}{
		{"garbage", of(1, []byte("GET / HTTP/1.1\r\n\r\n")), false},
		{"routes anew, sometimes", of(3, wire.AppendRoutes(nil, &wire.Routes{Anew: 7})), true},
		{"routes anew all the time", of(1000, wire.AppendRoutes(nil, &wire.Routes{Anew: 7})), false},
		{"an answer that nobody waits for", of(1, wire.AppendRoutes(nil, &wire.Routes{Answer: 7})), true},
		{"a frame that is cut off", of(1, []byte{byte(wire.EnvelopeFrame), 100, 1, 2}), false},
		{"a frame of 4 GiB", of(1, []byte{byte(wire.EnvelopeFrame), 0xce, 255, 255, 255, 255}), false},
		{"an empty envelope", of(1, frame(wire.EnvelopeFrame)), false},
		{"an envelope of zeros", of(1, frame(wire.EnvelopeFrame, make([]byte, 100)...)), false},
		{"a second welcome", of(1, wire.AppendWelcome(nil, wire.Welcome{})), false},
		{"a request of a device", of(1, frame(wire.RequestFrame, 1, 2)), false},
		{"an unknown type", of(1, frame(0x3f)), false},
		{"an unknown type to skip", of(1, frame(0x40, 1, 2)), true},
		{"a ping with a body", of(1, frame(wire.PingFrame, 1)), false},
		{"empty routes", of(1, wire.AppendRoutes(nil, &wire.Routes{})), true},
		{"routes of garbage", of(1, frame(wire.RoutesFrame, 0x93, 0xdf, 1, 2)), false},
		{"too many updates", of(1, wire.AppendRoutes(nil, &wire.Routes{Updates: make([]wire.RouteUpdate, 1000)})), false},
		{"an ack of what was not sent", of(1, wire.AppendAck(nil, &wire.Ack{Upto: 1})), false},
		{"an ack of all", of(1, wire.AppendAck(nil, &wire.Ack{Upto: 1<<63 - 1})), false},
		{"an ack of something beyond", of(1, wire.AppendAck(nil, &wire.Ack{Beyond: message.Ranges{{First: 5, Last: 1 << 40}}})), false},
		{"an exception of what was not sent", of(1, wire.AppendAck(nil, &wire.Ack{Exceptions: []wire.Exception{{Number: 7, State: message.Held}}})), false},
		{"an ack of nothing", of(1, wire.AppendAck(nil, &wire.Ack{})), true},
		{"a path too long", of(1, envelope(wire.Transit{Passage: message.Passage{Path: path(slices.Repeat([]string{"x"}, message.MaxPath+1)...)}})), false},
		{"a path of long names", of(1, envelope(wire.Transit{Passage: message.Passage{Path: path(slices.Repeat([]string{long + long}, message.MaxPath)...)}})), false},
		{"a path of no names", of(1, envelope(wire.Transit{Passage: message.Passage{Path: path("../../etc")}})), false},
		{"the longest path", of(1, envelope(wire.Transit{Passage: message.Passage{Path: path(slices.Repeat([]string{long}, message.MaxPath)...)}})), true},
		{"a passage too long", of(1, envelope(wire.Transit{Passage: message.Passage{Proof: message.Proof{Signature: make([]byte, 64), Siblings: make([]byte, 33*300)}}})), false},
		{"a short signature", of(1, envelope(wire.Transit{Passage: message.Passage{Proof: message.Proof{Signature: make([]byte, 63)}}})), false},
		{"a short key", of(1, envelope(wire.Transit{Passage: message.Passage{Key: make([]byte, 63)}})), false},
		{"a receiver that isn't there", of(1, envelope(wire.Transit{Open: 2})), false},
		{"all receivers that there could be", of(1, envelope(wire.Transit{Open: 1<<64 - 1})), false},
		{"an envelope that is a pack", of(1, wire.AppendEnvelope(nil, wire.Transit{}, message.Pack(&message.Passage{Hops: 9}, 1, mail))), false},
		{"more pings than anybody answers at once", of(10000, wire.AppendPing(nil)), false},
		{"a goodbye", of(1, wire.AppendGoodbye(nil, message.Defer(message.CodeStopping, time.Hour, "down"))), false},
	}
	bubble(t, func(t *testing.T, w *world) {
		w.add("a", "b")
		w.link("a", "b", 0)
		w.servers["a"].linked("b")
		alice, bob := w.enter("alice", "a").come(), w.enter("bob", "b").come()
		key := identity.NewKey()
		n := w.lie("n", identity.NewKey(), "a")
		var want []string
		for _, c := range cases {
			m := w.lie("m", key, "a")
			m.say(c.say...)
			switch why := m.ended(); {
			case c.live:
				m.lives()
			case c.name == "a goodbye" && why != "":
			case !strings.HasPrefix(why, "protocol: ") || len(why) < 20:
				t.Errorf("%s: the link ends with %q", c.name, why)
			}
			n.lives()
			links := []string{"b", "m", "n"}
			if !c.live {
				links = []string{"b", "n"}
			}
			w.servers["a"].linked(links...)
			want = append(want, c.name)
			alice.send(c.name, bob)
			bob.has(want...)
		}
		w.lie("m", key, "a").lives()
	})
}

// TestHopsAreClamped: what claims to cross 255 more servers crosses as many as we say.
func TestHopsAreClamped(t *testing.T) {
	for _, routed := range []bool{false, true} {
		t.Run(fmt.Sprint("routed=", routed), func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				w.hops = 4
				w.add("a")
				key := identity.NewKey()
				m, n := w.lie("m", identity.NewKey(), "a"), w.lie("n", key, "a")
				to := message.Address("bob@nowhere")
				if routed {
					to = "bob@n"
				}
				raw := written(t, text("mallory@m", to, 1, "far"))
				m.say(wire.AppendEnvelope(nil, wire.Transit{Passage: message.Passage{Hops: 255, Path: path("m")}}, raw))
				x := n.letters(message.Text, 1)[0]
				if p := x.transit.Passage; p.Hops > 4 || !p.Path.Same(path("m", "a")) || !bytes.Equal(x.Raw, raw) {
					t.Errorf("it goes on with %d hops over %v", p.Hops, p.Path)
				}
			})
		})
	}
}

// TestFlooded: thousands of texts for servers that nobody knows take the share of one
// origin, and people write on.
func TestFlooded(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.add("a", "b")
		w.link("a", "b", 0)
		w.servers["a"].linked("b")
		alice, bob := w.enter("alice", "a").come(), w.enter("bob", "b").come()
		w.lie("n", identity.NewKey(), "a") // copies go there too
		w.plug("a", "b", false)            // and wait for b
		time.Sleep(time.Minute)
		m := w.lie("m", identity.NewKey(), "a")
		const count = 4000
		body := strings.Repeat("x", 1000)
		for i := range count {
			e := text(message.Address(fmt.Sprint("mallory@m", i%700)), message.Address(fmt.Sprint("bob@nowhere", i)), uint64(i+1), body)
			frame := wire.AppendEnvelope(nil, wire.Transit{Passage: message.Passage{Hops: 9, Path: path("m")}}, written(t, e))
			m.mu.Lock()
			m.unsaid = append(m.unsaid, frame)
			m.mu.Unlock()
			if i%500 == 499 { // below the window
				m.say()
			}
		}
		m.lives()
		refused := 0
		for _, x := range m.said {
			if x.Refusal != nil {
				refused++
				if x.Refusal.Permanent || x.Refusal.Code != message.CodeFull {
					t.Fatalf("a copy is refused with %v", x.Refusal)
				}
			}
		}
		if kept := count - refused; kept == 0 || kept > 110 {
			t.Errorf("%d of %d are kept", kept, count)
		}
		if _, size := w.servers["a"].spool.Waiting(); size > 1<<20/10*2 {
			t.Errorf("%d bytes wait", size)
		}
		sent := alice.send("undisturbed", bob)
		w.plug("a", "b", true)
		bob.has("undisturbed")
		alice.learns(sent, bob, message.Delivered)
		bob.send("so it is", alice)
		alice.has("so it is")
	})
}

// FuzzLink: no plaintext on a link brings a server down, or another link.
func FuzzLink(f *testing.F) {
	mail := forge(f, text("mallory@m", "bob@a", 1, "x"), func(e *message.Envelope) { e.To = append(e.To, "bob@b") })
	f.Add([]byte{})
	f.Add(wire.AppendPong(wire.AppendPing(nil)))
	f.Add(wire.AppendEnvelope(nil, wire.Transit{}, mail))
	f.Add(wire.AppendEnvelope(nil, wire.Transit{Open: 2, Age: 7, Passage: message.Passage{Hops: 255, Path: path("x", "m"), Key: make([]byte, 64), Proof: message.Proof{Signature: make([]byte, 64), Siblings: make([]byte, 66)}}}, mail))
	f.Add(wire.AppendAck(nil, &wire.Ack{Upto: 1, Beyond: message.Ranges{{First: 3, Last: 4}}, Exceptions: []wire.Exception{{Number: 1, State: message.Held}, {Number: 2, State: message.Refused, Refusal: message.Refuse(message.CodeFull, "x")}}}))
	key := identity.NewKey()
	a := wire.Announcement{Name: "x", Key: key.Public(), Epoch: 3, Number: 4, Public: []string{"192.0.2.9:1"}}
	f.Add(wire.AppendRoutes(nil, &wire.Routes{
		Updates:  []wire.RouteUpdate{{ServerID: id("x", a.Key), Epoch: 3, Number: 4, Metric: 10, Announcement: a.Sign(key)}},
		Requests: []wire.RouteRequest{{}, {ServerID: id("x", a.Key), Epoch: 3, Number: 4, Hops: 255}},
	}))
	f.Add(wire.AppendGoodbye(nil, message.Defer(message.CodeIdle, 0, "nothing to say for now")))
	f.Fuzz(func(t *testing.T, plain []byte) {
		if len(plain) > 1<<15 {
			t.Skip()
		}
		bubble(t, func(t *testing.T, w *world) {
			w.add("a")
			m, n := w.lie("m", key, "a"), w.lie("n", identity.NewKey(), "a")
			n.say(wire.AppendEnvelope(nil, wire.Transit{Passage: message.Passage{Hops: 2, Path: path("n")}}, mail)) // something to ack
			m.say(plain)
			n.lives()
		})
	})
}

// TestBlackHole: a server that says that it leads somewhere, takes what is for there and
// passes nothing on, is not asked for long: neither by the home of what it took, nor
// by a server on the way.
func TestBlackHole(t *testing.T) {
	for _, c := range []struct{ name, home, victim string }{{"of its home", "a", "a"}, {"on the way", "z", "a"}} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				w.add("a", "b", "c")
				w.link("a", "b", 0)
				w.link("b", "c", 0)
				if c.home != c.victim {
					w.add(c.home)
					w.link(c.home, c.victim, 0)
				}
				time.Sleep(10 * time.Second)
				m := w.lie("m", identity.NewKey(), c.victim)
				theirs := w.servers["c"].key
				a := wire.Announcement{Name: "c", Key: theirs.Public(), Epoch: 1, Number: 0} // as c has made it
				for _, u := range m.updates {
					if u.Name == "c" {
						a.Epoch, a.Number = u.Epoch, u.Number
					}
				}
				m.say(wire.AppendRoutes(nil, &wire.Routes{Updates: []wire.RouteUpdate{{ServerID: id("c", a.Key), Epoch: a.Epoch, Number: a.Number, Metric: 1, Announcement: a.Sign(theirs)}}}))
				time.Sleep(10 * time.Second)
				if via := w.servers[c.victim].via("c"); via != "m" {
					t.Fatalf("the way to c is by %q", via)
				}
				alice, bob := w.enter("alice", c.home).come(), w.enter("bob", "c").come()
				start := time.Now()
				x := alice.send("by the hole", bob)
				alice.learns(x, bob, message.Delivered)
				bob.has("by the hole")
				if n := len(m.letters(message.Text, 1)); n == 0 {
					t.Error("the liar has got nothing")
				}
				if d := time.Since(start); d > 4*time.Minute {
					t.Errorf("it took %v", d)
				}
			})
		})
	}
}

// via is the next hop to a server.
func (s *server) via(to string) string {
	for _, r := range s.peers.Routes() {
		if r.Server == to {
			return r.Via
		}
	}
	return ""
}
