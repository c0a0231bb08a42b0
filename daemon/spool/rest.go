package spool

import (
	"iter"
	"slices"
	"sync"
	"time"

	"github.com/noipchat/noipchat/daemon/message"
)

// Rest takes an entry back that the pump was given: its far end holds it, and we have to
// answer for it longer than that, or did not want it yet. It isn't offered again
// before a time, or before WakeAll, and is on disk soon after the end of the turn. What is no
// repeat and could not be written to disk is refused instead, since it would stay in hand.
func (q *Queue) Rest(t *Turn, e *Entry, wait time.Duration) { q.rest(t, e, wait, false) }

// Await is Rest for an entry of which the far end doesn't say whether it is held or has
// been passed on. If that was to somebody who is there, an answer comes with the ack or close
// behind it, and ends the entry before any disk is touched.
func (q *Queue) Await(t *Turn, e *Entry, wait time.Duration) { q.rest(t, e, wait, true) }

func (q *Queue) rest(t *Turn, e *Entry, wait time.Duration, soon bool) {
	q.mu.Lock()
	if e.flags&(done|shadow|refusing) != 0 {
		refused := e.flags&(done|refusing) == refusing
		if e.flags&done == 0 {
			q.endLocked(e)
			q.lanes[e.lane].trim()
		}
		q.mu.Unlock()
		if refused {
			q.sp.dropHand(int(e.size))
			e.owner.Settled(t, e.token, message.Refused, diskFull())
		}
		return
	}
	defer q.mu.Unlock()
	e.flags &^= given
	q.pacedLocked(t, e)
	q.restedLocked(e)
	q.triedLocked(e, min(e.tries, 254)+1)
	if e.flags&isDurable != 0 {
		e.raw = nil
		q.sp.expireAt(e)
	} else if e.flags&committing == 0 {
		t.resting = append(t.resting, restful{q, e, soon})
	}
	q.restLocked(e, uint32(wait/time.Second))
}

// keep sends entries to disk that are in hand.
func (sp *Spool) keep(rest []restful) {
	var ops []op
	for _, r := range rest {
		r.q.mu.Lock()
		if r.e.flags&(done|isDurable|committing|shadow|refusing) == 0 {
			ops = append(ops, r.q.commitLocked(r.e))
		}
		r.q.mu.Unlock()
	}
	sp.journal.add(ops...)
}

// awaits keeps what waits for an answer for a little while.
type awaits struct {
	mu       sync.Mutex // guards what follows
	now, old []restful
	ticking  bool
}

// keepSoon is keep in a tenth of a moment, or a fifth. It is not more: a sender whose
// window is small waits for each ack.
func (sp *Spool) keepSoon(rest []restful) {
	rest = slices.DeleteFunc(rest, func(r restful) bool {
		r.q.mu.Lock()
		defer r.q.mu.Unlock()
		return r.e.flags&done != 0
	})
	if len(rest) == 0 {
		return
	}
	a := &sp.awaits
	a.mu.Lock()
	defer a.mu.Unlock()
	a.now = append(a.now, rest...)
	if !a.ticking {
		a.ticking = true
		time.AfterFunc(sp.o.Moment/10, sp.keepAwaited)
	}
}

func (sp *Spool) keepAwaited() {
	a := &sp.awaits
	a.mu.Lock()
	rest := a.old
	a.old, a.now = a.now, nil
	if a.ticking = len(a.old) > 0; a.ticking {
		time.AfterFunc(sp.o.Moment/10, sp.keepAwaited)
	}
	a.mu.Unlock()
	sp.keep(rest)
}

// Decline is Rest for an entry that its far end had no room for. Room makes
// some of these wait no longer.
func (q *Queue) Decline(t *Turn, e *Entry, wait time.Duration) {
	q.Rest(t, e, wait)
	q.mu.Lock()
	defer q.mu.Unlock()
	if e.flags&(done|resting) == resting {
		e.flags |= declined
		q.declined++
	}
}

// restedLocked has an entry rest no longer.
func (q *Queue) restedLocked(e *Entry) {
	if e.flags&declined != 0 {
		q.declined--
	}
	e.flags &^= resting | declined
}

// Room offers up to n of the entries again that were declined, the first ones: others of
// this queue have gone from the far end.
func (q *Queue) Room(t *Turn, n int) {
	q.mu.Lock()
	n = min(n, q.declined)
	woken := false
	for i := range q.lanes {
		l := &q.lanes[i]
		for k := l.head; n > 0 && k < len(l.ents); k++ {
			if e := l.ents[k]; e.flags&(done|declined) == declined {
				q.restedLocked(e)
				l.next = min(l.next, k)
				woken = true
				n--
			}
		}
	}
	pump := q.pump
	q.mu.Unlock()
	if woken && pump != nil {
		t.Wake(pump)
	}
}

// triedLocked notes how often an entry has rested.
func (q *Queue) triedLocked(e *Entry, tries uint8) {
	if e.tries == 0 && tries > 0 {
		q.kept++
	}
	e.tries = tries
}

// restLocked has an entry rest for some seconds.
func (q *Queue) restLocked(e *Entry, wait uint32) {
	e.flags |= resting
	e.due = q.sp.steady() + wait
	if q.wakes == 0 || e.due < q.wakes {
		q.wakes = e.due
	}
	if lower(&q.sp.rested, e.due) {
		nudge(q.sp.stirred)
	}
}

// Tries tells how often an entry has rested.
func (q *Queue) Tries(e *Entry) int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return int(e.tries)
}

// Age is how long ago an entry's envelope was written, as far as its holders could tell.
func (q *Queue) Age(e *Entry) time.Duration {
	q.mu.Lock()
	defer q.mu.Unlock()
	return time.Duration(q.ageLocked(e)) * time.Second
}

// WakeAll offers what rests at once: there is another way, say.
func (q *Queue) WakeAll(t *Turn) { q.wake(t, ^uint32(0)) }

// wake offers what has rested until now, and returns when the next one has; 0: none
// rests.
func (q *Queue) wake(t *Turn, now uint32) (next uint32) {
	q.mu.Lock()
	woken := false
	q.wakes = 0
	for i := range q.lanes {
		l := &q.lanes[i]
		for _, e := range l.ents[l.head:] {
			switch {
			case e.flags&(done|resting) != resting:
			case e.due <= now:
				q.restedLocked(e)
				woken = true
			case q.wakes == 0 || e.due < q.wakes:
				q.wakes = e.due
			}
		}
		if woken {
			l.next = l.head
		}
	}
	pump, next := q.pump, q.wakes
	q.mu.Unlock()
	if woken && pump != nil {
		t.Wake(pump)
	}
	return next
}

// wakeRested does that for all queues.
func (sp *Spool) wakeRested() {
	now := sp.steady()
	sp.rested.Store(^uint32(0))
	var turn Turn
	first := ^uint32(0)
	for _, q := range sp.Queues() {
		q.mu.Lock()
		due, some := q.wakes, q.wakes != 0
		q.mu.Unlock()
		if some && due <= now {
			due = q.wake(&turn, now)
		}
		if due != 0 {
			first = min(first, due)
		}
	}
	turn.Run()
	lower(&sp.rested, first)
}

// Narrow takes receivers out of those that an entry is for, and returns those that are
// left: with none, it is to be ended. What is narrowed is so until the next start.
func (q *Queue) Narrow(e *Entry, receivers uint64) (left uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	e.open &^= receivers
	return e.open
}

// Open returns the receivers that an entry is still for; 0 also if nobody has said.
func (q *Queue) Open(e *Entry) uint64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return e.open
}

// Recall says whom all entries are for that were recovered, by what was put: another one
// with the same envelope for others is no repeat then. It reads all that waits, and is
// called before anybody has the queue.
func (q *Queue) Recall(open func(raw []byte) uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	clear(q.ids)
	for i := range q.lanes {
		l := &q.lanes[i]
		for _, e := range l.ents[l.head:] {
			if raw, err := q.readLocked(e); err == nil {
				e.open = open(raw)
			}
			q.knowLocked(e.id, e.open)
		}
	}
}

// knowLocked notes that there is an entry with an envelope for some receivers.
func (q *Queue) knowLocked(id message.ID, open uint64) {
	switch have, there := q.ids[id]; {
	case there && have == 0:
		open = 0
	case open != 0:
		open |= have
	}
	if q.ids == nil {
		q.ids = map[message.ID]uint64{}
	}
	q.ids[id] = open
}

// covers tells whether all receivers in open are in have, of which 0 is all.
func covers(have, open uint64) bool { return have == 0 || open != 0 && open&^have == 0 }

// SetOpen says whom an entry is for that was recovered, and returns the receivers that it
// is still for.
func (q *Queue) SetOpen(e *Entry, open uint64) (left uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if e.open == 0 {
		e.open = open
	}
	return e.open
}

// author is who has written an envelope: a device, and its number there.
type author struct {
	device  message.DeviceID
	counter uint64
}

// maxRepeats bounds the entries of one author under one number that are found, but for the
// first. A client that was cut off sends again what is under way, so there is one for each time.
const maxRepeats = 64

// ByAuthor returns the entries with an envelope that a device has written under this
// number, oldest first, with the bytes that were put. There are several while it is not
// known yet that one is a repeat, or if they are for different receivers. The first
// question reads all that waits in the queue.
func (q *Queue) ByAuthor(device message.DeviceID, counter uint64) iter.Seq2[*Entry, []byte] {
	return func(yield func(*Entry, []byte) bool) {
		var some [4]*Entry
		for _, e := range q.byAuthor(some[:0], author{device, counter}) {
			q.mu.Lock()
			raw, over := e.raw, e.flags&done != 0
			if raw == nil && !over {
				raw, _ = q.readLocked(e)
			}
			q.mu.Unlock()
			if !over && !yield(e, raw) {
				return
			}
		}
	}
}

func (q *Queue) byAuthor(to []*Entry, by author) []*Entry {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.authors == nil {
		q.authors, q.repeats = map[author]*Entry{}, map[author][]*Entry{}
		for i := range q.lanes {
			l := &q.lanes[i]
			for _, e := range l.ents[l.head:] {
				if e.flags&done == 0 {
					q.noteAuthorLocked(e)
				}
			}
		}
	}
	if e := q.authors[by]; e != nil {
		to = append(append(to, e), q.repeats[by]...)
	}
	return to
}

func (q *Queue) noteAuthorLocked(e *Entry) {
	if e.by == (author{}) {
		e.by = q.authorLocked(e)
	}
	switch {
	case e.by == author{}:
	case q.authors[e.by] == nil:
		q.authors[e.by] = e
	case len(q.repeats[e.by]) < maxRepeats:
		q.repeats[e.by] = append(q.repeats[e.by], e)
	}
}

// dropAuthorLocked forgets who has written an entry that is done. A repeat of it takes its
// place: it is not known yet that it is one, or it is for others.
func (q *Queue) dropAuthorLocked(e *Entry) {
	first := q.authors[e.by] == e
	if len(q.repeats) == 0 {
		if first {
			delete(q.authors, e.by)
		}
		return
	}
	repeats := q.repeats[e.by]
	i := slices.Index(repeats, e)
	switch {
	case first && len(repeats) == 0:
		delete(q.authors, e.by)
	case first:
		q.authors[e.by] = repeats[0]
		i = 0
	}
	if i < 0 {
		return
	}
	if repeats = slices.Delete(repeats, i, i+1); len(repeats) == 0 {
		delete(q.repeats, e.by)
	} else {
		q.repeats[e.by] = repeats
	}
}

func (q *Queue) authorLocked(e *Entry) author {
	raw := e.raw
	if raw == nil {
		var err error
		if raw, err = q.readLocked(e); err != nil {
			return author{}
		}
	}
	var env message.Envelope
	if env.ParseHead(q.sp.o.Envelope(raw)) != nil {
		return author{}
	}
	return author{env.Device, env.Counter}
}

// End ends an entry of which somebody has told what became of it, whether the pump was
// given it or not, and tells its owner, if he hasn't been told Held.
func (q *Queue) End(t *Turn, e *Entry, state message.State) {
	if q.DoneAs(t, e, state) {
		q.Forget(e)
	}
}
