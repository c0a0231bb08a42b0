package wire

import (
	"math/bits"

	"github.com/noipchat/noipchat/daemon/message"
)

// Transit is what goes with an envelope and changes at every hop. On the wire it
// is an array of 3 before the envelope: the receivers on this branch (nil: all),
// the age, and a map for what links add.
type Transit struct {
	Open uint64 // the receivers it still is for: bit i is To[i]; 0: all
	Age  uint32 // seconds since it was written, as far as its holders could tell

	Passage message.Passage // between servers; to a device only whether it is unverified
}

// EnvelopeSize is the length of an envelope's frame.
func EnvelopeSize(t Transit, raw []byte) int {
	n := transitSize(t) + len(raw)
	return 1 + message.UintSize(uint64(n)) + n
}

func transitSize(t Transit) int {
	n := 3 + message.UintSize(uint64(t.Age))
	if t.Open != 0 {
		open := bits.OnesCount64(t.Open)
		if open >= 16 {
			n += 2
		}
		n += open // each index is below 64: one byte
	}
	if !t.Passage.IsZero() {
		n += len(t.Passage.AppendMap(nil)) - 1
	}
	return n
}

// AppendEnvelope appends an envelope's frame.
func AppendEnvelope(b []byte, t Transit, raw []byte) []byte {
	b, at := begin(b, EnvelopeFrame)
	return finishWith(appendTransit(b, t), at, raw)
}

func appendTransit(b []byte, t Transit) []byte {
	b = message.AppendArray(b, 3)
	if t.Open == 0 {
		b = message.AppendNil(b)
	} else {
		b = appendOpen(b, t.Open)
	}
	b = message.AppendUint(b, uint64(t.Age))
	return t.Passage.AppendMap(b)
}

func appendOpen(b []byte, open uint64) []byte {
	b = message.AppendArray(b, bits.OnesCount64(open))
	for ; open != 0; open &= open - 1 {
		b = append(b, byte(bits.TrailingZeros64(open)))
	}
	return b
}

// ParseEnvelope splits an envelope's frame. raw is what is there, for
// message.Envelope.Parse to judge; so are receivers that the envelope hasn't got.
func ParseEnvelope(body []byte) (t Transit, raw []byte, err error) {
	r := message.NewReader(body)
	if t = readTransit(&r); r.Err() != nil {
		return t, nil, broken("an envelope's frame: %v", r.Err())
	}
	return t, r.Rest(), nil
}

func readTransit(r *message.Reader) (t Transit) {
	r.Tuple(3)
	if !r.Nil() {
		t.Open = readOpen(r)
	}
	t.Age = uint32(r.Uint(1<<32 - 1))
	r.Fields(func(key uint64) bool { return t.Passage.Field(r, key) })
	return t
}

func readOpen(r *message.Reader) (open uint64) {
	n, last := r.Array(message.MaxTo), -1
	for range n {
		i := int(r.Uint(message.MaxTo - 1))
		if i <= last {
			r.Fail("the receivers do not rise")
		}
		last = i
		open |= 1 << i
	}
	if n == 0 {
		r.Fail("for no receiver")
	}
	return open
}
