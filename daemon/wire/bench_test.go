package wire

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"testing"

	"github.com/noipchat/noipchat/daemon/identity"
	"github.com/noipchat/noipchat/daemon/message"
)

// BenchmarkRecord seals and opens a record of one frame of so many bytes.
func BenchmarkRecord(b *testing.B) {
	for _, size := range []int{64, 1 << 10, MaxPlain} {
		b.Run(fmt.Sprint("seal/", size), func(b *testing.B) {
			d, err := newDirection(Direction{Key: [32]byte{1}})
			if err != nil {
				b.Fatal(err)
			}
			buf := make([]byte, 2+size+tagSize)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := d.seal(buf[:2+size]); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprint("open/", size), func(b *testing.B) {
			start := Direction{Key: [32]byte{1}}
			record := seal(b, &start, make([]byte, size))
			d, err := newDirection(Direction{Key: [32]byte{1}})
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := d.open(record[2:]); err != nil {
					b.Fatal(err)
				}
				d.Number, d.Bytes = 0, 0 // the same record again
			}
		})
	}
}

// BenchmarkFrame writes and reads the frames that a message takes.
func BenchmarkFrame(b *testing.B) {
	e := message.Envelope{
		Kind: message.Text, Priority: message.Normal, From: "alice@server1", Device: 1 << 63, Counter: 100,
		Created: 1_700_000_000_000, To: []message.Address{"bob@server1"}, Body: bytes.Repeat([]byte("a"), 64),
	}
	raw, err := e.Append(nil)
	if err != nil {
		b.Fatal(err)
	}
	ack := Ack{Upto: 1 << 20, Beyond: message.Ranges{{First: 1<<20 + 2, Last: 1<<20 + 9}}}
	buf := make([]byte, 0, 1<<10)
	b.Run("envelope/encode", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			AppendEnvelope(buf, Transit{Age: 3}, raw)
		}
	})
	b.Run("envelope/decode", func(b *testing.B) {
		frame := AppendEnvelope(nil, Transit{Age: 3}, raw)
		var env message.Envelope
		b.ReportAllocs()
		for b.Loop() {
			_, body, _, err := Next(frame)
			if err == nil {
				_, body, err = ParseEnvelope(body)
			}
			if err == nil {
				err = env.Parse(body)
			}
			if err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("ack/encode", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			AppendAck(buf, &ack)
		}
	})
	b.Run("ack/decode", func(b *testing.B) {
		frame := AppendAck(nil, &ack)
		var a Ack
		b.ReportAllocs()
		for b.Loop() {
			_, body, _, err := Next(frame)
			if err == nil {
				err = ParseAck(body, &a)
			}
			if err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkHandshake shakes hands over memory, both sides in turn. One operation is
// both sides' work.
func BenchmarkHandshake(b *testing.B) {
	ours, theirs := identity.KeyFromSeed([32]byte{1}), identity.KeyFromSeed([32]byte{2})
	payload := make([]byte, 100)
	b.ReportAllocs()
	for b.Loop() {
		var stream bytes.Buffer
		from, err := newHandshake(&stream, ours.X25519(), true, Magic, rand.Reader)
		if err != nil {
			b.Fatal(err)
		}
		to, err := newHandshake(&stream, theirs.X25519(), false, Magic, rand.Reader)
		if err != nil {
			b.Fatal(err)
		}
		for range 3 {
			if err := from.write(nil, payload); err != nil {
				b.Fatal(err)
			}
			if _, err := to.read(maxMsg); err != nil {
				b.Fatal(err)
			}
			from, to = to, from
		}
	}
}
