package session_test

import (
	"context"
	"errors"
	"testing"

	"github.com/noipchat/noipchat/daemon/identity"
	"github.com/noipchat/noipchat/daemon/message"
	"github.com/noipchat/noipchat/daemon/transport"
	"github.com/noipchat/noipchat/daemon/wire"
)

// raw is a device's session in the hands of a test, which says what it wants.
type raw struct {
	t        testing.TB
	conn     *wire.Conn
	address  message.Address
	device   message.DeviceID
	counter  uint64
	welcome  wire.Welcome
	frames   []frame // that have come and nobody has looked at
	received uint64  // envelopes
	upto     uint64  // what was acked, as far as receive has seen
}

type frame struct {
	t    wire.Type
	body []byte
}

// raw connects with the device's key.
func (p *person) raw(t testing.TB) *raw {
	t.Helper()
	r := p.tryRaw(nil)
	if f := r.next(); f.t != wire.WelcomeFrame {
		t.Fatalf("a %v for a welcome", f.t)
	} else if r.welcome, _ = wire.ParseWelcome(f.body); r.welcome.No != nil {
		t.Fatal(r.welcome.No)
	}
	t.Cleanup(func() { r.conn.Close() })
	return r
}

// tryRaw shakes hands, and does not wait for the welcome.
func (p *person) tryRaw(change func(*wire.ClientHello)) *raw {
	a := p.c.Account()
	r := &raw{t: p.t, address: a.Address, device: a.Device, counter: 1 << 32}
	r.conn, _ = p.s.shake(p.t, identity.KeyFromSeed(a.Seed), func(h *wire.ClientHello) {
		h.Method, h.User = wire.ByDevice, p.name
		if change != nil {
			change(h)
		}
	})
	return r
}

// shake shakes hands with a server.
func (s *server) shake(t testing.TB, key identity.Key, say func(*wire.ClientHello)) (*wire.Conn, transport.Conn) {
	t.Helper()
	conn, err := s.net.dial(context.Background(), s.address)
	check(t, err)
	c, err := wire.Open(conn, key, func(wire.ServerHello) (wire.ClientHello, error) {
		h := wire.ClientHello{Agent: "test", Window: wire.Window{Count: 1024, Bytes: 4 << 20}}
		say(&h)
		return h, nil
	})
	if err != nil {
		conn.Close()
		t.Error(err)
	}
	return c, conn
}

// next waits for a frame; its type is 0 at the end of the connection.
func (r *raw) next() frame {
	for len(r.frames) == 0 {
		err := r.conn.Receive(func(plain []byte) error {
			for len(plain) > 0 {
				t, body, rest, err := wire.Next(plain)
				if err != nil {
					return err
				}
				plain = rest
				r.frames = append(r.frames, frame{t, body})
			}
			return nil
		})
		if err != nil && len(r.frames) == 0 {
			return frame{}
		}
	}
	f := r.frames[0]
	r.frames = r.frames[1:]
	return f
}

// expect waits for a text, passing over what else comes.
func (r *raw) expect(body string) *message.Envelope {
	r.t.Helper()
	for {
		f := r.next()
		switch f.t {
		case 0:
			r.t.Fatalf("the connection ended before %q came", body)
		case wire.EnvelopeFrame:
			r.received++
			_, b, err := wire.ParseEnvelope(f.body)
			check(r.t, err)
			var e message.Envelope
			check(r.t, e.Parse(b))
			if e.Kind == message.Text && string(e.Body) == body {
				return &e
			}
		}
	}
}

// goodbye waits for the end, and returns what was said of it; nil if nothing was.
func (r *raw) goodbye() *message.Refusal {
	var why *message.Refusal
	for {
		f := r.next()
		switch f.t {
		case 0:
			return why
		case wire.GoodbyeFrame:
			why, _ = wire.ParseGoodbye(f.body)
		}
	}
}

// ackAll acks all envelopes until the connection ends.
func (r *raw) ackAll() {
	for {
		f := r.next()
		switch f.t {
		case 0:
			return
		case wire.EnvelopeFrame:
			r.received++
			r.say(wire.AppendAck(nil, &wire.Ack{Upto: r.received}))
		}
	}
}

// bytes is a wire.Source of frames that are there.
type bytes struct{ b []byte }

func (s *bytes) Fill(b []byte, room int) ([]byte, bool) {
	n := min(len(s.b), room)
	b = append(b, s.b[:n]...)
	s.b = s.b[n:]
	return b, len(s.b) > 0
}

// say sends frames; a record has as many bytes as go into it.
func (r *raw) say(frames []byte) error { return r.conn.Flush(&bytes{frames}) }

// envelope makes the frame of a text by this device, unless change does something
// else with it.
func (r *raw) envelope(body string, change func(*message.Envelope), to ...message.Address) []byte {
	r.t.Helper()
	r.counter++
	e := message.Envelope{Kind: message.Text, Priority: message.Normal, From: r.address, Device: r.device, Counter: r.counter, To: to, Body: []byte(body)}
	if change != nil {
		change(&e)
	}
	b, err := e.Append(nil)
	check(r.t, err)
	return wire.AppendEnvelope(nil, wire.Transit{}, b)
}

// verdict waits for the next ack with an exception.
func (r *raw) verdict() wire.Exception {
	r.t.Helper()
	for {
		f := r.next()
		if f.t == 0 {
			r.t.Fatal("the connection ended")
		}
		var a wire.Ack
		if f.t == wire.AckFrame && wire.ParseAck(f.body, &a) == nil && len(a.Exceptions) > 0 {
			return a.Exceptions[0]
		}
	}
}

// refusal is the reason of an error.
func refusal(err error) *message.Refusal {
	var no *message.Refusal
	errors.As(err, &no)
	return no
}
