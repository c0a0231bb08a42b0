// Package relay decides what becomes of an envelope: refused, or into which
// queues it goes. It makes the receipts and bounces that are this server's to
// make. It touches no socket and no disk and starts no goroutine; what it decides
// is carried out by the spool, and whoever asked is told by the spool.Owner that
// he brought.
package relay

import (
	"crypto/rand"
	"encoding/binary"
	"math/bits"
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
	stats   Stats

	mu    sync.RWMutex
	boxes map[message.Address]*box // guarded by mu; a box is never changed

	trailMu sync.Mutex
	trail   [trailSize]Event // the last ones; guarded by trailMu
	steps   int

	late      chan struct{} // has a value when something is postponed
	lateMu    sync.Mutex
	postponed []*account
}

// Event is something that became of an envelope that had been on this server's disk.
type Event struct {
	At       time.Time
	ID       message.ID
	Receiver message.Address
	State    message.State
	Reason   string
}

const trailSize = 2048

// Trail returns what is remembered of an envelope: of the last 2,048 events.
func (r *Relay) Trail(id message.ID) (events []Event) {
	r.trailMu.Lock()
	defer r.trailMu.Unlock()
	for _, e := range r.trail {
		if e.ID == id && !e.At.IsZero() {
			events = append(events, e)
		}
	}
	return events
}

func (r *Relay) remember(e Event) {
	r.trailMu.Lock()
	defer r.trailMu.Unlock()
	r.trail[r.steps%trailSize] = e
	r.steps++
}

// box is the queues of a user.
type box struct{ queues []*spool.Queue }

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
	return &Relay{
		home: home, sp: sp, device: message.DeviceID(binary.BigEndian.Uint64(b[:])),
		boxes: map[message.Address]*box{}, late: make(chan struct{}, 1),
	}
}

// Stats returns the counters.
func (r *Relay) Stats() *Stats { return &r.stats }

// QueueName names the queue of a user's device.
func QueueName(user message.Address, device message.DeviceID) string {
	return string(user) + "/" + device.String()
}

// SetUser makes a user known, with all his devices.
func (r *Relay) SetUser(user message.Address, devices []message.DeviceID) {
	b := &box{}
	for _, d := range devices {
		b.queues = append(b.queues, r.sp.Queue(QueueName(user, d)))
	}
	if len(devices) == 0 {
		b.queues = []*spool.Queue{r.sp.Queue(string(user) + "/" + NoDevice)}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.boxes[user] = b
}

// RemoveUser makes a user unknown. What waits for him goes on waiting until it
// expires, or until there is such a user again.
func (r *Relay) RemoveUser(user message.Address) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.boxes, user)
}

func (r *Relay) box(a message.Address) *box {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.boxes[a]
}

// Accept decides for each receiver of e that is open: bit i of open is To[i],
// and 0 means all. The owner is told once for each, with token+i, perhaps before
// Accept returns. e may be used again then; its Raw must stay as it is.
func (r *Relay) Accept(t *spool.Turn, e *message.Envelope, open uint64, age uint32, owner spool.Owner, token uint64) {
	put := spool.Put{Raw: e.Raw, Priority: e.Priority, Age: age, Life: e.Lifetime, Owner: owner}
	accepted := false
	for i, to := range e.To {
		if open != 0 && open&(1<<i) == 0 {
			continue
		}
		put.Token = token + uint64(i)
		b, no := r.decide(to)
		if no != nil {
			owner.Settled(t, put.Token, message.Refused, no)
			continue
		}
		accepted = true
		if len(b.queues) == 1 {
			b.queues[0].Put(t, put)
			continue
		}
		put.Owner, put.Token = newBranch(owner, put.Token, len(b.queues)), 0
		for _, q := range b.queues {
			q.Put(t, put)
		}
		put.Owner = owner
	}
	if accepted {
		r.stats.Accepted.Add(1)
	}
}

func (r *Relay) decide(to message.Address) (*box, *message.Refusal) {
	if b := r.box(to); b != nil {
		return b, nil
	}
	if to.Server() != r.home {
		return nil, message.Refuse(message.CodeNoRoute, "%s knows no way to server %s", r.home, to.Server())
	}
	return nil, message.Refuse(message.CodeNoUser, "%s has no user %s", r.home, to.User())
}

// branch waits until a receiver is safe in all his queues, and tells the owner
// once: the best of what became of them.
type branch struct {
	owner spool.Owner
	token uint64

	mu    sync.Mutex
	left  int
	state message.State
	no    *message.Refusal
}

func newBranch(owner spool.Owner, token uint64, queues int) *branch {
	return &branch{owner: owner, token: token, left: queues}
}

// Settled implements spool.Owner.
func (b *branch) Settled(t *spool.Turn, _ uint64, s message.State, no *message.Refusal) {
	b.mu.Lock()
	// Held counts more than a refusal by another queue: some device will have it.
	if rank(s) > rank(b.state) {
		b.state, b.no = s, no
	}
	b.left--
	last := b.left == 0
	b.mu.Unlock()
	if last {
		b.owner.Settled(t, b.token, b.state, b.no)
	}
}

func rank(s message.State) int {
	return [...]int{message.Refused: 1, message.Expired: 2, message.Held: 3, message.Delivered: 4, message.Read: 4}[s]
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

// Ledger gathers what the acks of one turn owe to senders, so that many acks make
// one receipt. It belongs to one goroutine. The zero value is empty.
type Ledger struct {
	accounts []*account
}

// account is one receipt or bounce: one sender's device, one receiver, one state.
type account struct {
	relay  *Relay
	to     message.Address
	report message.Report
	q      *spool.Queue
	done   []*spool.Entry
}

// Delivered notes that a device has acked an entry whose sender had been told Held.
func (r *Relay) Delivered(t *spool.Turn, l *Ledger, q *spool.Queue, e *spool.Entry) {
	r.stats.Delivered.Add(1)
	r.owe(t, l, q, e, message.Report{State: message.Delivered})
}

// Bounce notes that an entry was given up: expired, or removed by an admin.
func (r *Relay) Bounce(t *spool.Turn, l *Ledger, q *spool.Queue, e *spool.Entry, s message.State, no *message.Refusal) {
	r.stats.Refused[no.Code&63].Add(1)
	r.owe(t, l, q, e, message.Report{State: s, Code: no.Code, Reason: no.Reason})
}

func (r *Relay) owe(t *spool.Turn, l *Ledger, q *spool.Queue, e *spool.Entry, report message.Report) {
	var env message.Envelope
	if err := env.Parse(q.Raw(e)); err != nil || env.Kind == message.Receipt || env.Kind == message.Bounce || env.From.User() == "" {
		q.Forget(e) // no receipt for a receipt, and nobody to tell
		return
	}
	receiver := message.Address(Destination(q.Name()))
	r.remember(Event{time.Now(), e.ID(), receiver, report.State, report.Reason})
	for _, a := range l.accounts {
		if a.to == env.From && a.q == q && a.report.State == report.State && a.report.Code == report.Code &&
			a.report.Device == env.Device && len(a.report.Counters) < message.MaxRanges {
			a.report.Counters.Add(env.Counter)
			a.done = append(a.done, e)
			return
		}
	}
	report.Receiver, report.Device = receiver, env.Device
	report.Counters.Add(env.Counter)
	l.accounts = append(l.accounts, &account{relay: r, to: env.From, report: report, q: q, done: []*spool.Entry{e}})
	if len(l.accounts) > 512 {
		r.Close(t, l)
	}
}

// Close sends what the ledger has. When a receipt is safe, the entries that it is
// for are forgotten; a crash before brings them again, and the device drops them.
func (r *Relay) Close(t *spool.Turn, l *Ledger) {
	for i, a := range l.accounts {
		r.send(t, a)
		l.accounts[i] = nil
	}
	l.accounts = l.accounts[:0]
}

func (r *Relay) send(t *spool.Turn, a *account) {
	e := message.Envelope{
		Kind: message.Receipt, Priority: message.Urgent, From: message.Address(r.home), Device: r.device,
		Counter: r.counter.Add(1), Created: uint64(time.Now().UnixMilli()), To: []message.Address{a.to}, Body: a.report.Append(nil),
	}
	count := &r.stats.Receipts
	if a.report.State == message.Refused || a.report.State == message.Expired {
		e.Kind, count = message.Bounce, &r.stats.Bounces
	}
	raw, err := e.Append(nil)
	b, no := r.decide(a.to)
	if err != nil || no != nil {
		a.Settled(t, 0, message.Refused, no)
		return
	}
	count.Add(1)
	owner := spool.Owner(a)
	if len(b.queues) > 1 {
		owner = newBranch(a, 0, len(b.queues))
	}
	for _, q := range b.queues {
		q.Put(t, spool.Put{Raw: raw, Priority: e.Priority, Owner: owner})
	}
}

// Settled implements spool.Owner: the receipt is safe, or can't be sent, or can't be
// sent now, because the disk is full, say: then the entries stay on it.
func (a *account) Settled(_ *spool.Turn, _ uint64, _ message.State, no *message.Refusal) {
	if no != nil && !no.Permanent {
		a.relay.postpone(a)
		return
	}
	for _, e := range a.done {
		a.q.Forget(e)
	}
}

func (r *Relay) postpone(a *account) {
	r.lateMu.Lock()
	r.postponed = append(r.postponed, a)
	r.lateMu.Unlock()
	select {
	case r.late <- struct{}{}:
	default:
	}
}

// Late has a value when there are receipts and bounces for Retry.
func (r *Relay) Late() <-chan struct{} { return r.late }

// Retry sends the receipts and bounces that could not be sent when they were
// written. Those that can't be sent now either are late again.
func (r *Relay) Retry(t *spool.Turn) {
	r.lateMu.Lock()
	all := r.postponed
	r.postponed = nil
	r.lateMu.Unlock()
	for _, a := range all {
		r.send(t, a)
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
