package spool

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/noipchat/noipchat/daemon/message"
)

// answerer is told that something is held, and answers with a receipt, as the relay does,
// after it has filled the hand.
type answerer struct {
	*rig
	full func()
}

func (a *answerer) Settled(t *Turn, token uint64, s message.State, no *message.Refusal) {
	a.full()
	t.Wake(a)
	a.rig.Settled(t, token, s, no)
}

func (a *answerer) Due() bool { return true }

func (a *answerer) Pump() {
	var turn Turn
	a.sp.Queue(aliceQueue).Put(&turn, Put{Raw: envelope(a.t, 100, 100), Priority: message.Urgent, Owner: a.rig, Token: 100})
	turn.Run()
}

// TestReceiptsDontWait: who tells what has reached the disk, and so makes room in the hand,
// doesn't wait for that room himself, for the receipts that follow.
func TestReceiptsDontWait(t *testing.T) {
	r := open(t, t.TempDir(), Options{Hand: 1000})
	carol := r.sp.Queue(carolQueue)
	carol.Attach(&tap{})
	a := &answerer{r, func() { r.put(carol, 2, 2000) }}
	var turn Turn
	r.sp.Queue(aliceQueue).Put(&turn, Put{Raw: envelope(t, 1, 10), Priority: message.Normal, Owner: a, Token: 1})
	for _, n := range []uint64{1, 2, 100} {
		if s := r.await(n); s != message.Held {
			t.Errorf("%d is %v", n, s)
		}
	}
}

// TestFullDiskFullHand: where the hand is full of what a device doesn't ack, and the disk
// takes nothing, nobody waits for either.
func TestFullDiskFullHand(t *testing.T) {
	r := open(t, t.TempDir(), Options{Hand: 1000, Moment: time.Hour})
	carol, p := r.sp.Queue(carolQueue), &tap{}
	carol.Attach(p)
	r.put(carol, 1, 2000)
	if e, _, _ := carol.Next(p, message.MaxEnvelope, message.Priorities); e == nil {
		t.Fatal("nothing comes")
	}
	go r.put(carol, 2, 10)   // waits
	waitFor(t, func() bool { // until it waits
		r.sp.setFull(true, errors.New("no space left"))
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.told[2] != 0
	})
	if s := r.await(2); s != message.Refused {
		t.Errorf("who waited for the hand when the disk was full is told %v", s)
	}
	var turn Turn
	carol.Detach(&turn, p)
}

// TestRestOfWhatTheDiskRefused: what another one has for now, and no disk here takes, is not
// kept in hand for hours, with its sender's window.
func TestRestOfWhatTheDiskRefused(t *testing.T) {
	r := open(t, t.TempDir(), Options{Moment: time.Hour})
	carol, p := r.sp.Queue(carolQueue), &tap{}
	carol.Attach(p)
	r.put(carol, 1, 2000)
	e, _, _ := carol.Next(p, message.MaxEnvelope, message.Priorities)
	var turn Turn
	e.flags |= committing
	carol.unacked--
	r.sp.tell(&turn, &op{kind: opPut, q: carol, e: e, err: errNoFile}, new(copied))
	carol.Rest(&turn, e, time.Hour)
	if s := r.await(1); s != message.Refused {
		t.Errorf("its owner is told %v", s)
	}
	if i := carol.Info(); i.Messages != 0 || i.InHand != 0 || r.sp.HandBytes() != 0 {
		t.Errorf("%+v is left, with %d bytes in hand", i, r.sp.HandBytes())
	}
	carol.Detach(&turn, p)
}

// TestRestIsHeld: what the far end holds is on disk at the end of the turn, and what it has
// perhaps passed on is a little later, unless an answer comes before; a far end that acks fast
// isn't thought slow because of answers that come late.
func TestRestIsHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := open(t, t.TempDir(), Options{})
		defer r.end()
		q, p := r.sp.Queue(carolQueue), &tap{}
		q.Attach(p)
		for n, c := range []struct {
			rest   func(t *Turn, e *Entry, wait time.Duration)
			answer time.Duration // when it comes; 0: in the same turn
			within time.Duration // that somebody is told
			want   message.State
		}{
			{q.Rest, 0, 0, message.Delivered},
			{q.Rest, time.Millisecond, 0, message.Held},
			{q.Rest, 700 * time.Millisecond, 0, message.Held},
			{q.Decline, 700 * time.Millisecond, 0, message.Held},
			{q.Await, 0, 0, message.Delivered},
			{q.Await, time.Millisecond, time.Millisecond, message.Delivered},
			{q.Await, 4 * time.Millisecond, 4 * time.Millisecond, message.Delivered},
			{q.Await, 700 * time.Millisecond, 10 * time.Millisecond, message.Held},
			{q.Rest, 700 * time.Millisecond, 0, message.Held},
		} {
			n := uint64(n + 1)
			start, written := time.Now(), r.sp.Stats().Bytes.Load()
			r.put(q, n, 100)
			e, _, _ := q.Next(p, message.MaxEnvelope, message.Priorities)
			var turn Turn
			c.rest(&turn, e, time.Hour)
			if c.answer == 0 {
				q.End(&turn, e, message.Delivered)
			}
			turn.Run()
			if c.answer > 0 {
				time.AfterFunc(c.answer, func() { q.End(new(Turn), e, message.Delivered) })
			}
			if s, took := r.await(n), time.Since(start); s != c.want || took > c.within {
				t.Errorf("%d: %v after %v", n, s, took)
			}
			time.Sleep(time.Second)
			if wrote := r.sp.Stats().Bytes.Load() > written; wrote != (c.want == message.Held) {
				t.Errorf("%d: something went to the disk: %v", n, wrote)
			}
		}
		start := time.Now()
		r.put(q, 20, 100)
		q.Next(p, message.MaxEnvelope, message.Priorities)
		if s, took := r.await(20), time.Since(start); s != message.Held || took > 2*r.sp.o.Moment {
			t.Errorf("what isn't acked is %v after %v", s, took)
		}
		q.Detach(&Turn{}, p)
	})
}

// TestReceiptsFit: for whom so many texts wait that no more are taken, receipts are: they
// are not written again.
func TestReceiptsFit(t *testing.T) {
	r := open(t, t.TempDir(), Options{Quota: 8000})
	alice := r.sp.Queue(aliceQueue)
	n := uint64(1)
	for r.put(alice, n, 1000); r.await(n) == message.Held; n++ {
		r.put(alice, n+1, 1000)
	}
	var turn Turn
	alice.Put(&turn, Put{Raw: envelope(t, 100, 900), Priority: message.Urgent, Owner: r, Token: 100})
	if s := r.await(100); s != message.Held {
		t.Errorf("after %d texts a receipt is %v", n, s)
	}
}
