package pump

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/noipchat/noipchat/daemon/message"
	"github.com/noipchat/noipchat/daemon/wire"
)

// State is a Flow between two processes, but for its connection's stream. Whoever wants
// it calls Pause, waits until Run has ended, has the spool settle, and calls Export; if
// it comes to nothing, Reclaim and Run. The other process calls Resume, and Run.
type State struct {
	Conn         wire.State
	Ours, Theirs wire.Window
	Exceptions   bool
	Overhead     int
	Heard        int64 // after Options.Start, which goes on
	Total        Traffic
	Control      []byte // frames that were not sealed yet

	// What the other side has submitted. All of it is settled: an ack is owed at most.
	Told, Next uint64
	Sizes      []uint32 // of the envelopes after Told
	Owed       []wire.Exception
	OwesAck    bool

	// What it was given and hasn't acked, which is on disk.
	First, Last uint64 // frames; Last is the first that wasn't sent
	Given       []Given
	Said        []wire.Exception // of such frames

	Queues []string
}

// Given is an entry under way.
type Given struct {
	Number   uint64 // of its frame
	Queue    string
	Priority message.Priority
	Seq      uint64
	Bytes    uint32
	At       uint32 // milliseconds after Options.Start
	Shared   bool   // its frame is for other queues' entries too, which follow
}

// ErrPaused is what Run returns after Pause.
var ErrPaused = errors.New("paused")

// Pause has Run return soon, with ErrPaused unless the connection has ended before.
func (p *Flow) Pause() {
	p.paused.Store(true)
	p.conn.Transport().SetReadDeadline(time.Unix(1, 0))
}

// Reclaim undoes Pause, and Export if that was called: Run is to be called again.
func (p *Flow) Reclaim() {
	p.paused.Store(false)
	p.conn.Transport().SetReadDeadline(time.Time{})
	p.conn.Reclaim()
}

// Export returns the state. From then on nothing more is sent. It fails if something
// that the other side has submitted is not settled.
func (p *Flow) Export() (State, error) {
	conn := p.conn.Export() // first: nobody calls Fill any more
	p.mu.Lock()
	defer p.mu.Unlock()
	in, out := &p.in, &p.out
	if in.first != in.next {
		return State{}, fmt.Errorf("%d of %d envelopes are not settled", in.next-in.first, in.next-1)
	}
	s := State{
		Conn: conn, Ours: p.o.Ours, Theirs: p.o.Theirs, Exceptions: p.o.Exceptions, Overhead: p.o.Overhead, Heard: p.heard.Load(), Total: p.total,
		Control: p.control, Told: in.told, Next: in.next, Owed: p.exceptions, OwesAck: p.owesAck,
		First: out.first, Last: out.next, Said: out.exceptions,
	}
	for n := in.told + 1; n < in.next; n++ {
		s.Sizes = append(s.Sizes, in.at(n).bytes)
	}
	for n := out.first; n < out.next; n++ {
		switch g := out.at(n); {
		case g.gone:
			s.Given = append(s.Given, Given{Number: n, Queue: g.q.Name(), Bytes: g.n, Shared: g.shared})
		case g.e != nil:
			s.Given = append(s.Given, Given{n, g.q.Name(), g.e.Priority(), g.e.Seq(), g.n, g.at, g.shared})
			for _, m := range g.more {
				s.Given = append(s.Given, Given{n, m.Queue.Name(), m.Entry.Priority(), m.Entry.Seq(), 0, g.at, true})
			}
		}
	}
	for _, q := range p.queues {
		s.Queues = append(s.Queues, q.Name())
	}
	return s, nil
}

// Resume makes a Flow of a state, and attaches it to its queues. Of the Options it needs
// Relay, Spool and Start. Nobody puts and nobody pumps until it has returned for all.
func Resume(conn *wire.Conn, side Side, o Options, s State) *Flow {
	o.Ours, o.Theirs, o.Exceptions, o.Overhead, o.Greeting = s.Ours, s.Theirs, s.Exceptions, s.Overhead, s.Control
	o.Queues = nil
	for _, name := range s.Queues {
		o.Queues = append(o.Queues, o.Spool.Queue(name))
	}
	p := New(conn, side, o)
	p.heard.Store(s.Heard)
	p.total, p.exceptions, p.owesAck = s.Total, s.Owed, s.OwesAck
	in, out := &p.in, &p.out
	in.told, in.first, in.next = s.Told, s.Next, s.Next
	in.ring = make([]submitted, ringSize(s.Told+1, s.Next))
	for i, size := range s.Sizes {
		in.at(s.Told + 1 + uint64(i)).bytes = size
		in.bytes += int(size)
	}
	p.Attach()
	out.first, out.next, out.exceptions = s.First, s.Last, s.Said
	out.ring = make([]sent, ringSize(s.First, s.Last))
	for _, g := range s.Given {
		q := o.Spool.Queue(g.Queue)
		e := q.Regain(p, g.Priority, g.Seq)
		s := sent{q: q, e: e, n: g.Bytes, at: g.At, number: g.Number, shared: g.Shared, gone: e == nil}
		if first := out.at(g.Number); first.number == g.Number && first.underWay() {
			switch {
			case e == nil:
			case first.gone:
				s.n = first.n
				*first = s
			default:
				first.more = append(first.more, Carried{q, e})
			}
			continue
		}
		*out.at(g.Number) = s
		out.bytes += int(g.Bytes)
		if e != nil && g.Priority == message.Bulk {
			out.bulk.Sent(int(g.Bytes))
		}
	}
	out.exceptions = slices.DeleteFunc(out.exceptions, func(x wire.Exception) bool { return out.at(x.Number).gone })
	return p
}

// ringSize is what grow makes of a ring in the end.
func ringSize(first, next uint64) int {
	size := 8
	for size < int(next-first) {
		size *= 2
	}
	return size
}
