package spool

import "github.com/noipchat/noipchat/daemon/message"

// Pump takes from a queue to a connection.
type Pump interface {
	// Due notes that there is something to pump, and reports whether nobody else
	// has undertaken to call Pump. It may be called with locks held, and does nothing else.
	Due() bool
	// Pump moves what goes without waiting.
	Pump()
}

// Owner is told what became of what it has put.
type Owner interface {
	// Settled is called once for each Put, with no lock of this package held:
	// with Held, Delivered, Refused or Expired, and a refusal for the last two. It
	// must not block.
	Settled(t *Turn, token uint64, s message.State, r *message.Refusal)
}

// Turn is what one goroutine does between two waits: it reads, decides, puts,
// and wakes pumps, each of which runs once at the end however often it was
// woken. So many messages share a record and a system call. A Turn belongs to
// one goroutine.
type Turn struct {
	pumps   []Pump
	resting []restful // what has come to rest and is in hand only
	clock   int64     // nanoseconds since the spool's start, read once in a turn; 0 before
}

type restful struct {
	q    *Queue
	e    *Entry
	soon bool // an answer may be about to come
}

// now is when the turn asked first: asking costs more than much of the rest.
func (t *Turn) now(sp *Spool) int64 {
	if t.clock == 0 {
		t.clock = sp.now()
	}
	return t.clock
}

// Wake has p run at the end of the turn.
func (t *Turn) Wake(p Pump) {
	if p.Due() {
		t.pumps = append(t.pumps, p)
	}
}

// Run ends the turn.
func (t *Turn) Run() {
	t.keep()
	for i := 0; i < len(t.pumps); i++ { // a pump may wake others
		t.pumps[i].Pump()
		t.pumps[i] = nil
	}
	t.pumps = t.pumps[:0]
	t.clock = 0
}

// keep sees to it that what has come to rest in this turn, and is in hand only, goes to disk:
// it was acked, and is to be answered for until an answer comes; who waits for us to hold it has waited
// enough. What the turn has brought an answer for is done by now.
func (t *Turn) keep() {
	if len(t.resting) == 0 {
		return
	}
	sp := t.resting[0].q.sp
	var now, soon []restful
	for _, r := range t.resting {
		if r.soon {
			soon = append(soon, r)
		} else {
			now = append(now, r)
		}
	}
	sp.keep(now)
	sp.keepSoon(soon)
	clear(t.resting)
	t.resting = t.resting[:0]
}
