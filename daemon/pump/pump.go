// Package pump is one connection's envelopes, both ways: what comes is numbered,
// decided about by whoever has the connection, and acked when it is settled; what
// waits in queues is given as far as the other side's window goes, and ended when it is
// acked. Devices' sessions and links between servers have each a Flow; what differs is
// who may say what, which is its Side.
//
// A Flow's reader is one goroutine, Run, which waits without a buffer; after one read
// it does all that follows, including the writing to every connection that it has
// touched. There is no other goroutine while nobody is slow.
package pump

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/noipchat/noipchat/daemon/message"
	"github.com/noipchat/noipchat/daemon/relay"
	"github.com/noipchat/noipchat/daemon/spool"
	"github.com/noipchat/noipchat/daemon/wire"
)

// Side is who has a Flow. Its methods are called by the reader, but for Transit.
type Side interface {
	// Take decides about an envelope, and sees to it that the Flow is told, as the
	// spool.Owner, of each receiver i that is open, with token+i. e is used again.
	Take(e *message.Envelope, transit wire.Transit, token uint64)
	// Acked ends an entry that the other side has acked, with what it said of
	// receivers for whom the ack was not the plain one, which is used again.
	Acked(q *spool.Queue, e *spool.Entry, exceptions []wire.Exception)
	// Frame handles what is neither an envelope nor an ack, ping, pong or goodbye.
	Frame(t wire.Type, body []byte) error
	// Stamp says what goes with each of some entries that leave together, but for its
	// age, and which of its bytes are the envelope. It is called with the Flow's lock held.
	Stamp(out []Outgoing)
}

// Outgoing is an entry that leaves.
type Outgoing struct {
	Queue    *spool.Queue
	Entry    *spool.Entry
	Raw      []byte // as it was put
	Envelope []byte // Stamp's to set
	Transit  wire.Transit
	More     []Carried // entries of other queues that the same frame is for
}

// Carried is an entry that goes in a frame.
type Carried struct {
	Queue *spool.Queue
	Entry *spool.Entry
}

// Options are what a Flow needs.
type Options struct {
	Relay        *relay.Relay
	Spool        *spool.Spool
	Ours, Theirs wire.Window // what we take, and what the other side takes
	Start        time.Time   // what Heard is counted from
	Exceptions   bool        // the other side may ack with exceptions
	Overhead     int         // bytes that a Transit takes at most, above a dozen
	Queues       []*spool.Queue
	Greeting     []byte // frames that go first
}

// Flow is one connection.
type Flow struct {
	// fixed
	side Side
	conn *wire.Conn
	o    Options

	ending sync.Once // whoever calls End waits until it is done: another pump may attach then

	due    atomic.Bool  // somebody has undertaken to call Pump
	paused atomic.Bool  // Run is to end without an end of the connection
	heard  atomic.Int64 // when something last came, nanoseconds since the start

	// Turn and Ledger are the reader's.
	Turn     spool.Turn
	Ledger   relay.Ledger
	envelope message.Envelope
	ack      wire.Ack
	acked    []sent
	said     []wire.Exception // of those
	part     []wire.Exception // of one
	eachFn   func(plain []byte) error

	mu         sync.Mutex // guards what follows; queues' locks come after it
	queues     []*spool.Queue
	in         incoming
	exceptions []wire.Exception
	owesAck    bool
	control    []byte // frames other than envelopes and acks
	out        outgoing
	turn       int // the queue that gives
	gave       int // in this turn
	ended      *message.Refusal
	total      Traffic
}

// New makes the Flow of a connection. Nothing runs until Run; the queues are attached by
// the caller, with Attach.
func New(conn *wire.Conn, side Side, o Options) *Flow {
	p := &Flow{side: side, conn: conn, o: o, queues: o.Queues, control: o.Greeting}
	p.in.first, p.in.next, p.out.first, p.out.next = 1, 1, 1, 1
	p.eachFn = p.each
	p.heard.Store(p.now())
	return p
}

func (p *Flow) now() int64 { return int64(time.Since(p.o.Start)) }

func (p *Flow) millis() uint32 { return uint32(p.now() / int64(time.Millisecond)) }

// Conn returns the connection.
func (p *Flow) Conn() *wire.Conn { return p.conn }

// Heard is when something last came, in nanoseconds since Options.Start.
func (p *Flow) Heard() int64 { return p.heard.Load() }

// Ended is why the Flow has ended, nil if it hasn't.
func (p *Flow) Ended() *message.Refusal {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ended
}

// Queues returns the queues.
func (p *Flow) Queues() []*spool.Queue {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.queues)
}

// Attach makes the Flow the pump of some more queues; of none, of those that it has.
func (p *Flow) Attach(more ...*spool.Queue) {
	p.mu.Lock()
	queues, ended := more, p.ended != nil
	if len(more) == 0 {
		queues = slices.Clone(p.queues)
	}
	for _, q := range more {
		if !slices.Contains(p.queues, q) {
			p.queues = append(p.queues, q)
		}
	}
	p.mu.Unlock()
	if ended {
		return
	}
	for _, q := range queues {
		q.Attach(p)
	}
	if p.Ended() != nil { // meanwhile
		p.detach()
	}
}

// Drop ends the Flow's work for a queue: what it was given of it waits again.
func (p *Flow) Drop(t *spool.Turn, q *spool.Queue) {
	p.mu.Lock()
	p.queues = slices.DeleteFunc(p.queues, func(x *spool.Queue) bool { return x == q })
	p.mu.Unlock()
	q.Detach(t, p)
}

// Offer has a frame sent that nobody has asked for, unless as much waits already.
func (p *Flow) Offer(appendFrame func([]byte) []byte) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.control) > maxControl || p.ended != nil {
		return false
	}
	p.control = appendFrame(p.control)
	return true
}

// Unsaid is how many bytes of frames wait that are neither envelopes nor acks.
func (p *Flow) Unsaid() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.control)
}

// Early handles frames that were read before Run.
func (p *Flow) Early(plain []byte) error { return p.each(plain) }

// Totals returns what has passed, and how many envelopes were given and not acked.
func (p *Flow) Totals() (total Traffic, unacked int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.total, int(p.out.next - p.out.first)
}

// Traffic counts envelopes since the connection began.
type Traffic struct {
	Submitted, Given, Acked uint64
	RTT                     time.Duration // that acks of what is no bulk take lately, in milliseconds; 0: not known
}

// incoming is the frames that the other side has submitted and that no ack of ours has
// covered: number n is at ring[n&mask]. Those before first are settled, and those
// up to told are acked: what we have to say to who doesn't read is
// bounded by its window.
type incoming struct {
	told, first, next uint64
	ring              []submitted
	bytes             int  // of those that are not acked
	beyond            bool // one after first was settled since the last ack
}

type submitted struct {
	left  uint8  // receivers of whom nothing is known
	bytes uint32 // 0: acked
}

// outgoing is what the other side was given and has not acked.
type outgoing struct {
	first, next uint64
	ring        []sent
	bytes       int
	bulk        wire.Pacer
	exceptions  []wire.Exception // of frames that are not acked yet
}

type sent struct {
	q      *spool.Queue
	e      *spool.Entry
	n      uint32
	at     uint32    // milliseconds since the start
	number uint64    // of the frame
	more   []Carried // of a link between servers
	shared bool      // there were more
	gone   bool      // it is under way, and the entry was done before a handoff: by a receipt, say
}

func (s *sent) underWay() bool { return s.e != nil || s.gone }

// grow doubles a ring in which the numbers from first to next are.
func grow[T any](ring []T, first, next uint64) []T {
	if int(next-first) < len(ring) {
		return ring
	}
	bigger := make([]T, max(8, 2*len(ring)))
	for n := first; n < next; n++ {
		bigger[n&uint64(len(bigger)-1)] = ring[n&uint64(len(ring)-1)]
	}
	return bigger
}

func (i *incoming) at(n uint64) *submitted { return &i.ring[n&uint64(len(i.ring)-1)] }

// release takes a frame out of the window's bytes, once.
func (i *incoming) release(n uint64) {
	f := i.at(n)
	i.bytes -= int(f.bytes)
	f.bytes = 0
}

func (o *outgoing) at(n uint64) *sent { return &o.ring[n&uint64(len(o.ring)-1)] }

// maxReads bounds what one side can say before others are given any of it: the more
// messages share a write the better, but they wait.
const maxReads = 4

// Run gives what waits, reads until the connection ends, and says why it did.
func (p *Flow) Run() error {
	p.Turn.Wake(p)
	p.Turn.Run()
	for {
		err := p.conn.Receive(p.eachFn)
		for n := 1; n < maxReads && err == nil && p.conn.More(); n++ {
			err = p.conn.Receive(p.eachFn)
		}
		if err != nil {
			p.EndTurn()
			if p.paused.Load() && errors.Is(err, os.ErrDeadlineExceeded) {
				return ErrPaused
			}
			return err
		}
		p.heard.Store(p.now())
		p.EndTurn()
	}
}

// EndTurn does what the reader owes to others, before it does something long.
func (p *Flow) EndTurn() {
	p.o.Relay.Close(&p.Turn, &p.Ledger)
	p.Turn.Run()
}

// each handles the frames of one record.
func (p *Flow) each(plain []byte) error {
	for len(plain) > 0 {
		t, body, rest, err := wire.Next(plain)
		if err != nil {
			return err
		}
		plain = rest
		switch t {
		case wire.EnvelopeFrame:
			err = p.submit(body)
		case wire.AckFrame:
			err = p.takeAck(body)
		case wire.PingFrame:
			err = p.Say(wire.AppendPong)
		case wire.PongFrame:
		case wire.GoodbyeFrame:
			var why *message.Refusal
			if why, err = wire.ParseGoodbye(body); err == nil {
				err = why
			}
		default:
			err = p.side.Frame(t, body)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// submit takes an envelope.
func (p *Flow) submit(body []byte) error {
	transit, raw, err := wire.ParseEnvelope(body)
	if err != nil {
		return err
	}
	e := &p.envelope
	if err := e.Parse(raw); err != nil {
		return fmt.Errorf("%w: %w", wire.ErrProtocol, err)
	}
	if transit.Open>>len(e.To) != 0 && len(e.To) < 64 {
		return fmt.Errorf("%w: an envelope for a receiver that it doesn't have", wire.ErrProtocol)
	}
	receivers := relay.Receivers(e, transit.Open)
	p.mu.Lock()
	in := &p.in
	if int(in.next-in.told-1) >= p.o.Ours.Count || in.bytes+len(raw) > p.o.Ours.Bytes+message.MaxEnvelope {
		p.mu.Unlock()
		return fmt.Errorf("%w: more under way than the window", wire.ErrProtocol)
	}
	in.ring = grow(in.ring, in.told+1, in.next)
	n := in.next
	*in.at(n) = submitted{uint8(receivers), uint32(len(raw))}
	in.bytes += len(raw)
	in.next++
	p.total.Submitted++
	p.mu.Unlock()
	p.side.Take(e, transit, n<<6)
	return nil
}

// Settled implements spool.Owner: it makes the acks that the other side gets. The
// token is the frame's number and, in the low 6 bits, the receiver.
func (p *Flow) Settled(t *spool.Turn, token uint64, state message.State, no *message.Refusal) {
	p.o.Relay.Told(state, no)
	n, receiver := token>>6, int(token&63)
	p.mu.Lock()
	in := &p.in
	if p.ended != nil || n < in.first || n >= in.next {
		p.mu.Unlock()
		return
	}
	f := in.at(n)
	f.left--
	news := f.left == 0 // of a frame with many receivers, each of them is none
	if state != message.Delivered {
		p.exceptions = append(p.exceptions, wire.Exception{Number: n, Receiver: receiver, State: state, Refusal: no})
		news = true
	}
	if n == in.first {
		for in.first < in.next && in.at(in.first).left == 0 {
			in.first++
		}
	} else if f.left == 0 {
		in.beyond = true
	}
	p.owesAck = p.owesAck || news
	p.mu.Unlock()
	if news {
		t.Wake(p)
	}
}

// takeAck ends what the other side has taken.
func (p *Flow) takeAck(body []byte) error {
	a := &p.ack
	if err := wire.ParseAck(body, a); err != nil {
		return err
	}
	if len(a.Exceptions) > 0 && !p.o.Exceptions {
		return fmt.Errorf("%w: a device acks without exceptions", wire.ErrProtocol)
	}
	p.acked = p.acked[:0]
	p.mu.Lock()
	out := &p.out
	last := a.Upto
	if n := len(a.Beyond); n > 0 {
		last = a.Beyond[n-1].Last
	}
	if last >= out.next {
		p.mu.Unlock()
		return fmt.Errorf("%w: it acks %d, and %d were sent", wire.ErrProtocol, last, out.next-1)
	}
	for _, x := range a.Exceptions {
		if x.Number < out.first || x.Number >= out.next || !out.at(x.Number).underWay() || len(out.exceptions) >= message.MaxTo*int(out.next-out.first) {
			p.mu.Unlock()
			return fmt.Errorf("%w: it speaks of frame %d", wire.ErrProtocol, x.Number)
		}
		if !out.at(x.Number).gone {
			out.exceptions = append(out.exceptions, x)
		}
	}
	millis := p.millis()
	take := func(n uint64) {
		switch a := out.at(n); {
		case a.gone:
			out.bytes -= int(a.n)
			*a = sent{}
		case a.e != nil:
			p.acked = append(p.acked, *a)
			out.bytes -= int(a.n)
			took := time.Duration(millis-a.at) * time.Millisecond
			switch rtt := &p.total.RTT; {
			case a.e.Priority() == message.Bulk:
				out.bulk.Acked(int(a.n), took)
			case *rtt == 0:
				*rtt = max(took, time.Millisecond)
			default:
				*rtt = max(*rtt+(took-*rtt)/8, time.Millisecond)
			}
			*a = sent{}
		}
	}
	for ; out.first <= a.Upto; out.first++ {
		take(out.first)
	}
	for _, g := range a.Beyond {
		for n := max(g.First, out.first); n <= g.Last; n++ {
			take(n)
		}
	}
	for out.first < out.next && !out.at(out.first).underWay() {
		out.first++
	}
	p.total.Acked += uint64(len(p.acked))
	p.said = p.said[:0]
	out.exceptions = slices.DeleteFunc(out.exceptions, func(x wire.Exception) bool {
		now := x.Number < out.first || out.at(x.Number).e == nil
		if now {
			p.said = append(p.said, x)
		}
		return now
	})
	p.mu.Unlock()
	slices.SortStableFunc(p.said, func(a, b wire.Exception) int { return cmp.Compare(a.Number, b.Number) })
	said := p.said
	for i, a := range p.acked { // their numbers rise
		n := 0
		for n < len(said) && said[n].Number == a.number {
			n++
		}
		p.tell(a.q, a.e, said[:n], a.shared)
		for _, m := range a.more {
			p.tell(m.Queue, m.Entry, said[:n], true)
		}
		said = said[n:]
		p.acked[i] = sent{}
	}
	clear(p.said)
	p.Turn.Wake(p) // the window has room
	return nil
}

// tell ends an entry that is acked. Of a frame that was for others too, it is told
// only of its own receivers.
func (p *Flow) tell(q *spool.Queue, e *spool.Entry, said []wire.Exception, shared bool) {
	if shared && len(said) > 0 {
		open := q.Open(e)
		p.part = p.part[:0]
		for _, x := range said {
			if open&(1<<x.Receiver) != 0 {
				p.part = append(p.part, x)
			}
		}
		said = p.part
	}
	p.side.Acked(q, e, said)
}

// Say has a frame sent.
func (p *Flow) Say(appendFrame func([]byte) []byte) error {
	p.mu.Lock()
	flood := len(p.control) > maxControl
	if !flood {
		p.control = appendFrame(p.control)
	}
	p.mu.Unlock()
	if flood {
		return fmt.Errorf("%w: it asks and doesn't read", wire.ErrProtocol)
	}
	p.Turn.Wake(p)
	return nil
}

// Due implements spool.Pump.
func (p *Flow) Due() bool { return !p.due.Swap(true) }

// Pump implements spool.Pump: it sends what there is.
func (p *Flow) Pump() {
	p.due.Store(false)
	p.conn.Flush(p) // an error ends the reader, which tells
}

// maxControl bounds what the other side can make us say that it doesn't read.
const maxControl = 4 << 10

// Fill implements wire.Source.
func (p *Flow) Fill(b []byte, room int) ([]byte, bool) {
	return p.FillBelow(b, room, message.Priorities)
}

// FillBelow implements wire.LaneSource.
func (p *Flow) FillBelow(b []byte, room int, below message.Priority) (filled []byte, more bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	start := len(b)
	left := func() int { return room - (len(b) - start) }
	if len(p.control) > 0 {
		if len(p.control) > left() {
			return b, true
		}
		b = append(b, p.control...)
		p.control = nil // it is rare: an idle connection holds no buffer
	}
	for p.owesAck {
		if left() < minAckRoom {
			return b, true
		}
		b = p.appendAck(b, left())
	}
	if p.ended != nil {
		return b, false
	}
	out := &p.out
	now, millis := p.o.Spool.Steady(), p.millis()
	taken, level := 0, message.Urgent
	batch := batches.Get().(*[]Outgoing)
	defer func() {
		p.side.Stamp(*batch)
		for i := range *batch {
			b = wire.AppendEnvelope(b, (*batch)[i].Transit, (*batch)[i].Envelope)
		}
		clear(*batch)
		*batch = (*batch)[:0]
		batches.Put(batch)
		filled = b
	}()
	for int(out.next-out.first) < p.o.Theirs.Count && out.bytes < p.o.Theirs.Bytes {
		space, window := left()-taken-maxHead-p.o.Overhead, p.o.Theirs.Bytes-out.bytes
		if out.bytes == 0 { // the smallest window takes any envelope, and its passage isn't counted there
			window = max(window, largest)
		}
		if out.bulk.Room() <= 0 {
			below = min(below, message.Bulk)
		}
		q, e, raw, born := p.next(min(space, window), &level, below)
		if e == nil {
			return b, space < min(window, largest) && p.waits(below)
		}
		out.ring = grow(out.ring, out.first, out.next)
		more := p.same(q, e)
		*out.at(out.next) = sent{q: q, e: e, n: uint32(len(raw)), at: millis, number: out.next, more: more, shared: len(more) > 0}
		if e.Priority() == message.Bulk {
			out.bulk.Sent(len(raw))
		}
		out.next++
		out.bytes += len(raw)
		p.total.Given++
		taken += len(raw) + maxHead + p.o.Overhead
		age := spool.Age(now, born)
		if time.Duration(age)*time.Second >= e.Life() { // it would have expired, if the clock were believed
			age = 0
		}
		*batch = append(*batch, Outgoing{Queue: q, Entry: e, Raw: raw, Transit: wire.Transit{Age: age}, More: more})
	}
	return b, false
}

// batches are those that nobody fills: an idle connection has none.
var batches = sync.Pool{New: func() any { return new([]Outgoing) }}

const (
	largest    = message.MaxEnvelope + message.MaxPassage // of what waits
	maxHead    = 16                                       // an envelope's frame before the envelope
	minAckRoom = 3 << 10                                  // for an ack with some exceptions
)

// turnLength is how many entries a queue gives before the next queue's turn: who has
// much to give is not to keep others waiting.
const turnLength = 16

// next returns what is the most urgent in all queues, which take turns. Of what is above
// level there is nothing more.
func (p *Flow) next(room int, level *message.Priority, below message.Priority) (*spool.Queue, *spool.Entry, []byte, uint32) {
	for ; *level < below; *level++ {
		for range p.queues {
			if p.turn >= len(p.queues) || p.gave >= turnLength {
				p.turn, p.gave = (p.turn+1)%len(p.queues), 0
			}
			q := p.queues[p.turn]
			if e, raw, born := q.Next(p, room, *level+1); e != nil {
				p.gave++
				return q, e, raw, born
			}
			p.gave = turnLength
		}
	}
	return nil, nil, nil, 0
}

// same takes from the other queues what the same frame can carry.
func (p *Flow) same(q *spool.Queue, e *spool.Entry) (more []Carried) {
	for _, o := range p.queues {
		if o == q {
			continue
		}
		if twin := o.NextSame(p, e); twin != nil {
			more = append(more, Carried{o, twin})
		}
	}
	return more
}

// waits tells whether there is more, with mu held.
func (p *Flow) waits(below message.Priority) bool {
	for _, q := range p.queues {
		if q.Waits(below) {
			return true
		}
	}
	return false
}

// appendAck appends one ack, and leaves owesAck set if there is more to say.
func (p *Flow) appendAck(b []byte, room int) []byte {
	in := &p.in
	a := wire.Ack{Upto: in.first - 1}
	if n := len(p.exceptions); n > 0 {
		// An exception has at most 40 bytes and its reason.
		most := min(n, wire.MaxExceptions, room/(40+message.MaxReason)/2)
		a.Exceptions = p.exceptions[:most]
	}
	more := len(a.Exceptions) < len(p.exceptions)
	if more {
		// What these exceptions don't cover yet must not be covered by this ack.
		a.Upto = min(a.Upto, p.exceptions[len(a.Exceptions)].Number-1)
		for _, e := range p.exceptions[len(a.Exceptions):] {
			a.Upto = min(a.Upto, e.Number-1)
		}
	} else if in.beyond {
		a.Beyond = in.ranges(min(200, room/20))
		in.beyond = false
		for _, g := range a.Beyond {
			for n := g.First; n <= g.Last; n++ {
				in.release(n)
			}
		}
	}
	for ; in.told < a.Upto; in.told++ {
		in.release(in.told + 1)
	}
	b = wire.AppendAck(b, &a)
	p.exceptions = append(p.exceptions[:0], p.exceptions[len(a.Exceptions):]...)
	clear(p.exceptions[len(p.exceptions):cap(p.exceptions)])
	p.owesAck = more
	return b
}

// ranges returns the settled frames after the first that isn't.
func (i *incoming) ranges(most int) (r message.Ranges) {
	for n := i.first + 1; n < i.next; n++ {
		if i.at(n).left > 0 {
			continue
		}
		if k := len(r); k > 0 && r[k-1].Last == n-1 {
			r[k-1].Last = n
		} else if k < most {
			r = append(r, message.Range{First: n, Last: n})
		} else {
			break
		}
	}
	return r
}

// End closes the connection, once: the other side is told why as far as that goes, and
// what it was given waits again. All that is done when it returns, whoever began it.
func (p *Flow) End(why *message.Refusal) {
	p.ending.Do(func() {
		p.mu.Lock()
		p.ended = why
		p.control = wire.AppendGoodbye(p.control, why)
		p.mu.Unlock()
		p.conn.Flush(p)
		p.conn.Close()
		p.detach()
	})
}

func (p *Flow) detach() {
	var turn spool.Turn
	for _, q := range p.Queues() { // a copy: Drop may come meanwhile
		q.Detach(&turn, p)
	}
	turn.Run()
}
