// Package session is one device: it logs in, submits, and is given its queue.
//
// A session is a pump between its device's queues and one connection. Its reader
// is a goroutine that waits without a buffer; after one read it does all that
// follows, including the writing to every connection that it has touched, and
// waits again. There is no other goroutine while nobody is slow. A Host has the
// sessions of a server; see host.go for who may come in.
package session

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/noipchat/noipchat/daemon/identity"
	"github.com/noipchat/noipchat/daemon/message"
	"github.com/noipchat/noipchat/daemon/relay"
	"github.com/noipchat/noipchat/daemon/spool"
	"github.com/noipchat/noipchat/daemon/wire"
)

// session is a device, logged in, connected here.
type session struct {
	// fixed
	host   *Host
	id     uint64
	conn   *wire.Conn
	user   message.Address
	device message.DeviceID
	agent  string
	since  time.Time
	window wire.Window // what the device takes
	count  *identity.Counter

	ending sync.Once // whoever calls end waits until it is done: another pump may attach then

	over  chan struct{} // on a slow line: closed when nothing is read any more
	wrote uint64        // of Host.Watch: bytes that were written when it last looked

	due   atomic.Bool  // somebody has undertaken to call Pump
	heard atomic.Int64 // when something last came, nanoseconds since the host's start

	// of the reader
	envelope message.Envelope
	turn     spool.Turn
	ledger   relay.Ledger
	ack      wire.Ack
	acked    []sent
	eachFn   func(plain []byte) error

	mu         sync.Mutex // guards what follows; queues' locks come after it
	queues     []*spool.Queue
	in         incoming
	exceptions []wire.Exception
	owesAck    bool
	control    []byte // frames other than envelopes and acks
	out        outgoing
	ended      *message.Refusal
	total      Traffic
}

// Traffic counts envelopes since the session began.
type Traffic struct{ Submitted, Given, Acked uint64 }

// incoming is the frames that the device has submitted and that no ack of ours has
// covered: number n is at ring[n&mask]. Those before first are settled, and those
// up to told are acked: what we have to say to a device that doesn't read is
// bounded by its window.
type incoming struct {
	told, first, next uint64
	ring              []submitted
	bytes             int  // of those after told
	beyond            bool // one after first was settled since the last ack
}

type submitted struct {
	left  uint8 // receivers of whom nothing is known
	bytes uint32
}

// outgoing is what the device was given and has not acked.
type outgoing struct {
	first, next uint64
	ring        []sent
	bytes       int
	bulk        wire.Pacer
}

type sent struct {
	q  *spool.Queue
	e  *spool.Entry
	n  uint32
	at uint32 // milliseconds since the host's start
}

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
func (o *outgoing) at(n uint64) *sent      { return &o.ring[n&uint64(len(o.ring)-1)] }

// maxReads bounds what a device can say before others are given any of it: the more
// messages share a write the better, but they wait.
const maxReads = 4

// run reads until the connection ends, and says why it did.
func (s *session) run() error {
	for {
		err := s.conn.Receive(s.eachFn)
		for n := 1; n < maxReads && err == nil && s.conn.More(); n++ {
			err = s.conn.Receive(s.eachFn)
		}
		if err != nil {
			s.host.relay.Close(&s.turn, &s.ledger)
			s.turn.Run()
			return err
		}
		s.heard.Store(s.host.now())
		s.host.relay.Close(&s.turn, &s.ledger)
		s.turn.Run()
	}
}

// each handles the frames of one record.
func (s *session) each(plain []byte) error {
	for len(plain) > 0 {
		t, body, rest, err := wire.Next(plain)
		if err != nil {
			return err
		}
		plain = rest
		switch t {
		case wire.EnvelopeFrame:
			err = s.submit(body)
		case wire.AckFrame:
			err = s.acks(body)
		case wire.PingFrame:
			err = s.say(wire.AppendPong)
		case wire.PongFrame:
		case wire.RequestFrame:
			err = s.request(body)
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

// submit takes an envelope from the device.
func (s *session) submit(body []byte) error {
	transit, raw, err := wire.ParseEnvelope(body)
	if err != nil {
		return err
	}
	e := &s.envelope
	if err := e.Parse(raw); err != nil {
		return fmt.Errorf("%w: %w", wire.ErrProtocol, err)
	}
	if transit.Open>>len(e.To) != 0 && len(e.To) < 64 {
		return fmt.Errorf("%w: an envelope for a receiver that it doesn't have", wire.ErrProtocol)
	}
	receivers := relay.Receivers(e, transit.Open)
	s.mu.Lock()
	in := &s.in
	if int(in.next-in.told-1) >= s.host.o.Window.Count || in.bytes+len(raw) > s.host.o.Window.Bytes+message.MaxEnvelope {
		s.mu.Unlock()
		return fmt.Errorf("%w: more under way than the window", wire.ErrProtocol)
	}
	in.ring = grow(in.ring, in.told+1, in.next)
	n := in.next
	*in.at(n) = submitted{uint8(receivers), uint32(len(raw))}
	in.bytes += len(raw)
	in.next++
	s.total.Submitted++
	s.mu.Unlock()
	no := s.mayNot(e)
	if no == nil {
		no = s.counted(e.Counter)
	}
	if no != nil {
		for i := range e.To {
			if transit.Open == 0 || transit.Open&(1<<i) != 0 {
				s.Settled(&s.turn, n<<6|uint64(i), message.Refused, no)
			}
		}
		return nil
	}
	s.host.relay.Accept(&s.turn, e, transit.Open, transit.Age, s, n<<6)
	return nil
}

// mayNot says why this device may not write this envelope.
func (s *session) mayNot(e *message.Envelope) *message.Refusal {
	if e.From != s.user || e.Device != s.device {
		return message.Refuse(message.CodeNotAllowed, "it is not from the device that brings it")
	}
	switch e.Kind {
	case message.Bounce:
		return message.Refuse(message.CodeNotAllowed, "bounces are the servers' to write")
	case message.Receipt:
		var report message.Report
		if err := report.Parse(e.Body); err != nil || report.State != message.Read || report.Receiver != s.user {
			return message.Refuse(message.CodeNotAllowed, "a device's receipt says what its own user has read")
		}
	}
	return nil
}

// counted notes that the device has used a counter, before anybody else gets it.
func (s *session) counted(counter uint64) *message.Refusal {
	if err := s.count.Take(counter); err != nil {
		s.host.o.Log.Error("taking a message", "user", string(s.user), "error", err)
		return message.Defer(message.CodeFull, time.Minute, "the server's disk takes nothing more")
	}
	return nil
}

// Settled implements spool.Owner: it makes the acks that the device gets. The
// token is the frame's number and, in the low 6 bits, the receiver.
func (s *session) Settled(t *spool.Turn, token uint64, state message.State, no *message.Refusal) {
	s.host.relay.Told(state, no)
	n, receiver := token>>6, int(token&63)
	s.mu.Lock()
	in := &s.in
	if s.ended != nil || n < in.first || n >= in.next {
		s.mu.Unlock()
		return
	}
	f := in.at(n)
	f.left--
	news := f.left == 0 // of a frame with many receivers, each of them is none
	if state != message.Delivered {
		s.exceptions = append(s.exceptions, wire.Exception{Number: n, Receiver: receiver, State: state, Refusal: no})
		news = true
	}
	if n == in.first {
		for in.first < in.next && in.at(in.first).left == 0 {
			in.first++
		}
	} else if f.left == 0 {
		in.beyond = true
	}
	s.owesAck = s.owesAck || news
	s.mu.Unlock()
	if news {
		t.Wake(s)
	}
}

// acks ends what the device has on its disk.
func (s *session) acks(body []byte) error {
	a := &s.ack
	if err := wire.ParseAck(body, a); err != nil {
		return err
	}
	if len(a.Exceptions) > 0 {
		return fmt.Errorf("%w: a device acks without exceptions", wire.ErrProtocol)
	}
	s.acked = s.acked[:0]
	s.mu.Lock()
	out := &s.out
	last := a.Upto
	if n := len(a.Beyond); n > 0 {
		last = a.Beyond[n-1].Last
	}
	if last >= out.next {
		s.mu.Unlock()
		return fmt.Errorf("%w: it acks %d, and %d were sent", wire.ErrProtocol, last, out.next-1)
	}
	millis := s.host.millis()
	take := func(n uint64) {
		if p := out.at(n); p.e != nil {
			s.acked = append(s.acked, *p)
			out.bytes -= int(p.n)
			if p.e.Priority() == message.Bulk {
				out.bulk.Acked(int(p.n), time.Duration(millis-p.at)*time.Millisecond)
			}
			*p = sent{}
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
	for out.first < out.next && out.at(out.first).e == nil {
		out.first++
	}
	s.total.Acked += uint64(len(s.acked))
	s.mu.Unlock()
	for i, p := range s.acked {
		if p.q.Done(&s.turn, p.e) {
			s.host.relay.Delivered(&s.turn, &s.ledger, p.q, p.e)
		}
		s.acked[i] = sent{}
	}
	s.turn.Wake(s) // the window has room
	return nil
}

// say has a frame sent.
func (s *session) say(appendFrame func([]byte) []byte) error {
	s.mu.Lock()
	flood := len(s.control) > maxControl
	if !flood {
		s.control = appendFrame(s.control)
	}
	s.mu.Unlock()
	if flood {
		return fmt.Errorf("%w: it asks and doesn't read", wire.ErrProtocol)
	}
	s.turn.Wake(s)
	return nil
}

// Due implements spool.Pump.
func (s *session) Due() bool { return !s.due.Swap(true) }

// Pump implements spool.Pump: it sends what there is.
func (s *session) Pump() {
	s.due.Store(false)
	s.conn.Flush(s) // an error ends the reader, which tells
}

// maxControl bounds what a device can make us say that it doesn't read.
const maxControl = 4 << 10

// Fill implements wire.Source.
func (s *session) Fill(b []byte, room int) ([]byte, bool) {
	return s.FillBelow(b, room, message.Priorities)
}

// FillBelow implements wire.LaneSource.
func (s *session) FillBelow(b []byte, room int, below message.Priority) ([]byte, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	start := len(b)
	left := func() int { return room - (len(b) - start) }
	if len(s.control) > 0 {
		if len(s.control) > left() {
			return b, true
		}
		b = append(b, s.control...)
		s.control = s.control[:0]
	}
	for s.owesAck {
		if left() < minAckRoom {
			return b, true
		}
		b = s.appendAck(b, left())
	}
	if s.ended != nil {
		return b, false
	}
	out := &s.out
	now, millis := s.host.sp.Steady(), s.host.millis()
	for int(out.next-out.first) < s.window.Count && out.bytes < s.window.Bytes {
		space, window := left()-maxHead, s.window.Bytes-out.bytes
		if out.bulk.Room() <= 0 {
			below = min(below, message.Bulk)
		}
		q, e, raw, born := s.next(min(space, window), below)
		if e == nil {
			return b, space < min(window, message.MaxEnvelope) && s.waits(below)
		}
		out.ring = grow(out.ring, out.first, out.next)
		*out.at(out.next) = sent{q, e, uint32(len(raw)), millis}
		if e.Priority() == message.Bulk {
			out.bulk.Sent(len(raw))
		}
		out.next++
		out.bytes += len(raw)
		s.total.Given++
		b = wire.AppendEnvelope(b, wire.Transit{Age: now - min(born, now)}, raw)
	}
	return b, false
}

const (
	maxHead    = 16      // an envelope's frame before the envelope
	minAckRoom = 3 << 10 // for an ack with some exceptions
)

func (s *session) next(room int, below message.Priority) (*spool.Queue, *spool.Entry, []byte, uint32) {
	for _, q := range s.queues {
		if e, raw, born := q.Next(s, room, below); e != nil {
			return q, e, raw, born
		}
	}
	return nil, nil, nil, 0
}

// waits tells whether there is more, with mu held.
func (s *session) waits(below message.Priority) bool {
	for _, q := range s.queues {
		if q.Waits(below) {
			return true
		}
	}
	return false
}

// appendAck appends one ack, and leaves owesAck set if there is more to say.
func (s *session) appendAck(b []byte, room int) []byte {
	in := &s.in
	a := wire.Ack{Upto: in.first - 1}
	if n := len(s.exceptions); n > 0 {
		// An exception has at most 40 bytes and its reason.
		most := min(n, wire.MaxExceptions, room/(40+message.MaxReason)/2)
		a.Exceptions = s.exceptions[:most]
	}
	more := len(a.Exceptions) < len(s.exceptions)
	if more {
		// What these exceptions don't cover yet must not be covered by this ack.
		a.Upto = min(a.Upto, s.exceptions[len(a.Exceptions)].Number-1)
		for _, e := range s.exceptions[len(a.Exceptions):] {
			a.Upto = min(a.Upto, e.Number-1)
		}
	} else if in.beyond {
		a.Beyond = in.ranges(min(200, room/20))
		in.beyond = false
	}
	for ; in.told < a.Upto; in.told++ {
		in.bytes -= int(in.at(in.told + 1).bytes)
	}
	b = wire.AppendAck(b, &a)
	s.exceptions = append(s.exceptions[:0], s.exceptions[len(a.Exceptions):]...)
	clear(s.exceptions[len(s.exceptions):cap(s.exceptions)])
	s.owesAck = more
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

// request does what the device asks for that is no message.
func (s *session) request(body []byte) error {
	q, err := wire.ParseRequest(body)
	if err != nil {
		return err
	}
	reply := wire.Reply{Number: q.Number}
	switch {
	case q.Op == wire.OpPassword && len(q.Args) == 2:
		s.host.relay.Close(&s.turn, &s.ledger)
		s.turn.Run() // others must not wait for a hash
		reply.No = s.host.password(s, q.Args[0], q.Args[1])
	case q.Op == wire.OpDevices && len(q.Args) == 0:
		reply.Results = s.host.devices(s.user)
	case q.Op == wire.OpRemoveDevice && len(q.Args) == 2:
		s.host.relay.Close(&s.turn, &s.ledger)
		s.turn.Run()
		reply.No = s.host.removeDevice(s, q.Args[0], q.Args[1])
	case q.Op == wire.OpKeys && len(q.Args) == 1:
		reply.Results = s.host.keys(q.Args[0])
	default:
		reply.No = message.Refuse(message.CodeInvalid, "this server doesn't know operation %d with %d arguments", q.Op, len(q.Args))
	}
	if err := s.say(func(b []byte) []byte { return wire.AppendReply(b, reply) }); err != nil {
		return err
	}
	if q.Op == wire.OpRemoveDevice && reply.No == nil && q.Args[1] == s.device.String() {
		s.turn.Run()
		return errRemovedItself
	}
	return nil
}

// end closes the session, once: the device is told why as far as that goes, and
// what it was given waits again. All that is done when it returns, whoever began it.
func (s *session) end(why *message.Refusal) {
	s.ending.Do(func() {
		s.mu.Lock()
		s.ended = why
		s.control = wire.AppendGoodbye(s.control, why)
		s.mu.Unlock()
		s.conn.Flush(s)
		s.conn.Close()
		s.detach()
	})
}

func (s *session) detach() {
	s.mu.Lock()
	queues := s.queues
	s.mu.Unlock()
	var turn spool.Turn
	for _, q := range queues {
		q.Detach(&turn, s)
	}
	turn.Run()
}
