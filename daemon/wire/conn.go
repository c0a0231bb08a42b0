package wire

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/noipchat/noipchat/daemon/identity"
	"github.com/noipchat/noipchat/daemon/transport"
)

const (
	bufferSize = 128 << 10 // of a borrowed buffer: a whole record at least, and all that may be unsent
	minRoom    = 4 << 10   // a record is begun only with so much room left in the buffer

	// A receiver that takes less than stallBytes in stallTime is not there.
	stallBytes = 4 << 10
	stallTime  = time.Minute
)

// buffers are what nobody borrows: at most maxIdle stay for the next. A sync.Pool
// would lose them to each garbage collection, and large ones are costly to make.
// The last given back goes first: it is warm.
var buffers struct {
	sync.Mutex
	idle []*[bufferSize]byte
}

const maxIdle = 16

func lend() *[bufferSize]byte {
	buffers.Lock()
	defer buffers.Unlock()
	n := len(buffers.idle)
	if n == 0 {
		return new([bufferSize]byte)
	}
	b := buffers.idle[n-1]
	buffers.idle = buffers.idle[:n-1]
	return b
}

func giveBack(b *[bufferSize]byte) {
	buffers.Lock()
	defer buffers.Unlock()
	if len(buffers.idle) < maxIdle {
		buffers.idle = append(buffers.idle, b)
	}
}

// Source has the frames that are to be sent on a Conn.
type Source interface {
	// Fill appends whole frames of at most room bytes in all to dst, and tells
	// whether there would have been more with more room. It is asked again until
	// there isn't, or until nothing went into MaxPlain bytes. Calls don't overlap.
	// It must not call the Conn.
	Fill(dst []byte, room int) (filled []byte, more bool)
}

// Conn is an encrypted channel of records over a stream. Sealing happens when
// there is something to write and room to write it, so that many small frames
// share a record and a system call; who waits for a slow reader is a goroutine
// that is there only meanwhile. It holds at most one record that was partly
// read, and bufferSize bytes that were partly written.
type Conn struct {
	// fixed
	conn   transport.Conn
	lendFn func() []byte
	backFn func([]byte)

	// of the one reader
	in      *direction
	partial []byte // the beginning of a record whose end has not come
	buf     *[bufferSize]byte
	full    bool // the last Receive has filled it

	read, written atomic.Uint64 // bytes on the wire

	// on a slow line only
	lanes *Lanes
	size  int // of a record, about

	mu       sync.Mutex // guards what follows
	out      *direction
	unsent   []byte        // sealed and not written: written as it is or never, sealing again would use a nonce twice
	draining bool          // a goroutine is writing unsent
	drained  sync.Cond     // it has ended
	free     time.Time     // when the line, if it is slow, has carried what was written
	stop     chan struct{} // closed by Close and Export: nobody waits for a slow line any more
	stopped  bool
	err      error // why nothing can be written any more
}

// State is a channel between two processes: what a handoff carries.
type State struct {
	In, Out Direction
	Partial []byte // read, and not a whole record yet
	Unsent  []byte // sealed, and not yet written
	Lanes   *Lanes // on a slow line only

	Read, Written uint64 // see Bytes
}

// Resume makes the Conn of a stream whose channel has been set up. If there are
// bytes unsent, they go with the first Flush.
func Resume(conn transport.Conn, s State) (*Conn, error) {
	in, err := newDirection(s.In)
	if err != nil {
		return nil, err
	}
	out, err := newDirection(s.Out)
	if err != nil {
		return nil, err
	}
	c := &Conn{conn: conn, in: in, out: out, partial: s.Partial, unsent: s.Unsent}
	c.drained.L = &c.mu
	c.read.Store(s.Read)
	c.written.Store(s.Written)
	if s.Lanes != nil {
		c.lanes, c.size, c.stop = s.Lanes, recordSize(conn.Properties()), make(chan struct{})
		c.lanes.complete()
	}
	c.lendFn = func() []byte {
		c.buf = lend()
		return c.buf[copy(c.buf[:], c.partial):]
	}
	c.backFn = func([]byte) {
		giveBack(c.buf)
		c.buf = nil
	}
	return c, nil
}

// errExported is what a Flush returns after Export.
var errExported = errors.New("the channel was handed on")

// Export returns the channel's state, for one Resume: a second one would use
// nonces twice. The caller has stopped the reader, by a deadline in the past, and
// its deadlines are the caller's to reset. Nothing is sealed from here on: a Flush
// does nothing and returns an error.
func (c *Conn) Export() State {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.err = errExported
	}
	c.stopWaitingLocked()
	for c.draining {
		c.conn.SetWriteDeadline(time.Unix(1, 0)) // drain sets its own with the lock held, and resets it
		c.drained.Wait()
	}
	return State{
		In: c.in.Direction, Out: c.out.Direction, Partial: c.partial, Unsent: c.unsent, Lanes: c.lanes,
		Read: c.read.Load(), Written: c.written.Load(),
	}
}

// Reclaim takes an Export back, of which nobody has made use or ever will: the Conn
// goes on as if nothing had been. The next Flush writes what is unsent.
func (c *Conn) Reclaim() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != errExported {
		return
	}
	c.err = nil
	if c.stop != nil {
		c.stop, c.stopped = make(chan struct{}), false
	}
}

func (c *Conn) stopWaitingLocked() {
	if c.stop != nil && !c.stopped {
		close(c.stop)
		c.stopped = true
	}
}

// Slow tells whether the line is shared in lanes: see LaneSource.
func (c *Conn) Slow() bool { return c.lanes != nil }

// Meet tells the Conn what the other side has parts of, on a slow line: from then on
// large envelopes are sent too.
func (c *Conn) Meet(have []Have) {
	if c.lanes == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lanes.Have, c.lanes.Met = have, true
}

// Keep gives the Conn parts from an earlier connection, before it is read from. It
// returns what the other side is to be told of them.
func (c *Conn) Keep(parts []Part) []Have {
	if c.lanes == nil {
		return nil
	}
	c.lanes.Parts = parts
	return haves(parts)
}

// Parts returns what is to be kept for the next connection; after the reader has ended.
func (c *Conn) Parts() []Part {
	if c.lanes == nil {
		return nil
	}
	return c.lanes.left()
}

// Transport returns the stream below.
func (c *Conn) Transport() transport.Conn { return c.conn }

// Bytes returns how much was read and written since the handshake, sealed.
func (c *Conn) Bytes() (read, written uint64) { return c.read.Load(), c.written.Load() }

// Ask shakes hands with a server until that has said who it is, and leaves: it closes conn.
func Ask(ctx context.Context, conn transport.Conn, key identity.Key) (h ServerHello, err error) {
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	enough := errors.New("that was all")
	_, err = Open(conn, key, func(said ServerHello) (ClientHello, error) {
		h = said
		return ClientHello{}, enough
	})
	if errors.Is(err, enough) {
		err = nil
	}
	return h, err
}

// ReceiveWelcome waits for the answer to our hello. What came behind it is to be handled
// as if Receive had given it. A refusal is the error, too.
func (c *Conn) ReceiveWelcome() (w Welcome, behind [][]byte, err error) {
	for answered := false; err == nil && !answered; {
		err = c.Receive(func(plain []byte) error {
			if answered {
				behind = append(behind, plain)
				return nil
			}
			t, body, rest, err := Next(plain)
			if err != nil {
				return err
			}
			if t != WelcomeFrame {
				return fmt.Errorf("%w: a %v where a welcome belongs", ErrProtocol, t)
			}
			answered = true
			if len(rest) > 0 {
				behind = append(behind, rest)
			}
			w, err = ParseWelcome(body)
			return err
		})
	}
	if err == nil && w.No != nil {
		err = w.No
	}
	return w, behind, err
}

// Receive waits until bytes arrive, reads once, and calls each with the
// plaintext of every record that is whole now: perhaps none. The plaintext is
// never overwritten and may be kept; who keeps a part keeps all of it in memory.
// While it waits, it holds no buffer. An error is the end of the reading, but for
// os.ErrDeadlineExceeded before an Export.
func (c *Conn) Receive(each func(plain []byte) error) error {
	_, n, err := c.conn.Borrow(c.lendFn, c.backFn)
	if err != nil {
		return err
	}
	c.read.Add(uint64(n))
	c.full = len(c.partial)+n == bufferSize
	b, err := c.openAll(c.buf[:len(c.partial)+n], each)
	if len(b) == 0 {
		c.partial = nil
	} else {
		c.partial = append(c.partial[:0], b...)
	}
	c.backFn(nil)
	return err
}

// More tells whether a Receive would not wait, because more has come than the last
// one had room for. It is for the reader.
func (c *Conn) More() bool { return c.full && c.conn.Pending() }

// openAll returns what is left of b after the last whole record.
func (c *Conn) openAll(b []byte, each func(plain []byte) error) ([]byte, error) {
	for len(b) >= 2 {
		size := int(binary.BigEndian.Uint16(b))
		if size <= tagSize {
			return b, broken("a record of %d bytes", size)
		}
		if len(b) < 2+size {
			break
		}
		plain, err := c.in.open(b[2 : 2+size])
		if err != nil {
			return b, err
		}
		b = b[2+size:]
		if c.lanes != nil {
			plain, err = c.lanes.open(plain, &c.mu) // what was good before an error still counts
		}
		if len(plain) > 0 {
			if err := each(plain); err != nil {
				return b, err
			}
		}
		if err != nil {
			return b, err
		}
	}
	return b, nil
}

// Flush seals and writes what src, always the same one, has, as far as that goes
// without waiting. If the other side is slow, it leaves the rest to a goroutine,
// which asks src again until it has nothing. An error is the connection's end,
// and closes it.
func (c *Conn) Flush(src Source) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.draining && c.flushLocked(src) {
		c.draining = true
		go c.drain(src)
	}
	return c.err
}

// flushLocked reports whether there are unsent bytes to wait for; if not, src has
// no more.
func (c *Conn) flushLocked(src Source) (backlog bool) {
	for more := true; more && c.err == nil; {
		if len(c.unsent) > 0 {
			return true
		}
		if c.lanes != nil {
			if err := c.lanes.pull(src, c.size); err != nil {
				c.failLocked(err)
				return false
			}
			if c.lanes.empty() {
				return false
			}
			if time.Until(c.free) > 0 {
				return true
			}
		}
		buf := lend()
		var b []byte
		if b, more = c.sealInto(buf[:0], src); len(b) > 0 {
			n, err := c.conn.TryWrite(b)
			c.written.Add(uint64(n))
			c.passLocked(len(b))
			if err != nil {
				c.failLocked(err)
			} else if n < len(b) {
				c.unsent = append(c.unsent, b[n:]...)
				more = true
			}
		}
		giveBack(buf)
	}
	return false
}

// passLocked notes that a slow line has so many bytes more to carry: what is written
// faster waits where nothing can overtake it.
func (c *Conn) passLocked(n int) {
	if c.lanes == nil {
		return
	}
	if now := time.Now(); c.free.Before(now) {
		c.free = now
	}
	c.free = c.free.Add(c.conn.Properties().Time(n))
}

// sealInto appends records to b within its capacity, and tells whether src has more.
func (c *Conn) sealInto(b []byte, src Source) (_ []byte, more bool) {
	if c.lanes != nil { // one
		record, err := c.out.seal(c.lanes.fill(b[:2], c.size))
		if err != nil {
			c.failLocked(err)
		}
		return record, true
	}
	for {
		start := len(b)
		room := min(MaxPlain, cap(b)-start-2-tagSize)
		if room < minRoom {
			return b, true
		}
		filled, more := src.Fill(b[:start+2], room)
		switch n := len(filled) - start - 2; {
		case n == 0:
			return b, more && start > 0
		case n > room:
			c.failLocked(fmt.Errorf("%d bytes of frames were put into %d", n, room))
			return b[:0], false
		}
		record, err := c.out.seal(filled[start:])
		if err != nil {
			c.failLocked(err)
			return b[:0], false
		}
		b = filled[:start+len(record)]
		if !more {
			return b, false
		}
	}
}

// drain writes what was sealed, waiting for the other side as long as it reads.
func (c *Conn) drain(src Source) {
	c.mu.Lock()
	defer c.mu.Unlock()
	least, patience := stallBytes, stallTime
	if c.lanes != nil {
		least, patience = 1, c.conn.Properties().Patience(stallTime, stallBytes)
	}
	for c.flushLocked(src) {
		if len(c.unsent) == 0 {
			c.awaitLocked()
			continue
		}
		c.conn.SetWriteDeadline(time.Now().Add(patience))
		b := c.unsent
		c.mu.Unlock()
		n, err := c.conn.Write(b)
		c.mu.Lock()
		c.written.Add(uint64(n))
		if c.unsent = b[n:]; len(c.unsent) == 0 {
			c.unsent = nil
		}
		if err != nil && !(errors.Is(err, os.ErrDeadlineExceeded) && n >= least) && c.err == nil {
			c.failLocked(err)
		}
	}
	c.conn.SetWriteDeadline(time.Time{})
	c.draining = false
	c.drained.Broadcast()
}

// awaitLocked waits until a slow line is free.
func (c *Conn) awaitLocked() {
	timer := time.NewTimer(time.Until(c.free))
	defer timer.Stop()
	stop := c.stop
	c.mu.Unlock()
	defer c.mu.Lock()
	select {
	case <-timer.C:
	case <-stop:
		c.mu.Lock()
		c.failLocked(net.ErrClosed)
		c.mu.Unlock()
	}
}

func (c *Conn) failLocked(err error) {
	if c.err == nil {
		c.err = err
		c.conn.Close() // the reader learns of it
	}
}

// Close ends the stream at once. A reader and a Flush under way return errors.
func (c *Conn) Close() error {
	c.mu.Lock()
	c.stopWaitingLocked()
	c.mu.Unlock()
	err := c.conn.Close()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
