package spool

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/noipchat/noipchat/daemon/message"
)

// TestSettle: what is in hand is held when Settle returns, whether a pump has it or not,
// and in the same state on disk another process finds what the pump was given.
func TestSettle(t *testing.T) {
	dir := t.TempDir()
	r := open(t, dir, Options{Moment: time.Minute})
	q := r.sp.Queue(aliceQueue)
	p := &tap{}
	q.Attach(p)
	for n := uint64(1); n <= 5; n++ {
		r.put(q, n, 100)
	}
	var turn Turn
	var given []*Entry
	for range 3 {
		e, _, _ := q.Next(p, message.MaxEnvelope, message.Priorities)
		given = append(given, e)
	}
	q.Done(&turn, given[0])
	if err := r.sp.Settle(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := r.sp.HandBytes(); n != 0 {
		t.Errorf("%d bytes are in hand", n)
	}
	for n := uint64(2); n <= 5; n++ {
		if s := r.told[n]; s != message.Held {
			t.Errorf("%d was told %v", n, s)
		}
	}

	// The journal's file has an end, and is gone on with.
	copied := snapshot(t, dir)
	other := open(t, copied, Options{})
	r.put(r.sp.Queue(carolQueue), 6, 100)
	other.put(other.sp.Queue(carolQueue), 7, 100)
	other.await(7)
	if files, _ := os.ReadDir(filepath.Join(copied, "journal")); len(files) != 1 {
		t.Errorf("there are journal files %v", files)
	}
	copied = snapshot(t, copied)
	if b, err := readJournal(filepath.Join(copied, "journal", fmt.Sprintf("%020d", 1))); err != nil || len(b) != 1<<18 {
		t.Errorf("of a file without an end %d bytes are read: %v", len(b), err)
	}
	other = open(t, copied, Options{})
	if have := fmt.Sprint(other.drain(other.sp.Queue(carolQueue), true)); have != "[7]" {
		t.Errorf("behind the end there is %s", have)
	}
	q = other.sp.Queue(aliceQueue)
	q.Attach(p)
	if q.Regain(&tap{}, message.Normal, given[1].Seq()) != nil {
		t.Error("who isn't its pump regains an entry")
	}
	if q.Regain(p, message.Normal, given[0].Seq()) != nil || q.Regain(p, message.Urgent, given[1].Seq()) != nil {
		t.Error("an entry is regained that isn't there")
	}
	second, third := q.Regain(p, message.Normal, given[1].Seq()), q.Regain(p, message.Normal, given[2].Seq())
	if second == nil || third == nil {
		t.Fatal("what is under way is not there")
	}
	if e, raw, _ := q.Next(p, message.MaxEnvelope, message.Priorities); counterOf(t, raw) != 4 {
		t.Errorf("the next is %v", e)
	}
	if !q.Done(&turn, second) || counterOf(t, q.Raw(second)) != 2 {
		t.Error("nobody is owed a receipt for the second")
	}
	q.Forget(second)
	q.Detach(&turn, p)
	if have := fmt.Sprint(other.drain(q, true)); have != "[3 4 5]" {
		t.Error(have)
	}
}

// TestRested: what rests goes on resting in another process, as long and for the same
// receivers.
func TestRested(t *testing.T) {
	dir := t.TempDir()
	r := open(t, dir, Options{Moment: time.Minute})
	q := r.sp.Queue("server2")
	p := &tap{}
	q.Attach(p)
	for n := uint64(1); n <= 3; n++ {
		r.put(q, n, 100)
	}
	var turn Turn
	first, _, _ := q.Next(p, message.MaxEnvelope, message.Priorities)
	second, _, _ := q.Next(p, message.MaxEnvelope, message.Priorities)
	q.SetOpen(first, 0b110)
	q.Narrow(first, 0b010)
	q.Rest(new(Turn), first, time.Hour)
	if err := r.sp.Settle(t.Context()); err != nil {
		t.Fatal(err)
	}
	q.End(&turn, second, message.Delivered)
	all := r.sp.Rested()
	other := open(t, snapshot(t, dir), Options{})
	other.sp.Resume(all)
	q = other.sp.Queue("server2")
	if kept := q.Info().Kept; kept != 1 {
		t.Errorf("%d have rested", kept)
	}
	q.Attach(p)
	for e, raw, _ := q.Next(p, message.MaxEnvelope, message.Priorities); e != nil; e, raw, _ = q.Next(p, message.MaxEnvelope, message.Priorities) {
		if n := counterOf(t, raw); n != 3 && n != 2 { // the second may be on the disk still
			t.Errorf("%d is offered", n)
		}
	}
	q.WakeAll(&turn)
	e, raw, _ := q.Next(p, message.MaxEnvelope, message.Priorities)
	if e == nil || counterOf(t, raw) != 1 || q.Open(e) != 0b100 || q.Tries(e) != 1 {
		t.Errorf("%+v is offered", e)
	}
}

// TestSettleInVain: nobody commits, so it ends with its context.
func TestSettleInVain(t *testing.T) {
	sp, err := Open(t.TempDir(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := sp.Settle(ctx); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestCheck(t *testing.T) {
	dir := t.TempDir()
	if err := Check(filepath.Join(dir, "none yet")); err != nil {
		t.Error(err)
	}
	r := open(t, dir, Options{})
	r.put(r.sp.Queue(aliceQueue), 1, 100)
	r.await(1)
	if err := Check(dir); err != nil {
		t.Error(err)
	}
	// A link to itself can be read by nobody, root included.
	if err := os.Symlink("loop", filepath.Join(dir, "queues", "loop")); err != nil {
		t.Fatal(err)
	}
	if err := Check(dir); err == nil {
		t.Error("what can't be read is good")
	}
	os.Remove(filepath.Join(dir, "queues", "loop"))
}
