package client

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/noipchat/noipchat/daemon/message"
)

// reportFrom makes a receipt or bounce arrive; each has a counter of its own.
func reportFrom(t testing.TB, counter uint64, from message.Address, p message.Report) Incoming {
	t.Helper()
	if p.Device == 0 {
		p.Device = aliceDevice
	}
	kind := message.Receipt
	if p.State == message.Refused || p.State == message.Expired {
		kind = message.Bounce
	}
	return incoming(t, message.Envelope{Kind: kind, From: from, Device: 0xdead, Counter: counter, Body: p.Append(nil)})
}

func counters(n ...uint64) (all message.Ranges) {
	for _, c := range n {
		all.Add(c)
	}
	return all
}

func TestReportRaises(t *testing.T) {
	s := aliceStore(t)
	m := enqueue(t, s, Outgoing{To: to(bob, carol)})
	other := enqueue(t, s, Outgoing{To: to(carol)})

	in := reportFrom(t, 1, "server2", message.Report{State: message.Expired, Receiver: bob, Counters: counters(1, 2, 3), Code: message.CodeExpired, Reason: "waited"})
	r := receive(t, s, in)[0]
	for i := range in.Envelope.Raw {
		in.Envelope.Raw[i] = '#'
	}
	want := []Change{{ID: m.ID, Counter: 1, Receiver: bob, State: message.Expired, Code: message.CodeExpired, Reason: "waited", At: testTime}}
	if !r.New || r.Err != nil || r.Message.Seq != 0 || !reflect.DeepEqual(r.Changes, want) {
		t.Errorf("a bounce gave %+v, want %+v", r, want)
	}
	// carol is still queued, so the envelope stays in the outbox for her.
	if p := outbox(t, s, message.Normal); len(p) != 2 || !slices.Equal(p[0].Open, []int{1}) {
		t.Errorf("the outbox has %+v", p)
	}
	all := receive(t, s,
		reportFrom(t, 2, bob, message.Report{State: message.Read, Receiver: bob, Counters: counters(1)}),
		reportFrom(t, 3, "server2", message.Report{State: message.Delivered, Receiver: bob, Counters: counters(1)}), // too late
		reportFrom(t, 1, carol, message.Report{State: message.Delivered, Receiver: carol, Counters: counters(1, 2)}))
	if len(all[0].Changes) != 1 || len(all[1].Changes) != 0 || all[1].Err != nil || len(all[2].Changes) != 2 {
		t.Errorf("receipts gave %+v", all)
	}
	have := status(t, s, m.ID)
	if !slices.Equal(states(have), []message.State{message.Read, message.Delivered}) || have.State != "delivered" || have.Recipients[0].Reason != "" {
		t.Errorf("it became %+v", have)
	}
	if have := status(t, s, other.ID); have.State != "delivered" {
		t.Errorf("the other became %+v", have)
	}
	if n := count(t, s, "outbox"); n != 0 {
		t.Errorf("the outbox has %d envelopes", n)
	}
}

func TestReportBelief(t *testing.T) {
	for name, c := range map[string]struct {
		from  message.Address
		state message.State
		wrong string // "": it is believed
	}{
		"the receiver":                   {bob, message.Read, ""},
		"his home":                       {"server2", message.Delivered, ""},
		"his home, a bounce":             {"server2", message.Refused, ""},
		"our home, a bounce":             {"server1", message.Expired, ""},
		"our home, which his has told":   {"server1", message.Delivered, ""},
		"our home, of what it can't see": {"server1", message.Read, "can't know"},
		"another server, a bounce":       {"server3", message.Refused, "can't know"},
		"another user":                   {carol, message.Read, "can't know"},
		"another user of his home":       {"mallory@server2", message.Read, "can't know"},
		"one of his name elsewhere":      {"bob@server1", message.Read, "can't know"},
		"a server that is named bob":     {"bob", message.Read, "can't know"},
		"a user of our home, bouncing":   {"mallory@server1", message.Refused, "can't know"},
		"ourselves":                      {alice, message.Read, "can't know"},
	} {
		s := aliceStore(t)
		m := enqueue(t, s, Outgoing{To: to(bob)})
		report := message.Report{State: c.state, Receiver: bob, Counters: counters(1)}
		if c.state == message.Refused || c.state == message.Expired {
			report.Code = message.CodeExpired
		}
		r := receive(t, s, reportFrom(t, 1, c.from, report))[0]
		wantState := "queued"
		if c.wrong == "" {
			wantState = c.state.String()
		}
		if have := status(t, s, m.ID); have.State != wantState || !r.New {
			t.Errorf("%s: the state is %s, want %s", name, have.State, wantState)
		}
		if (r.Err == nil) != (c.wrong == "") || r.Err != nil && !strings.Contains(r.Err.Error(), c.wrong) {
			t.Errorf("%s: error %v, want %q", name, r.Err, c.wrong)
		}
	}
}

// Reports that are wrong are seen, without effect, and don't stop the others.
func TestReportWrong(t *testing.T) {
	s := aliceStore(t)
	m := enqueue(t, s, Outgoing{To: to(bob)})
	envelope := func(counter uint64, kind message.Kind, body []byte) Incoming {
		return incoming(t, message.Envelope{Kind: kind, From: bob, Device: 0xdead, Counter: counter, Body: body})
	}
	delivered := message.Report{State: message.Delivered, Receiver: bob, Device: aliceDevice, Counters: counters(1)}
	refused := message.Report{State: message.Refused, Receiver: bob, Device: aliceDevice, Counters: counters(1), Code: message.CodeQuota}
	foreign := message.Report{State: message.Read, Receiver: bob, Device: aliceDevice + 1, Counters: counters(1)}
	batch := []Incoming{
		envelope(1, message.Receipt, nil),
		envelope(2, message.Receipt, append(delivered.Append(nil), 0)),
		envelope(3, message.Bounce, delivered.Append(nil)),
		envelope(4, message.Receipt, refused.Append(nil)),
		envelope(5, message.Receipt, foreign.Append(nil)),
		envelope(6, message.Text, []byte("hello")),
		envelope(7, message.Receipt, delivered.Append(nil)),
	}
	for i, want := range []string{"malformed", "malformed", "does not go with", "does not go with", "", "", ""} {
		r := receive(t, s, batch[i])[0]
		if !r.New || (r.Err == nil) != (want == "") || r.Err != nil && !strings.Contains(r.Err.Error(), want) {
			t.Errorf("envelope %d: %+v, want %q", i, r, want)
		}
		if state := status(t, s, m.ID).State; i < 6 && state != "queued" {
			t.Errorf("envelope %d made the state %s", i, state)
		}
	}
	if state := status(t, s, m.ID).State; state != "delivered" {
		t.Errorf("in the end the state is %s", state)
	}
	for i, r := range receive(t, s, batch...) {
		if r.New {
			t.Errorf("envelope %d is new for the second time", i)
		}
	}
}

// A range may be larger than what there is, and messages that went out with an
// older device of ours are still ours.
func TestReportRanges(t *testing.T) {
	s := aliceStore(t)
	var ids []message.ID
	for i := range 20 {
		if i == 10 {
			a := aliceAccount()
			a.Device = 5
			check(t, s.SetAccount(a))
		}
		receivers := to(bob, carol)
		if i%5 == 4 {
			receivers = to(carol)
		}
		ids = append(ids, enqueue(t, s, Outgoing{To: receivers}).ID)
	}
	changes := func(counter uint64, p message.Report) (have []uint64) {
		p.State, p.Receiver = message.Delivered, bob
		r := receive(t, s, reportFrom(t, counter, bob, p))[0]
		check(t, r.Err)
		for _, c := range r.Changes {
			have = append(have, c.Counter)
		}
		return have
	}
	everything := message.Ranges{{First: 1, Last: 1<<63 - 1}}
	for i, c := range []struct {
		device   message.DeviceID
		counters message.Ranges
		want     []uint64
	}{
		{aliceDevice, message.Ranges{{First: 2, Last: 3}, {First: 5, Last: 7}, {First: 11, Last: 12}, {First: 30, Last: 40}}, []uint64{2, 3, 6, 7}},
		{aliceDevice, everything, []uint64{1, 4, 8, 9}},
		{aliceDevice, everything, nil},
		{5, message.Ranges{{First: 1, Last: 11}}, []uint64{11}},
		{5, everything, []uint64{12, 13, 14, 16, 17, 18, 19}},
	} {
		if have := changes(uint64(i+1), message.Report{Device: c.device, Counters: c.counters}); !slices.Equal(have, c.want) {
			t.Errorf("report %d changed %v, want %v", i, have, c.want)
		}
	}
	for i, id := range ids {
		want := []message.State{message.Delivered, message.Queued}
		if i%5 == 4 {
			want = []message.State{message.Queued}
		}
		if have := states(status(t, s, id)); !slices.Equal(have, want) {
			t.Errorf("message %d has the states %v", i, have)
		}
	}
}

// TestEarlyReports: what is told of messages of another device before they come is
// remembered, and not without bounds.
func TestEarlyReports(t *testing.T) {
	s := aliceStore(t)
	const phone = message.DeviceID(0xf0)
	counter := uint64(0)
	told := func(counters ...message.Range) {
		counter++
		p := message.Report{State: message.Delivered, Receiver: bob, Device: phone, Counters: counters}
		receive(t, s, incoming(t, message.Envelope{Kind: message.Receipt, From: "server2", Device: 1, Counter: counter, Body: p.Append(nil)}))
	}
	told(message.Range{First: 3, Last: 7})
	ours := incoming(t, message.Envelope{Kind: message.Text, From: alice, Device: phone, Counter: 5, To: to(bob, carol), Body: []byte("hi")})
	m := receive(t, s, ours)[0].Message
	if have := states(status(t, s, m.ID)); !m.Out || !slices.Equal(have, []message.State{message.Delivered, message.Held}) {
		t.Errorf("it came as %+v, with %v", m, have)
	}
	for i := range uint64(maxEarly/message.MaxRanges + 1) {
		var many []message.Range
		for j := range uint64(message.MaxRanges) {
			n := 1000 + 2*(i*message.MaxRanges+j)
			many = append(many, message.Range{First: n, Last: n})
		}
		told(many...)
	}
	if n := count(t, s, "early"); n != maxEarly {
		t.Errorf("%d are remembered", n)
	}
}
