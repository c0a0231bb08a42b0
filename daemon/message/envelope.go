package message

import (
	"fmt"
	"slices"
	"unicode/utf8"
)

// Bounds of an envelope.
const (
	MaxEnvelope = 60 << 10 // bytes
	MaxTo       = 64       // receivers
	MaxLifetime = 1<<32 - 1
	MaxCounter  = 1<<63 - 1
)

// Kind says what an envelope's body is. Servers carry kinds that they do not
// know; from 128 on there are none.
type Kind uint8

// The kinds.
const (
	Text    Kind = 1 // body: UTF-8
	File    Kind = 2 // body: a Manifest, a Part or a Withdrawal
	Receipt Kind = 3 // body: a Report of Held, Delivered or Read
	Bounce  Kind = 4 // body: a Report of Refused or Expired
	Members Kind = 5 // body: a Roster
)

// Reports tells whether the body is a Report: nobody reports on such a one.
func (k Kind) Reports() bool { return k == Receipt || k == Bounce }

// String returns the kind's name, as in JSON of the control socket.
func (k Kind) String() string {
	switch k {
	case Text:
		return "text"
	case File:
		return "file"
	case Receipt:
		return "receipt"
	case Bounce:
		return "bounce"
	case Members:
		return "members"
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// MarshalText makes a Kind its name in JSON.
func (k Kind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (k *Kind) UnmarshalText(text []byte) error {
	for _, known := range []Kind{Text, File, Receipt, Bounce, Members} {
		if known.String() == string(text) {
			*k = known
			return nil
		}
	}
	var n uint8
	if _, err := fmt.Sscanf(string(text), "kind %d", &n); err != nil {
		return fmt.Errorf("kind %q is not known", clip(string(text)))
	}
	*k = Kind(n)
	return nil
}

// Priority orders what waits for the same connection: lower goes first.
type Priority uint8

// The priorities, and how many there are.
const (
	Urgent     Priority = 0 // receipts and bounces
	Normal     Priority = 1 // text
	Bulk       Priority = 2 // files
	Priorities          = 3
)

// Least returns the most urgent priority that an envelope of this kind may have.
func (k Kind) Least() Priority {
	switch k {
	case Receipt, Bounce:
		return Urgent
	case File:
		return Bulk
	}
	return Normal
}

// Sealing says who can read a body.
type Sealing uint8

// The sealings: what is sealed for devices comes with a later version, which takes number 1.
const Plain Sealing = 0 // servers can read it

// Envelope is what travels. Once written it is never changed by anybody; Raw is
// what is relayed, stored and hashed.
//
// On the wire it is an array of 12: version (1), kind, priority, from, device,
// counter, created, lifetime, to, sealing, body, and a map: 64 formerly, 65 list.
type Envelope struct {
	Kind     Kind
	Priority Priority
	From     Address  // the author; a server for its own receipts and bounces
	Device   DeviceID // which of the author's devices
	Counter  uint64   // rises by one with each envelope of the device, from 1
	Created  uint64   // milliseconds since 1970, by the author's clock; for people, nothing depends on it
	Lifetime uint32   // seconds; 0: as long as the servers keep things
	To       []Address
	Sealing  Sealing
	Body     []byte

	Formerly uint64 // a counter by which the same may have been sent before; 0: none
	List     ListID // the list that it is to; zero: none. To has then some of its members only

	Raw []byte // the canonical bytes, after Parse
}

const envelopeFields = 12

// The keys of an envelope's map.
const (
	keyFormerly = Critical + iota
	keyList
)

// Append appends the canonical bytes of e to dst, or says what keeps e from
// being an envelope. It sorts e.To, and ignores e.Raw.
func (e *Envelope) Append(dst []byte) ([]byte, error) {
	if len(e.To) > MaxTo || len(e.Body) > MaxEnvelope {
		return nil, fmt.Errorf("an envelope has at most %d receivers and %d bytes; this one has %d, and %d in its body alone",
			MaxTo, MaxEnvelope, len(e.To), len(e.Body))
	}
	slices.Sort(e.To)
	start := len(dst)
	dst = AppendArray(dst, envelopeFields)
	dst = append(dst, 1)
	dst = AppendUint(dst, uint64(e.Kind))
	dst = AppendUint(dst, uint64(e.Priority))
	dst = AppendString(dst, string(e.From))
	dst = AppendUint(dst, uint64(e.Device))
	dst = AppendUint(dst, e.Counter)
	dst = AppendUint(dst, e.Created)
	dst = AppendUint(dst, uint64(e.Lifetime))
	dst = AppendArray(dst, len(e.To))
	for _, a := range e.To {
		dst = AppendString(dst, string(a))
	}
	dst = AppendUint(dst, uint64(e.Sealing))
	dst = AppendBytes(dst, e.Body)
	dst = e.appendMap(dst)
	if err := new(Envelope).Parse(dst[start:]); err != nil {
		return nil, err
	}
	return dst, nil
}

func (e *Envelope) appendMap(dst []byte) []byte {
	n := 0
	if e.Formerly != 0 {
		n++
	}
	if e.List != (ListID{}) {
		n++
	}
	dst = AppendMap(dst, n)
	if e.Formerly != 0 {
		dst = AppendUint(append(dst, keyFormerly), e.Formerly)
	}
	if e.List != (ListID{}) {
		dst = AppendBytes(append(dst, keyList), e.List[:])
	}
	return dst
}

// field reads a value of an envelope's map.
func (e *Envelope) field(r *Reader, key uint64) bool {
	switch key {
	case keyFormerly:
		if e.Formerly = r.Uint(MaxCounter); e.Formerly == 0 && r.err == nil {
			r.Fail("it was counter 0")
		}
	case keyList:
		if b := r.Bytes(len(e.List)); r.err == nil && copy(e.List[:], b) < len(e.List) {
			r.Fail("a list's id of %d bytes", len(b))
		}
	default:
		return false
	}
	return true
}

// Parse makes e the envelope whose canonical bytes are raw, which it keeps and
// shares. It reuses e.To, so that a reader which keeps one Envelope allocates
// nothing. After an error e is of no use, and has no Raw.
func (e *Envelope) Parse(raw []byte) error {
	e.Raw = nil
	if len(raw) > MaxEnvelope {
		return fmt.Errorf("%w: an envelope of %d bytes is longer than %d", ErrMalformed, len(raw), MaxEnvelope)
	}
	r := NewReader(raw)
	e.head(&r)
	e.Created = r.Uint(1<<48 - 1)
	e.Lifetime = uint32(r.Uint(MaxLifetime))
	n := r.Array(MaxTo)
	e.To = e.To[:0]
	for i := range n {
		a := r.Address(true)
		if i > 0 && a <= e.To[i-1] {
			r.Fail("the receivers are not in order, or one is there twice: %s", a)
		}
		if r.err != nil {
			return fmt.Errorf("envelope: %w", r.err)
		}
		e.To = append(e.To, a)
	}
	e.Sealing = Sealing(r.Uint(127))
	e.Body = r.Bytes(MaxEnvelope)
	e.Formerly, e.List = 0, ListID{}
	r.Fields(func(key uint64) bool { return e.field(&r, key) })
	if r.err == nil {
		e.check(&r)
	}
	if err := r.End(); err != nil {
		return fmt.Errorf("envelope: %w", err)
	}
	e.Raw = raw
	return nil
}

// head reads what an envelope begins with, up to its counter.
func (e *Envelope) head(r *Reader) {
	r.Tuple(envelopeFields)
	if v := r.Uint(127); v != 1 {
		r.Fail("version %d of the envelope is not known", v)
	}
	e.Kind = Kind(r.Uint(127))
	e.Priority = Priority(r.Uint(Priorities - 1))
	e.From = r.Address(false)
	e.Device = DeviceID(r.Uint(1<<64 - 1))
	e.Counter = r.Uint(MaxCounter)
}

// ParseHead is Parse for who wants to know no more of an envelope that was parsed
// once than Kind, Priority, From, Device and Counter: with many receivers that is
// much less. The other fields are not touched, Raw neither.
func (e *Envelope) ParseHead(raw []byte) error {
	r := NewReader(raw)
	e.head(&r)
	if err := r.Err(); err != nil {
		return fmt.Errorf("envelope: %w", err)
	}
	return nil
}

// check holds the rules that concern more than one field.
func (e *Envelope) check(r *Reader) {
	switch {
	case e.Kind == 0:
		r.Fail("kind 0")
	case e.Counter == 0:
		r.Fail("counter 0")
	case e.Formerly >= e.Counter:
		r.Fail("it was counter %d, and is %d", e.Formerly, e.Counter)
	case len(e.To) == 0:
		r.Fail("no receiver")
	case e.Priority < e.Kind.Least():
		r.Fail("priority %d is above what kind %d may have", e.Priority, e.Kind)
	case e.Sealing == Plain && e.Kind == Text && !utf8.Valid(e.Body):
		r.Fail("the text is not valid UTF-8")
	}
}
