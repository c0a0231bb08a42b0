package relay

import (
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/noipchat/noipchat/daemon/message"
	"github.com/noipchat/noipchat/daemon/spool"
)

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
	except message.DeviceID // of the sender's, which knows; 0: none
	q      *spool.Queue     // nil if there are none done
	done   []*spool.Entry
}

// note has the account for what is the same as in like be about one more envelope.
func (l *Ledger) note(like account, counter uint64) *account {
	a := l.account(&like)
	p := &a.report
	if n := len(p.Counters); n == 0 || counter > p.Counters[n-1].Last {
		p.Path = like.report.Path
	}
	p.Counters.Add(counter)
	return a
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
	passage, raw := message.Split(q.Raw(e))
	if err := env.ParseHead(raw); err != nil || env.Kind.Reports() || env.From.User() == "" {
		q.Forget(e) // no receipt for a receipt, and nobody to tell
		return
	}
	receiver := message.Address(Destination(q.Name()))
	if env.From == receiver && (env.Parse(raw) != nil || !slices.Contains(env.To, receiver)) {
		q.Forget(e) // the copy for another device of the author's
		return
	}
	if receiver.User() == "" {
		r.oweAway(t, l, q, e, report)
		return
	}
	r.remember(Event{ID: e.ID(), Receiver: receiver, State: report.State, Reason: report.Reason, Path: passage.Path})
	report.Receiver, report.Device, report.Path = receiver, env.Device, passage.Path
	a := l.note(account{relay: r, to: env.From, report: report, q: q}, env.Counter)
	a.done = append(a.done, e)
	if len(l.accounts) > 512 {
		r.Close(t, l)
	}
}

// account returns the account for what is the same as in like, but for counters and ages.
func (l *Ledger) account(like *account) *account {
	p := &like.report
	for _, a := range l.accounts {
		if a.to == like.to && a.q == like.q && a.except == like.except && a.report.State == p.State && a.report.Code == p.Code &&
			a.report.Receiver == p.Receiver && a.report.Device == p.Device && a.report.Path.Same(p.Path) && len(a.report.Counters) < message.MaxRanges {
			return a
		}
	}
	l.accounts = append(l.accounts, like)
	return like
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
	if b == nil {
		e.Raw = raw
		r.Accept(t, &e, Arrival{}, a, 0)
		return
	}
	if a.except != 0 {
		if b = b.without(a.except); len(b.queues) == 0 {
			return
		}
	}
	owner := spool.Owner(a)
	if len(b.queues) > 1 {
		owner = r.newBranch(&e, a.to, b, a, 0, nil, false, nil)
	}
	for i, q := range b.queues {
		q.Put(t, spool.Put{Raw: raw, Priority: e.Priority, Owner: owner, Token: uint64(i)})
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

// Expired notes that an entry has waited as long as its lifetime, or as the spool
// keeps things: then its device isn't used any more, it seems.
func (r *Relay) Expired(t *spool.Turn, l *Ledger, q *spool.Queue, e *spool.Entry, asLongAsKept bool) {
	if user, device, ok := strings.Cut(q.Name(), "/"); ok && asLongAsKept {
		if id, err := message.ParseDeviceID(device); err == nil {
			r.overfull(message.Address(user), id, "it was away longer than the server keeps messages")
		}
	}
	r.Bounce(t, l, q, e, message.Expired, message.Refuse(message.CodeExpired, "%s kept it until its lifetime was over", r.home))
}

// echo tells authors what became of what they wrote where no ack tells them: their
// other devices, which have copies, and those elsewhere; once in a turn.
type echo struct {
	relay *Relay
	due   atomic.Bool

	mu     sync.Mutex
	ledger Ledger // guarded by mu
}

// add notes what a branch has come to.
func (o *echo) add(t *spool.Turn, b *branch) {
	p := message.Report{State: b.state, Receiver: b.to, Device: b.device, Path: b.path}
	if b.no != nil {
		p.Code, p.Reason = b.no.Code, b.no.Reason
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	like := account{relay: o.relay, to: b.author, report: p}
	if b.others != nil {
		like.except = b.device
	}
	o.ledger.note(like, b.counter)
	t.Wake(o)
}

// Due implements spool.Pump.
func (o *echo) Due() bool { return !o.due.Swap(true) }

// Pump implements spool.Pump.
func (o *echo) Pump() {
	o.due.Store(false)
	o.mu.Lock()
	accounts := o.ledger.accounts
	o.ledger.accounts = nil
	o.mu.Unlock()
	var turn spool.Turn
	for _, a := range accounts {
		o.relay.send(&turn, a)
	}
	turn.Run()
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
