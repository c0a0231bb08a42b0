// Package transport gives ordered byte streams, whatever carries them: TCP and
// Unix sockets, and Memory for tests. Nothing above it asks for an IP address;
// what a layer above wants to know of a stream are its properties, and every
// timer up there is derived from them.
//
// A kind of transport is an entry in one table. A Conn is a net.Conn with three
// additions for the path of a message: Borrow, so that an idle connection holds
// no buffer, and TryWrite, so that who writes never waits for a slow reader. A
// deadline in the past ends either at once, whatever there is to read. Pending is
// for who wants to read on before he does something about what he has read.
//
// It starts no goroutine, and knows neither records nor keys.
package transport

import (
	"context"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"time"
)

// Properties say what a stream is like. The zero value is a fast line that costs
// nothing, on which sockets are.
type Properties struct {
	Rate      int           // bits per second; 0: not known, fast
	Latency   time.Duration // of one direction; 0: not known, short
	Metered   bool          // every byte costs: nothing is said unasked
	Exclusive bool          // one side at a time may speak
}

// Quiet tells that nothing may be sent on it that nobody asked for.
func (p Properties) Quiet() bool { return p.Rate > 0 && p.Rate < 100_000 || p.Metered || p.Exclusive }

// Conn is an ordered byte stream to somebody.
type Conn interface {
	net.Conn
	Properties() Properties

	// Borrow waits until there is something to read, asks lend for a buffer only
	// then, reads into it once, and returns it with the number of bytes read. If
	// nothing was read, the buffer went back by giveBack.
	Borrow(lend func() []byte, giveBack func([]byte)) ([]byte, int, error)

	// Pending tells whether there is something to read: then Borrow does not wait.
	Pending() bool

	// TryWrite writes as much of b as goes without waiting, perhaps nothing. It
	// waits only for a Write or TryWrite under way.
	TryWrite(b []byte) (int, error)
}

// Listener accepts streams.
type Listener interface {
	Accept() (Conn, error)
	Close() error
	Addr() net.Addr
}

// A kind is one way to carry a stream.
type kind struct {
	listen func(ctx context.Context, address string) (Listener, error)
	dial   func(ctx context.Context, local, remote string) (Conn, error)
}

var kinds = map[string]kind{
	"tcp":  {listenTCP, dialTCP},
	"unix": {listenUnix, dialUnix},
}

func kindOf(name string) (kind, error) {
	k, ok := kinds[name]
	if !ok {
		return k, fmt.Errorf("transport kind %q: there are %s", name, strings.Join(slices.Sorted(maps.Keys(kinds)), ", "))
	}
	return k, nil
}

// Listen listens at an address of a kind: "ip:port" for tcp, a path for unix.
func Listen(ctx context.Context, kindName, address string) (Listener, error) {
	k, err := kindOf(kindName)
	if err != nil {
		return nil, err
	}
	return k.listen(ctx, address)
}

// Dial connects to a remote address, from a local one unless that is "".
func Dial(ctx context.Context, kindName, local, remote string) (Conn, error) {
	k, err := kindOf(kindName)
	if err != nil {
		return nil, err
	}
	return k.dial(ctx, local, remote)
}
