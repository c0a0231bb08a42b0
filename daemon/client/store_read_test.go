package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/noipchat/noipchat/daemon/message"
)

func bodies(messages []Message) (all []string) {
	for _, m := range messages {
		all = append(all, m.Body)
	}
	return all
}

func next(t testing.TB, s *Store, cursor string, limit int) []Message {
	t.Helper()
	all, err := s.Next(cursor, limit)
	check(t, err)
	return all
}

func TestCursor(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir)
	check(t, s.SetAccount(aliceAccount()))
	for c := range uint64(5) {
		receive(t, s, textFrom(t, 5-c, fmt.Sprint(c))) // arrival counts, not the counter
		enqueue(t, s, Outgoing{To: to(bob), Body: []byte("mine")})
	}
	if have := bodies(next(t, s, "a", 3)); !slices.Equal(have, []string{"0", "1", "2"}) {
		t.Fatalf("Next has %q", have)
	}
	all := next(t, s, "a", 10)
	check(t, s.Advance("a", all[0]))
	check(t, s.Advance("a", all[2])) // passes 1
	check(t, s.Advance("a", all[1])) // back: nothing
	check(t, s.Close())
	s = openStore(t, dir)
	if have := bodies(next(t, s, "a", 10)); !slices.Equal(have, []string{"3", "4"}) {
		t.Errorf("after a restart Next has %q", have)
	}
	if have := next(t, s, "b", 10); !slices.Equal(bodies(have), []string{"0", "1", "2", "3", "4"}) || have[2].State != "read" || have[3].State != "delivered" {
		t.Errorf("another cursor has %+v", have)
	}
	receive(t, s, textFrom(t, 6, "5"))
	check(t, s.Advance("a", next(t, s, "a", 10)[1]))
	if have := bodies(next(t, s, "a", 10)); !slices.Equal(have, []string{"5"}) {
		t.Errorf("with a new message Next has %q", have)
	}
}

func TestReadReceipts(t *testing.T) {
	s := aliceStore(t)
	if r, err := s.EnqueueReadReceipts(t.Context()); err != nil || r != nil {
		t.Fatalf("with nothing to do: %+v, %v", r, err)
	}
	var batch []Incoming
	for _, c := range []uint64{1, 2, 3, 7} {
		batch = append(batch, textFrom(t, c, ""))
	}
	batch = append(batch,
		incoming(t, message.Envelope{Kind: message.Text, From: carol, Device: 1 << 63, Counter: 4}),
		incoming(t, message.Envelope{Kind: message.Text, From: "server1", Device: 9, Counter: 1}),
		textFrom(t, 8, "not shown"))
	all := receive(t, s, batch...)
	check(t, s.MarkRead(all[1].Message.ID, message.ID{1}))
	check(t, s.Advance("", all[5].Message))
	check(t, s.MarkRead(all[1].Message.ID)) // once more

	receipts, err := s.EnqueueReadReceipts(t.Context())
	check(t, err)
	if len(receipts) != 2 {
		t.Fatalf("%d receipts: %+v", len(receipts), receipts)
	}
	want := []message.Report{
		{State: message.Read, Receiver: alice, Device: bobDevice, Counters: message.Ranges{{First: 1, Last: 3}, {First: 7, Last: 7}}},
		{State: message.Read, Receiver: alice, Device: 1 << 63, Counters: message.Ranges{{First: 4, Last: 4}}},
	}
	for i, p := range outbox(t, s, message.Urgent) {
		var e message.Envelope
		var report message.Report
		check(t, e.Parse(p.Raw))
		check(t, report.Parse(e.Body))
		if e.Kind != message.Receipt || !slices.Equal(e.To, to([]message.Address{bob, carol}[i])) || p.ID != receipts[i].ID {
			t.Errorf("receipt %d is %+v", i, e)
		}
		if report.State != want[i].State || report.Receiver != alice || report.Device != want[i].Device || !slices.Equal(report.Counters, want[i].Counters) {
			t.Errorf("receipt %d says %+v, want %+v", i, report, want[i])
		}
	}
	if again, err := s.EnqueueReadReceipts(t.Context()); err != nil || again != nil {
		t.Errorf("once more: %+v, %v", again, err)
	}

	// Receipts are no part of the history, and go with the outbox.
	if all, err := s.History(Query{With: bob}); err != nil || len(all) != 5 {
		t.Errorf("History has %+v, %v", all, err)
	}
	if _, found, err := s.Status(receipts[0].ID); found || err != nil {
		t.Errorf("Status of a receipt: %v, %v", found, err)
	}
	settle(t, s, Settled{Counter: receipts[0].Counter, Receiver: AllOpen, State: message.Held})
	if n := count(t, s, "recipient"); n != 1 {
		t.Errorf("%d recipients stayed, want that of the other receipt", n)
	}
}

// Texts with gaps between them need more than one receipt, and many more than
// one transaction.
func TestManyReadReceipts(t *testing.T) {
	s := aliceStore(t)
	const texts = receiptBatch + 100
	var last Message
	for c := uint64(1); c <= texts; {
		var batch []Incoming
		for range 200 {
			batch = append(batch, textFrom(t, 2*c, ""))
			c++
		}
		all := receive(t, s, batch...)
		last = all[len(all)-1].Message
	}
	check(t, s.Advance("", last))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.EnqueueReadReceipts(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that ended: %v", err)
	}
	_, err := s.EnqueueReadReceipts(t.Context())
	check(t, err)
	var told message.Ranges
	for _, p := range outbox(t, s, message.Urgent) {
		var e message.Envelope
		var report message.Report
		check(t, e.Parse(p.Raw))
		check(t, report.Parse(e.Body))
		for _, g := range report.Counters {
			if !told.Add(g.First) || g.First != g.Last {
				t.Errorf("range %v", g)
			}
		}
	}
	if n := count(t, s, "message WHERE out = 0"); told.Count() != uint64(n) {
		t.Errorf("told %d of %d", told.Count(), n)
	}
}
