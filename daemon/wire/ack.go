package wire

import "github.com/noipchat/noipchat/daemon/message"

// An Exception is a receiver of an envelope for whom the ack is not the plain
// one. The plain one is Delivered: his device has it.
type Exception struct {
	Number   uint64 // of the envelope's frame
	Receiver int    // index into To
	State    message.State
	Refusal  *message.Refusal // with Refused and Expired; one that is not permanent asks to try again
}

// Ack tells that somebody else holds what frames brought. Envelope frames are
// counted from 1 in each direction of a connection; the number isn't sent.
type Ack struct {
	Upto       uint64         // every frame up to this one is done
	Beyond     message.Ranges // and these; the lowest is Upto+2 at least
	Exceptions []Exception    // each told once, before its frame is covered or with the ack that covers it
}

// MaxExceptions bounds an ack's exceptions; more take another frame.
const MaxExceptions = 128

// maxBeyond bounds an ack's ranges.
const maxBeyond = 1024

// AppendAck appends an ack's frame.
func AppendAck(b []byte, a *Ack) []byte {
	b, at := begin(b, AckFrame)
	b = message.AppendArray(b, 3)
	b = message.AppendUint(b, a.Upto)
	b = message.AppendRanges(b, a.Beyond)
	b = message.AppendArray(b, len(a.Exceptions))
	for i := range a.Exceptions {
		e := &a.Exceptions[i]
		if e.Refusal == nil {
			b = message.AppendArray(b, 3)
		} else {
			b = message.AppendArray(b, 7)
		}
		b = message.AppendUint(b, e.Number)
		b = message.AppendUint(b, uint64(e.Receiver))
		b = message.AppendUint(b, uint64(e.State))
		if e.Refusal != nil {
			b = appendRefusal(b, e.Refusal)
		}
	}
	return finish(b, at)
}

// ParseAck reads an ack. It reuses a's slices.
func ParseAck(body []byte, a *Ack) error {
	r := message.NewReader(body)
	r.Tuple(3)
	a.Upto = r.Uint(1<<63 - 1)
	a.Beyond = r.Ranges(a.Beyond[:0], a.Upto+2, maxBeyond)
	a.Exceptions = a.Exceptions[:0]
	for range r.Array(MaxExceptions) {
		e := readException(&r)
		if r.Err() != nil {
			break
		}
		a.Exceptions = append(a.Exceptions, e)
	}
	if err := r.End(); err != nil {
		return broken("an ack: %v", err)
	}
	return nil
}

func readException(r *message.Reader) (e Exception) {
	fields := r.Array(7)
	e.Number, e.Receiver = r.Uint(1<<63-1), int(r.Uint(message.MaxTo-1))
	e.State = message.State(r.Uint(uint64(message.Read)))
	switch {
	case r.Err() != nil:
	case e.Number == 0:
		r.Fail("an exception of frame 0")
	case fields == 3 && e.State == message.Held:
	case fields == 7 && (e.State == message.Refused || e.State == message.Expired):
		e.Refusal = readRefusal(r)
	default:
		r.Fail("an exception of %d fields with state %v", fields, e.State)
	}
	return e
}
