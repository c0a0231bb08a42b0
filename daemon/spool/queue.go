package spool

import (
	"bytes"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/noipchat/noipchat/daemon/message"
)

// Entry is one envelope in one queue.
//
//	in hand ──▶ committing ──▶ durable        and, whatever of these it is:
//	waiting ──▶ given to the pump ──▶ done ──▶ forgotten
//	   ▲                 │
//	   └──── resting ◀───┘
type Entry struct {
	// fixed
	seq   uint64 // rises in the spool; with the queue it names the entry on disk
	lane  uint8
	tries uint8  // how often it has rested; guarded by the queue's mu
	size  uint32 // of the envelope, bytes
	born  uint32 // steady seconds when its age was 0; guarded by mu once it is in the queue
	life  uint32 // seconds of age at which it expires
	owner Owner  // who is to be told; nil after a recovery
	token uint64

	// guarded by the queue's mu
	raw   []byte     // nil while it is only on disk
	id    message.ID // set when it is committed
	store *store     // where it is durable, nil if it isn't
	off   uint32     // of its record there
	rec   uint32     // bytes of its record
	since int64      // when it came, nanoseconds since the start
	flags flags
	due   uint32 // steady seconds at which it has rested enough
	open  uint64 // see Open
	by    author // zero: nobody has asked, or it can't be told
	group uint64 // fixed; see Put
}

type flags uint16

const (
	committing flags = 1 << iota // in the journal's hands
	isDurable                    // on disk; its owner was told Held, so somebody is owed a receipt
	given                        // the pump has it: its outcome is unknown
	done                         // not for the pump any more
	forgotten                    // and not for the disk
	shadow                       // a repeat of a durable one, which the pump had already
	refusing                     // could not be committed; to be refused when its outcome is known
	resting                      // not for the pump until it is due
	declined                     // it rests because its far end had no room
)

// ID returns the envelope's id, zero unless it is on disk.
func (e *Entry) ID() message.ID { return e.id }

// ID returns the id of an entry that may be committed at this moment.
func (q *Queue) ID(e *Entry) message.ID {
	q.mu.Lock()
	defer q.mu.Unlock()
	return e.id
}

// Seq is the entry's number, which it has on disk too: see Queue.Regain.
func (e *Entry) Seq() uint64 { return e.seq }

// Owner returns who is to be told, and with which token; nil after a recovery.
func (e *Entry) Owner() (Owner, uint64) { return e.owner, e.token }

// Priority is the envelope's.
func (e *Entry) Priority() message.Priority { return message.Priority(e.lane) }

// Life is the age at which it expires.
func (e *Entry) Life() time.Duration { return time.Duration(e.life) * time.Second }

// Queue is what waits for one destination. Order is kept within a priority.
type Queue struct {
	sp   *Spool
	name string

	mu       sync.Mutex // guards what follows
	pump     Pump
	lanes    [message.Priorities]lane
	ids      map[message.ID]uint64 // of durable entries and those being committed, with their receivers as in Put.Open
	authors  map[author]*Entry     // of all entries, once somebody has asked: the first one that an author has under a number
	repeats  map[author][]*Entry   // and the others, of which there are few
	wakes    uint32                // steady seconds at which the first of the resting is due; 0: none rests
	count    int                   // entries that are not done
	kept     int                   // of those, the ones that have rested
	declined int                   // and those that rest because they were declined
	bytes    int64                 // of their envelopes
	unacked  int                   // entries in hand that the sweeper looks after
	attached int64                 // when the pump came, nanoseconds since the start
	restless bool                  // on the spool's list
	unfiled  bool                  // on the journal's list
	refile   bool                  // all of it is to be filed again
}

// lane is the entries of one priority: ents[head:] in the order of seq, of which
// those before next were given to the pump or are done.
type lane struct {
	ents []*Entry
	head int
	next int
	file int // those before are durable, committing or done: the sweeper goes on here

	pace time.Duration // what the pump's far end lately took to ack, rather the longest

	filed int      // those before are in queue files or done: filing goes on here
	owed  []*Entry // done when only the journal had them: filed too unless they are forgotten by then
	segs  []*store // queue files with entries, oldest first
}

// Name returns the destination.
func (q *Queue) Name() string { return q.name }

// Put is an envelope for a queue.
type Put struct {
	Raw      []byte // the envelope; never changed by anybody from now on
	Priority message.Priority
	Age      uint32 // seconds
	Life     uint32 // seconds; 0 or more than the spool's: the spool's
	Owner    Owner
	Token    uint64
	Open     uint64           // the receivers that it is for, where there may be several: see Queue.Narrow
	Device   message.DeviceID // that wrote it, and its number there, if the caller knows: see Queue.ByAuthor
	Counter  uint64
	Group    uint64 // one, above 0, for what goes with the same bytes into several queues, but for Open: see NextSame
}

// Put takes responsibility for an envelope, or tells the owner at once that it
// doesn't. It may wait while the hand is full, unless it is urgent.
func (q *Queue) Put(t *Turn, p Put) {
	sp := q.sp
	maxLife := uint32(min(sp.limits.maxAge.Load()/int64(time.Second), 1<<31))
	if p.Life == 0 || p.Life > maxLife {
		p.Life = maxLife
	}
	size := len(p.Raw)
	if p.Age >= p.Life {
		p.Owner.Settled(t, p.Token, message.Expired, message.Refuse(message.CodeExpired, "it was older than its lifetime of %d s", p.Life))
		return
	}
	if p.Priority == message.Urgent {
		sp.fillHand(size)
	} else if !sp.takeHand(t, size) {
		p.Owner.Settled(t, p.Token, message.Refused, diskFull())
		return
	}
	now := t.now(sp)
	e := &Entry{
		lane: laneOf(p.Priority), size: uint32(size), life: p.Life, born: sp.steadyAt(now) - p.Age,
		owner: p.Owner, token: p.Token, raw: p.Raw, since: now, open: p.Open, by: author{p.Device, p.Counter}, group: p.Group,
	}
	q.mu.Lock()
	if no := q.refuseLocked(int64(size), p.Priority); no != nil {
		q.mu.Unlock()
		sp.dropHand(size)
		p.Owner.Settled(t, p.Token, message.Refused, no)
		return
	}
	e.seq = sp.seq.Add(1)
	l := &q.lanes[e.lane]
	l.push(e)
	if q.authors != nil {
		q.noteAuthorLocked(e)
	}
	q.count++
	q.bytes += int64(size)
	sp.bytes.Add(int64(size))
	sp.waiting.Add(1)
	sp.stats.Puts.Add(1)
	pump := q.pump
	stir := false
	if pump != nil {
		q.unacked++
		stir = !q.restless
		q.restless = true
	} else {
		e.flags |= committing
		l.file = len(l.ents)
	}
	q.mu.Unlock()
	switch {
	case pump == nil:
		sp.journal.add(op{kind: opPut, q: q, e: e})
	default:
		t.Wake(pump)
		if stir {
			sp.stir(q)
		}
	}
}

// refuseLocked says why size more bytes are not taken. What is bulk leaves a quarter
// to the rest, and comes again: it is a part of something whose other parts are here. What
// can go to a device from hand to hand, and what is urgent, has an eighth more than all may
// have: servers that are full of what they have for each other could get rid of nothing.
func (q *Queue) refuseLocked(size int64, p message.Priority) *message.Refusal {
	quota, total := q.sp.limits.quota.Load(), q.sp.limits.total.Load()
	if p == message.Urgent { // nobody would say it again
		quota += quota / 8
	}
	if device := strings.IndexByte(q.name, '@') > 0; device && q.pump != nil || p == message.Urgent {
		total += total / 8
	}
	switch {
	case p == message.Bulk && q.bytes+size > quota-quota/4:
		return message.Defer(message.CodeQuota, 10*time.Second, "%d messages wait for this receiver already", q.count)
	case q.bytes+size > quota:
		return message.Refuse(message.CodeQuota, "%d messages wait for this receiver already", q.count)
	case q.sp.bytes.Load()+size > total:
		return message.Defer(message.CodeFull, time.Minute, "the server's spool is full")
	case q.pump == nil && q.sp.full.Load():
		return message.Defer(message.CodeFull, time.Minute, "the server's disk is full")
	}
	return nil
}

// push appends e; amortised, the lane's memory is twice what waits.
func (l *lane) push(e *Entry) {
	if l.head > 32 && l.head > len(l.ents)/2 {
		n := copy(l.ents, l.ents[l.head:])
		clear(l.ents[n:])
		l.ents = l.ents[:n]
		l.next, l.file, l.filed = l.next-l.head, max(l.file-l.head, 0), max(l.filed-l.head, 0)
		l.head = 0
	}
	l.ents = append(l.ents, e)
}

// trim forgets what is done at the head.
func (l *lane) trim() {
	for l.head < len(l.ents) && l.ents[l.head].flags&done != 0 {
		l.ents[l.head] = nil
		l.head++
	}
	l.next, l.file, l.filed = max(l.next, l.head), max(l.file, l.head), max(l.filed, l.head)
	if l.head == len(l.ents) {
		l.head, l.next, l.file, l.filed = 0, 0, 0, 0
		l.ents = l.ents[:0]
		if cap(l.ents) > 1024 {
			l.ents = nil
		}
	}
}

// Pumped tells whether the queue has a pump.
func (q *Queue) Pumped() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.pump != nil
}

// Attach makes p the queue's pump, which gets everything that waits, and
// returns the one it replaces, or nil.
func (q *Queue) Attach(p Pump) (before Pump) {
	q.mu.Lock()
	defer q.mu.Unlock()
	before = q.pump
	q.pump, q.attached = p, q.sp.now()
	for i := range q.lanes {
		q.lanes[i].pace = 0
	}
	return before
}

// Detach ends p's work: what it was given and has not done waits again, and what
// is in hand goes to disk now. It does nothing if p is not the queue's pump, and
// must have been called before another pump attaches and takes.
func (q *Queue) Detach(t *Turn, p Pump) {
	q.mu.Lock()
	if q.pump != p {
		q.mu.Unlock()
		return
	}
	q.pump = nil
	var ops []op
	var refused []*Entry
	for i := range q.lanes {
		l := &q.lanes[i]
		for _, e := range l.ents[l.head:] {
			if e.flags&done != 0 {
				continue
			}
			e.flags &^= given
			switch {
			case e.flags&shadow != 0:
				q.endLocked(e)
			case e.flags&refusing != 0:
				q.endLocked(e)
				refused = append(refused, e)
			case e.flags&isDurable != 0:
				e.raw = nil
				q.sp.expireAt(e)
			case e.flags&committing == 0:
				ops = append(ops, q.commitLocked(e))
			}
		}
		l.next, l.file = l.head, len(l.ents)
		l.trim()
	}
	q.closeFilesLocked()
	unfiled := q.unfiled
	q.mu.Unlock()
	if unfiled {
		nudge(q.sp.active)
	}
	q.sp.journal.add(ops...)
	for _, e := range refused {
		q.sp.dropHand(int(e.size))
		e.owner.Settled(t, e.token, message.Refused, diskFull())
	}
}

func diskFull() *message.Refusal {
	return message.Defer(message.CodeFull, time.Minute, "the server's disk takes nothing more")
}

// commitLocked is what the journal is to do with an entry that was in hand only until now.
func (q *Queue) commitLocked(e *Entry) op {
	e.flags |= committing
	q.unacked--
	return op{kind: opPut, q: q, e: e}
}

// Next gives the pump p the first entry that waits, if its envelope has at most
// room bytes and it is more urgent than below, with its bytes and the second of
// Spool.Steady at which its age was 0; nil if there is none, or p is not the queue's pump. Then its outcome is unknown
// until Done or Detach.
func (q *Queue) Next(p Pump, room int, below message.Priority) (e *Entry, raw []byte, born uint32) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.pump != p {
		return nil, nil, 0
	}
	for i := range q.lanes[:below] {
		l := &q.lanes[i]
		for l.next < len(l.ents) {
			e := l.ents[l.next]
			if e.flags&(done|given|resting) != 0 {
				l.next++
				continue
			}
			if int(e.size) > room {
				return nil, nil, 0
			}
			if e.raw == nil {
				if err := q.loadLocked(l); err != nil {
					continue // it is done now: set aside
				}
			}
			l.next++
			e.flags |= given
			return e, e.raw, e.born
		}
	}
	return nil, nil, 0
}

// NextSame gives the pump p the entry that is the next one at the priority of like, if
// both were put as one Group and it has not rested; else nil. What was refused for now may
// be so because of the other, and goes alone. Its outcome is unknown then, as after Next.
func (q *Queue) NextSame(p Pump, like *Entry) *Entry {
	if like.group == 0 {
		return nil
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.pump != p {
		return nil
	}
	for l := &q.lanes[like.lane]; l.next < len(l.ents); l.next++ {
		e := l.ents[l.next]
		if e.flags&(done|given|resting) != 0 {
			continue
		}
		if e.group != like.group || e.tries > 0 {
			return nil
		}
		l.next++
		e.flags |= given
		return e
	}
	return nil
}

// Waits tells whether Next would find something that is more urgent than below.
func (q *Queue) Waits(below message.Priority) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	for i := range q.lanes[:below] {
		l := &q.lanes[i]
		for ; l.next < len(l.ents); l.next++ {
			if l.ents[l.next].flags&(done|given|resting) == 0 {
				return true
			}
		}
	}
	return false
}

func (q *Queue) ageLocked(e *Entry) uint32 {
	return Age(q.sp.steady(), e.born)
}

// endLocked takes an entry out of the queue's view.
func (q *Queue) endLocked(e *Entry) {
	if e.flags&(committing|isDurable|shadow|refusing) == 0 {
		q.unacked--
	}
	e.flags |= done
	q.dropAuthorLocked(e)
	q.count--
	if e.tries > 0 {
		q.kept--
	}
	q.restedLocked(e)
	q.bytes -= int64(e.size)
	q.sp.bytes.Add(-int64(e.size))
	q.sp.waiting.Add(-1)
}

// Done ends an entry that a device has: DoneAs Delivered.
func (q *Queue) Done(t *Turn, e *Entry) (owed bool) { return q.DoneAs(t, e, message.Delivered) }

// DoneAs ends an entry that the pump's far end has acked, and tells its owner its
// state, if he hasn't been told Held. If he has, owed is true: the caller sees to a
// receipt, if there is to be one, and calls Forget when that is safe; e.Raw is there
// until then.
func (q *Queue) DoneAs(t *Turn, e *Entry, state message.State) (owed bool) {
	q.mu.Lock()
	if e.flags&done != 0 {
		q.mu.Unlock()
		return false
	}
	q.endLocked(e)
	q.pacedLocked(t, e)
	owed = e.flags&isDurable != 0
	if l := &q.lanes[e.lane]; owed && !e.store.segment {
		l.owed = append(l.owed, e)
	}
	hand := e.flags&(isDurable|shadow) == 0
	if !owed && e.flags&committing == 0 {
		e.raw = nil
	}
	q.lanes[e.lane].trim()
	q.mu.Unlock()
	if owed {
		q.sp.stats.DiskDone.Add(1)
		return true
	}
	q.sp.stats.HandDone.Add(1)
	if hand {
		q.sp.dropHand(int(e.size))
		e.owner.Settled(t, e.token, state, nil)
	}
	return false
}

// pacedLocked learns from the first ack of an entry: what has rested waits for something
// else.
func (q *Queue) pacedLocked(t *Turn, e *Entry) {
	if e.tries == 0 && e.since >= q.attached {
		q.lanes[e.lane].paced(time.Duration(t.now(q.sp)-e.since), q.sp.o.Moment)
	}
}

// paced learns from what an ack took.
func (l *lane) paced(took, moment time.Duration) {
	if took = min(took, moment*maxMoments); took > l.pace {
		l.pace = took
	} else {
		l.pace -= (l.pace - took) / 8
	}
}

// moment is how long an entry may be in hand: a moment, and for a far end that acks
// steadily, only that the network or one of the machines is busy, twice of what it
// takes. The disk would make that worse: then each ack costs a receipt as well.
func (l *lane) moment(least time.Duration) time.Duration {
	if l.pace >= least*maxMoments {
		return least // it isn't worth waiting for
	}
	return min(max(least, 2*l.pace), least*maxMoments)
}

// maxMoments bounds the time in hand.
const maxMoments = 20

// Raw returns the envelope of an entry that the pump was given, from disk if it was
// given by another process.
func (q *Queue) Raw(e *Entry) []byte {
	q.mu.Lock()
	defer q.mu.Unlock()
	if e.raw == nil {
		e.raw, _ = q.readLocked(e)
	}
	return e.raw
}

// Forget ends the disk's part in an entry that is done.
func (q *Queue) Forget(e *Entry) {
	q.mu.Lock()
	if e.flags&(done|isDurable|forgotten) != done|isDurable {
		q.mu.Unlock()
		return
	}
	e.flags |= forgotten
	e.raw = nil
	delete(q.ids, e.id)
	gone := q.releaseLocked(e)
	q.mu.Unlock()
	// Also if the queue file goes: the journal may still have the Put.
	q.sp.journal.add(op{kind: opDone, q: q, e: e})
	if gone != nil {
		gone.remove()
	}
}

// releaseLocked ends a forgotten entry's claim on its file, and returns the queue
// file if nobody needs it any more.
func (q *Queue) releaseLocked(e *Entry) (gone *store) {
	s := e.store
	if s.release() && s.segment {
		l := &q.lanes[e.lane]
		l.segs = slices.DeleteFunc(l.segs, func(x *store) bool { return x == s })
		return s
	}
	return nil
}

// Remove takes waiting entries out by their ids, as an admin does, and calls
// each for every one, with no lock held: it is done, its sender is owed a bounce,
// and Forget ends it.
func (q *Queue) Remove(ids []message.ID, each func(e *Entry)) int {
	return q.takeOut(func(e *Entry) bool { return e.flags&isDurable != 0 && slices.Contains(ids, e.id) }, each)
}

// closeFilesLocked lets go of the descriptors of queue files, which reading has
// opened: nobody reads on soon.
func (q *Queue) closeFilesLocked() {
	for i := range q.lanes {
		for _, s := range q.lanes[i].segs {
			s.closeFile()
		}
	}
}

// Clear is Remove for everything that is on disk.
func (q *Queue) Clear(each func(e *Entry)) int {
	return q.takeOut(func(*Entry) bool { return true }, each)
}

// takeOut ends the durable entries that match and that no pump was given.
func (q *Queue) takeOut(match func(e *Entry) bool, each func(e *Entry)) int {
	var out []*Entry
	q.mu.Lock()
	for i := range q.lanes {
		l := &q.lanes[i]
		for _, e := range l.ents[l.head:] {
			if e.flags&(done|given|isDurable) != isDurable || !match(e) {
				continue
			}
			if e.raw == nil {
				var err error
				if e.raw, err = q.readLocked(e); err != nil {
					q.setAsideLocked(e, err)
					continue
				}
			}
			q.endLocked(e)
			if !e.store.segment {
				l.owed = append(l.owed, e)
			}
			out = append(out, e)
		}
		l.trim()
	}
	if q.pump == nil {
		q.closeFilesLocked()
	}
	q.mu.Unlock()
	for _, e := range out {
		each(e)
	}
	return len(out)
}

// Info is what can be said of a queue.
type Info struct {
	Name     string
	Messages int
	Bytes    int64
	InHand   int
	Oldest   time.Duration // age of the oldest entry
	Pumped   bool

	Kept      int           // entries that have rested: a next holder has them, or did not want them yet
	Untouched time.Duration // age of the oldest of the others
}

// Info describes the queue.
func (q *Queue) Info() Info {
	q.mu.Lock()
	defer q.mu.Unlock()
	info := Info{Name: q.name, Messages: q.count, Bytes: q.bytes, InHand: q.unacked, Pumped: q.pump != nil, Kept: q.kept}
	for i := range q.lanes {
		l := &q.lanes[i]
		for _, e := range l.ents[l.head:] {
			if e.flags&done != 0 {
				continue
			}
			age := time.Duration(q.ageLocked(e)) * time.Second
			info.Oldest = max(info.Oldest, age)
			if e.tries == 0 {
				info.Untouched = max(info.Untouched, age)
				break
			}
		}
	}
	return info
}

// Where says where an entry is.
type Where uint8

// The places.
const (
	InHand   Where = iota // in memory only
	OnDisk                // and perhaps in memory
	UnderWay              // given to the pump
)

// Item is what can be said of an entry.
type Item struct {
	ID        message.ID // zero while it is in hand only
	Priority  message.Priority
	Bytes     int
	Age, Life time.Duration
	Where     Where
	Envelope  []byte
}

// Items describes the entries behind the one with the id after, or from the first
// one on if that is zero or not there: at most limit, with their envelopes.
func (q *Queue) Items(after message.ID, limit int) []Item {
	q.mu.Lock()
	defer q.mu.Unlock()
	if _, ok := q.ids[after]; !ok {
		after = message.ID{}
	}
	var items []Item
	for i := range q.lanes {
		l := &q.lanes[i]
		for _, e := range l.ents[l.head:] {
			switch {
			case e.flags&done != 0:
				continue
			case after != message.ID{}:
				if e.id == after {
					after = message.ID{}
				}
				continue
			case len(items) == limit:
				return items
			}
			it := Item{
				ID: e.id, Priority: message.Priority(e.lane), Bytes: int(e.size),
				Age: time.Duration(q.ageLocked(e)) * time.Second, Life: time.Duration(e.life) * time.Second,
			}
			switch {
			case e.flags&given != 0:
				it.Where = UnderWay
			case e.flags&isDurable != 0:
				it.Where = OnDisk
			}
			if it.Envelope = bytes.Clone(e.raw); it.Envelope == nil {
				it.Envelope, _ = q.readLocked(e)
			}
			items = append(items, it)
		}
	}
	return items
}

// Since tells when an envelope that waits here on disk was born, by this server's
// reckoning of its age, and returns what was put.
func (q *Queue) Since(id message.ID) (at time.Time, raw []byte, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if _, ok := q.ids[id]; !ok {
		return at, nil, false
	}
	for i := range q.lanes {
		l := &q.lanes[i]
		for _, e := range l.ents[l.head:] {
			if e.id == id && e.flags&(done|isDurable) == isDurable {
				raw, _ = q.readLocked(e)
				return time.Now().Add(-time.Duration(q.ageLocked(e)) * time.Second), raw, true
			}
		}
	}
	return at, nil, false
}
