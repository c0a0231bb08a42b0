// Package session is one device: it logs in, submits, and is given its queues.
//
// A session is a pump between its device's queues and one connection. A Host has the
// sessions of a server; see host.go for who may come in.
package session

import (
	"time"

	"github.com/noipchat/noipchat/daemon/identity"
	"github.com/noipchat/noipchat/daemon/message"
	"github.com/noipchat/noipchat/daemon/pump"
	"github.com/noipchat/noipchat/daemon/relay"
	"github.com/noipchat/noipchat/daemon/spool"
	"github.com/noipchat/noipchat/daemon/wire"
)

// session is a device, logged in, connected here. What isn't Watch's is fixed but
// for reading.
type session struct {
	*pump.Flow
	host   *Host
	id     uint64
	user   message.Address
	device message.DeviceID
	agent  string
	since  time.Time
	count  *identity.Counter
	over   chan struct{} // on a slow line: closed when nothing more comes by it

	reading chan struct{} // closed when the reader has ended; after a pause it is another one. Guarded by the host's mu

	wrote uint64 // bytes that were written when Watch last looked; Watch's
}

// Take implements pump.Side.
func (s *session) Take(e *message.Envelope, transit wire.Transit, token uint64) {
	no := s.mayNot(e)
	if no == nil {
		no = s.counted(e.Counter)
	}
	if no == nil {
		s.host.relay.Accept(&s.Turn, e, relay.Arrival{Open: transit.Open, Age: transit.Age}, s, token)
		return
	}
	for i := range e.To {
		if transit.Open == 0 || transit.Open&(1<<i) != 0 {
			s.Settled(&s.Turn, token+uint64(i), message.Refused, no)
		}
	}
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

// Acked implements pump.Side: the device has it on its disk.
func (s *session) Acked(q *spool.Queue, e *spool.Entry, _ []wire.Exception) {
	if q.Done(&s.Turn, e) {
		s.host.relay.Delivered(&s.Turn, &s.Ledger, q, e)
	}
}

// Stamp implements pump.Side.
func (s *session) Stamp(out []pump.Outgoing) {
	for i := range out {
		o := &out[i]
		passage, envelope := message.Split(o.Raw)
		o.Envelope, o.Transit.Passage.Unverified = envelope, passage.Unverified
	}
}

// Frame implements pump.Side.
func (s *session) Frame(t wire.Type, body []byte) error {
	if t == wire.RequestFrame {
		return s.request(body)
	}
	return wire.Skip(t)
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
		s.EndTurn() // others must not wait for a hash
		reply.No = s.host.password(s, q.Args[0], q.Args[1])
	case q.Op == wire.OpDevices && len(q.Args) == 0:
		reply.Results = s.host.devices(s.user)
	case q.Op == wire.OpRemoveDevice && len(q.Args) == 2:
		s.EndTurn()
		reply.No = s.host.removeDevice(s, q.Args[0], q.Args[1])
	case q.Op == wire.OpKeys && len(q.Args) == 1:
		reply.Results = s.host.keys(q.Args[0])
	default:
		reply.No = message.Refuse(message.CodeInvalid, "this server doesn't know operation %d with %d arguments", q.Op, len(q.Args))
	}
	if err := s.Say(func(b []byte) []byte { return wire.AppendReply(b, reply) }); err != nil {
		return err
	}
	if q.Op == wire.OpRemoveDevice && reply.No == nil && q.Args[1] == s.device.String() {
		s.EndTurn()
		return errRemovedItself
	}
	return nil
}
