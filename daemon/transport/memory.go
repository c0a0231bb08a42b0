package transport

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// Memory is a network within the process, for tests: it has the manners of
// sockets, buffers included, and waits in ways that testing/synctest knows to be
// waiting. The zero value is ready.
type Memory struct {
	mu        sync.Mutex
	listeners map[string]*memoryListener
}

// Buffer is how many bytes a Memory stream takes that nobody has read yet.
const Buffer = 64 << 10

// Listen listens at a name.
func (m *Memory) Listen(address string) (Listener, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.listeners[address] != nil {
		return nil, fmt.Errorf("listening at %s: %w", address, syscall.EADDRINUSE)
	}
	if m.listeners == nil {
		m.listeners = map[string]*memoryListener{}
	}
	l := &memoryListener{m: m, address: address, backlog: make(chan Conn, 16), closed: make(chan struct{})}
	m.listeners[address] = l
	return l, nil
}

// Dial connects to who listens at a name.
func (m *Memory) Dial(ctx context.Context, address string) (Conn, error) {
	return m.DialLine(ctx, address, Properties{})
}

// DialLine connects over a line, of which the other side knows nothing. As with TCP
// that takes a round trip, and the other side hears of it with the first bytes.
func (m *Memory) DialLine(ctx context.Context, address string, line Properties) (Conn, error) {
	m.mu.Lock()
	l := m.listeners[address]
	m.mu.Unlock()
	nobody := fmt.Errorf("dialling %s: %w", address, syscall.ECONNREFUSED)
	if l == nil {
		return nil, nobody
	}
	if line.Latency > 0 {
		select {
		case <-time.After(2 * line.Latency):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	near, far := MemoryLine(address, line)
	far.Describe(Properties{})
	if line.Latency > 0 {
		time.AfterFunc(line.Latency, func() {
			select {
			case l.backlog <- far:
			default:
				far.Close()
			}
		})
		return near, nil
	}
	select {
	case l.backlog <- far:
		select {
		case <-l.closed: // perhaps before it could see this one
			far.Close()
		default:
		}
		return near, nil
	case <-l.closed:
		return nil, nobody
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

type memoryListener struct {
	m       *Memory
	address string
	backlog chan Conn
	closed  chan struct{}
	once    sync.Once
}

func (l *memoryListener) Accept() (Conn, error) {
	select {
	case <-l.closed:
		return nil, net.ErrClosed
	default:
	}
	select {
	case c := <-l.backlog:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *memoryListener) Close() error {
	l.once.Do(func() {
		l.m.mu.Lock()
		delete(l.m.listeners, l.address)
		l.m.mu.Unlock()
		close(l.closed)
		for { // who dialled and was not accepted is told
			select {
			case c := <-l.backlog:
				c.Close()
			default:
				return
			}
		}
	})
	return nil
}

func (l *memoryListener) Addr() net.Addr { return memoryAddr(l.address) }

type memoryAddr string

func (memoryAddr) Network() string  { return "memory" }
func (a memoryAddr) String() string { return string(a) }

// MemoryPipe returns the two ends of a fast stream.
func MemoryPipe(address string) (Conn, Conn) { return MemoryLine(address, Properties{}) }

// MemoryLine returns the two ends of a stream over a line: bytes take the time that
// its rate gives them, one after the other, and arrive the latency later. If it is
// exclusive, both directions share that time.
func MemoryLine(address string, line Properties) (Conn, Conn) {
	there, back := newHalf(line), newHalf(line)
	if line.Exclusive {
		back.medium = there.medium
	}
	return &memoryConn{address, line, back, there}, &memoryConn{address, line, there, back}
}

// medium is what bytes pass through, one after the other.
type medium struct {
	mu   sync.Mutex
	free time.Time
}

// pass returns when so many bytes, given now, arrive.
func (m *medium) pass(line Properties, n int) time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	if now := time.Now(); m.free.Before(now) {
		m.free = now
	}
	m.free = m.free.Add(line.Time(n))
	return m.free.Add(line.Latency)
}

// half is one direction of a stream.
type half struct {
	mu              sync.Mutex
	change          sync.Cond
	line            Properties
	medium          *medium
	way             [][]byte // what is under way, each with a timer
	data            []byte
	writerGone      bool // what is there, and under way, can still be read
	readerGone      bool // nothing can be written
	readBy, writeBy deadline
}

func newHalf(line Properties) *half {
	h := &half{line: line, medium: new(medium)}
	h.change.L = &h.mu
	return h
}

// deadline is a time after which waiting ends; over is guarded by the half's mu.
type deadline struct {
	timer *time.Timer
	over  bool
}

func (h *half) setDeadline(d *deadline, t time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
	}
	d.timer, d.over = nil, false
	if !t.IsZero() {
		if wait := time.Until(t); wait <= 0 {
			d.over = true
		} else {
			var timer *time.Timer
			timer = time.AfterFunc(wait, func() {
				h.mu.Lock()
				defer h.mu.Unlock()
				if d.timer == timer { // not replaced meanwhile
					d.over = true
					h.change.Broadcast()
				}
			})
			d.timer = timer
		}
	}
	h.change.Broadcast()
}

type memoryConn struct {
	address string
	line    Properties
	in, out *half
}

func (c *memoryConn) Properties() Properties { return c.line }

// Describe implements Conn. The line stays as slow as it is.
func (c *memoryConn) Describe(line Properties) { c.line = line }

// waitReadable returns with the lock held.
func (h *half) waitReadable() error {
	h.mu.Lock()
	for {
		switch {
		case h.readerGone:
			return net.ErrClosed
		case h.readBy.over:
			return os.ErrDeadlineExceeded
		case len(h.data) > 0:
			return nil
		case h.writerGone && len(h.way) == 0:
			return io.EOF
		}
		h.change.Wait()
	}
}

func (c *memoryConn) Read(b []byte) (int, error) {
	err := c.in.waitReadable()
	defer c.in.mu.Unlock()
	if err != nil {
		return 0, err
	}
	n := copy(b, c.in.data)
	c.in.data = c.in.data[n:]
	c.in.change.Broadcast()
	return n, nil
}

func (c *memoryConn) Borrow(lend func() []byte, giveBack func([]byte)) ([]byte, int, error) {
	err := c.in.waitReadable()
	c.in.mu.Unlock()
	if err != nil {
		return nil, 0, err
	}
	b := lend()
	n, err := c.Read(b) // there is one reader: it does not wait
	if err != nil {
		giveBack(b)
		return nil, 0, err
	}
	return b, n, nil
}

func (c *memoryConn) Pending() bool {
	c.in.mu.Lock()
	defer c.in.mu.Unlock()
	return !c.in.readerGone && (len(c.in.data) > 0 || c.in.writerGone)
}

func (c *memoryConn) TryWrite(b []byte) (int, error) {
	h := c.out
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.writeLocked(b)
}

func (h *half) writeLocked(b []byte) (int, error) {
	switch {
	case h.writerGone:
		return 0, net.ErrClosed
	case h.writeBy.over:
		return 0, os.ErrDeadlineExceeded
	case h.readerGone:
		return 0, os.NewSyscallError("write", syscall.EPIPE)
	}
	held := len(h.data)
	for _, p := range h.way {
		held += len(p)
	}
	n := min(len(b), Buffer-held)
	switch {
	case n == 0:
	case h.line.Rate == 0 && h.line.Latency == 0:
		h.data = append(h.data, b[:n]...)
		h.change.Broadcast()
	default:
		h.way = append(h.way, bytes.Clone(b[:n]))
		time.AfterFunc(time.Until(h.medium.pass(h.line, n)), h.arrive)
	}
	return n, nil
}

// arrive ends the way of what has been on it for the longest time.
func (h *half) arrive() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.readerGone {
		h.data = append(h.data, h.way[0]...)
	}
	h.way = h.way[1:]
	h.change.Broadcast()
}

func (c *memoryConn) Write(b []byte) (int, error) {
	h, done := c.out, 0
	h.mu.Lock()
	defer h.mu.Unlock()
	for {
		n, err := h.writeLocked(b[done:])
		done += n
		if err != nil || done == len(b) {
			return done, err
		}
		h.change.Wait()
	}
}

func (c *memoryConn) Close() error {
	c.SetDeadline(time.Time{}) // no timer outlives it
	c.out.mu.Lock()
	c.out.writerGone = true
	c.out.change.Broadcast()
	c.out.mu.Unlock()
	c.in.mu.Lock()
	c.in.readerGone = true
	c.in.data = nil
	c.in.change.Broadcast()
	c.in.mu.Unlock()
	return nil
}

func (c *memoryConn) LocalAddr() net.Addr  { return memoryAddr(c.address) }
func (c *memoryConn) RemoteAddr() net.Addr { return memoryAddr(c.address) }

func (c *memoryConn) SetDeadline(t time.Time) error {
	c.SetReadDeadline(t)
	return c.SetWriteDeadline(t)
}

func (c *memoryConn) SetReadDeadline(t time.Time) error {
	c.in.setDeadline(&c.in.readBy, t)
	return nil
}

func (c *memoryConn) SetWriteDeadline(t time.Time) error {
	c.out.setDeadline(&c.out.writeBy, t)
	return nil
}
