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
// is an error, and so is the end of a connection.
type flock struct {
	t       testing.TB
	birds   []*bird
	pause   time.Duration // between two messages of one
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
	conn   *wire.Conn
	tape   *tape

	mu       sync.Mutex // guards what follows
	out      []byte     // frames
	sent     uint64
	acked    uint64
	got      uint64 // texts
	received uint64 // envelopes
	slow     chan struct{}
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
	homes := make([]*identity.Users, len(stages))
	for i, s := range stages {
		if homes[i], _, err = identity.OpenUsers(filepath.Join(s.dir, "state"), s.name, identity.Options{Hasher: hasher}); err != nil {
			t.Fatal(err)
		}
	}
	f := &flock{t: t, pause: 20 * time.Millisecond, birds: make([]*bird, n)}
	var g errgroup.Group
	g.SetLimit(16)
	for i := range f.birds {
		users := homes[i%len(homes)]
		b := &bird{f: f, s: stages[i%len(stages)], name: fmt.Sprintf("bird%d", i), changed: make(chan struct{}), welcome: make(chan struct{})}
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
			if err := b.read(); !f.stopped.Load() {
				return fmt.Errorf("%s: %w", b.name, err)
			}
			return nil
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
	conn, err := transport.Dial(ctx, "tcp", "", b.s.address)
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
	state := c.Export()
	b.tape = &tape{Conn: conn, from: state.In, b: slices.Clone(state.Partial)}
	b.conn, err = wire.Resume(b.tape, state)
	return err
}

// talk writes, and waits for the ack before it writes again.
func (b *bird) talk() error {
	for !b.f.stopped.Load() {
		b.mu.Lock()
		if b.acked == b.sent {
			b.sent++
			e := message.Envelope{
				Kind: message.Text, Priority: message.Normal, From: b.address(), Device: b.device, Counter: b.sent,
				To: []message.Address{b.next.address()}, Body: fmt.Appendf(nil, "%d", b.sent),
			}
			raw, err := e.Append(nil)
			if err != nil {
				b.mu.Unlock()
				return err
			}
			b.out = wire.AppendEnvelope(b.out, wire.Transit{}, raw)
			b.at = time.Now()
		}
		changed := b.changed
		b.mu.Unlock()
		b.conn.Flush(b) // an error ends the reader
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
	if len(b.out) > room {
		return dst, true
	}
	dst = append(dst, b.out...)
	b.out = b.out[:0]
	return dst, false
}

// read takes what comes, until the connection ends.
func (b *bird) read() error {
	for {
		b.mu.Lock()
		slow := b.slow
		b.mu.Unlock()
		if slow != nil {
			<-slow
		}
		if err := b.conn.Receive(b.take); err != nil {
			return err
		}
		b.conn.Flush(b)
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
			close(b.welcome)
		case wire.AckFrame:
			var a wire.Ack
			if err := wire.ParseAck(body, &a); err != nil {
				return err
			}
			for _, x := range a.Exceptions {
				if x.State != message.Held {
					return fmt.Errorf("%v for message %d", x.State, x.Number)
				}
			}
			if a.Upto > b.acked {
				b.acked = a.Upto
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
			b.got++
			if want := fmt.Sprint(b.got); e.From != b.before.address() || string(e.Body) != want {
				return fmt.Errorf("text %q of %s instead of %s of %s", e.Body, e.From, want, b.before.name)
			}
		case wire.GoodbyeFrame:
			why, _ := wire.ParseGoodbye(body)
			return why
		}
	}
	if b.received > before {
		b.out = wire.AppendAck(b.out, &wire.Ack{Upto: b.received})
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

// leave ends all connections, and returns what went wrong with them before.
func (f *flock) leave() error {
	f.stopped.Store(true)
	for _, b := range f.birds {
		if b.conn != nil {
			b.conn.Close()
		}
	}
	return f.running.Wait()
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

// nonces are all pairs of key and number that a server was seen to use.
type nonces map[string]bool

// hear opens every record on a tape, by means of its own, and notes its nonce.
func (seen nonces) hear(c *tape) error {
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
