package spool

import (
	"context"
	"sync/atomic"
	"time"
)

const (
	maxJump    = time.Minute // by which wall clock and steady clock may differ
	clockCheck = time.Minute // how often they are compared at least
	roomCheck  = time.Second // how often a full disk is tried again
)

// watch sees to all that happens by itself: what is in hand too long goes to
// disk, what is too old expires, a full disk is tried again. With nothing in
// hand, nothing near its end and room on the disk, it sleeps.
func (sp *Spool) watch(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	var lastExpiry, lastRoom time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-sp.stirred:
		case <-timer.C:
		}
		now := time.Now()
		next := clockCheck
		sp.followClock()
		if sp.sweepHand(false) {
			next = sp.o.Moment / 2
		}
		if wait := time.Duration(int64(sp.expiry.Load())-int64(sp.steady())) * time.Second; wait <= 0 {
			if rest := time.Second - now.Sub(lastExpiry); rest > 0 {
				next = min(next, rest)
			} else {
				sp.expire()
				lastExpiry = now
				next = min(next, time.Second)
			}
		} else {
			next = min(next, wait)
		}
		if wait := time.Duration(int64(sp.rested.Load())-int64(sp.steady())) * time.Second; wait <= 0 {
			sp.wakeRested()
			next = min(next, time.Second)
		} else {
			next = min(next, wait)
		}
		if sp.full.Load() || !sp.hasReserve() {
			if now.Sub(lastRoom) >= roomCheck {
				lastRoom = now
				if sp.keepReserve() {
					sp.setFull(false, nil)
					sp.refileSoon()
				}
			}
			next = min(next, roomCheck)
		}
		timer.Reset(max(next, time.Millisecond))
	}
}

func (sp *Spool) hasReserve() bool {
	sp.reserveMu.Lock()
	defer sp.reserveMu.Unlock()
	return sp.reserved
}

// refileSoon files what a full disk has kept from being filed.
func (sp *Spool) refileSoon() {
	sp.unfiledMu.Lock()
	some := len(sp.unfiled) > 0
	sp.unfiledMu.Unlock()
	if some {
		nudge(sp.fileSoon)
		nudge(sp.active)
	}
}

// sweepHand sends to disk what has been in hand for a moment, or all of it, and tells
// whether anything is left in hand.
func (sp *Spool) sweepHand(all bool) bool {
	sp.handMu.Lock()
	queues := sp.restless
	sp.restless = nil
	crowded := sp.hand > sp.limits.hand/2 // who brings more waits soon
	sp.handMu.Unlock()
	if len(queues) == 0 {
		return false
	}
	now := sp.now()
	var ops []op
	still := queues[:0]
	for _, q := range queues {
		q.mu.Lock()
		for i := range q.lanes {
			l := &q.lanes[i]
			ripe := now - int64(sp.o.Moment)
			if !crowded {
				ripe = now - int64(l.moment(sp.o.Moment))
			}
			for ; l.file < len(l.ents); l.file++ {
				e := l.ents[l.file]
				if e.flags&(done|isDurable|committing|shadow|refusing) != 0 {
					continue
				}
				if !all && e.since > ripe {
					break
				}
				ops = append(ops, q.commitLocked(e))
			}
		}
		if q.restless = q.unacked > 0; q.restless {
			still = append(still, q)
		}
		q.mu.Unlock()
	}
	sp.journal.add(ops...)
	sp.handMu.Lock()
	defer sp.handMu.Unlock()
	sp.restless = append(sp.restless, still...)
	return len(sp.restless) > 0
}

// expireAt makes sure that watch looks when e is due; or, if it is not even born by this
// clock, when that was given time to be set.
func (sp *Spool) expireAt(e *Entry) {
	due := e.born + e.life
	if sp.isToCome(e) {
		due = sp.steadyAt(sp.calm.Load()+int64(sp.o.Grace)) + 1
	}
	if lower(&sp.expiry, due) {
		nudge(sp.stirred)
	}
}

// isToCome tells whether an entry's birth is: the clock was set back while the server was
// down.
func (sp *Spool) isToCome(e *Entry) bool { return int32(sp.steady()-e.born) < 0 }

// lower makes a at most to, and tells whether it was more.
func lower(a *atomic.Uint32, to uint32) bool {
	for {
		old := a.Load()
		if to >= old {
			return false
		}
		if a.CompareAndSwap(old, to) {
			return true
		}
	}
}

// expire ends what has waited too long. What a pump was given is left alone: its
// outcome is unknown.
func (sp *Spool) expire() {
	now := sp.steady()
	calm := time.Duration(sp.now()-sp.calm.Load()) >= sp.o.Grace
	sp.expiry.Store(^uint32(0))
	var turn Turn
	for _, q := range sp.Queues() {
		if calm {
			q.takeOut(func(e *Entry) bool { return e.flags&isDurable != 0 && Age(now, e.born) >= e.life }, func(e *Entry) {
				sp.stats.Expired.Add(1)
				if sp.o.Expired == nil {
					q.Forget(e)
					return
				}
				sp.o.Expired(&turn, q, e)
			})
			turn.Run()
		}
		q.mu.Lock()
		for i := range q.lanes {
			l := &q.lanes[i]
			for _, e := range l.ents[l.head:] {
				if e.flags&(done|given|isDurable) != isDurable {
					continue
				}
				if calm && sp.isToCome(e) {
					e.born, q.refile = now, true
					q.unfiledLocked()
					nudge(sp.fileSoon)
				}
				sp.expireAt(e)
			}
		}
		q.mu.Unlock()
	}
}

// followClock notes that the wall clock was set: an age is what has passed, not what a
// clock was set to. Nothing expires for a while then, and all is filed again, because
// ages on disk are by the wall clock. What was there at the start has an age by a clock
// that was perhaps wrong then, and is right now: of the two the lesser holds; or, of what
// isn't even born by the one, that by the other, if it doesn't end it.
func (sp *Spool) followClock() {
	before := sp.shift.Load()
	delta := sp.o.Now().Unix() - int64(sp.wall(sp.steady()))
	if max(delta, -delta) < int64(maxJump/time.Second) || !sp.shift.CompareAndSwap(before, before+delta) {
		return
	}
	sp.notice("the clock has jumped by %v", time.Duration(delta)*time.Second)
	now := sp.now()
	sp.calm.Store(now)
	for _, q := range sp.Queues() {
		q.mu.Lock()
		for i := range q.lanes {
			l := &q.lanes[i]
			for _, e := range l.ents[l.head:] {
				if e.since > 0 || time.Duration(now) >= sp.o.Grace {
					continue
				}
				if born := e.born - uint32(delta); delta < 0 || sp.isToCome(e) && Age(sp.steady(), born) < e.life {
					e.born = born
					sp.expireAt(e)
				}
			}
		}
		if q.count > 0 {
			q.refile = true
			q.unfiledLocked()
		}
		q.mu.Unlock()
	}
	nudge(sp.fileSoon)
}
