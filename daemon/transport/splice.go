package transport

import (
	"errors"
	"io"
	"net"
	"syscall"
)

// Splice copies between a stream and what a program has as its standard input and
// output, until one side has ended: the end of the input is passed on, and what the
// other side still says is waited for; after the end of the stream nothing is read
// from the input any more. It returns nil unless an end came as an error.
//
// The reading from in may go on after it has returned, if that can't be ended.
func Splice(stream Conn, in io.Reader, out io.Writer) error {
	up := make(chan error, 1)
	go func() {
		_, err := io.Copy(stream, in)
		if half, ok := stream.(interface{ CloseWrite() error }); ok && err == nil {
			err = half.CloseWrite()
		}
		up <- err
	}()
	down := make(chan error, 1)
	go func() {
		_, err := io.Copy(out, stream)
		down <- err
	}()
	var err error
	select {
	case err = <-down:
	case err = <-up:
		if err == nil {
			err = <-down
		}
	}
	if errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, net.ErrClosed) {
		err = nil // the other side has gone first
	}
	return errors.Join(err, stream.Close())
}
