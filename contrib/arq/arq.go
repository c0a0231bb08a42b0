package main

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"time"
)

// A frame on the line, between two marks, with marks and escapes inside escaped as in
// HDLC:
//
//	id (2 bytes), bits (1), turn (1), number (1), next (1), mask (1), at most maxData bytes, CRC-32 (4)
//
// id is that of the connection, by the side that began it; bits are below; turn is the
// number of the turn to speak, odd for the side that began; number counts the frames
// that have data or an end, from 0; next is the number that the sender of the frame
// expects, and mask says which of the eight after that it has.
const (
	mark, escape, flip = 0x7e, 0x7d, 0x20

	begins  = 1  // the first frame of a connection
	counts  = 2  // it has data, or the end, and is to be acknowledged
	ends    = 4  // after it nothing comes from this side
	yours   = 8  // the other side may speak, and should
	unknown = 16 // there is no such connection

	headSize = 7
	maxData  = 120
)

type frame struct {
	id           uint16
	bits         byte
	turn         byte
	number, next byte
	mask         byte
	data         []byte
	there        bool // the other side has it, and not all before it
}

func (f *frame) append(b []byte) []byte {
	raw := binary.BigEndian.AppendUint16(nil, f.id)
	raw = append(raw, f.bits, f.turn, f.number, f.next, f.mask)
	raw = append(raw, f.data...)
	raw = binary.BigEndian.AppendUint32(raw, crc32.ChecksumIEEE(raw))
	b = append(b, mark)
	for _, c := range raw {
		if c == mark || c == escape {
			b = append(b, escape)
			c ^= flip
		}
		b = append(b, c)
	}
	return append(b, mark)
}

// parse takes what was between two marks, without the escapes.
func parse(raw []byte) (f frame, ok bool) {
	n := len(raw) - 4
	if n < headSize || n > headSize+maxData || crc32.ChecksumIEEE(raw[:n]) != binary.BigEndian.Uint32(raw[n:]) {
		return f, false
	}
	return frame{
		id: binary.BigEndian.Uint16(raw), bits: raw[2], turn: raw[3], number: raw[4], next: raw[5], mask: raw[6],
		data: append([]byte(nil), raw[headSize:n]...),
	}, true
}

// listen reads frames off the line and passes on those that are good.
func listen(line io.Reader, heard chan<- frame) error {
	defer close(heard)
	var raw []byte
	escaped := false
	b := make([]byte, 256)
	for {
		n, err := line.Read(b)
		for _, c := range b[:n] {
			switch {
			case c == mark:
				if f, ok := parse(raw); ok {
					heard <- f
				}
				raw, escaped = raw[:0], false
			case c == escape:
				escaped = true
			default:
				if escaped {
					c, escaped = c^flip, false
				}
				if len(raw) <= headSize+maxData+4 {
					raw = append(raw, c)
				}
			}
		}
		if err != nil {
			return err
		}
	}
}

// link is one connection over the line. One side speaks at a time: it sends some
// frames, and gives the word with the last one, which is a short one after others,
// because it should not be lost; the other answers at once, and gives
// it back if it has said something that is to be acknowledged. If no answer comes, all
// is said again. When both have nothing more to say, the line is silent; if both break
// the silence at once, the higher turn counts, and so there is one word, never two.
type link struct {
	id    uint16
	line  io.Writer
	heard <-chan frame
	burst int           // frames that are said at once, at most
	wait  time.Duration // for an answer, before one was measured

	in  io.Reader
	out io.Writer

	sent    []frame   // and not acknowledged
	number  byte      // of the next to be sent
	next    byte      // that is expected
	early   [9]*frame // that have come before next; early[n] has the number next + n
	turn    byte      // our last
	theirs  byte
	first   bool          // the other side has not answered yet
	began   bool          // by this side
	over    bool          // the other side's end has come
	ended   bool          // ours is sent
	asked   byte          // the turn in which an answer was last asked for
	said    time.Time     // when; zero: it has come
	patient time.Duration // measured
}

var (
	errSilence = errors.New("the other side doesn't answer")
	errUnknown = errors.New("the other side knows nothing of this connection")
)

// tries is how often something is said without an answer.
const tries = 12

// run carries the stream until it is ended by either side: the end of one direction is
// that of the other one too. before are frames that were heard already.
func (l *link) run(before ...frame) error {
	more := make(chan struct{}) // asks for data
	data := make(chan []byte)   // nil: the end
	quit := make(chan struct{})
	defer close(quit)
	go func() {
		for {
			select {
			case <-more:
			case <-quit:
				return
			}
			b, n, err := make([]byte, maxData), 0, error(nil)
			for n == 0 && err == nil {
				n, err = l.in.Read(b)
			}
			if n == 0 {
				b = nil
			}
			select {
			case data <- b[:n]:
			case <-quit:
				return
			}
			if b == nil {
				return
			}
		}
	}()
	var asked, finished bool // for data; there is no more
	var waits [][]byte       // data that is not sent; nil: the end
	timer := time.NewTimer(time.Hour)
	timer.Stop()
	silent := 0 // times that nothing came in answer
	slower := 0 // the wait is doubled so often: until it can be measured again
	// speak says what is not acknowledged, and what waits if that is to go too, or that
	// there is nothing. It gives the word if there is something to be acknowledged.
	speak := func(all bool) error {
		l.turn = max8(l.turn, l.theirs) + 1
		if l.turn%2 == 1 != l.began {
			l.turn++
		}
		var b []byte
		if all {
			for len(waits) > 0 && len(l.sent) < l.burst {
				f := frame{id: l.id, bits: counts, number: l.number, data: waits[0]}
				waits = waits[1:]
				if f.data == nil {
					f.bits |= ends
					l.ended = true
				}
				if l.began && l.first && l.number == 0 {
					f.bits |= begins
				}
				l.number++
				l.sent = append(l.sent, f)
			}
		}
		said := 0
		for i := range l.sent {
			if f := l.sent[i]; !f.there {
				if said++; len(l.sent) == 1 {
					f.bits |= yours
				}
				b = l.sign(f).append(b)
			}
		}
		if len(l.sent) != 1 {
			f := frame{id: l.id}
			if said > 0 {
				f.bits = yours
			}
			b = l.sign(f).append(b)
		}
		if said > 0 {
			wait := l.wait
			if l.patient > 0 {
				wait = l.patient*3/2 + time.Second
			}
			wait <<= slower
			timer.Reset(wait + rand.N(wait/2)) // else two who speak at once do so for ever
			l.asked, l.said = l.turn, time.Now()
		}
		_, err := l.line.Write(b)
		return err
	}
	handle := func(f frame) error {
		if f.id != l.id {
			return nil
		}
		if f.bits&unknown != 0 {
			return errUnknown
		}
		silent, l.first = 0, false
		if f.turn == l.asked+1 && !l.said.IsZero() { // it answers what was said last, however often that was said
			l.patient = max(time.Since(l.said), l.patient*15/16)
			l.said, slower = time.Time{}, 0
		}
		if n := f.next - l.sentFrom(); int(n) <= len(l.sent) && n > 0 {
			l.sent = l.sent[n:]
		}
		for i := range l.sent[min(1, len(l.sent)):] {
			l.sent[i+1].there = l.sent[i+1].there || i < 8 && f.mask&(1<<i) != 0 && f.next == l.sentFrom()
		}
		if n := f.number - l.next; f.bits&counts != 0 && int(n) < len(l.early) {
			l.early[n] = &f
		}
		for l.early[0] != nil && !l.over {
			now := l.early[0]
			copy(l.early[:], l.early[1:])
			l.early[len(l.early)-1] = nil
			l.next++
			if now.bits&ends != 0 {
				l.over, finished = true, true
				if waits = nil; !l.ended {
					waits = [][]byte{nil}
				}
			} else if _, err := l.out.Write(now.data); err != nil {
				return err
			}
		}
		if len(l.sent) == 0 {
			timer.Stop()
		}
		// The word is ours if it was given, or if an answer had nothing to say; not if
		// they spoke before they heard us.
		word := int8(f.turn-l.turn) > 0
		l.theirs = max8(l.theirs, f.turn)
		if word && (f.bits&yours != 0 || f.bits&counts == 0 && len(l.sent)+len(waits) > 0) {
			return speak(true)
		}
		return nil
	}
	for _, f := range before {
		if err := handle(f); err != nil {
			return err
		}
	}
	for !(l.over && l.ended && len(l.sent) == 0) {
		ask := more
		if asked || finished || len(waits) >= l.burst {
			ask = nil
		}
		select {
		case ask <- struct{}{}:
			asked = true
		case b := <-data:
			asked = false
			finished = len(b) == 0
			if finished {
				b = nil
			}
			if !l.over {
				waits = append(waits, b)
			}
			if len(l.sent) == 0 {
				if err := speak(true); err != nil {
					return err
				}
			}
		case f, ok := <-l.heard:
			if !ok {
				return io.ErrUnexpectedEOF
			}
			if err := handle(f); err != nil {
				return err
			}
		case <-timer.C:
			if silent++; silent > tries {
				return errSilence
			}
			slower = min(slower+1, 2)
			if err := speak(false); err != nil {
				return err
			}
		}
	}
	// The last answer may be lost: whoever asks again is told for a while.
	timer.Reset(2*l.patient + l.wait)
	for {
		select {
		case f, ok := <-l.heard:
			if !ok {
				return nil
			}
			if f.id == l.id && f.bits&yours != 0 {
				if err := speak(false); err != nil {
					return err
				}
			}
		case <-timer.C:
			return nil
		}
	}
}

// sign puts into a frame what it says of what has come.
func (l *link) sign(f frame) *frame {
	f.turn, f.next = l.turn, l.next
	for i, e := range l.early[1:] {
		if e != nil {
			f.mask |= 1 << i
		}
	}
	return &f
}

// max8 is the later of two numbers that go round.
func max8(a, b byte) byte {
	if int8(a-b) > 0 {
		return a
	}
	return b
}

// sentFrom is the number of the first frame that is not acknowledged.
func (l *link) sentFrom() byte { return l.number - byte(len(l.sent)) }
