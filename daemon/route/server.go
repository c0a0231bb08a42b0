package route

import (
	"bytes"
	"container/heap"
	"time"
)

// server is a destination.
type server struct {
	Server
	next   *server // with the same name, less preferred
	slot   int32
	at     int32 // in timers; -1: not there
	pinned bool
	mute   bool // a change waits for tellAt

	newest *announcement // of all that were heard
	// The feasibility distance: the best that we ever told. It only gets better while
	// anybody may have a route through us.
	told       *announcement
	toldMetric uint16

	metric uint16        // of via
	ann    *announcement // of via
	via    *peer         // the chosen way; nil: none
	ways   []way
	since  time.Duration // of the last change of via

	tells   bucket
	tellAt  time.Duration
	trouble *trouble // nil as long as there was none
}

// way is what one peer says of a server. That of a server to itself has no
// announcement: it is the link.
type way struct {
	peer   *peer
	ann    *announcement
	metric uint16 // as the peer told it
	since  time.Duration
}

// announcement is a signed one; the same for all ways that have it.
type announcement struct {
	seq Seq
	raw []byte
}

func newAnnouncement(seq Seq, raw []byte) *announcement {
	return &announcement{seq, bytes.Clone(raw)}
}

func (a *announcement) number() Seq {
	if a == nil {
		return Seq{}
	}
	return a.seq
}

// trouble is what most servers never have.
type trouble struct {
	asks     bucket
	hunger   hunger
	askAt    time.Duration // while there is hunger
	askGap   time.Duration
	passed   Seq // the newest After that was passed on
	tries    int // that it was passed on again
	proved   bool
	passedAt time.Duration
	doubts   []doubt
}

// doubt says that a peer took mail for a server and no receipt came.
type doubt struct {
	peer  *peer
	times int
	until time.Duration
	gap   time.Duration
}

func (s *server) bad() *trouble {
	if s.trouble == nil {
		s.trouble = &trouble{}
	}
	return s.trouble
}

// find returns a server that is known, or nil.
func (t *Table) find(id Server) *server {
	for s := t.names[id.Name]; s != nil; s = s.next {
		if s.Key == id.Key {
			return s
		}
	}
	return nil
}

// add makes a server known, after all others of its name.
func (t *Table) add(id Server) *server {
	s := &server{Server: id, at: -1, since: t.now, metric: Infinite}
	if n := len(t.free); n > 0 {
		s.slot, t.free = t.free[n-1], t.free[:n-1]
		t.slots[s.slot] = s
	} else {
		s.slot = int32(len(t.slots))
		t.slots = append(t.slots, s)
	}
	t.known++
	if first := t.names[id.Name]; first == nil {
		t.names[id.Name] = s
	} else {
		for first.next != nil {
			first = first.next
		}
		first.next = s
	}
	t.plan(s)
	return s
}

// admit is add for what p brings: within the limits, or nil. Keys for one name are limited
// for each peer, so that nobody has no room because others have forged some.
func (t *Table) admit(id Server, p *peer) *server {
	keys := 0
	for s := t.names[id.Name]; s != nil; s = s.next {
		if s.by(p) != nil {
			keys++
		}
	}
	if keys >= maxKeys || t.known >= t.limit && !t.makeRoom() {
		return nil
	}
	return t.add(id)
}

// makeRoom forgets the server that has been out of reach for longest. It looks for
// one at most once a second, since strangers can make it look.
func (t *Table) makeRoom() bool {
	if t.now < t.fullTo {
		return false
	}
	var oldest *server
	for _, s := range t.slots {
		if s != nil && t.forgettable(s) && t.now-s.since >= keepLeast && (oldest == nil || s.since < oldest.since) {
			oldest = s
		}
	}
	if oldest == nil {
		t.fullTo = t.now + time.Second
		return false
	}
	t.forget(oldest)
	return true
}

// forgettable tells whether nobody can have a route through us to s: then there is
// nothing that its feasibility distance protects.
func (t *Table) forgettable(s *server) bool {
	if len(s.ways) > 0 || s == t.own || s.pinned {
		return false
	}
	for _, p := range t.order {
		if p.sent(s).ann != nil {
			return false
		}
	}
	return true
}

func (t *Table) forget(s *server) {
	t.unlink(s)
	if s.at >= 0 {
		heap.Remove(&t.timers, int(s.at))
	}
	for _, p := range t.order {
		if int(s.slot) < len(p.out) {
			p.out[s.slot] = sent{queued: p.out[s.slot].queued}
		}
	}
	t.slots[s.slot] = nil
	t.free = append(t.free, s.slot)
	t.known--
}

// unlink takes s out of the servers of its name.
func (t *Table) unlink(s *server) {
	if t.names[s.Name] == s {
		if t.note(s); s.next == nil {
			delete(t.names, s.Name)
		} else {
			t.names[s.Name] = s.next
		}
	} else {
		before := t.names[s.Name]
		for before.next != s {
			before = before.next
		}
		before.next = s.next
	}
	s.next = nil
}

// Pin says that a server's name and key belong together: it was met in person, or an
// admin says so. It goes before all others of the name, and is not forgotten. Unpinned, it
// keeps its place for as long as it is known.
func (t *Table) Pin(now time.Duration, id Server, pinned bool) {
	t.clock(now)
	s := t.find(id)
	switch {
	case s == nil && pinned:
		s = t.add(id)
	case s == nil || s == t.own || s.pinned == pinned:
		return
	}
	t.pin(s, pinned)
}

func (t *Table) pin(s *server, pinned bool) {
	s.pinned = pinned
	if first := t.names[s.Name]; pinned && first != s && first != t.own {
		t.note(first)
		t.unlink(s)
		s.next = first
		t.names[s.Name] = s
		t.note(s)
	}
	t.plan(s)
}

// note remembers that mail for a name may have to go another way.
func (t *Table) note(s *server) { t.changed[s.Name] = struct{}{} }
