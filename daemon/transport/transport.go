// Package transport gives ordered byte streams, whatever carries them: TCP and
// Unix sockets, the input and output of a command, and Memory for tests. Nothing
// above it asks for an IP address;
// what a layer above wants to know of a stream are its properties, and every
// timer up there is derived from them.
//
// A kind of transport is an entry in one table. A Conn is a net.Conn with three
// additions for the path of a message: Borrow, so that an idle connection holds
// no buffer, and TryWrite, so that who writes never waits for a slow reader. A
// deadline in the past ends either at once, whatever there is to read. Pending is
// for who wants to read on before he does something about what he has read.
//
// It starts no goroutine but for a command, which Close joins, and knows neither
// records nor keys.
package transport

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strings"
)

// Conn is an ordered byte stream to somebody.
type Conn interface {
	net.Conn
	Properties() Properties

	// Describe sets the properties, when more is known of the line than at its
	// beginning. It must be called before the stream is used by two at once.
	Describe(Properties)

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
	check  func(remote string) error // says what is wrong with a text
	listen func(ctx context.Context, address string) (Listener, error)
	dial   func(ctx context.Context, a Address, log *slog.Logger) (Conn, error)
}

var kinds = map[string]kind{
	"tcp":  {checkTCP, listenTCP, dialTCP},
	"unix": {checkUnix, listenUnix, dialUnix},
	"exec": {checkCommand, listenExec, dialExec},
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
	return Address{Kind: kindName, Local: local, Remote: remote}.Dial(ctx, nil)
}
