// Package relay decides what becomes of an envelope: refused, or into which
// queues it goes. It makes the receipts and bounces that are this server's to
// make. It touches no socket and no disk and starts no goroutine; what it decides
// is carried out by the spool, and whoever asked is told by the spool.Owner that
// he brought.
package relay

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"math/bits"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/noipchat/noipchat/daemon/message"
	"github.com/noipchat/noipchat/daemon/spool"
)

// NoDevice is the last element of the name of a user's queue while he has no
// device yet. His first device takes it over.
const NoDevice = "no-device"

// Relay is the decisions of one server. It is safe for concurrent use.
type Relay struct {
	// fixed
	home   string
	sp     *spool.Spool
	device message.DeviceID // of this server, for what it writes itself: a new one at each start

	counter atomic.Uint64
	groups  atomic.Uint64 // see spool.Put
	hops    atomic.Int32  // that mail from here may cross; 0: there are no other servers
	resend  atomic.Int64  // see SetFederation
	stats   Stats

	mu     sync.RWMutex             // guards what follows
	boxes  map[message.Address]*box // a box is never changed
	strays map[message.Address][]*spool.Queue

	echo     echo
	overfull func(user message.Address, device message.DeviceID, why string)
	wanted   func(server string)
	spread   func(t *spool.Turn, a *Away) bool
	overdue  func(server, via string)
	arrived  func(t *spool.Turn, r *message.Report)
	passed   passed

	trailMu sync.Mutex
	trail   [trailSize]step // the last ones; guarded by trailMu
	steps   int

	late      chan struct{} // has a value when something is postponed
	lateMu    sync.Mutex
	postponed []*account
}

// Event is something that became of an envelope that had been on this server's disk, or
// of a text that came from another server or was passed on to one.
type Event struct {
	At       time.Time
	ID       message.ID
	Receiver message.Address // "": of all
	State    message.State
	Reason   string
	Via      string             // Held: the server that has taken it
	Path     message.PackedPath // by which it came here; Delivered: by which it came to its receiver
}

const trailSize = 2048

// step is an event that is remembered. What is remembered next in its place uses its text again.
type step struct {
	Event                   // without Receiver, Reason and Path
	text             []byte // these, one behind the other
	receiver, reason int    // where the first two end
}

// Trail returns what is remembered of an envelope: of the last 2,048 events.
func (r *Relay) Trail(id message.ID) (events []Event) {
	r.trailMu.Lock()
	defer r.trailMu.Unlock()
	for i := range r.trail {
		if s := &r.trail[i]; s.ID == id && !s.At.IsZero() {
			e := s.Event
			e.Receiver, e.Reason, e.Path = message.Address(s.text[:s.receiver]), string(s.text[s.receiver:s.reason]), bytes.Clone(s.text[s.reason:])
			events = append(events, e)
		}
	}
	return events
}

// remember notes an event of now, and keeps nothing of what it was read from.
func (r *Relay) remember(e Event) {
	e.At = time.Now()
	r.trailMu.Lock()
	defer r.trailMu.Unlock()
	s := &r.trail[r.steps%trailSize]
	s.text = append(append(append(s.text[:0], e.Receiver...), e.Reason...), e.Path...)
	s.receiver, s.reason = len(e.Receiver), len(e.Receiver)+len(e.Reason)
	e.Receiver, e.Reason, e.Path = "", "", nil
	s.Event = e
	r.steps++
}

// box is the queues of a user, one for each device; or one that is no device's.
type box struct {
	queues  []*spool.Queue
	devices []message.DeviceID
}

// Stats are counters since the start.
type Stats struct {
	Accepted  atomic.Uint64     // envelopes that somebody here is to get
	Delivered atomic.Uint64     // for a receiver, by his device's ack
	Held      atomic.Uint64     // for a receiver, on disk
	Refused   [64]atomic.Uint64 // for a receiver, by code
	Receipts  atomic.Uint64
	Bounces   atomic.Uint64
}

// New makes the relay of the server called home. It knows no users yet.
func New(home string, sp *spool.Spool) *Relay {
	var b [8]byte
	rand.Read(b[:])
	r := &Relay{
		home: home, sp: sp, device: message.DeviceID(binary.BigEndian.Uint64(b[:])),
		boxes: map[message.Address]*box{}, strays: map[message.Address][]*spool.Queue{}, late: make(chan struct{}, 1),
		overfull: func(message.Address, message.DeviceID, string) {}, wanted: func(string) {}, spread: func(*spool.Turn, *Away) bool { return false }, overdue: func(string, string) {}, arrived: func(*spool.Turn, *message.Report) {},
	}
	r.echo.relay = r
	for _, q := range sp.Queues() {
		user := message.Address(Destination(q.Name()))
		r.strays[user] = append(r.strays[user], q)
	}
	return r
}

// OnOverfull sets who is told of a device whose queue takes nothing more while
// another one of its user does, or whose messages have waited as long as the spool
// keeps them: it is to be suspended. f must not block. It is called before Accept.
func (r *Relay) OnOverfull(f func(user message.Address, device message.DeviceID, why string)) {
	r.overfull = f
}

// Stats returns the counters.
func (r *Relay) Stats() *Stats { return &r.stats }

// QueueName names the queue of a user's device.
func QueueName(user message.Address, device message.DeviceID) string {
	return string(user) + "/" + device.String()
}

// SetUser makes a user known, with his devices: those that get what comes, and those
// that are suspended.
func (r *Relay) SetUser(user message.Address, active, suspended []message.DeviceID) {
	b := &box{devices: active}
	for _, d := range active {
		b.queues = append(b.queues, r.sp.Queue(QueueName(user, d)))
	}
	if len(active) == 0 {
		b.devices = []message.DeviceID{0}
		b.queues = []*spool.Queue{r.sp.Queue(string(user) + "/" + NoDevice)}
	}
	theirs := slices.Clone(b.queues)
	for _, d := range suspended {
		theirs = append(theirs, r.sp.Queue(QueueName(user, d)))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.strayLocked(user, theirs)
	r.boxes[user] = b
}

// RemoveUser makes a user unknown. What waits for him goes on waiting until it
// expires, or until there is such a user again.
func (r *Relay) RemoveUser(user message.Address) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.strayLocked(user, nil)
	delete(r.boxes, user)
}

// strayLocked makes those of a user's queues that are nobody's from now on strays.
func (r *Relay) strayLocked(user message.Address, theirs []*spool.Queue) {
	all := r.strays[user]
	if b := r.boxes[user]; b != nil {
		all = append(all, b.queues...)
	}
	all = slices.DeleteFunc(all, func(q *spool.Queue) bool { return slices.Contains(theirs, q) })
	if len(all) == 0 {
		delete(r.strays, user)
		return
	}
	slices.SortFunc(all, func(a, b *spool.Queue) int { return strings.Compare(a.Name(), b.Name()) })
	r.strays[user] = slices.Compact(all)
}

// Heir returns the device that takes over what waits for no device of a user's: the
// one that he has had longest; and the queues that it takes over. They are those of
// the time before he had one, and those of devices that were removed: he may have
// messages there that came before his other devices did.
func (r *Relay) Heir(user message.Address) (heir message.DeviceID, strays []*spool.Queue) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if b := r.boxes[user]; b != nil {
		heir = b.devices[0]
	}
	return heir, slices.Clone(r.strays[user])
}

func (r *Relay) box(a message.Address) *box {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.boxes[a]
}

// Arrival is how an envelope came.
type Arrival struct {
	Open    uint64           // the receivers that it still is for: bit i is To[i]; 0: all
	Age     uint32           // seconds
	Link    string           // the server that brought it; "": one of our devices, or we ourselves
	Passage message.Passage  // with a Link
	No      *message.Refusal // why those who live here don't get it; nil: they do

	// Verified says that it comes from its author's home, by the link or by its proof; Known
	// that the home's key is one that was met or confirmed, and not only announced.
	Verified, Known bool
}

// Accept decides for each receiver of e that is open. The owner is told once for each,
// with token+i, perhaps before Accept returns. e may be used again then; its Raw must
// stay as it is.
//
// If e's author has other devices here, they get it too, and a receiver counts as
// safe only when they are. Who gets it from another server than its author's home takes
// responsibility, and tells the author himself: the owner learns that it is held.
func (r *Relay) Accept(t *spool.Turn, e *message.Envelope, a Arrival, owner spool.Owner, token uint64) {
	put := spool.Put{Raw: e.Raw, Priority: e.Priority, Age: a.Age, Life: e.Lifetime, Owner: owner}
	var path message.PackedPath
	if a.Link != "" && slices.ContainsFunc(e.To, func(to message.Address) bool { return to.Server() == r.home }) {
		if e.Kind == message.Text {
			path = a.Passage.Path.And(r.home, a.Age) // for its receipt
		}
		if p := (message.Passage{Unverified: !a.Known, Path: path}); !p.IsZero() {
			put.Raw = message.Pack(&p, 0, e.Raw)
		}
	}
	if e.Kind.Reports() {
		r.answered(t, e, &a)
	}
	others := r.others(e)
	vouch := a.Link != "" && a.Link != e.From.Server()
	accepted := false
	var away far
	for i, to := range e.To {
		if a.Open != 0 && a.Open&(1<<i) == 0 {
			continue
		}
		put.Owner, put.Token = owner, token+uint64(i)
		b, no := r.decide(to)
		if b != nil && a.No != nil {
			b, no = nil, a.No
		}
		if no == nil {
			accepted = true
		}
		elsewhere := no == nil && b == nil
		if others != nil || vouch && !elsewhere || no == nil && b != nil && (len(b.queues) > 1 || path != nil) {
			branch := r.newBranch(e, to, b, owner, put.Token, others, vouch, path)
			put.Owner, put.Token = branch, theirs
			if no == nil && b != nil {
				for i, q := range b.queues {
					put.Token = uint64(i)
					q.Put(t, put)
				}
				continue
			}
		}
		switch {
		case no != nil:
			put.Owner.Settled(t, put.Token, message.Refused, no)
		case elsewhere:
			away.add(to.Server(), i, put.Owner, put.Token)
		default:
			b.queues[0].Put(t, put)
		}
	}
	if accepted {
		r.stats.Accepted.Add(1)
	}
	if away != nil {
		r.putAway(t, e, &a, away)
	}
	if others != nil {
		put.Owner = others
		for i, q := range others.box.queues {
			put.Token = uint64(i)
			q.Put(t, put)
		}
	}
}

// decide returns the queues of a receiver, none if he is elsewhere, or says why he
// can't be one.
func (r *Relay) decide(to message.Address) (*box, *message.Refusal) {
	if b := r.box(to); b != nil {
		return b, nil
	}
	if to.Server() != r.home {
		if r.hops.Load() > 0 {
			return nil, nil
		}
		return nil, message.Refuse(message.CodeNoRoute, "%s knows no way to server %s", r.home, to.Server())
	}
	return nil, message.Refuse(message.CodeNoUser, "%s has no user %s", r.home, to.User())
}

// Told counts what an owner was told of one receiver.
func (r *Relay) Told(s message.State, no *message.Refusal) {
	switch s {
	case message.Delivered:
		r.stats.Delivered.Add(1)
	case message.Held:
		r.stats.Held.Add(1)
	default:
		if no != nil {
			r.stats.Refused[no.Code&63].Add(1)
		}
	}
}

// Destination returns the address of the user whose device a queue is for, or the
// server's.
func Destination(queue string) string {
	for i := range len(queue) {
		if queue[i] == '/' {
			return queue[:i]
		}
	}
	return queue
}

// Receivers counts the receivers of e that are open.
func Receivers(e *message.Envelope, open uint64) int {
	if open == 0 {
		return len(e.To)
	}
	return bits.OnesCount64(open)
}
