package client

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/noipchat/noipchat/daemon/message"
)

// incoming makes the envelope e arrive.
func incoming(t testing.TB, e message.Envelope) Incoming {
	t.Helper()
	if e.Counter == 0 {
		e.Counter = 1
	}
	if e.To == nil {
		e.To = to(alice)
	}
	e.Priority = max(e.Priority, e.Kind.Least())
	raw, err := e.Append(nil)
	check(t, err)
	parsed := new(message.Envelope)
	check(t, parsed.Parse(raw))
	return Incoming{Envelope: parsed, At: testTime, Server: "server1"}
}

// textFrom is a text of bob's.
func textFrom(t testing.TB, counter uint64, body string) Incoming {
	t.Helper()
	return incoming(t, message.Envelope{Kind: message.Text, From: bob, Device: bobDevice, Counter: counter, Body: []byte(body)})
}

func receive(t testing.TB, s *Store, batch ...Incoming) []Received {
	t.Helper()
	r, err := s.Receive(batch)
	check(t, err)
	if len(r) != len(batch) {
		t.Fatalf("%d results for %d envelopes", len(r), len(batch))
	}
	return r
}

func seenRanges(t testing.TB, s *Store, from message.Address, device message.DeviceID) (all message.Ranges) {
	t.Helper()
	rows, err := s.db.Query("SELECT first, last FROM seen WHERE sender = ? AND device = ? ORDER BY first", from, int64(device))
	check(t, err)
	defer rows.Close()
	for rows.Next() {
		var g message.Range
		check(t, rows.Scan(&g.First, &g.Last))
		all = append(all, g)
	}
	check(t, rows.Err())
	return all
}

func TestReceiveText(t *testing.T) {
	s := aliceStore(t)
	in := incoming(t, message.Envelope{Kind: message.Text, From: bob, Device: bobDevice | 1<<63, Counter: 1<<63 - 1,
		Created: 1<<48 - 1, To: to(alice, carol), Body: []byte("hi \x00 there")})
	m := receive(t, s, in)[0].Message
	id := message.IDOf(in.Envelope.Raw)
	for i := range in.Envelope.Raw {
		in.Envelope.Raw[i] = '#' // the strings of the envelope share it
	}
	for name, m := range map[string]Message{"Receive": m, "Status": status(t, s, id)} {
		if m.ID != id || m.Out || m.From != bob || m.Device != bobDevice|1<<63 || m.Counter != 1<<63-1 || m.Body != "hi \x00 there" ||
			!slices.Equal(m.To, to(alice, carol)) || m.State != "delivered" || !m.At.Equal(testTime) || m.Server != "server1" || m.Seq == 0 {
			t.Errorf("%s: %+v", name, m)
		}
		if text, err := m.Created.MarshalText(); err != nil {
			t.Errorf("%s: created is no time that JSON has: %s, %v", name, text, err)
		}
	}
}

func TestReceiveRepeats(t *testing.T) {
	s := aliceStore(t)
	first := textFrom(t, 1, "one")
	r := receive(t, s, first, first, textFrom(t, 1, "another one"), textFrom(t, 2, "two"))
	if !r[0].New || r[1].New || r[2].New || !r[3].New || r[1].Message.Seq != 0 {
		t.Errorf("new: %v %v %v %v", r[0].New, r[1].New, r[2].New, r[3].New)
	}
	if r := receive(t, s, first); r[0].New {
		t.Error("a repeat in another batch is new")
	}
	// Who else sends under the same counter is somebody else.
	other := incoming(t, message.Envelope{Kind: message.Text, From: bob, Device: bobDevice + 1, Counter: 1})
	another := incoming(t, message.Envelope{Kind: message.Text, From: carol, Device: bobDevice, Counter: 1})
	if r := receive(t, s, other, another); !r[0].New || !r[1].New {
		t.Errorf("other devices: %v %v", r[0].New, r[1].New)
	}
	all, err := s.History(Query{})
	check(t, err)
	var have []string
	for _, m := range all {
		have = append(have, m.Body)
	}
	if !slices.Equal(have, []string{"one", "two", "", ""}) {
		t.Errorf("the history has %q", have)
	}
}

// A note to oneself goes out and comes in with the same id.
func TestReceiveOwn(t *testing.T) {
	s := aliceStore(t)
	m := enqueue(t, s, Outgoing{To: to(alice), Body: []byte("buy milk")})
	e := new(message.Envelope)
	check(t, e.Parse(outbox(t, s, message.Normal)[0].Raw))
	if r := receive(t, s, Incoming{Envelope: e})[0]; !r.New || r.Message.ID != m.ID {
		t.Errorf("it came in as %+v", r)
	}
	if have := status(t, s, m.ID); !have.Out || have.State != "queued" {
		t.Errorf("Status gives %+v", have)
	}
	if all, err := s.History(Query{With: alice}); err != nil || len(all) != 2 {
		t.Errorf("History has %d, %v", len(all), err)
	}
	if all, err := s.Next("", 10); err != nil || len(all) != 1 || all[0].Out {
		t.Errorf("Next has %+v, %v", all, err)
	}
}

// The seen set is message.Ranges, in any order of arrival.
func TestSeen(t *testing.T) {
	s := aliceStore(t)
	var model message.Ranges
	rng := rand.New(rand.NewPCG(1, 2))
	for range 40 {
		var batch []Incoming
		var want []bool
		for range 10 {
			c := 1 + rng.Uint64N(120)
			if rng.IntN(50) == 0 {
				c = 1<<63 - 1
			}
			batch = append(batch, textFrom(t, c, ""))
			want = append(want, model.Add(c))
		}
		for i, r := range receive(t, s, batch...) {
			if r.New != want[i] {
				t.Fatalf("counter %d: new %v, want %v; seen %v", batch[i].Envelope.Counter, r.New, want[i], model)
			}
		}
		if have := seenRanges(t, s, bob, bobDevice); !slices.Equal(have, model) {
			t.Fatalf("seen %v, want %v", have, model)
		}
	}
	if n := count(t, s, "message"); n != int(model.Count()) {
		t.Errorf("%d messages, want %d", n, model.Count())
	}
}

// What this program can't read is kept whole and shown as such.
func TestReceiveUnsupported(t *testing.T) {
	s := aliceStore(t)
	future := incoming(t, message.Envelope{Kind: 77, Priority: message.Normal, From: bob, Device: bobDevice, Counter: 1, Body: []byte{0xff, 0}})
	sealed := incoming(t, message.Envelope{Kind: message.Text, Sealing: 1, From: bob, Device: bobDevice, Counter: 2, Body: []byte{0xfe}})
	secret := incoming(t, message.Envelope{Kind: message.Receipt, Sealing: 1, From: bob, Device: bobDevice, Counter: 3, Body: []byte{0xfe}})
	for i, r := range receive(t, s, future, sealed, secret) {
		if !r.New || r.Message.State != StateUnsupported || r.Message.Body != "" || r.Message.Seq == 0 || r.Err != nil {
			t.Errorf("envelope %d: %+v", i, r)
		}
	}
	m := status(t, s, message.IDOf(future.Envelope.Raw))
	if m.State != StateUnsupported || m.Kind != 77 || m.Body != "" {
		t.Errorf("it is %+v", m)
	}
	if all, err := s.History(Query{With: bob}); err != nil || len(all) != 2 { // a sealed receipt is nothing for people
		t.Errorf("History has %+v, %v", all, err)
	}
	if all, err := s.Next("", 10); err != nil || len(all) != 0 {
		t.Errorf("Next has %+v, %v", all, err)
	}
	check(t, s.Advance("", m))
	check(t, s.MarkRead(m.ID))
	if r, err := s.EnqueueReadReceipts(t.Context()); err != nil || len(r) != 0 {
		t.Errorf("a read receipt for what nobody could read: %+v, %v", r, err)
	}
	var raw string
	check(t, s.db.QueryRow("SELECT body FROM message WHERE counter = 2").Scan(&raw))
	if raw != string(sealed.Envelope.Raw) {
		t.Errorf("kept %q, want the envelope %q", raw, sealed.Envelope.Raw)
	}
}

// An error in the middle of a batch leaves nothing of it.
func TestReceiveWhole(t *testing.T) {
	s := aliceStore(t)
	_, err := s.writer.ExecContext(t.Context(), `CREATE TEMP TRIGGER fail BEFORE INSERT ON message WHEN new.counter = 3 BEGIN SELECT RAISE(ABORT, 'disk on fire'); END`)
	check(t, err)
	batch := []Incoming{textFrom(t, 1, ""), textFrom(t, 2, ""), textFrom(t, 3, ""), textFrom(t, 4, "")}
	if r, err := s.Receive(batch); err == nil || r != nil || !strings.Contains(err.Error(), "disk on fire") {
		t.Fatalf("Receive: %v, %v", r, err)
	}
	if n := count(t, s, "message") + count(t, s, "seen"); n != 0 {
		t.Errorf("%d rows stayed", n)
	}
	_, err = s.writer.ExecContext(t.Context(), "DROP TRIGGER fail")
	check(t, err)
	for i, r := range receive(t, s, batch...) {
		if !r.New {
			t.Errorf("envelope %d is not new", i)
		}
	}
}

// The first that comes from a stranger says so, and nothing else does.
func TestFirst(t *testing.T) {
	s := aliceStore(t)
	from := func(who message.Address, counter uint64, kind message.Kind) bool {
		t.Helper()
		r := receive(t, s, incoming(t, message.Envelope{Kind: kind, From: who, Device: 1, Counter: counter, To: to(alice), Body: []byte("hello")}))
		all, err := s.History(Query{With: who, Only: In})
		check(t, err)
		if stored := all[len(all)-1]; stored.First != r[0].Message.First {
			t.Errorf("%s: stored %+v, told %+v", who, stored, r[0].Message)
		}
		return r[0].Message.First
	}
	enqueue(t, s, Outgoing{To: to(carol), Body: []byte("hello")})
	for i, x := range []struct {
		who  message.Address
		kind message.Kind
		want bool
	}{
		{bob, message.Text, true}, {bob, message.Text, false}, {carol, message.Text, false}, {alice, message.Text, false},
		{"dave@server1", 100, true}, {"dave@server1", message.Text, false}, {"server2", message.Text, true},
	} {
		if have := from(x.who, uint64(i+1), x.kind); have != x.want {
			t.Errorf("%d, from %s: %v", i, x.who, have)
		}
	}
}

// What our home can't verify is marked, now and when it is read again.
func TestReceiveUnverified(t *testing.T) {
	s := aliceStore(t)
	forged, sure := textFrom(t, 1, "who am I?"), textFrom(t, 2, "me")
	forged.Unverified = true
	for i, r := range receive(t, s, forged, sure) {
		if r.Message.Unverified != (i == 0) {
			t.Errorf("text %d came as unverified %v", i+1, r.Message.Unverified)
		}
	}
	all, err := s.History(Query{})
	check(t, err)
	if len(all) != 2 || !all[0].Unverified || all[1].Unverified {
		t.Errorf("the history has %+v", all)
	}
}
