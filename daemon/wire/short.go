package wire

import (
	"bytes"
	"slices"
	"strings"

	"github.com/noipchat/noipchat/daemon/message"
)

// The short form of an envelope's frame leaves out what is as in the envelope before
// it in the same lane. It is for slow lines only, and in lanes only: what comes out
// of a Conn is an EnvelopeFrame again, with the envelope's own bytes, over which ids
// and signatures are.
//
//	flags, [age], [receivers], [the map of a Transit], [kind, priority, lifetime, sealing],
//	[from, device, counter, created] or counter and created as steps,
//	[to], and the body to the end
//
// One envelope after one other has one short form: a part is there if, and only if, it
// differs, and steps are used if they can be.
const (
	hasAge     = 1 << iota // else 0
	hasOpen                // else all receivers
	hasPassage             // else there is nothing in the map
	hasWhat                // kind, priority, lifetime, sealing
	hasAuthor              // from, device, counter, created; else counter and created are steps: at least 1, and 0
	hasTo
	flagsEnd
)

// header is what the next short form in a lane refers to: an envelope without its body.
type header = message.Envelope

// headerOf copies what Parse shares with the envelope's bytes.
func headerOf(e *message.Envelope) *header {
	h := plain(e)
	h.Body = nil
	h.From = message.Address(strings.Clone(string(e.From)))
	h.To = make([]message.Address, len(e.To))
	for i, a := range e.To {
		h.To[i] = message.Address(strings.Clone(string(a)))
	}
	return &h
}

// plain is an envelope as a short form can say it: with nothing in its map.
func plain(e *message.Envelope) message.Envelope {
	return message.Envelope{
		Kind: e.Kind, Priority: e.Priority, From: e.From, Device: e.Device, Counter: e.Counter, Created: e.Created,
		Lifetime: e.Lifetime, To: e.To, Sealing: e.Sealing, Body: e.Body,
	}
}

// hasShort tells whether an envelope is what its short form says.
func hasShort(e *message.Envelope, raw []byte) bool {
	p := plain(e)
	again, err := p.Append(nil)
	return err == nil && bytes.Equal(again, raw)
}

// appendShort appends a short form's frame after the envelope that ref heads.
func appendShort(b []byte, t Transit, e *message.Envelope, ref *header) []byte {
	b, at := begin(b, shortFrame)
	var passage []byte
	if !t.Passage.IsZero() {
		passage = t.Passage.AppendMap(nil)
	}
	b = appendShortHead(b, t, passage, e, ref)
	return finish(append(b, e.Body...), at)
}

func appendShortHead(b []byte, t Transit, passage []byte, e *message.Envelope, ref *header) []byte {
	at := len(b)
	b = append(b, 0)
	if t.Age != 0 {
		b[at] |= hasAge
		b = message.AppendUint(b, uint64(t.Age))
	}
	if t.Open != 0 {
		b[at] |= hasOpen
		b = appendOpen(b, t.Open)
	}
	if passage != nil {
		b[at] |= hasPassage
		b = append(b, passage...)
	}
	if e.Kind != ref.Kind || e.Priority != ref.Priority || e.Lifetime != ref.Lifetime || e.Sealing != ref.Sealing {
		b[at] |= hasWhat
		b = message.AppendUint(b, uint64(e.Kind))
		b = message.AppendUint(b, uint64(e.Priority))
		b = message.AppendUint(b, uint64(e.Lifetime))
		b = message.AppendUint(b, uint64(e.Sealing))
	}
	if e.From != ref.From || e.Device != ref.Device || e.Counter <= ref.Counter || e.Created < ref.Created {
		b[at] |= hasAuthor
		b = message.AppendString(b, string(e.From))
		b = message.AppendUint(b, uint64(e.Device))
		b = message.AppendUint(b, e.Counter)
		b = message.AppendUint(b, e.Created)
	} else {
		b = message.AppendUint(b, e.Counter-ref.Counter)
		b = message.AppendUint(b, e.Created-ref.Created)
	}
	if !slices.Equal(e.To, ref.To) {
		b[at] |= hasTo
		b = message.AppendArray(b, len(e.To))
		for _, a := range e.To {
			b = message.AppendString(b, string(a))
		}
	}
	return b
}

// readShortHead reads all but the body. The map comes as its bytes too: there may be
// something in it that is not for us.
func readShortHead(r *message.Reader, ref *header) (t Transit, passage []byte, e message.Envelope) {
	flags := r.Uint(flagsEnd - 1)
	if flags&hasAge != 0 {
		t.Age = uint32(r.Uint(1<<32 - 1))
	}
	if flags&hasOpen != 0 {
		t.Open = readOpen(r)
	}
	if flags&hasPassage != 0 {
		before := r.Rest()
		r.Fields(func(key uint64) bool { return t.Passage.Field(r, key) })
		passage = before[:len(before)-len(r.Rest())]
		if r.Err() == nil && len(passage) == 1 {
			r.Fail("an empty map")
		}
	}
	e.Kind, e.Priority, e.Lifetime, e.Sealing = ref.Kind, ref.Priority, ref.Lifetime, ref.Sealing
	if flags&hasWhat != 0 {
		e.Kind = message.Kind(r.Uint(127))
		e.Priority = message.Priority(r.Uint(message.Priorities - 1))
		e.Lifetime = uint32(r.Uint(message.MaxLifetime))
		e.Sealing = message.Sealing(r.Uint(127))
	}
	if flags&hasAuthor != 0 {
		e.From = r.Address(false)
		e.Device = message.DeviceID(r.Uint(1<<64 - 1))
		e.Counter = r.Uint(message.MaxCounter)
		e.Created = r.Uint(1<<48 - 1)
	} else {
		e.From, e.Device = ref.From, ref.Device
		e.Counter = ref.Counter + r.Uint(message.MaxCounter)
		e.Created = ref.Created + r.Uint(1<<48-1)
	}
	e.To = ref.To
	if flags&hasTo != 0 {
		e.To = make([]message.Address, r.Array(message.MaxTo))
		for i := range e.To {
			e.To[i] = r.Address(true)
		}
	}
	return t, passage, e
}

// parseShort returns the envelope's own bytes.
func parseShort(body []byte, ref *header) (t Transit, raw []byte, err error) {
	r := message.NewReader(body)
	t, passage, e := readShortHead(&r, ref)
	if r.Err() != nil {
		return t, nil, broken("a short form: %v", r.Err())
	}
	e.Body = r.Rest()
	e.To = slices.Clone(e.To) // which Append sorts
	if raw, err = e.Append(nil); err != nil {
		return t, nil, broken("a short form: %v", err)
	}
	if head := appendShortHead(nil, t, passage, &e, ref); !bytes.Equal(head, body[:len(body)-len(e.Body)]) {
		return t, nil, broken("a short form that could be shorter")
	}
	return t, raw, nil
}

// beginning returns the first bytes of the envelope of which the first bytes of a
// short form are there, whose body has size bytes; nil if its head isn't.
func beginning(body []byte, size int, ref *header) []byte {
	r := message.NewReader(body)
	_, _, e := readShortHead(&r, ref)
	have := r.Rest()
	n := size - (len(body) - len(have))
	if r.Err() != nil || n < len(have) || n > message.MaxEnvelope {
		return nil
	}
	e.Body = make([]byte, n)
	raw, err := e.Append(nil)
	if err != nil {
		return nil
	}
	at := len(raw) - 1 - n // behind the body is the empty map
	return append(raw[:at], have...)
}
