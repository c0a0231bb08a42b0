package main

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/noipchat/noipchat/daemon/identity"
	"github.com/noipchat/noipchat/daemon/message"
	"github.com/noipchat/noipchat/daemon/transport"
	"github.com/noipchat/noipchat/daemon/wire"
)

// flock is many devices, each of which writes to the next and expects exactly what the
// one before writes, over one connection: whatever comes twice, or not, or out of order,
// is an error, and so is the end of a connection. Only where servers die they come again,
// and drop what they have.
type flock struct {
	t       testing.TB
	birds   []*bird
	pause   time.Duration // between two messages of one
	mortal  bool          // the servers die
	padding int           // bytes of a message, besides its number
	stopped atomic.Bool
	running errgroup.Group
}

type bird struct {
	f      *flock
	s      *stage
	name   string
	device message.DeviceID
	next   *bird
	before *bird
	tapes  []*tape // of the reader

	mu   sync.Mutex // guards what follows
	conn *wire.Conn
	base uint64 // messages that were acked before this connection

	out      [][]byte // frames
	sent     uint64
	ahead    uint64 // so many messages are under way; 0: one
	acked    uint64
	got      uint64          // texts
	received uint64          // envelopes
	slow     chan struct{}   // it doesn't read before this is closed
	torn     chan struct{}   // it doesn't write more than half of a record before
	took     []time.Duration // from a message to its ack
	at       time.Time
	changed  chan struct{}
	welcome  chan struct{} // closed when it is logged in
}

// newFlock makes users and devices on the disks of stages' servers, which don't run: who
// is next lives at the next server.
func newFlock(t testing.TB, n int, stages ...*stage) *flock {
	t.Helper()
	hasher, err := identity.NewHasher(identity.Cost{Memory: 8, Passes: 1, Lanes: 1}, 2)
	if err != nil {
		t.Fatal(err)
	}
	homes := map[*stage]*identity.Users{}
	for _, s := range stages {
		if homes[s] != nil {
			continue
		}
		if homes[s], _, err = identity.OpenUsers(filepath.Join(s.dir, "state"), s.name, identity.Options{Hasher: hasher}); err != nil {
			t.Fatal(err)
		}
	}
	f := &flock{t: t, pause: 20 * time.Millisecond, birds: make([]*bird, n)}
	var g errgroup.Group
	g.SetLimit(16)
	for i := range f.birds {
		s := stages[i%len(stages)]
		users := homes[s]
		b := &bird{f: f, s: s, name: fmt.Sprintf("bird%d", i), changed: make(chan struct{}), welcome: make(chan struct{})}
		f.birds[i] = b
		g.Go(func() error {
			if err := users.Add(t.Context(), b.name, "a good password"); err != nil {
				return err
			}
			d, err := users.Enrol(t.Context(), identity.Enrolment{User: b.name, Password: "a good password", Key: b.key().Public(), Label: "bird"})
			b.device = d.ID
			return err
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	for i, b := range f.birds {
		b.next, b.before = f.birds[(i+1)%n], f.birds[(i+n-1)%n]
	}
	return f
}

func (b *bird) key() identity.Key {
	var seed [32]byte
	copy(seed[:], b.name)
	return identity.KeyFromSeed(seed)
}

func (b *bird) address() message.Address { return message.Join(b.name, b.s.name) }

// come connects all, and has them talk.
func (f *flock) come(ctx context.Context) error {
	var g errgroup.Group
	g.SetLimit(16)
	for _, b := range f.birds {
		g.Go(func() error { return b.come(ctx) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for _, b := range f.birds {
		f.running.Go(func() error {
			for {
				err := b.read()
				switch {
				case f.stopped.Load():
					return nil
				case f.mortal && b.comeAgain(ctx) == nil:
				default:
					return fmt.Errorf("%s: %w", b.name, err)
				}
			}
		})
		f.running.Go(b.talk)
	}
	for _, b := range f.birds {
		select {
		case <-b.welcome:
		case <-ctx.Done():
			return fmt.Errorf("%s waits in vain to be let in", b.name)
		}
	}
	return nil
}

func (b *bird) come(ctx context.Context) error {
	if b.conn != nil {
		b.conn.Close()
		b.conn.Flush(b) // it fails, and takes nothing any more of what is written for the next one
	}
	conn, err := b.dial(ctx)
	if err != nil {
		return err
	}
	c, err := wire.Open(conn, b.key(), func(wire.ServerHello) (wire.ClientHello, error) {
		return wire.ClientHello{Agent: "bird", Method: wire.ByDevice, User: b.name, Window: wire.Window{Count: 1024, Bytes: 4 << 20}}, nil
	})
	if err != nil {
		conn.Close()
		return err
	}
	tape, c, err := record(conn, c)
	if err != nil {
		return err
	}
	tape.bird = b
	b.tapes = append(b.tapes, tape)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.conn, b.out, b.base, b.received = c, nil, b.acked, 0
	for n := b.acked + 1; n <= b.sent; n++ {
		if err := b.writeLocked(n); err != nil {
			return err
		}
	}
	return nil
}

// dial connects; if messages are large, with buffers that are soon full.
func (b *bird) dial(ctx context.Context) (transport.Conn, error) {
	if b.f.padding == 0 {
		return transport.Dial(ctx, "tcp", "", b.s.address)
	}
	return dialNarrow(ctx, b.s.address)
}

// comeAgain connects after the server has died, and goes on where it was.
func (b *bird) comeAgain(ctx context.Context) error {
	for {
		err := b.come(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// writeLocked writes a message.
func (b *bird) writeLocked(n uint64) error {
	body := fmt.Appendf(nil, "%d ", n)
	e := message.Envelope{
		Kind: message.Text, Priority: message.Normal, From: b.address(), Device: b.device, Counter: n,
		To: []message.Address{b.next.address()}, Body: append(body, make([]byte, b.f.padding)...),
	}
	raw, err := e.Append(nil)
	b.out = append(b.out, wire.AppendEnvelope(nil, wire.Transit{}, raw))
	return err
}

// talk writes, and waits for the ack before it writes again, unless it is ahead.
func (b *bird) talk() error {
	for !b.f.stopped.Load() {
		b.mu.Lock()
		for b.sent < b.acked+max(1, b.ahead) {
			b.sent++
			if err := b.writeLocked(b.sent); err != nil {
				b.mu.Unlock()
				return err
			}
			b.at = time.Now()
		}
		changed, conn := b.changed, b.conn
		if b.f.padding > 0 && b.ahead == 0 { // a server that is away has a quota
			changed = nil
		}
		b.mu.Unlock()
		conn.Flush(b) // an error ends the reader
		select {
		case <-changed:
		case <-time.After(b.f.pause):
		}
	}
	return nil
}

// Fill implements wire.Source.
func (b *bird) Fill(dst []byte, room int) ([]byte, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for start := len(dst); len(b.out) > 0; b.out = b.out[1:] {
		if len(dst)-start+len(b.out[0]) > room {
			return dst, true
		}
		dst = append(dst, b.out[0]...)
	}
	return dst, false
}

// read takes what comes, until the connection ends.
func (b *bird) read() error {
	for {
		b.mu.Lock()
		slow, conn := b.slow, b.conn
		b.mu.Unlock()
		if slow != nil {
			<-slow
		}
		if err := conn.Receive(b.take); err != nil {
			return err
		}
		conn.Flush(b)
	}
}

func (b *bird) take(plain []byte) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	before := b.received
	for len(plain) > 0 {
		t, body, rest, err := wire.Next(plain)
		if err != nil {
			return err
		}
		plain = rest
		switch t {
		case wire.WelcomeFrame:
			if len(b.tapes) == 1 {
				close(b.welcome)
			}
		case wire.AckFrame:
			var a wire.Ack
			if err := wire.ParseAck(body, &a); err != nil {
				return err
			}
			for _, x := range a.Exceptions {
				if x.State != message.Held {
					return fmt.Errorf("%v (%v) for message %d", x.State, x.Refusal, x.Number)
				}
			}
			if acked := b.base + a.Upto; acked > b.acked {
				b.acked = acked
				b.took = append(b.took, time.Since(b.at))
				close(b.changed)
				b.changed = make(chan struct{})
			}
		case wire.EnvelopeFrame:
			b.received++
			_, raw, err := wire.ParseEnvelope(body)
			var e message.Envelope
			if err == nil {
				err = e.Parse(raw)
			}
			if err != nil {
				return err
			}
			if e.Kind != message.Text {
				continue // a receipt
			}
			number, _, _ := strings.Cut(string(e.Body), " ")
			if n, _ := strconv.ParseUint(number, 10, 64); b.f.mortal && n <= b.got {
				continue // it was not acked when the server died
			}
			b.got++
			if want := fmt.Sprint(b.got); e.From != b.before.address() || number != want {
				b.f.t.Errorf("%s gets text %q of %s instead of %s of %s", b.name, number, e.From, want, b.before.name)
				return fmt.Errorf("text %q of %s instead of %s of %s", number, e.From, want, b.before.name)
			}
		case wire.GoodbyeFrame:
			why, _ := wire.ParseGoodbye(body)
			return why
		}
	}
	if b.received > before {
		b.out = append(b.out, wire.AppendAck(nil, &wire.Ack{Upto: b.received}))
	}
	return nil
}

// settle has nobody write any more, and waits until all has arrived. It returns how many
// texts there were.
func (f *flock) settle(ctx context.Context) (texts uint64, err error) {
	f.stopped.Store(true)
	for _, b := range f.birds {
		for {
			b.mu.Lock()
			acked, changed := b.acked == b.sent, b.changed
			sent := b.sent
			b.mu.Unlock()
			b.next.mu.Lock()
			got := b.next.got
			b.next.mu.Unlock()
			if acked && got == sent {
				texts += sent
				break
			}
			select {
			case <-ctx.Done():
				return texts, fmt.Errorf("%s has sent %d, of which %d were acked and %d arrived", b.name, sent, b.acked, got)
			case <-changed:
			case <-time.After(10 * time.Millisecond):
			}
		}
	}
	return texts, nil
}

// advance waits until some birds have had so many messages acked.
func (f *flock) advance(ctx context.Context, birds []*bird, messages uint64) error {
	before := make([]uint64, len(birds))
	for i, b := range birds {
		b.mu.Lock()
		before[i] = b.acked
		b.mu.Unlock()
	}
	for i, b := range birds {
		for {
			b.mu.Lock()
			done, changed := b.acked >= before[i]+messages, b.changed
			b.mu.Unlock()
			if done {
				break
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return fmt.Errorf("%s waits in vain for acks", b.name)
			}
		}
	}
	return nil
}

// leave ends all connections, and returns what went wrong with them before.
func (f *flock) leave() error {
	f.stopped.Store(true)
	for _, b := range f.birds {
		b.mu.Lock()
		conn := b.conn
		b.mu.Unlock()
		if conn != nil {
			conn.Close()
		}
	}
	return f.running.Wait()
}

// hinder has a part of a flock not read, and another one write half of a record, until
// the function that it returns is called.
func (f *flock) hinder(part int) (release func()) {
	wake := make(chan struct{})
	set := func(c chan struct{}) {
		for i, b := range f.birds[:2*part] {
			b.mu.Lock()
			if i < part {
				b.slow = c
			} else {
				b.torn = c
			}
			b.mu.Unlock()
		}
	}
	set(wake)
	return func() {
		set(nil)
		close(wake)
	}
}

func (b *bird) hindered() chan struct{} {
	if b == nil {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.torn
}

// latencies returns how long acks took at the median and for the slowest hundredth.
func (f *flock) latencies() (p50, p99 time.Duration) {
	var all []time.Duration
	for _, b := range f.birds {
		b.mu.Lock()
		all = append(all, b.took...)
		b.mu.Unlock()
	}
	return quantiles(all)
}

func quantiles(all []time.Duration) (p50, p99 time.Duration) {
	slices.Sort(all)
	if len(all) == 0 {
		return 0, 0
	}
	return all[len(all)/2], all[min(len(all)-1, len(all)*99/100)]
}

// tape records what comes over a connection.
type tape struct {
	transport.Conn
	bird *bird // whose end it is; nil: it is a bridge's
	from wire.Direction
	b    []byte // of the reader
}

// Borrow implements transport.Conn.
func (c *tape) Borrow(lend func() []byte, giveBack func([]byte)) ([]byte, int, error) {
	b, n, err := c.Conn.Borrow(lend, giveBack)
	if err == nil {
		c.b = append(c.b, b[:n]...)
	}
	return b, n, err
}

// TryWrite implements transport.Conn: half of what a bird writes while it is torn.
func (c *tape) TryWrite(b []byte) (int, error) {
	if c.bird.hindered() != nil {
		b = b[:len(b)/2]
	}
	return c.Conn.TryWrite(b)
}

// Write implements net.Conn: the other half goes afterwards.
func (c *tape) Write(b []byte) (int, error) {
	if wait := c.bird.hindered(); wait != nil {
		<-wait
	}
	return c.Conn.Write(b)
}

// nonces are all pairs of key and number that a server was seen to use.
type nonces map[string]bool

// hear opens every record on tapes, by means of its own, and notes its nonce.
func (seen nonces) hear(tapes ...*tape) error {
	for _, c := range tapes {
		if err := seen.hearOne(c); err != nil {
			return err
		}
	}
	return nil
}

func (seen nonces) hearOne(c *tape) error {
	key, number := c.from.Key, c.from.Number
	b := c.b
	for len(b) >= 2 {
		size := int(binary.BigEndian.Uint16(b))
		if len(b) < 2+size {
			break // the connection ended in the middle
		}
		block, err := aes.NewCipher(key[:])
		if err != nil {
			return err
		}
		aead, err := cipher.NewGCM(block)
		if err != nil {
			return err
		}
		nonce := make([]byte, 12)
		binary.BigEndian.PutUint64(nonce[4:], number)
		if _, err := aead.Open(nil, nonce, b[2:2+size], nil); err != nil {
			return fmt.Errorf("record %d: %w", number, err)
		}
		pair := string(key[:]) + string(nonce)
		if seen[pair] {
			return fmt.Errorf("nonce %d was used twice", number)
		}
		seen[pair] = true
		b = b[2+size:]
		if number++; number%(1<<16) == 0 {
			binary.BigEndian.PutUint64(nonce[4:], math.MaxUint64)
			copy(key[:], aead.Seal(nil, nonce, make([]byte, 32), nil))
		}
	}
	return nil
}
