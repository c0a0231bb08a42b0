package wire

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/noipchat/noipchat/daemon/message"
	"github.com/noipchat/noipchat/daemon/transport"
)

// FuzzFrames takes any bytes for a record's plaintext. Whatever is taken is the
// one encoding of what it says.
func FuzzFrames(f *testing.F) {
	f.Fuzz(func(t *testing.T, plain []byte) {
		for len(plain) > 0 {
			kind, body, rest, err := Next(plain)
			if err != nil {
				if !errors.Is(err, ErrProtocol) {
					t.Fatal(err)
				}
				return
			}
			whole := plain[:len(plain)-len(rest)]
			if head := appendHead(nil, kind, len(body)); !bytes.Equal(append(head, body...), whole) {
				t.Fatalf("%x is not the one head of %v of %d bytes", whole, kind, len(body))
			}
			again, err := rewrite(kind, body)
			if err != nil && !errors.Is(err, ErrProtocol) {
				t.Fatalf("%v: %v", kind, err)
			}
			if err == nil && again != nil && !bytes.Equal(again, whole) {
				t.Fatalf("%v: %x\nis written again as %x", kind, whole, again)
			}
			plain = rest
		}
	})
}

// rewrite parses a frame and writes it again; nil if what it says can't be written
// here: what a later version adds, or a text that we would clean.
func rewrite(t Type, body []byte) ([]byte, error) {
	switch t {
	case EnvelopeFrame:
		transit, raw, err := ParseEnvelope(body)
		if err != nil {
			return nil, err
		}
		again := AppendEnvelope(nil, transit, raw)
		if len(again) != EnvelopeSize(transit, raw) {
			panic("EnvelopeSize is wrong")
		}
		if n := transitSize(transit); len(body)-len(raw) != n {
			return nil, nil
		}
		return again, nil
	case AckFrame:
		a := Ack{Beyond: message.Ranges{{First: 1, Last: 2}}, Exceptions: make([]Exception, 3)}
		err := ParseAck(body, &a)
		return AppendAck(nil, &a), err
	case WelcomeFrame:
		w, err := ParseWelcome(body)
		again := AppendWelcome(nil, w)
		if err == nil && w.No == nil && len(again) < len(body) { // something was added
			return nil, nil
		}
		return again, err
	case GoodbyeFrame:
		why, err := ParseGoodbye(body)
		if err != nil {
			return nil, err
		}
		return AppendGoodbye(nil, why), nil
	case RequestFrame:
		q, err := ParseRequest(body)
		return AppendRequest(nil, q), err
	case AnswerFrame:
		a, err := ParseReply(body)
		return AppendReply(nil, a), err
	case PingFrame:
		return AppendPing(nil), nil
	case PongFrame:
		return AppendPong(nil), nil
	}
	return nil, Skip(t)
}

// FuzzHello takes any bytes for the payload of message 2 and of message 3.
func FuzzHello(f *testing.F) {
	check := func(t *testing.T, payload, again []byte, err error) {
		t.Helper()
		if err != nil {
			if !errors.Is(err, message.ErrMalformed) {
				t.Fatal(err)
			}
			return
		}
		// The map at the end, which was taken out here, may have what a later version adds.
		if head := again[:len(again)-1]; !bytes.HasPrefix(payload, head) || payload[len(head)] == 0x80 && len(payload) != len(again) {
			t.Fatalf("%x\nis written again as %x", payload, again)
		}
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		var s ServerHello
		err := s.parse(payload)
		s.line = transport.Properties{}
		check(t, payload, s.append(nil), err)
		var c ClientHello
		err = c.parse(payload)
		c.Have = nil
		check(t, payload, c.append(nil), err)
	})
}

// FuzzRecords has a Conn read good records and then any bytes, cut anywhere: the
// good ones come out, and nothing else.
func FuzzRecords(f *testing.F) {
	f.Fuzz(func(t *testing.T, good uint8, cut uint16, garbage []byte) {
		var plains [][]byte
		ta, tb := transport.MemoryPipe("test")
		c, _ := channel(t, ta, tb)
		d := Direction{Key: [32]byte{1}} // as in states
		var stream []byte
		for i := range int(good % 20) {
			plains = append(plains, frame(i, i*i*5))
			stream = append(stream, seal(t, &d, plains[i])...)
		}
		stream = append(stream, garbage...)
		done := make(chan struct{})
		go func() {
			defer close(done)
			for i := 0; len(stream) > 0; i++ {
				n := min(len(stream), 1+int(cut)*(i+1)%3000)
				if _, err := tb.Write(stream[:n]); err != nil {
					break
				}
				stream = stream[n:]
			}
			tb.Close()
		}()
		var got [][]byte
		var err error
		for err == nil {
			err = c.Receive(collect(&got))
			if len(c.partial) > 2+maxRecord {
				t.Fatalf("it keeps %d bytes", len(c.partial))
			}
		}
		c.Close()
		<-done
		if !equal(got, plains) {
			t.Fatalf("%d frames came out, of %d", len(got), len(plains))
		}
		if !errors.Is(err, ErrProtocol) && err != io.EOF {
			t.Fatal(err)
		}
	})
}

// FuzzHandshake plays a stranger to a server: one who sends any bytes, after a
// good beginning or none, and one who shakes hands well and says anything.
func FuzzHandshake(f *testing.F) {
	f.Fuzz(func(t *testing.T, beginning uint8, sent []byte) {
		near, far := transport.MemoryPipe("test")
		near.SetDeadline(time.Now().Add(time.Minute))
		type answered struct {
			hello ClientHello
			err   error
		}
		done := make(chan answered)
		go func() {
			_, hello, err := answer(far, serverKey, aServer(), constant(0xe5))
			far.Close()
			done <- answered{hello, err}
		}()
		good := append([]byte(Magic+"\x00\x20"), x25519(t, bytes.Repeat([]byte{9}, 32)).PublicKey().Bytes()...)
		honest := beginning%5 == 4 && len(sent) <= maxHello
		if honest {
			h, err := newHandshake(near, clientKey.X25519(), true, Magic, constant(0xec))
			if err == nil {
				err = h.write([]byte(Magic), nil)
			}
			if err == nil {
				_, err = h.read(maxMsg)
			}
			if err == nil {
				err = h.write(nil, sent)
			}
			if err != nil {
				t.Fatal(err)
			}
		} else {
			near.Write(good[:[]int{0, 4, 6, len(good), 0}[beginning%5]])
			near.Write(sent)
		}
		near.Close()
		s := <-done
		replayed := s.hello.Key == clientKey.Public() // in the corpus, which works because our part of the exchange is always the same here
		if s.err == nil && (!honest && !replayed || s.hello.Method == 0) {
			t.Fatalf("random bytes have logged in: %+v", s.hello)
		}
	})
}
