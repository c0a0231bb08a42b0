package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/noipchat/noipchat/daemon/message"
	"github.com/noipchat/noipchat/daemon/wire"
)

// link is a session, seen from the device.
type link struct {
	// fixed
	c       *Client
	conn    *wire.Conn
	hello   wire.ServerHello
	quiet   time.Duration
	slow    bool // a large message must not be in the way of others
	address string

	whole chan struct{} // has a value when files are to be finished
	heard atomic.Int64  // nanoseconds since began
	began time.Time

	// of the reader
	early    [][]byte
	incoming []Incoming
	ack      wire.Ack

	// of the sender
	vetted map[string]bool            // see vet
	wrote  uint64                     // bytes that were written when it last looked
	after  [message.Priorities]uint64 // the outbox was read up to here

	mu       sync.Mutex // guards what follows
	welcomed bool
	control  []byte
	received uint64                        // envelope frames that are stored
	acked    uint64                        // of which we have told
	ready    [message.Priorities][]*flight // launched and not written
	waiting  int                           // in ready
	flights  map[uint64]*flight            // written, by number of frame, from first on
	first    uint64                        // the home has acked all before
	next     uint64
	bytes    int // of all that are ready, or written and not acked
	bulk     wire.Pacer
	calls    map[uint64]chan wire.Reply // nil: the session has ended
	lastCall uint64
	later    []delayed    // what the home would not take yet, and what comes after that, by counter
	probing  map[lane]int // where one of those is under way again
}

// flight is an envelope on its way to the home.
type flight struct {
	Pending
	open     uint64           // receivers of whom we have heard nothing
	declined []wire.Exception // who could not be served yet
	acked    bool
	at       int64  // when it was launched, as link.heard
	tries    uint8  // how often it was declined
	probe    []lane // where others wait for what becomes of it
}

// delayed is an envelope that waits, for its time or for one before it: order is kept
// for each receiver and priority.
type delayed struct {
	f   flight
	due time.Time
	to  []lane // of its receivers that are not settled
}

type lane struct {
	to       message.Address
	priority message.Priority
}

func delay(f flight, due time.Time) (delayed, error) {
	d := delayed{f: f, due: due}
	var e message.Envelope
	if err := e.Parse(f.Raw); err != nil {
		return d, fmt.Errorf("an envelope of the outbox: %w", err)
	}
	for _, r := range f.Open {
		d.to = append(d.to, lane{e.To[r], f.Priority})
	}
	return d, nil
}

// converse is a session from its welcome, or on a slow line from before it, to its
// end, and tells how long it was up, and whether anything was acked, by either side.
func (c *Client) converse(ctx context.Context, m meeting) (up time.Duration, worked bool, err error) {
	l := &link{
		c: c, conn: m.conn, hello: m.hello, address: m.address, early: m.early, began: time.Now(), first: 1, next: 1,
		flights: map[uint64]*flight{}, vetted: map[string]bool{}, calls: map[uint64]chan wire.Reply{}, probing: map[lane]int{}, slow: m.conn.Slow(),
		whole: make(chan struct{}, 1),
	}
	l.whole <- struct{}{} // what an earlier process has left
	if idle := time.Duration(m.hello.Idle) * time.Second; idle > 0 && !m.conn.Transport().Properties().Quiet() {
		l.quiet = max(idle/3, time.Second)
	}
	if !m.waits {
		err = l.enter(m.welcome)
	}
	if err == nil {
		g, ctx := errgroup.WithContext(ctx)
		g.Go(l.read)
		g.Go(func() error { return l.finish(ctx) })
		g.Go(func() error {
			defer m.conn.Close() // ends the reader
			return l.send(ctx)
		})
		err = g.Wait()
		up = time.Since(l.began)
		c.parts = m.conn.Parts()
	}
	m.conn.Close()
	c.change(func() { c.link = nil })
	l.mu.Lock()
	for _, call := range l.calls {
		close(call)
	}
	l.calls = nil
	worked = l.received > 0 || l.first > 1
	l.mu.Unlock()
	if err == nil || errors.Is(err, io.EOF) {
		err = errors.New("the connection was closed")
	}
	return up, worked, fmt.Errorf("%s: %w", m.address, err)
}

// enter begins the session: the home lets us in.
func (l *link) enter(w wire.Welcome) error {
	c := l.c
	if w.No != nil {
		return w.No
	}
	if w.Device != c.account.Device {
		return fmt.Errorf("%w: it calls this device %v, and it is %v", wire.ErrProtocol, w.Device, c.account.Device)
	}
	if err := c.store.Prove(w.Counter, w.Unsure); err != nil {
		return err
	}
	l.conn.Transport().SetReadDeadline(time.Time{})
	l.conn.Meet(w.Have)
	l.mu.Lock()
	l.welcomed = true
	l.mu.Unlock()
	c.o.Log.Info("a session", "server", l.address, "waiting", w.Waiting)
	c.change(func() { c.link, c.lastErr = l, nil })
	c.Kick()
	l.flush() // what was too large to go before
	return nil
}

func (l *link) now() int64 { return int64(time.Since(l.began)) }

// read stores what comes, one transaction for what came at once, and acks it.
func (l *link) read() error {
	for {
		var err error
		if l.early != nil {
			for _, plain := range l.early {
				err = errors.Join(err, l.each(plain))
			}
			l.early = nil
		} else {
			err = l.conn.Receive(l.each)
		}
		l.heard.Store(l.now())
		if storeErr := l.keep(); storeErr != nil {
			return fmt.Errorf("storing what came: %w", storeErr) // not acked: it comes again
		}
		if err != nil {
			return err
		}
	}
}

// keep stores what has come, and acks it. Where there is no space for a file, what came
// before is kept.
func (l *link) keep() error {
	batch := l.incoming
	if len(batch) == 0 {
		return nil
	}
	results, err := l.c.store.Receive(batch)
	if errors.Is(err, ErrNoSpace) {
		file := slices.IndexFunc(batch, func(in Incoming) bool { return in.Envelope.Kind == message.File })
		if batch = batch[:file]; file > 0 {
			var textErr error
			results, textErr = l.c.store.Receive(batch)
			err = errors.Join(err, textErr)
		}
	} else if err != nil {
		return err
	}
	var risen []message.ID
	for i := range results {
		risen = appendIDs(risen, results[i].Changes)
		if results[i].Err != nil {
			l.c.o.Log.Warn("a message could not be used", "from", string(batch[i].Envelope.From), "reason", results[i].Err)
		}
		if results[i].Whole {
			nudge(l.whole)
		}
	}
	l.mu.Lock()
	l.received += uint64(len(results))
	l.mu.Unlock()
	clear(l.incoming)
	l.incoming = l.incoming[:0]
	l.c.change(nil, risen...)
	l.flush()
	return err
}

// finish checks files that have come whole.
func (l *link) finish(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-l.whole:
		}
		finished, err := l.c.store.FinishFiles(ctx)
		if err != nil && ctx.Err() == nil {
			return err
		}
		for _, m := range finished {
			l.c.o.Log.Info("a file has come", "from", string(m.From), "id", m.ID.String(), "bytes", m.File.Size, "damage", m.File.Damage)
		}
		if len(finished) > 0 {
			l.c.change(nil)
		}
	}
}

func nudge(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func appendIDs(ids []message.ID, changed []Change) []message.ID {
	for _, c := range changed {
		ids = append(ids, c.ID)
	}
	return ids
}

func (l *link) flush() {
	l.conn.Flush(l) // an error ends the reader
}

func (l *link) each(plain []byte) error {
	for len(plain) > 0 {
		t, body, rest, err := wire.Next(plain)
		if err != nil {
			return err
		}
		plain = rest
		switch t {
		case wire.EnvelopeFrame:
			err = l.take(body)
		case wire.AckFrame:
			err = l.settle(body)
		case wire.PingFrame:
			err = l.pong()
		case wire.PongFrame:
		case wire.WelcomeFrame:
			err = l.welcome(body)
		case wire.AnswerFrame:
			err = l.answer(body)
		case wire.GoodbyeFrame:
			var why *message.Refusal
			if why, err = wire.ParseGoodbye(body); err == nil {
				err = why
			}
		default:
			err = wire.Skip(t)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// welcome takes the answer to the login, where we have begun before it.
func (l *link) welcome(body []byte) error {
	if l.welcomed { // by this goroutine, or before it began
		return wire.Skip(wire.WelcomeFrame)
	}
	w, err := wire.ParseWelcome(body)
	if err != nil {
		return err
	}
	return l.enter(w)
}

// maxControl bounds what a home can make us say that it doesn't read.
const maxControl = 4 << 10

func (l *link) pong() error {
	l.mu.Lock()
	flood := len(l.control) > maxControl
	if !flood {
		l.control = wire.AppendPong(l.control)
	}
	l.mu.Unlock()
	if flood {
		return fmt.Errorf("%w: it pings and doesn't read", wire.ErrProtocol)
	}
	l.flush()
	return nil
}

func (l *link) take(body []byte) error {
	transit, raw, err := wire.ParseEnvelope(body)
	if err != nil {
		return err
	}
	e := new(message.Envelope)
	if err := e.Parse(raw); err != nil {
		return fmt.Errorf("%w: %w", wire.ErrProtocol, err)
	}
	if len(l.incoming) >= l.c.o.Window.Count {
		return fmt.Errorf("%w: more under way than the window", wire.ErrProtocol)
	}
	l.incoming = append(l.incoming, Incoming{Envelope: e, At: time.Now(), Server: l.hello.Name, Unverified: transit.Passage.Unverified})
	return nil
}

// storeSettled stores what became of messages of ours, and wakes who waits for that.
func (l *link) storeSettled(settled []Settled) error {
	if len(settled) == 0 {
		return nil
	}
	changed, err := l.c.store.Settle(settled)
	if err != nil {
		return fmt.Errorf("storing what became of a message: %w", err)
	}
	l.c.change(nil, appendIDs(nil, changed)...)
	return nil
}

// settle stores what the home says of what we sent.
func (l *link) settle(body []byte) error {
	a := &l.ack
	if err := wire.ParseAck(body, a); err != nil {
		return err
	}
	now := time.Now()
	l.mu.Lock()
	settled, again, err := l.settleLocked(a, now)
	l.mu.Unlock()
	if err != nil {
		return err
	}
	if err := l.storeSettled(settled); err != nil {
		return err
	}
	for _, f := range again {
		if err := l.postpone(f, now); err != nil {
			return err
		}
	}
	l.c.Kick() // the window has room
	return nil
}

// settleLocked says what an ack tells of whom, and which flights some receivers
// could not be served by yet.
func (l *link) settleLocked(a *wire.Ack, now time.Time) (settled []Settled, again []flight, err error) {
	last, sent := a.Upto, l.next // the first that was not written
	if n := len(a.Beyond); n > 0 {
		last = a.Beyond[n-1].Last
	}
	if last >= sent {
		return nil, nil, fmt.Errorf("%w: it acks frame %d, and %d were sent", wire.ErrProtocol, last, sent-1)
	}
	for _, x := range a.Exceptions {
		f := l.flights[x.Number]
		if f == nil || x.Number >= sent || f.acked || f.open&(1<<x.Receiver) == 0 {
			return nil, nil, fmt.Errorf("%w: it speaks of receiver %d of frame %d", wire.ErrProtocol, x.Receiver, x.Number)
		}
		f.open &^= 1 << x.Receiver
		switch {
		case x.Refusal != nil && !x.Refusal.Permanent:
			f.declined = append(f.declined, x)
		case x.Refusal != nil:
			settled = append(settled, Settled{Counter: f.Counter, Receiver: x.Receiver, State: x.State, Code: x.Refusal.Code, Reason: x.Refusal.Reason, At: now})
		default:
			settled = append(settled, Settled{Counter: f.Counter, Receiver: x.Receiver, State: x.State, At: now})
		}
	}
	land := func(f *flight) {
		if f.acked {
			return
		}
		f.acked = true
		l.probedLocked(f)
		l.bytes -= len(f.Raw)
		if f.Priority == message.Bulk {
			l.bulk.Acked(len(f.Raw), time.Duration(l.now()-f.at))
		}
		for _, r := range f.Open {
			if f.open&(1<<r) != 0 {
				settled = append(settled, Settled{Counter: f.Counter, Receiver: r, State: message.Delivered, At: now})
			}
		}
		if len(f.declined) > 0 {
			again = append(again, *f)
		}
	}
	for ; l.first <= a.Upto; l.first++ {
		land(l.flights[l.first])
		delete(l.flights, l.first)
	}
	for _, g := range a.Beyond {
		for n := max(g.First, l.first); n <= g.Last; n++ {
			land(l.flights[n])
		}
	}
	return settled, again, nil
}

// maxLater bounds the intervals in which that is tried which the home would not take yet.
const maxLater = time.Minute

// probedLocked ends the waiting for what becomes of one that was declined before: if it
// is taken now, others are tried at once.
func (l *link) probedLocked(f *flight) {
	for _, to := range f.probe {
		if l.probing[to]--; l.probing[to] == 0 {
			delete(l.probing, to)
		}
		if len(f.declined) > 0 {
			continue
		}
		for i := range l.later {
			if d := &l.later[i]; slices.Contains(d.to, to) {
				d.f.tries, d.due = 0, time.Time{}
			}
		}
	}
	f.probe = nil
}

// postpone has an envelope sent again, to those who could not be served, in growing
// intervals. Until it is taken it goes alone.
func (l *link) postpone(f flight, now time.Time) error {
	var wait time.Duration
	f.Open = nil
	for _, x := range f.declined {
		f.Open = append(f.Open, x.Receiver)
		wait = max(wait, x.Refusal.Later(int(f.tries), maxLater))
		l.c.o.Log.Info("a message is kept for later", "counter", f.Counter, "reason", x.Refusal.Error())
	}
	if err := l.c.store.Defer(f.Counter, f.declined); err != nil {
		return err
	}
	f.declined, f.acked, f.tries = nil, false, min(f.tries+1, 8)
	d, err := delay(f, now.Add(wait))
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.keepLocked(d)
	return nil
}

// keepLocked puts an envelope in its place among those that wait.
func (l *link) keepLocked(d delayed) {
	at, _ := slices.BinarySearchFunc(l.later, d.f.Counter, func(d delayed, n uint64) int { return cmp.Compare(d.f.Counter, n) })
	l.later = slices.Insert(l.later, at, d)
}

// send sends what the outbox has, and pings after silence, until ctx is done.
func (l *link) send(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		if err := l.fill(ctx); err != nil {
			return err
		}
		wait, err := l.keepAlive()
		if err != nil {
			return err
		}
		l.mu.Lock()
		now := time.Now()
		for _, d := range l.later {
			if d.due.After(now) { // others wait for one before them, or for room
				wait = min(wait, d.due.Sub(now)+time.Millisecond)
			}
		}
		l.mu.Unlock()
		timer.Reset(wait)
		select {
		case <-ctx.Done():
			return nil
		case <-l.c.kick:
		case <-timer.C:
		}
	}
}

const pingBytes = 64 // of a record with a ping, at most

// keepAlive pings if nothing was heard for a while, and gives up if that wasn't
// answered. It tells when to look again.
func (l *link) keepAlive() (time.Duration, error) {
	if l.quiet == 0 {
		return time.Hour, nil
	}
	if _, wrote := l.conn.Bytes(); wrote-l.wrote > pingBytes { // data is under way, and may take long
		l.wrote = wrote
		l.heard.Store(l.now())
	}
	silent := time.Duration(l.now() - l.heard.Load())
	switch {
	case silent > l.quiet+max(l.quiet/4, 10*time.Second):
		return 0, fmt.Errorf("nothing was heard for %v: %w", silent.Round(time.Second), os.ErrDeadlineExceeded)
	case silent >= l.quiet:
		l.mu.Lock()
		if len(l.control) == 0 {
			l.control = wire.AppendPing(l.control)
		}
		l.mu.Unlock()
		l.flush()
		return max(l.quiet/8, time.Second), nil
	}
	return l.quiet - silent, nil
}

// fill takes from the outbox what the home's window has room for.
func (l *link) fill(ctx context.Context) error {
	some := false
	l.mu.Lock()
	now := time.Now()
	held := map[lane]bool{} // where an earlier one waits
	waits := func(d delayed) bool {
		wait := now.Before(d.due) || !l.roomLocked(d.f.Priority) || slices.ContainsFunc(d.to, func(to lane) bool { return held[to] || l.probing[to] > 0 })
		if wait {
			for _, to := range d.to {
				held[to] = true
			}
		}
		return wait
	}
	var part uint64 // of a file, that is tried again
	l.later = slices.DeleteFunc(l.later, func(d delayed) bool {
		if waits(d) {
			return false
		}
		if d.f.tries > 0 {
			d.f.probe = d.to
			for _, to := range d.to {
				l.probing[to]++
			}
			if d.f.Priority == message.Bulk {
				part = d.f.Counter
			}
		}
		l.launchLocked(d.f)
		some = true
		return true
	})
	l.mu.Unlock()
	if part > 0 { // nothing behind it may be read for long, and who has changed the file is to know
		left, err := l.c.store.Outbox(message.Bulk, part-1, 1)
		if err != nil {
			return err
		}
		if len(left) == 0 || left[0].Counter != part { // it was given up
			l.c.change(nil)
		}
	}
	for p := range l.after {
		for {
			l.mu.Lock()
			room := l.roomLocked(message.Priority(p)) && len(l.later) < l.hello.Window.Count
			limit := 64
			if message.Priority(p) == message.Bulk { // its parts are made for this, and large
				limit = min(limit, 1+l.bulk.Room()/message.PartSize, maxLaterBulk-l.laterBulkLocked())
				room = room && limit > 0
			}
			welcomed := l.welcomed
			l.mu.Unlock()
			if !room {
				break
			}
			pending, err := l.c.store.Outbox(message.Priority(p), l.after[p], limit)
			if err != nil {
				return err
			}
			if len(pending) == 0 {
				break
			}
			if pending, err = l.vet(ctx, message.Priority(p), pending); err != nil {
				return err
			}
			if slices.ContainsFunc(pending, func(p Pending) bool { return p.Unproven }) {
				if !welcomed { // the home has not said how far we have counted
					break
				}
				if err := l.c.store.confirm(); err != nil {
					return err
				}
			}
			l.mu.Lock()
			for _, m := range pending {
				if !l.roomLocked(m.Priority) {
					break
				}
				f := flight{Pending: m}
				if len(held)+len(l.probing) > 0 {
					d, err := delay(f, now)
					if err != nil {
						l.mu.Unlock()
						return err
					}
					if waits(d) {
						l.keepLocked(d)
						l.after[p] = m.Counter
						continue
					}
				}
				l.after[p] = m.Counter
				l.launchLocked(f)
				some = true
			}
			l.mu.Unlock()
		}
	}
	if some {
		l.flush()
	}
	return nil
}

// roomLocked tells whether the home takes one more. Its window of envelopes is what comes
// after the last frame before which all are acked. On a slow line, what is bulk is launched
// one by one: the window is the others' too.
func (l *link) roomLocked(p message.Priority) bool {
	w := l.hello.Window
	if p == message.Bulk && (l.bulk.Room() <= 0 || l.slow && len(l.ready[p]) > 0) {
		return false
	}
	return int(l.next-l.first)+l.waiting < w.Count && l.bytes+message.MaxEnvelope <= w.Bytes
}

// maxLaterBulk bounds how many parts of files wait in memory.
const maxLaterBulk = 32

func (l *link) laterBulkLocked() (n int) {
	for _, d := range l.later {
		if d.f.Priority == message.Bulk {
			n++
		}
	}
	return n
}

func (l *link) launchLocked(f flight) {
	f.open = 0
	for _, r := range f.Open {
		f.open |= 1 << r
	}
	f.at = l.now()
	if f.Priority == message.Bulk {
		l.bulk.Sent(len(f.Raw))
	}
	l.ready[f.Priority] = append(l.ready[f.Priority], &f)
	l.waiting++
	l.bytes += len(f.Raw)
}

// writtenLocked gives a flight its number.
func (l *link) writtenLocked(f *flight) {
	l.waiting--
	l.flights[l.next] = f
	l.next++
}

// Fill implements wire.Source.
func (l *link) Fill(b []byte, room int) ([]byte, bool) {
	return l.FillBelow(b, room, message.Priorities)
}

// FillBelow implements wire.LaneSource.
func (l *link) FillBelow(b []byte, room int, below message.Priority) ([]byte, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	start := len(b)
	left := func() int { return room - (len(b) - start) }
	if len(l.control) > left() {
		return b, true
	}
	b = append(b, l.control...)
	l.control = l.control[:0]
	if l.received > l.acked {
		if left() < 32 {
			return b, true
		}
		l.acked = l.received
		b = wire.AppendAck(b, &wire.Ack{Upto: l.acked})
	}
	for p := range l.ready[:below] {
		for i, f := range l.ready[p] {
			t := wire.Transit{Open: f.open, Age: uint32(min(max(time.Since(f.Created)/time.Second, 0), 1<<32-1))}
			if wire.EnvelopeSize(t, f.Raw) > left() {
				l.ready[p] = append(l.ready[p][:0], l.ready[p][i:]...)
				return b, true
			}
			l.writtenLocked(f)
			b = wire.AppendEnvelope(b, t, f.Raw)
			if l.slow && message.Priority(p) == message.Bulk {
				l.c.Kick() // for the next one
			}
		}
		clear(l.ready[p])
		l.ready[p] = l.ready[p][:0]
	}
	return b, false
}

func (l *link) answer(body []byte) error {
	reply, err := wire.ParseReply(body)
	if err != nil {
		return err
	}
	l.mu.Lock()
	call := l.calls[reply.Number]
	delete(l.calls, reply.Number)
	l.mu.Unlock()
	if call == nil {
		return fmt.Errorf("%w: an answer to nothing", wire.ErrProtocol)
	}
	for i, r := range reply.Results {
		reply.Results[i] = strings.Clone(r) // it shares the bytes of the record
	}
	call <- reply
	return nil
}

// Ask sends a request over the session, for which it waits, and returns the
// results. The error may be a *message.Refusal. If the session ends before the
// answer, nobody knows whether it was done.
func (c *Client) Ask(ctx context.Context, op wire.Op, args ...string) ([]string, error) {
	for {
		changed := c.Changed()
		c.mu.Lock()
		l := c.link
		c.mu.Unlock()
		if l != nil {
			return l.ask(ctx, op, args)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-changed:
		}
	}
}

func (l *link) ask(ctx context.Context, op wire.Op, args []string) ([]string, error) {
	call := make(chan wire.Reply, 1)
	l.mu.Lock()
	if l.calls == nil {
		l.mu.Unlock()
		return nil, ErrEnded
	}
	l.lastCall++
	n := l.lastCall
	l.calls[n] = call
	l.control = wire.AppendRequest(l.control, wire.Request{Number: n, Op: op, Args: args})
	l.mu.Unlock()
	l.flush()
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case reply, ok := <-call:
		if !ok {
			return nil, ErrEnded
		}
		if reply.No != nil {
			return nil, reply.No
		}
		return reply.Results, nil
	}
}
