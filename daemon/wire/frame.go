package wire

import (
	"fmt"

	"github.com/noipchat/noipchat/daemon/message"
)

// Type is what a frame is. A type that a side doesn't know is an error below
// 0x40 and skipped from there on.
type Type uint8

// The types.
const (
	EnvelopeFrame Type = 1 // a Transit and the envelope
	AckFrame      Type = 2
	WelcomeFrame  Type = 3 // the first frame of a server
	GoodbyeFrame  Type = 4
	PingFrame     Type = 5 // empty; asks for a pong
	PongFrame     Type = 6 // empty
	RequestFrame  Type = 7
	AnswerFrame   Type = 8 // a Reply
	RoutesFrame   Type = 11

	skippable Type = 0x40
)

var typeNames = [...]string{"", "envelope", "ack", "welcome", "goodbye", "ping", "pong", "request", "answer", "short form", "rest", "routes"}

// String names a type for logs.
func (t Type) String() string {
	if t > 0 && int(t) < len(typeNames) {
		return typeNames[t]
	}
	return fmt.Sprintf("type %d", uint8(t))
}

// appendHead begins a frame with a body of n bytes.
func appendHead(b []byte, t Type, n int) []byte {
	return message.AppendUint(append(b, byte(t)), uint64(n))
}

// begin begins a frame whose body follows, and finish ends it: the length that it
// then gets may push the body on by two bytes.
func begin(b []byte, t Type) (_ []byte, at int) { return append(b, byte(t), 0), len(b) + 2 }

func finish(b []byte, at int) []byte { return finishWith(b, at, nil) }

// finishWith is finish for a body that tail is the end of.
func finishWith(b []byte, at int, tail []byte) []byte {
	n := len(b) - at
	length := uint64(n + len(tail))
	size := message.UintSize(length)
	b = append(b, make([]byte, size-1)...)
	copy(b[at+size-1:], b[at:at+n])
	message.AppendUint(b[:at-1], length)
	return append(b, tail...)
}

// Next takes the first frame off a record's plaintext.
func Next(plain []byte) (t Type, body, rest []byte, err error) {
	if len(plain) == 0 {
		return 0, nil, nil, broken("a record without a frame")
	}
	t = Type(plain[0])
	r := message.NewReader(plain[1:])
	n := int(r.Uint(MaxPlain))
	if err := r.Err(); err != nil {
		return 0, nil, nil, broken("a frame's length: %v", err)
	}
	body = r.Rest()
	switch {
	case n > len(body):
		return 0, nil, nil, broken("a frame of %d bytes is cut off after %d", n, len(body))
	case n > 0 && (t == PingFrame || t == PongFrame):
		return 0, nil, nil, broken("a %v of %d bytes", t, n)
	}
	return t, body[:n:n], body[n:], nil
}

// Skip tells whether a frame of a type that one doesn't know, or doesn't expect
// here, can be passed over; else it is an error.
func Skip(t Type) error {
	if t >= skippable {
		return nil
	}
	return broken("a frame of type %d (%v) doesn't belong here", uint8(t), t)
}

// AppendPing appends a ping's frame.
func AppendPing(b []byte) []byte { return appendHead(b, PingFrame, 0) }

// AppendPong appends the answer to a ping.
func AppendPong(b []byte) []byte { return appendHead(b, PongFrame, 0) }

// Welcome answers a login: yes, with the device, what waits for it and how far it
// has counted, or no.
type Welcome struct {
	Device  message.DeviceID
	Waiting uint64 // envelopes, about
	Counter uint64 // the highest that the device has used
	Unsure  bool   // the home doesn't know exactly: it is at most Counter
	Have    []Have // parts of the device's envelopes, from an earlier connection
	No      *message.Refusal
}

// AppendWelcome appends a welcome's frame: an array of 5, or a refusal's 4.
func AppendWelcome(b []byte, w Welcome) []byte {
	b, at := begin(b, WelcomeFrame)
	if w.No != nil {
		return finish(appendRefusal(message.AppendArray(b, 4), w.No), at)
	}
	b = message.AppendArray(b, 5)
	b = message.AppendUint(b, uint64(w.Device))
	b = message.AppendUint(b, w.Waiting)
	b = message.AppendUint(b, w.Counter)
	if w.Unsure {
		b = append(b, 1)
	} else {
		b = append(b, 0)
	}
	if len(w.Have) == 0 {
		return finish(message.AppendMap(b, 0), at)
	}
	return finish(appendHave(append(message.AppendMap(b, 1), keyHave), w.Have), at)
}

// ParseWelcome reads a welcome.
func ParseWelcome(body []byte) (w Welcome, err error) {
	r := message.NewReader(body)
	switch n := r.Array(5); n {
	case 5:
		w.Device, w.Waiting = message.DeviceID(r.Uint(1<<64-1)), r.Uint(1<<63-1)
		w.Counter, w.Unsure = r.Uint(message.MaxCounter), r.Uint(1) == 1
		r.Fields(func(key uint64) bool {
			if key == keyHave {
				w.Have = readHave(&r)
			}
			return key == keyHave
		})
	case 4:
		w.No = readRefusal(&r)
	default:
		r.Fail("%d fields", n)
	}
	if err := r.End(); err != nil {
		return w, broken("a welcome: %v", err)
	}
	return w, nil
}

// AppendGoodbye appends a goodbye's frame: why the connection ends, and after
// what time to come back.
func AppendGoodbye(b []byte, why *message.Refusal) []byte {
	b, at := begin(b, GoodbyeFrame)
	return finish(appendRefusal(message.AppendArray(b, 4), why), at)
}

// ParseGoodbye reads a goodbye.
func ParseGoodbye(body []byte) (*message.Refusal, error) {
	r := message.NewReader(body)
	r.Tuple(4)
	why := readRefusal(&r)
	if err := r.End(); err != nil {
		return nil, broken("a goodbye: %v", err)
	}
	return why, nil
}
