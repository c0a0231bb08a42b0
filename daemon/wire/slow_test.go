package wire

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/noipchat/noipchat/daemon/transport"
)

// TestWhoKnowsTheLine: whichever side knows that the line is slow, both share it in
// lanes then, and both know the same of it.
func TestWhoKnowsTheLine(t *testing.T) {
	metered := transport.Properties{Metered: true}
	both := transport.Properties{Rate: 1200, Latency: radio.Latency, Metered: true}
	for name, c := range map[string]struct{ client, server, want transport.Properties }{
		"nobody":      {},
		"the client":  {radio, transport.Properties{}, radio},
		"the server":  {transport.Properties{}, radio, radio},
		"each a part": {metered, radio, both},
		"not slow":    {transport.Properties{Rate: 1_000_000, Latency: time.Second}, transport.Properties{}, transport.Properties{Rate: 1_000_000, Latency: time.Second}},
	} {
		t.Run(name, func(t *testing.T) {
			near, far := transport.MemoryPipe("test")
			near.Describe(c.client)
			far.Describe(c.server)
			done := make(chan ClientHello)
			var server *Conn
			go func() {
				conn, hello, err := Answer(far, serverKey, aServer())
				if err != nil {
					t.Error(err)
				}
				server = conn
				done <- hello
			}()
			parts := []Part{bytes.Repeat([]byte("x"), 1000)}
			var met ServerHello
			client, err := Open(near, clientKey, func(h ServerHello) (ClientHello, error) {
				met = h
				ch := aClient(ByDevice)
				ch.Parts = parts
				return ch, nil
			})
			hello := <-done
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			defer server.Close()
			slow := c.want.Slow()
			if client.Slow() != slow || server.Slow() != slow {
				t.Fatalf("slow is %v and %v", client.Slow(), server.Slow())
			}
			if slow && (near.Properties() != c.want || far.Properties() != c.want) {
				t.Errorf("they know %v and %v", near.Properties(), far.Properties())
			}
			if slow != (met.Idle == 0) || slow != (len(met.Public) == 0) || slow && (met.Window != slowWindow || hello.Window.Bytes > slowWindow.Bytes) {
				t.Errorf("the server says %+v, and is told %+v", met, hello)
			}
			if slow != hello.Half() || slow != (hello.Agent == "") || slow != (len(hello.Have) == 1 && hello.Have[0] == parts[0].have()) {
				t.Errorf("the client says %+v", hello)
			}
			if met.Key != serverKey.Public() || hello.Key[0] != clientKey.Public()[0] {
				t.Error("the sides don't know each other")
			}
		})
	}
}

// TestHostileLine: what a stranger says of his line is checked, and makes nobody wait
// for long.
func TestHostileLine(t *testing.T) {
	for name, c := range map[string]struct {
		said string
		want string
	}{
		"too short":      {"\x01", "what it says of its line"},
		"too long":       {"\xcd\x04\xb0\x00\x00\x00", "what it says of its line"},
		"much too long":  {strings.Repeat("x", 40), "72 bytes, where 47"},
		"too slow":       {"\x01\x00\x00", "a rate of 1"},
		"too far":        {"\x00\xce\xff\xff\xff\xff\x00", "above"},
		"an odd flag":    {"\x00\x00\x04", "above 3"},
		"in longer form": {"\xcc\x50\x00\x00", "shortest"},
		"a year":         {"\x32\xce\x00\x36\xee\x80\x02", ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				near, far := transport.MemoryPipe("test")
				defer near.Close()
				far.SetDeadline(time.Now().Add(10 * time.Second))
				start := time.Now()
				done := make(chan error, 1)
				go func() {
					_, _, err := Answer(far, serverKey, aServer())
					far.Close()
					done <- err
				}()
				h, err := newHandshake(near, clientKey.X25519(), true, Magic, constant(0xec))
				if err != nil {
					t.Fatal(err)
				}
				if err := h.write([]byte(Magic), []byte(c.said)); err != nil {
					t.Fatal(err)
				}
				err = <-done
				if c.want == "" { // and then he says nothing
					if !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) > mostPatience {
						t.Errorf("he is waited for %v: %v", time.Since(start), err)
					}
				} else if !errors.Is(err, ErrProtocol) || !strings.Contains(err.Error(), c.want) {
					t.Errorf("%v, not %q", err, c.want)
				}
			})
		})
	}
}

// TestSlowOnly: what is for slow lines is an error on others.
func TestSlowOnly(t *testing.T) {
	near, far := transport.MemoryPipe("test")
	done := make(chan error, 1)
	go func() {
		_, _, err := Answer(far, serverKey, aServer())
		far.Close()
		done <- err
	}()
	h, err := newHandshake(near, clientKey.X25519(), true, Magic, constant(0xec))
	if err != nil {
		t.Fatal(err)
	}
	h.write([]byte(Magic), nil)
	h.read(maxMsg)
	ch := aClient(ByDevice)
	ch.half = true
	h.write(nil, ch.append(nil))
	if err := <-done; !errors.Is(err, ErrProtocol) || !strings.Contains(err.Error(), "slow lines only") {
		t.Error(err)
	}
	for _, kind := range []Type{shortFrame, restFrame} {
		if err := Skip(kind); !errors.Is(err, ErrProtocol) {
			t.Errorf("a %v: %v", kind, err)
		}
	}
}
