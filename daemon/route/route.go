// Package route knows which peer leads where. A Table is one server's view, by
// distance vector with feasibility as in Babel (RFC 8966); a Flood decides what
// becomes of copies for destinations that no route leads to. Both are pure state
// machines: no clock, no socket, no goroutine, no randomness. Whoever has them
// passes the time, measured monotonically from any moment, and holds a lock if he
// needs one. They keep nothing on disk and verify no signature.
//
//	PeerUp PeerDown Cost Pin Reaches ─▶ ┌───────┐ ─▶ Send: the next message for a peer
//	Receive: what a peer says ────────▶ │ Table │ ─▶ Next, Ways: where mail goes
//	Announce, Want, Overdue, Tick ────▶ └───────┘ ─▶ Changed, Due, Wake: what to do now, and when next
//
// Nothing is queued for a peer but the fact that it has to be told of a server:
// what it is told is what holds when its link takes it. docs/decisions/019-routes.md
// says where this differs from the RFC, and why.
package route

import (
	"bytes"
	"encoding/hex"
	"time"
)

// Bounds. What comes from outside is cut off at them, and counted.
const (
	MaxUpdates      = 64       // in a message
	MaxRequests     = 32       // in a message
	MaxAnnouncement = 1 << 10  // bytes
	MaxCost         = 4096     // of a link; more is taken for this
	MaxBytes        = 48 << 10 // of a message, with an allowance of 32 for each of its parts; the last part may go beyond
	maxKeys         = 8        // servers of one name that a peer brings
	maxWanted       = 1024     // names that somebody here has mail for
	maxAsked        = 256      // requests that wait for a link
	maxStrangers    = 256      // peers that are down and remembered
	maxDoubts       = 8        // peers that failed for one server
	doubtCost       = 128      // what the way of a peer is worse for each time that it lost mail
	doubtTimes      = 100
	requestHops     = 64 // servers that a request may cross
)

// Times.
const (
	gather     = 100 * time.Millisecond // between two messages to a peer, so that changes travel together
	keep       = 24 * time.Hour         // a server that nothing leads to is forgotten
	keepLeast  = 10 * time.Minute       // and not before, even if there is no room
	askFirst   = 2 * time.Second        // until a request is repeated; doubles
	askLast    = time.Minute
	askBetter  = 5 * time.Second // a way that is only better must be so for as long, before it is asked for
	doubtFirst = 10 * time.Minute
	doubtOnce  = time.Minute // within it, what is overdue is one failure
	doubtLast  = 24 * time.Hour
	anewPause  = 3 * gather       // others are not told yet of what a peer took back that begins anew: it says most of it again
	wantFirst  = 10 * time.Minute // between two questions for a name over quiet links; doubles
	wantLast   = 24 * time.Hour
	wantKeep   = time.Hour
	never      = time.Duration(1<<63 - 1)
)

// The rates of what others can make us do.
var (
	tellRate    = rate{5 * time.Second, 8}         // telling of changes to the way to one server
	askRate     = rate{15 * time.Second, 4}        // asking for a newer number of one server
	numberRate  = rate{30 * time.Second, 8}        // giving our own announcement a newer number
	requestRate = rate{100 * time.Millisecond, 64} // requests of one peer
	anewRate    = rate{100 * time.Millisecond, 64} // a peer's beginning anew
	dumpRate    = rate{time.Minute, 2}             // asking for everything, and answering
)

// Infinite is the metric of what leads nowhere; an update with it is a retraction.
const Infinite = 1<<16 - 1

// Key is the id of a server's public key.
type Key [8]byte

// String returns 16 hex digits.
func (k Key) String() string { return hex.EncodeToString(k[:]) }

// Server is a name and the key that goes with it. Two keys with one name are two
// servers here: who is right is not decided by who was louder.
type Server struct {
	Name string
	Key  Key
}

// String returns the name and the key's id.
func (s Server) String() string { return s.Name + " " + s.Key.String() }

// Seq says which of two announcements of a server is the newer one. The zero Seq
// is older than all.
type Seq struct{ Epoch, Number uint32 }

// Before tells whether s is older than o.
func (s Seq) Before(o Seq) bool {
	return s.Epoch < o.Epoch || s.Epoch == o.Epoch && s.Number < o.Number
}

// next is the Seq of the next announcement of the same epoch.
func (s Seq) next() Seq {
	if s.Number == 1<<32-1 {
		return s.jump()
	}
	return Seq{s.Epoch, s.Number + 1}
}

// jump is above every Seq that was given since the one of s, whatever of them is
// known: the disk that s was lost with may have known more of the same epoch.
func (s Seq) jump() Seq {
	if s.Epoch == 1<<32-1 {
		return Seq{s.Epoch, 1<<32 - 1}
	}
	return Seq{Epoch: s.Epoch + 1}
}

// Update is what a peer says of the way to a server: the signed announcement, and
// unsigned the metric. The announcement is left out if the peer has sent the same
// one since the link came up and has not retracted it. A retraction has no Seq.
type Update struct {
	Server
	Seq          Seq
	Metric       uint16
	Announcement []byte
}

// Request asks a peer. After zero: for what it knows of a server; Key zero: of
// every server of that name; Name empty: of all. Otherwise for an update with a Seq
// newer than After, which is passed on to the server itself. Proof is its
// announcement of After, there if the server seems not to know how far it had come.
type Request struct {
	Server
	After Seq
	Hops  uint8
	Proof []byte
}

// Message is what one side of a link says to the other at a time.
type Message struct {
	Updates  []Update
	Requests []Request
}

// Options are fixed for the life of a Table.
type Options struct {
	Self  Server
	Limit int // servers to know (10,000)
}

// Stats are counters since the start.
type Stats struct {
	Updates, Requests uint64 // received
	Told, Asked       uint64 // updates and requests sent
	Truncated         uint64 // updates for whose servers or keys there was no room
	Limited           uint64 // requests that came too fast, and what was too large
	Impostors         uint64 // updates for our own name with another key
	Behind            uint64 // announcements of our own that were newer than what we knew
}

// Table is the routes of one server. It is not safe for concurrent use.
type Table struct {
	// fixed
	limit int

	now     time.Duration // of the last call; never goes back
	own     *server
	ownNext Seq // what our next announcement must have at least; zero: none is needed
	ownRate bucket
	ownAt   time.Duration // when it may be made

	names   map[string]*server // the first of each name; the others hang on it
	slots   []*server          // nil where one was forgotten
	free    []int32
	known   int
	fullTo  time.Duration // until then nobody is looked for who could be forgotten
	timers  timers
	changed map[string]struct{}

	peers  map[Server]*peer
	order  []*peer // the same, in the order in which they first came up
	static map[string][]*static
	wanted []*want
	stats  Stats
}

// New makes the table of a server that has no peers yet. It says nothing of itself
// before Announce.
func New(o Options) *Table {
	if o.Limit <= 0 {
		o.Limit = 10000
	}
	t := &Table{
		limit: o.Limit, names: map[string]*server{}, changed: map[string]struct{}{},
		peers: map[Server]*peer{}, static: map[string][]*static{},
	}
	t.own = t.add(o.Self)
	t.own.pinned = true
	return t
}

// Announce makes announcement, which has seq, this server's own. One that is no newer than the
// last is ignored. At a start the epoch is one more than at the last start.
func (t *Table) Announce(now time.Duration, seq Seq, announcement []byte) {
	t.clock(now)
	if t.own.ann != nil && !t.own.ann.seq.Before(seq) {
		return
	}
	t.own.ann, t.own.metric = newAnnouncement(seq, announcement), 0
	if !seq.Before(t.ownNext) {
		t.ownNext = Seq{}
	}
	t.spread(t.own)
}

// Due tells whether a new announcement of our own is needed now, and which Seq
// it must have: somebody can't use his way to us with the one he has, or this server has
// heard one of its own that it can't remember. The Seq must be on disk before Announce.
func (t *Table) Due(now time.Duration) (Seq, bool) {
	t.clock(now)
	return t.ownNext, t.ownNext != (Seq{}) && t.ownAt <= t.now
}

// renumber sees to it that our next announcement has at least seq.
func (t *Table) renumber(seq Seq) {
	if t.own.ann == nil || !t.own.ann.seq.Before(seq) || !t.ownNext.Before(seq) {
		return
	}
	if t.ownNext == (Seq{}) {
		t.ownAt = t.ownRate.take(t.now, numberRate)
	}
	t.ownNext = seq
}

// heardOwn compares an announcement of our own that somebody else has with ours.
func (t *Table) heardOwn(seq Seq, raw []byte) {
	if a := t.own.ann; a == nil || seq.Before(a.seq) || seq == a.seq && bytes.Equal(raw, a.raw) {
		return
	}
	t.stats.Behind++
	t.renumber(seq.jump())
}

// Stats returns the counters.
func (t *Table) Stats() Stats { return t.stats }

func (t *Table) clock(now time.Duration) { t.now = max(t.now, now) }
