package relay

import (
	"slices"
	"sync"
	"time"

	"github.com/noipchat/noipchat/daemon/message"
	"github.com/noipchat/noipchat/daemon/spool"
)

// What is for other servers' users waits in a queue for each server, once for all who
// live there. A next server's ack ends our part in what we only pass on. What our own
// users have sent rests then, and is offered again in growing intervals, until the
// receivers' home has said what became of it: so even a server on the way that burns
// down loses nothing.

// far is an envelope's receivers on other servers: of each server once.
type far []*farOwner

// farOwner is the spool's owner of what waits for one server, and tells that of each
// receiver there once.
type farOwner struct {
	server string
	mask   uint64

	mu  sync.Mutex
	to  []farReceiver // who has not been told; guarded by mu
	one [1]farReceiver
}

type farReceiver struct {
	index int
	owner spool.Owner
	token uint64
}

func (f *far) add(server string, index int, owner spool.Owner, token uint64) {
	i := slices.IndexFunc(*f, func(o *farOwner) bool { return o.server == server })
	if i < 0 {
		i = len(*f)
		o := &farOwner{server: server}
		o.to = o.one[:0]
		*f = append(*f, o)
	}
	o := (*f)[i]
	o.mask |= 1 << index
	o.to = append(o.to, farReceiver{index, owner, token})
}

// Settled implements spool.Owner: it is so for all who have not been told.
func (o *farOwner) Settled(t *spool.Turn, _ uint64, s message.State, no *message.Refusal) {
	o.mu.Lock()
	to := o.to
	o.to = nil
	o.mu.Unlock()
	for _, r := range to {
		r.owner.Settled(t, r.token, s, no)
	}
}

// tell tells of one receiver, and whether he had not been told.
func (o *farOwner) tell(t *spool.Turn, index int, s message.State, no *message.Refusal) bool {
	o.mu.Lock()
	for i, r := range o.to {
		if r.index == index {
			o.to = append(o.to[:i], o.to[i+1:]...)
			o.mu.Unlock()
			r.owner.Settled(t, r.token, s, no)
			return true
		}
	}
	o.mu.Unlock()
	return false
}

// SetFederation says how many servers mail from here may cross, 0 if there are no
// others, and after what time it is offered again for the first time when nothing was
// heard of it.
func (r *Relay) SetFederation(hops int, resend time.Duration) {
	r.hops.Store(int32(hops))
	r.resend.Store(int64(resend))
}

// Away is what is to wait for a server.
type Away struct {
	Server   string
	Envelope *message.Envelope
	Link     string // the server that brought it; "": it is from here
	Verified bool
	Passage  *message.Passage // as it goes on
	Put      spool.Put
}

// OnAway sets who may see to it that something goes to a server in another way than by
// its queue, and tells whether he does; who is told that something waits for
// a server whose queue has no pump; that what via took for a server has not been
// heard of since; and what a verified report says of a receiver elsewhere, but that his
// server holds it. The last three must not block. It is called before Accept.
func (r *Relay) OnAway(spread func(t *spool.Turn, a *Away) bool, wanted func(server string), overdue func(server, via string), arrived func(t *spool.Turn, r *message.Report)) {
	r.spread, r.wanted, r.overdue, r.arrived = spread, wanted, overdue, arrived
}

// putAway puts an envelope into the queues for its receivers' servers.
func (r *Relay) putAway(t *spool.Turn, e *message.Envelope, a *Arrival, away far) {
	p := a.Passage
	if hops := uint8(r.hops.Load()); a.Link == "" || p.Hops > hops {
		p.Hops = hops
	}
	p.Path = p.Path.And(r.home, a.Age)
	group := uint64(0)
	if len(away) > 1 {
		group = r.groups.Add(1)
	}
	for _, owner := range away {
		server := owner.server
		if via := r.passed.take(passage{e.Device, e.Counter, server}); via != "" && a.Link != "" && e.Kind == message.Text {
			r.overdue(server, via)
		}
		put := spool.Put{Raw: message.Pack(&p, owner.mask, e.Raw), Priority: e.Priority, Age: a.Age, Life: e.Lifetime, Owner: owner, Open: owner.mask, Device: e.Device, Counter: e.Counter, Group: group}
		if r.spread(t, &Away{server, e, a.Link, a.Verified, &p, put}) {
			continue
		}
		q := r.sp.Queue(server)
		q.Put(t, put)
		if !q.Pumped() {
			r.wanted(server)
		}
	}
}

// Said is what a server said of one receiver in its ack.
type Said struct {
	Receiver int
	State    message.State
	No       *message.Refusal
}

// maxResend bounds the intervals in which mail is offered again, and maxLater those in
// which it is that was refused for now and is no part of a file: what is large may be much,
// and whoever has no room for it may have none for weeks.
const (
	maxResend = time.Hour
	maxLater  = 10 * time.Minute
)

// Later is when an entry is offered again that was refused for now.
func Later(no *message.Refusal, q *spool.Queue, e *spool.Entry) time.Duration {
	most := maxLater
	if e.Priority() == message.Bulk {
		most = maxResend
	}
	return no.Later(q.Tries(e), most)
}

// Taken notes that the server via has acked an entry of a queue for a server, with
// what it said of receivers other than that they have it.
func (r *Relay) Taken(t *spool.Turn, l *Ledger, q *spool.Queue, e *spool.Entry, via string, said []Said) {
	path, env, open, err := unpacked(q.Raw(e))
	if err != nil {
		q.End(t, e, message.Held)
		return
	}
	var later time.Duration
	var declined uint64 // the receivers that were refused for now
	for _, s := range said {
		if s.No != nil && !s.No.Permanent {
			later = max(later, Later(s.No, q, e))
			declined |= 1 << s.Receiver
		}
	}
	kept := env.From.Server() == r.home && env.From.User() != "" && env.Kind != message.Receipt
	id, text := q.ID(e), env.Kind == message.Text
	if id == (message.ID{}) && (kept || text) {
		id = message.IDOf(env.Raw)
	}
	if later == 0 && id != (message.ID{}) && !env.Kind.Reports() {
		r.remember(Event{ID: id, State: message.Held, Via: via, Path: path})
	}
	if later == 0 && text && via != q.Name() {
		if before := r.passed.put(passage{env.Device, env.Counter, q.Name()}, via); kept && before == via {
			r.overdue(q.Name(), via)
		}
	}
	switch {
	case !kept && later == 0:
		q.End(t, e, message.Held)
		return
	case !kept: // for those that were not taken yet
		if q.Narrow(e, q.SetOpen(e, open)&^declined) == 0 { // a report has ended it for them
			q.End(t, e, message.Held)
			return
		}
		q.Decline(t, e, later)
		return
	}
	left := q.SetOpen(e, open)
	if via == q.Name() { // its users are there: what it says holds
		path = path.And(via, uint32(q.Age(e).Seconds()))
		fates := make(map[int]Said, len(said))
		for _, s := range said {
			fates[s.Receiver] = s
		}
		arrived := 0
		for i := range env.To {
			s, other := fates[i]
			switch {
			case left&(1<<i) == 0:
			case !other:
				arrived++
				left = r.fate(t, l, q, e, &env, id, i, message.Delivered, nil, path)
			case s.No != nil && s.No.Permanent:
				left = r.fate(t, l, q, e, &env, id, i, s.State, s.No, nil)
			}
		}
		q.Room(t, 2*arrived)
	}
	if left == 0 {
		q.End(t, e, message.Delivered)
		return
	}
	if later > 0 {
		q.Decline(t, e, later)
		return
	}
	wait := min(time.Duration(r.resend.Load())<<min(q.Tries(e), 10), maxResend)
	if via == q.Name() { // held there: who is left is away
		q.Rest(t, e, wait)
	} else {
		q.Await(t, e, wait)
	}
}

// unpacked is the envelope in what waits for a server, which way it has come, and for
// whom it waited at first.
func unpacked(packed []byte) (path message.PackedPath, env message.Envelope, open uint64, err error) {
	p, open, raw, err := message.Unpack(packed)
	if err == nil {
		err = env.Parse(raw)
	}
	if open == 0 {
		open = 1<<len(env.To) - 1
	}
	return p.Path, env, open, err
}

// fate notes what became of an entry for one receiver, and tells its author. It returns
// the receivers that are left.
func (r *Relay) fate(t *spool.Turn, l *Ledger, q *spool.Queue, e *spool.Entry, env *message.Envelope, id message.ID, index int, s message.State, no *message.Refusal, path message.PackedPath) (left uint64) {
	left, told := r.settle(t, q, e, env, id, index, s, no, path)
	if told {
		return left
	}
	report := message.Report{State: s, Receiver: env.To[index], Device: env.Device, Path: path}
	if no != nil {
		report.Code, report.Reason = no.Code, no.Reason
	}
	l.note(account{relay: r, to: env.From, report: report}, env.Counter)
	return left
}

// settle is fate for whoever knows that the author is told by others: told says whether he
// was by the one who waited for that.
func (r *Relay) settle(t *spool.Turn, q *spool.Queue, e *spool.Entry, env *message.Envelope, id message.ID, index int, s message.State, no *message.Refusal, path message.PackedPath) (left uint64, told bool) {
	r.remember(Event{ID: id, Receiver: env.To[index], State: s, Reason: because(no), Path: path})
	left = q.Narrow(e, 1<<index)
	owner, _ := e.Owner()
	f, ok := owner.(*farOwner)
	return left, ok && f.tell(t, index, s, no)
}

func because(no *message.Refusal) string {
	if no == nil {
		return ""
	}
	return no.Reason
}

// maxAnswered bounds how many numbers of one report are looked for.
const maxAnswered = 1 << 16

// Awaits tells whether a receipt or bounce is about something that waits here, of the server
// that it comes from.
func (r *Relay) Awaits(e *message.Envelope) bool {
	var p message.Report
	if p.Parse(e.Body) != nil || p.Receiver.Server() != e.From.Server() {
		return false
	}
	q := r.sp.Find(p.Receiver.Server())
	if q == nil {
		return false
	}
	for n := range p.Counters.All(maxAnswered) {
		for range q.ByAuthor(p.Device, n) {
			return true
		}
	}
	return false
}

// answered ends our keeping of what a receipt or bounce of the receivers' home, or of a
// receiver himself, is about, if that is verified, and not refused: where only homes whose keys are
// known are heard, no other one ends anything. That something is held there says only
// that the way was good. So does a report that passes by, whoever has made it.
func (r *Relay) answered(t *spool.Turn, e *message.Envelope, a *Arrival) {
	var p message.Report
	ours := e.To[0].Server() == r.home
	if ours && (!a.Verified || a.No != nil) || p.Parse(e.Body) != nil || p.Receiver.Server() != e.From.Server() || p.Receiver.Server() == r.home {
		return
	}
	r.passed.heard(&p)
	if a.Verified && p.State != message.Held {
		r.arrived(t, &p)
	}
	if !ours {
		return
	}
	q := r.sp.Find(p.Receiver.Server())
	if q == nil {
		return
	}
	var no *message.Refusal
	if p.Code != 0 {
		no = message.Refuse(p.Code, "%s", p.Reason)
	}
	state := min(p.State, message.Delivered)
	arrived := 0
	for n := range p.Counters.All(maxAnswered) {
		for entry, packed := range q.ByAuthor(p.Device, n) {
			arrived += r.settled(t, q, entry, packed, &p, state, no)
		}
	}
	q.Room(t, 2*arrived)
}

// settled is answered for one entry. It returns for how many receivers it has waited no longer.
func (r *Relay) settled(t *spool.Turn, q *spool.Queue, entry *spool.Entry, packed []byte, p *message.Report, state message.State, no *message.Refusal) (arrived int) {
	_, env, open, err := unpacked(packed)
	if err != nil {
		return 0
	}
	q.SetOpen(entry, open)
	for i, to := range env.To {
		if to != p.Receiver || q.Open(entry)&(1<<i) == 0 {
			continue
		}
		if p.State == message.Held {
			r.remember(Event{ID: message.IDOf(env.Raw), Receiver: to, State: p.State, Path: p.Path})
			continue
		}
		if left, _ := r.settle(t, q, entry, &env, message.IDOf(env.Raw), i, state, no, p.Path); left == 0 {
			q.End(t, entry, state)
		}
		arrived++
	}
	return arrived
}

// oweAway is owe for what is given up in a queue for a server: each receiver there is
// reported, if it is our own user's; what we pass on, its home gives up too.
func (r *Relay) oweAway(t *spool.Turn, l *Ledger, q *spool.Queue, e *spool.Entry, report message.Report) {
	_, env, open, err := unpacked(q.Raw(e))
	if err != nil || env.From.Server() != r.home || spool.IsCopies(q.Name()) {
		q.Forget(e)
		return
	}
	left := q.SetOpen(e, open)
	if left == 0 {
		q.Forget(e)
	}
	for i, to := range env.To {
		if left&(1<<i) == 0 {
			continue
		}
		r.remember(Event{ID: e.ID(), Receiver: to, State: report.State, Reason: report.Reason})
		p := report
		p.Receiver, p.Device = to, env.Device
		a := l.note(account{relay: r, to: env.From, report: p, q: q}, env.Counter)
		if left &^= 1 << i; left == 0 {
			a.done = append(a.done, e)
		}
	}
}
