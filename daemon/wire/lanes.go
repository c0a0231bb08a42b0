package wire

import (
	"bytes"
	"crypto/sha256"
	"sync"

	"github.com/noipchat/noipchat/daemon/message"
	"github.com/noipchat/noipchat/daemon/transport"
)

// On a slow line a record has pieces of lanes instead of frames. There is a lane for
// each priority; what goes through a lane is a stream of frames of its own, cut
// anywhere, so that what is urgent waits for the record under way, and not for the
// end of a large envelope:
//
//	record: piece…
//	piece:  head (the lane, and 4 if a length and another piece follow), [length], bytes
//
// Lane 0 has everything but the envelopes of lower priority; lanes 1 and 2 have only
// those. Envelopes come as frames of type 1, as short forms (short.go), or as the rest
// of one that was cut off when an earlier connection ended: both sides say what they
// have of such, in the client's hello and in the welcome.
//
// Envelope frames count in the order in which they are complete. That order is
// known here only: acks that come in are translated into the order in which the
// Source gave them, so that nothing above knows of lanes.
const (
	featureLanes = 1 // in both hellos

	shortFrame Type = 9
	restFrame  Type = 10 // a Transit, the index of a Part, and the rest of the envelope

	headLane = 3
	headMore = 4

	recordHead  = 2 + tagSize
	leastRecord = 96 // bytes, however slow the line is
	mostRecord  = 16 << 10
	anyRecord   = 1 << 10                                        // where the rate isn't known
	leastPiece  = 32                                             // a second piece in a record has at least so much room
	maxLaneBody = message.MaxEnvelope + message.MaxPassage + 256 // of an envelope's frame

	maxParts  = message.Priorities
	leastPart = 256 // bytes; what is shorter is sent again
)

// slowWindow is what we take on a slow line: a lane of each priority full, and more.
var slowWindow = Window{Count: 64, Bytes: 256 << 10}

// LaneSource is a Source that tells priorities apart: on a slow line, what is urgent
// is asked for while something else is under way.
type LaneSource interface {
	Source
	// FillBelow is Fill, but for envelopes whose priority isn't below p.
	FillBelow(dst []byte, room int, p message.Priority) (filled []byte, more bool)
}

// Part is the beginning of an envelope, whose rest did not come.
type Part []byte

// Have says of which part one has how much: its length, and the first 16 bytes of
// SHA-256 over it.
type Have struct {
	Size int
	Sum  [16]byte
}

func (p Part) have() Have {
	sum := sha256.Sum256(p)
	return Have{len(p), [16]byte(sum[:16])}
}

func haves(parts []Part) (all []Have) {
	for _, p := range parts {
		all = append(all, p.have())
	}
	return all
}

// Lanes is the state of both directions of a slow line, exported for State.
type Lanes struct {
	// of the writing, guarded by the Conn's mu
	Out    [message.Priorities]OutLane
	Number uint64         // envelopes that the Source gave
	Order  []uint64       // which of these are complete, from Base + 1 on
	Base   uint64         // those before are covered by the other side's acks
	Acked  message.Ranges // in the Source's numbers
	Have   []Have         // what the other side has parts of; Size 0: used
	Met    bool           // that is known: before, nothing is begun that doesn't fit into a record

	// of the reader
	In    [message.Priorities]InLane
	Parts []Part // what is left of an earlier connection; nil: used
}

// OutLane is what waits in a lane.
type OutLane struct {
	Bytes  []byte
	Frames []OutFrame // of these bytes
	Ref    *header
}

// OutFrame is a frame in a lane: how much is left of it, and the envelope's number.
type OutFrame struct {
	Left   int
	Number uint64 // 0: it is no envelope
}

// InLane is what has come of a frame whose end has not.
type InLane struct {
	Partial []byte
	Ref     *header
}

func newLanes() *Lanes {
	l := new(Lanes)
	l.complete()
	return l
}

// complete makes what has come from another process as it was there, where nothing and
// something empty may be the same.
func (l *Lanes) complete() {
	for p := range l.Out {
		for _, ref := range []**header{&l.Out[p].Ref, &l.In[p].Ref} {
			if *ref == nil {
				*ref = new(header)
			}
		}
	}
	for i, p := range l.Parts {
		if len(p) == 0 {
			l.Parts[i] = nil
		}
	}
}

// recordSize is how many bytes a record has at most: about a second of the line's
// time, and twice that where nothing of low priority is in it.
func recordSize(line transport.Properties) int {
	if line.Rate == 0 {
		return anyRecord
	}
	return min(max(line.Rate/10, leastRecord), mostRecord)
}

func (l *Lanes) empty() bool {
	for p := range l.Out {
		if len(l.Out[p].Bytes) > 0 {
			return false
		}
	}
	return true
}

// pull takes from src what is more urgent than all that waits in lanes. So each lane
// is filled only when it is empty, and holds at most what fits into MaxPlain bytes.
func (l *Lanes) pull(src Source, size int) error {
	below, room := message.Priority(0), MaxPlain
	for below < message.Priorities && len(l.Out[below].Bytes) == 0 {
		below++
	}
	if !l.Met { // the other side may have a part of what is large
		below, room = min(below, message.Bulk), 2*size-recordHead-1
	}
	lanes, ok := src.(LaneSource)
	if below == 0 || !ok && !l.empty() {
		return nil
	}
	buf := lend()
	defer giveBack(buf)
	var b []byte
	if ok {
		b, _ = lanes.FillBelow(buf[:0], room, below)
	} else {
		b, _ = src.Fill(buf[:0], room)
	}
	for len(b) > 0 {
		t, body, rest, err := Next(b)
		if err == nil && t == EnvelopeFrame {
			err = l.pack(body)
		} else if err == nil {
			l.Out[0].add(b[:len(b)-len(rest)], 0)
		}
		if err != nil {
			return err
		}
		b = rest
	}
	return nil
}

// pack puts an envelope into its lane, in the form that takes the fewest bytes.
func (l *Lanes) pack(body []byte) error {
	t, raw, err := ParseEnvelope(body)
	var e message.Envelope
	if err == nil {
		err = e.Parse(raw)
	}
	if err != nil {
		return err
	}
	l.Number++
	lane := &l.Out[e.Priority]
	var frame []byte
	if part := l.match(raw); part >= 0 {
		frame = appendRest(nil, t, part, raw[l.Have[part].Size:])
		l.Have[part].Size = 0
	} else if hasShort(&e, raw) {
		frame = appendShort(nil, t, &e, lane.Ref)
	} else {
		frame = AppendEnvelope(nil, t, raw)
	}
	lane.Ref = headerOf(&e)
	lane.add(frame, l.Number)
	return nil
}

// match returns which part of an envelope the other side has, or -1.
func (l *Lanes) match(raw []byte) int {
	for i, h := range l.Have {
		if h.Size > 0 && h.Size < len(raw) && Part(raw[:h.Size]).have() == h {
			return i
		}
	}
	return -1
}

func appendRest(b []byte, t Transit, part int, rest []byte) []byte {
	b, at := begin(b, restFrame)
	b = appendTransit(b, t)
	b = message.AppendUint(b, uint64(part))
	return finish(append(b, rest...), at)
}

func (o *OutLane) add(frame []byte, number uint64) {
	o.Bytes = append(o.Bytes, frame...)
	o.Frames = append(o.Frames, OutFrame{len(frame), number})
}

// fill appends the plaintext of a record of about size bytes, the most urgent first.
func (l *Lanes) fill(b []byte, size int) []byte {
	type piece struct{ lane, n int }
	var pieces []piece
	used := 0
	for p := range l.Out {
		most := 2*size - recordHead
		if p == int(message.Bulk) {
			most = size - recordHead
		}
		if len(pieces) > 0 {
			used += message.UintSize(uint64(pieces[len(pieces)-1].n))
			most = min(most, 2*size-recordHead-used)
			if most-used < leastPiece {
				break
			}
		}
		waits := len(l.Out[p].Bytes)
		if waits == 0 {
			continue
		}
		n := min(waits, most-used-1)
		pieces = append(pieces, piece{p, n})
		used += 1 + n
		if n < waits {
			break
		}
	}
	for i, p := range pieces {
		if i < len(pieces)-1 {
			b = message.AppendUint(append(b, byte(p.lane)|headMore), uint64(p.n))
		} else {
			b = append(b, byte(p.lane))
		}
		b = append(b, l.Out[p.lane].Bytes[:p.n]...)
		l.sent(&l.Out[p.lane], p.n)
	}
	return b
}

// sent takes n bytes off a lane, and notes the envelopes that are complete.
func (l *Lanes) sent(o *OutLane, n int) {
	o.Bytes = o.Bytes[n:]
	if len(o.Bytes) == 0 {
		o.Bytes = nil
	}
	for n > 0 {
		f := &o.Frames[0]
		if f.Left > n {
			f.Left -= n
			return
		}
		n -= f.Left
		if f.Number > 0 {
			l.Order = append(l.Order, f.Number)
		}
		o.Frames = o.Frames[1:]
	}
}

// translate puts an ack that has come into the Source's numbers, and returns its frame.
func (l *Lanes) translate(b, body []byte, mu sync.Locker) ([]byte, error) {
	var a Ack
	if err := ParseAck(body, &a); err != nil {
		return b, err
	}
	mu.Lock()
	defer mu.Unlock()
	complete, last := l.Base+uint64(len(l.Order)), a.Upto
	if n := len(a.Beyond); n > 0 {
		last = a.Beyond[n-1].Last
	}
	if last > complete {
		return b, broken("it acks %d, and %d were sent", last, complete)
	}
	for i := range a.Exceptions {
		e := &a.Exceptions[i]
		if e.Number <= l.Base || e.Number > complete {
			return b, broken("it speaks of frame %d, of %d that were sent and %d that it has acked", e.Number, complete, l.Base)
		}
		e.Number = l.Order[e.Number-l.Base-1]
	}
	for ; l.Base < a.Upto; l.Base++ {
		l.Acked.Add(l.Order[0])
		l.Order = l.Order[1:]
	}
	all := append(message.Ranges(nil), l.Acked...)
	for _, g := range a.Beyond {
		for n := max(g.First, l.Base+1); n <= g.Last; n++ {
			all.Add(l.Order[n-l.Base-1])
		}
	}
	a.Upto, a.Beyond = 0, all
	if len(all) > 0 && all[0].First == 1 {
		a.Upto, a.Beyond = all[0].Last, all[1:]
	}
	if len(a.Beyond) > maxBeyond {
		return b, broken("its acks have %d gaps", len(a.Beyond))
	}
	return AppendAck(b, &a), nil
}

// open returns the frames that are whole with a record's pieces, as they are on
// other lines. Before an error there may be some.
func (l *Lanes) open(plain []byte, mu sync.Locker) (frames []byte, err error) {
	for more := true; more; {
		if len(plain) == 0 {
			return frames, broken("a record without a piece")
		}
		head := plain[0]
		more = head&headMore != 0
		if head&^(headLane|headMore) != 0 || head&headLane >= message.Priorities {
			return frames, broken("a piece of lane %#x", head)
		}
		r := message.NewReader(plain[1:])
		n := len(plain) - 1
		if more {
			n = int(r.Uint(MaxPlain))
		}
		piece := r.Rest()
		if r.Err() != nil || n == 0 || n > len(piece) {
			return frames, broken("a piece of %d bytes, where there are %d", n, len(piece))
		}
		if frames, err = l.take(frames, message.Priority(head&headLane), piece[:n], mu); err != nil {
			return frames, err
		}
		plain = piece[n:]
	}
	return frames, nil
}

// take adds a piece to a lane.
func (l *Lanes) take(frames []byte, p message.Priority, piece []byte, mu sync.Locker) (_ []byte, err error) {
	lane := &l.In[p]
	b := append(lane.Partial, piece...)
	for len(b) > 0 {
		n, err := frameSize(p, b)
		if err != nil {
			return frames, err
		}
		if n == 0 || n > len(b) {
			break
		}
		t, body, _, err := Next(b[:n])
		if err == nil {
			frames, err = l.frame(frames, p, t, body, mu)
		}
		if err != nil {
			return frames, err
		}
		b = b[n:]
	}
	lane.Partial = append(lane.Partial[:0], b...)
	if len(b) == 0 {
		lane.Partial = nil
	}
	return frames, nil
}

// frameSize returns how long the first frame in b is, head included; 0 if that can't
// be told yet. What can't be a frame of this lane is refused before it is there.
func frameSize(p message.Priority, b []byte) (int, error) {
	t := Type(b[0])
	if p != message.Urgent && t != EnvelopeFrame && t != shortFrame && t != restFrame {
		return 0, broken("a %v in lane %d", t, p)
	}
	size := 1
	if len(b) > 1 {
		switch b[1] {
		case 0xcc:
			size = 2
		case 0xcd:
			size = 3
		}
	}
	if len(b) < 1+size {
		return 0, nil
	}
	r := message.NewReader(b[1 : 1+size])
	most := uint64(maxLaneBody)
	if p == message.Urgent {
		most = MaxPlain
	}
	n := int(r.Uint(most))
	if r.Err() != nil {
		return 0, broken("a frame's length in lane %d: %v", p, r.Err())
	}
	return 1 + size + n, nil
}

// frame appends what a frame of a lane is on other lines.
func (l *Lanes) frame(frames []byte, p message.Priority, t Type, body []byte, mu sync.Locker) ([]byte, error) {
	var transit Transit
	var raw []byte
	var err error
	switch t {
	case EnvelopeFrame:
		transit, raw, err = ParseEnvelope(body)
	case shortFrame:
		transit, raw, err = parseShort(body, l.In[p].Ref)
	case restFrame:
		transit, raw, err = l.rest(body)
	case AckFrame:
		return l.translate(frames, body, mu)
	default:
		return append(appendHead(frames, t, len(body)), body...), nil
	}
	if err != nil {
		return frames, err
	}
	var e message.Envelope
	if err := e.Parse(raw); err != nil {
		return frames, broken("an envelope in lane %d: %v", p, err)
	}
	if e.Priority != p {
		return frames, broken("an envelope of priority %d in lane %d", e.Priority, p)
	}
	l.In[p].Ref = headerOf(&e)
	if t == EnvelopeFrame { // perhaps with something in the map that is for others to know
		return append(appendHead(frames, t, len(body)), body...), nil
	}
	return AppendEnvelope(frames, transit, raw), nil
}

// rest completes a part.
func (l *Lanes) rest(body []byte) (t Transit, raw []byte, err error) {
	r := message.NewReader(body)
	t = readTransit(&r)
	i := r.Uint(maxParts - 1)
	if r.Err() != nil {
		return t, nil, broken("the rest of an envelope: %v", r.Err())
	}
	if i >= uint64(len(l.Parts)) || l.Parts[i] == nil {
		return t, nil, broken("the rest of an envelope, of which nothing is here")
	}
	if n := len(l.Parts[i]) + len(r.Rest()); n > message.MaxEnvelope {
		return t, nil, broken("an envelope of %d bytes in parts", n)
	}
	raw = append(bytes.Clone(l.Parts[i]), r.Rest()...)
	l.Parts[i] = nil
	return t, raw, nil
}

// left returns what a later connection need not send again: at most maxParts, the
// latest first.
func (l *Lanes) left() (parts []Part) {
	for p := range l.In {
		if part := l.leftOf(message.Priority(p)); len(part) >= leastPart {
			parts = append(parts, part)
		}
	}
	for _, p := range l.Parts {
		if p != nil && len(parts) < maxParts {
			parts = append(parts, p)
		}
	}
	return parts
}

// leftOf returns the beginning of the envelope that is under way in a lane.
func (l *Lanes) leftOf(p message.Priority) Part {
	b := l.In[p].Partial
	if len(b) == 0 {
		return nil
	}
	size, err := frameSize(p, b)
	if err != nil || size == 0 {
		return nil
	}
	r := message.NewReader(b[1:])
	n := int(r.Uint(MaxPlain))
	body := r.Rest()
	switch r := message.NewReader(body); Type(b[0]) {
	case EnvelopeFrame:
		if readTransit(&r); r.Err() == nil {
			return bytes.Clone(r.Rest())
		}
	case shortFrame:
		return beginning(body, n, l.In[p].Ref)
	case restFrame:
		readTransit(&r)
		if i := r.Uint(maxParts - 1); r.Err() == nil && i < uint64(len(l.Parts)) && l.Parts[i] != nil {
			whole := append(bytes.Clone(l.Parts[i]), r.Rest()...)
			l.Parts[i] = nil
			return whole
		}
	}
	return nil
}

// appendHave and readHave are a list of Have in the map of a hello or a welcome.
func appendHave(b []byte, all []Have) []byte {
	b = message.AppendArray(b, 2*len(all))
	for _, h := range all {
		b = message.AppendUint(b, uint64(h.Size))
		b = message.AppendBytes(b, h.Sum[:])
	}
	return b
}

func readHave(r *message.Reader) (all []Have) {
	n := r.Array(2 * maxParts)
	if n == 0 || n%2 != 0 {
		r.Fail("%d fields of parts", n)
	}
	for ; n > 0 && r.Err() == nil; n -= 2 {
		h := Have{Size: int(r.Uint(message.MaxEnvelope))}
		sum := r.Bytes(len(h.Sum))
		if r.Err() == nil && (h.Size < leastPart || len(sum) != len(h.Sum)) {
			r.Fail("a part of %d bytes, with a sum of %d", h.Size, len(sum))
		}
		copy(h.Sum[:], sum)
		all = append(all, h)
	}
	return all
}
