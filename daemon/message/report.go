package message

import "fmt"

// A Report is the body of a Receipt or a Bounce: what became of some envelopes
// of one device for one receiver. Whether to believe it depends on who sent it:
// the receiver himself, or a server that had them in its hands.
//
// On the wire it is an array of 5: state, receiver, device, an array of first
// and count for each range, and a map with 1 the code, 2 the reason and 3 the path: a
// bounce has a code, a receipt has neither that nor a reason, and what is empty is left out.
type Report struct {
	State    State
	Receiver Address
	Device   DeviceID   // the sender's device that wrote the envelopes
	Counters Ranges     // and their counters; at most MaxRanges
	Code     Code       // of a bounce; Append leaves out a receipt's
	Reason   string     // of a bounce, for people; as in a Refusal
	Path     PackedPath // by which they came, with the ages of the one with the highest counter; empty: not said
}

// MaxRanges bounds the ranges in one report.
const MaxRanges = 256

// Append appends the body to dst.
func (p *Report) Append(dst []byte) []byte {
	dst = AppendArray(dst, 5)
	dst = AppendUint(dst, uint64(p.State))
	dst = AppendString(dst, string(p.Receiver))
	dst = AppendUint(dst, uint64(p.Device))
	dst = AppendRanges(dst, p.Counters)
	reason := Clean(p.Reason, MaxReason)
	n := 0
	for _, there := range []bool{p.State.failed(), p.State.failed() && reason != "", len(p.Path) > 0} {
		if there {
			n++
		}
	}
	dst = AppendMap(dst, n)
	if p.State.failed() {
		dst = AppendUint(append(dst, 1), uint64(p.Code))
		if reason != "" {
			dst = AppendString(append(dst, 2), reason)
		}
	}
	if len(p.Path) > 0 {
		dst = append(append(dst, 3), p.Path...)
	}
	return dst
}

// failed tells that a report of the state is a bounce.
func (s State) failed() bool { return s == Refused || s == Expired }

// Parse reads a body. Strings share its bytes.
func (p *Report) Parse(body []byte) error {
	*p = Report{}
	r := NewReader(body)
	r.Tuple(5)
	p.State = State(r.Uint(uint64(Read)))
	p.Receiver = r.Address(true)
	p.Device = DeviceID(r.Uint(1<<64 - 1))
	p.Counters = r.Ranges(nil, 1, MaxRanges)
	r.Fields(func(key uint64) bool {
		switch key {
		case 1:
			if p.Code = Code(r.Uint(127)); p.Code == 0 {
				r.Fail("code 0")
			}
		case 2:
			if p.Reason = r.Text(MaxReason); p.Reason == "" {
				r.Fail("an empty reason")
			}
		case 3:
			p.Path = r.Path()
		default:
			return false
		}
		return true
	})
	switch {
	case p.State < Held:
		r.Fail("%v is nothing to report", p.State)
	case len(p.Counters) == 0:
		r.Fail("it is about nothing")
	case p.State.failed() != (p.Code != 0) || p.Code == 0 && p.Reason != "":
		r.Fail("a report of %v with code %d", p.State, uint8(p.Code))
	}
	if err := r.End(); err != nil {
		return fmt.Errorf("report: %w", err)
	}
	return nil
}
