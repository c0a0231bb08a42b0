package client

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/noipchat/noipchat/daemon/message"
)

func enqueue(t testing.TB, s *Store, o Outgoing) Message {
	t.Helper()
	m, err := s.Enqueue(context.Background(), o)
	check(t, err)
	return m
}

func to(a ...message.Address) []message.Address { return a }

func outbox(t testing.TB, s *Store, p message.Priority) []Pending {
	t.Helper()
	all, err := s.Outbox(p, 0, 1000)
	check(t, err)
	return all
}

func settle(t testing.TB, s *Store, a ...Settled) []Change {
	t.Helper()
	changed, err := s.Settle(a)
	check(t, err)
	return changed
}

func status(t testing.TB, s *Store, id message.ID) Message {
	t.Helper()
	m, ok, err := s.Status(id)
	if !ok || err != nil {
		t.Fatalf("Status(%v): %v, %v", id, ok, err)
	}
	return m
}

func states(m Message) (all []message.State) {
	for _, r := range m.Recipients {
		all = append(all, r.State)
	}
	return all
}

func TestEnqueue(t *testing.T) {
	s := aliceStore(t)
	receivers := to(carol, bob, alice, bob)
	body := []byte("good morning\x00\nall ☀")
	m := enqueue(t, s, Outgoing{To: receivers, Body: body, Lifetime: 1500 * time.Millisecond, Created: testTime})
	if !slices.Equal(receivers, to(carol, bob, alice, bob)) {
		t.Errorf("the caller's receivers were changed: %v", receivers)
	}
	p := outbox(t, s, message.Normal)
	if len(p) != 1 || p[0].Counter != 1 || !slices.Equal(p[0].Open, []int{0, 1, 2}) || !p[0].Created.Equal(testTime) || p[0].Priority != message.Normal {
		t.Fatalf("the outbox has %+v", p)
	}
	var e message.Envelope
	check(t, e.Parse(p[0].Raw))
	if id := message.IDOf(p[0].Raw); id != m.ID || id != p[0].ID {
		t.Errorf("id %v, in the message %v, in the outbox %v", id, m.ID, p[0].ID)
	}
	if e.From != alice || e.Device != aliceDevice || e.Counter != 1 || e.Lifetime != 2 || e.Kind != message.Text ||
		e.Created != uint64(testTime.UnixMilli()) || string(e.Body) != string(body) || !slices.Equal(e.To, to(alice, bob, carol)) {
		t.Errorf("the envelope is %+v", e)
	}
	if m.State != "queued" || m.Body != string(body) || !m.Out || m.Counter != 1 || !slices.Equal(m.To, e.To) {
		t.Errorf("the message is %+v", m)
	}
	if have := status(t, s, m.ID); !reflect.DeepEqual(have, m) {
		t.Errorf("Status gives\n%+v, Enqueue gave\n%+v", have, m)
	}
}

// What can't be sent leaves nothing behind, not even a counter.
func TestEnqueueRefuses(t *testing.T) {
	s := aliceStore(t)
	var many []message.Address
	for i := range message.MaxTo + 1 {
		many = append(many, message.Join("u"+strings.Repeat("x", i%60)+string(rune('a'+i/60)), "server1"))
	}
	for name, o := range map[string]Outgoing{
		"no receiver":    {},
		"many":           {To: many},
		"a server":       {To: to("server1")},
		"no UTF-8":       {To: to(bob), Body: []byte{0xff}},
		"long":           {To: to(bob), Body: make([]byte, message.MaxEnvelope)},
		"lives too long": {To: to(bob), Lifetime: 1 << 62},
		"lives negative": {To: to(bob), Lifetime: -time.Minute},
	} {
		if _, err := s.Enqueue(t.Context(), o); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Enqueue(ctx, Outgoing{To: to(bob)}); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that ended: %v", err)
	}
	if n := count(t, s, "message") + count(t, s, "recipient") + count(t, s, "outbox"); n != 0 {
		t.Errorf("%d rows stayed", n)
	}
	if m := enqueue(t, s, Outgoing{To: many[:message.MaxTo]}); m.Counter != 1 || len(m.Recipients) != message.MaxTo {
		t.Errorf("the next message has the counter %d and %d receivers", m.Counter, len(m.Recipients))
	}
}

func TestOutboxOrder(t *testing.T) {
	s := aliceStore(t)
	for range 3 {
		enqueue(t, s, Outgoing{To: to(bob), Kind: message.File})
		enqueue(t, s, Outgoing{To: to(bob)})
	}
	enqueue(t, s, Outgoing{To: to(bob), Priority: message.Bulk})
	for _, c := range []struct {
		priority message.Priority
		after    uint64
		limit    int
		want     []uint64
	}{
		{message.Urgent, 0, 10, nil},
		{message.Normal, 0, 10, []uint64{2, 4, 6}},
		{message.Normal, 2, 1, []uint64{4}},
		{message.Bulk, 0, 10, []uint64{1, 3, 5, 7}},
		{message.Bulk, 7, 10, nil},
	} {
		all, err := s.Outbox(c.priority, c.after, c.limit)
		check(t, err)
		var have []uint64
		for _, p := range all {
			have = append(have, p.Counter)
		}
		if !slices.Equal(have, c.want) {
			t.Errorf("Outbox(%d, %d, %d) has %v, want %v", c.priority, c.after, c.limit, have, c.want)
		}
	}
}

func TestSettle(t *testing.T) {
	s := aliceStore(t)
	m := enqueue(t, s, Outgoing{To: to(alice, bob, carol)})
	other := enqueue(t, s, Outgoing{To: to(bob)})

	changed := settle(t, s,
		Settled{Counter: m.Counter, Receiver: 1, State: message.Refused, Code: message.CodeNoUser, Reason: "no bob here", At: testTime},
		Settled{Counter: m.Counter, Receiver: 1, State: message.Held},    // lower
		Settled{Counter: m.Counter, Receiver: 1, State: message.Refused}, // the same
		Settled{Counter: m.Counter, Receiver: 3, State: message.Held},    // nobody
		Settled{Counter: m.Counter, Receiver: -2, State: message.Held},   // nobody
		Settled{Counter: m.Counter, Receiver: 0, State: message.Queued},  // no news
		Settled{Counter: 99, Receiver: AllOpen, State: message.Held},     // no such envelope
	)
	want := []Change{{ID: m.ID, Counter: 1, Receiver: bob, State: message.Refused, Code: message.CodeNoUser, Reason: "no bob here", At: testTime}}
	if !reflect.DeepEqual(changed, want) {
		t.Errorf("Settle gave %+v, want %+v", changed, want)
	}
	if p := outbox(t, s, message.Normal); len(p) != 2 || !slices.Equal(p[0].Open, []int{0, 2}) || !slices.Equal(p[1].Open, []int{0}) {
		t.Errorf("the outbox has %+v", p)
	}

	changed = settle(t, s, Settled{Counter: m.Counter, Receiver: AllOpen, State: message.Held, At: testTime})
	if len(changed) != 2 || changed[0].Receiver != alice || changed[1].Receiver != carol {
		t.Errorf("AllOpen changed %+v", changed)
	}
	have := status(t, s, m.ID)
	if !slices.Equal(states(have), []message.State{message.Held, message.Refused, message.Held}) || have.State != "held" {
		t.Errorf("states %v, together %s", states(have), have.State)
	}
	if r := have.Recipients[1]; r.Code != message.CodeNoUser || r.Reason != "no bob here" || !r.At.Equal(testTime) {
		t.Errorf("the refusal is %+v", r)
	}
	if p := outbox(t, s, message.Normal); len(p) != 1 || p[0].ID != other.ID {
		t.Errorf("the outbox has %+v", p)
	}
	if changed := settle(t, s, Settled{Counter: m.Counter, Receiver: AllOpen, State: message.Delivered}); changed != nil {
		t.Errorf("an envelope that had left the outbox was settled again: %+v", changed)
	}
	if changed := settle(t, s, Settled{Counter: other.Counter, State: message.Delivered}); len(changed) != 1 {
		t.Errorf("delivered at once: %+v", changed)
	}
}

// A batch is done whole or not at all.
func TestSettleWhole(t *testing.T) {
	s := aliceStore(t)
	m := enqueue(t, s, Outgoing{To: to(bob)})
	_, err := s.writer.ExecContext(t.Context(), `CREATE TEMP TRIGGER fail BEFORE DELETE ON outbox BEGIN SELECT RAISE(ABORT, 'no'); END`)
	check(t, err)
	if _, err := s.Settle([]Settled{{Counter: m.Counter, State: message.Held}}); err == nil {
		t.Fatal("no error")
	}
	if have := status(t, s, m.ID); have.State != "queued" {
		t.Errorf("the state is %s", have.State)
	}
	_, err = s.writer.ExecContext(t.Context(), "DROP TRIGGER fail")
	check(t, err)
	if changed := settle(t, s, Settled{Counter: m.Counter, State: message.Held}); len(changed) != 1 {
		t.Errorf("afterwards: %+v", changed)
	}
}

// A counter is not used again: not when its envelope has left the outbox, not
// after its message is gone, not in the next process, not with a new device.
func TestCountersOnce(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir)
	a := aliceAccount()
	check(t, s.SetAccount(a))
	for want := uint64(1); want < 10; want++ {
		kind := message.Text
		if want%2 == 0 {
			kind = message.Receipt // its message goes with the outbox
		}
		if m := enqueue(t, s, Outgoing{To: to(bob), Kind: kind}); m.Counter != want {
			t.Fatalf("the counter is %d, want %d", m.Counter, want)
		}
		settle(t, s, Settled{Counter: want, State: message.Held})
		if n := count(t, s, "outbox"); n != 0 {
			t.Fatalf("the outbox has %d envelopes", n)
		}
		if want%3 == 0 {
			a.Device++
			check(t, s.SetAccount(a))
		}
		check(t, s.Close())
		s = openStore(t, dir)
	}
	if n := count(t, s, "message"); n != 5 {
		t.Errorf("the history has %d messages, want the 5 texts", n)
	}
}

// On a full disk nothing is half stored, and the store works again when there
// is space.
func TestFull(t *testing.T) {
	s := aliceStore(t)
	limit := func(pages string) {
		_, err := s.writer.ExecContext(t.Context(), "PRAGMA max_page_count = "+pages)
		check(t, err)
	}
	limit("90")
	o := Outgoing{To: to(bob, carol), Body: make([]byte, 5000)}
	var stored uint64
	for {
		m, err := s.Enqueue(t.Context(), o)
		if err != nil {
			if !strings.Contains(err.Error(), "full") {
				t.Errorf("Enqueue: %v", err)
			}
			break
		}
		stored = m.Counter
	}
	if n := count(t, s, "message"); stored == 0 || n != int(stored) || count(t, s, "outbox") != n || count(t, s, "recipient") != 2*n {
		t.Errorf("%d were stored, and there are %d", stored, n)
	}
	settle(t, s, Settled{Counter: 1, Receiver: AllOpen, State: message.Held})
	limit("1000")
	if m := enqueue(t, s, o); m.Counter != stored+1 {
		t.Errorf("the next counter is %d after %d", m.Counter, stored)
	}
}

// TestRestoredFile: a file that was written in a restored profile, before its home has said
// how far the device had counted, gets counters that nobody has used.
func TestRestoredFile(t *testing.T) {
	s := aliceStore(t)
	path := filepath.Join(t.TempDir(), "plan.pdf")
	check(t, os.WriteFile(path, make([]byte, message.PartSize+1), 0o600))
	all, err := s.EnqueueFile(t.Context(), OutgoingFile{To: to(bob), Path: path})
	check(t, err)
	text := enqueue(t, s, Outgoing{To: to(bob)})
	if all[0].Counter != 1 || text.Counter != 4 {
		t.Fatalf("the file has %d, the text %d", all[0].Counter, text.Counter)
	}
	check(t, s.Prove(100, false))
	parts, err := s.outParts(0, 9)
	check(t, err)
	var counters []uint64
	for _, p := range parts {
		counters = append(counters, p.Counter)
		if p.Unproven {
			t.Errorf("%d is unproven", p.Counter)
		}
	}
	next := enqueue(t, s, Outgoing{To: to(bob)})
	if len(parts) != 3 || counters[0] <= 100 || counters[2] != counters[0]+2 || next.Counter <= counters[2] || parts[0].ID != message.IDOf(parts[0].Raw) {
		t.Errorf("the file goes with the counters %d, as %v, and the next text with %d", counters, parts[0].ID, next.Counter)
	}
	for _, id := range []message.ID{all[0].ID, parts[0].ID} {
		if m, found, err := s.Status(id); err != nil || !found || m.Seq != all[0].Seq || m.Counter != counters[0] {
			t.Errorf("by %v there is %+v, %v", id, m, err)
		}
	}
	if m, _, err := s.Status(text.ID); err != nil || m.Counter <= 100 || slices.Contains(counters, m.Counter) {
		t.Errorf("the text has %d, %v", m.Counter, err)
	}
}
