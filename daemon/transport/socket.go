package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// socket is a TCP or Unix connection. Reading and writing go past net.Conn to
// the system call, by way of the runtime's poller: that is what lets a reader
// wait without a buffer and a writer not wait at all. The two closures are made
// once, because one for each call would be an allocation for each message.
type socket struct {
	net.Conn
	raw    syscall.RawConn
	line   Properties
	closed atomic.Bool

	read struct { // used by the one reader
		lend     func() []byte
		giveBack func([]byte)
		buf      []byte
		n        int
		err      error
		do       func(fd uintptr) bool
	}
	write struct {
		mu  sync.Mutex
		b   []byte
		n   int
		err error
		do  func(fd uintptr) bool
	}
}

func newSocket(c net.Conn, line Properties) (*socket, error) {
	sc, ok := c.(syscall.Conn)
	if !ok {
		c.Close()
		return nil, fmt.Errorf("a connection of type %T is no socket", c)
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		c.Close()
		return nil, err
	}
	s := &socket{Conn: c, raw: raw}
	s.read.do, s.write.do = s.readOnce, s.writeOnce
	s.Describe(line)
	return s, nil
}

// Properties of a socket are those of a fast line unless somebody knows better:
// what is beyond it can't be seen.
func (s *socket) Properties() Properties { return s.line }

// Describe implements Conn. A quiet line has no keep-alive either.
func (s *socket) Describe(line Properties) {
	s.line = line
	if tcp, ok := s.Conn.(*net.TCPConn); ok {
		config := keepAlive
		config.Enable = !line.Quiet()
		tcp.SetKeepAliveConfig(config) // an error means that it is closed already
	}
}

// Close implements net.Conn.
func (s *socket) Close() error {
	s.closed.Store(true)
	return s.Conn.Close()
}

// Read implements net.Conn.
func (s *socket) Read(b []byte) (int, error) {
	n, err := s.Conn.Read(b)
	return n, s.ended(err)
}

// Write implements net.Conn.
func (s *socket) Write(b []byte) (int, error) {
	n, err := s.Conn.Write(b)
	return n, s.ended(err)
}

// ended says net.ErrClosed after a Close, which those who are carried have other words for.
func (s *socket) ended(err error) error {
	if err != nil && s.closed.Load() {
		return net.ErrClosed
	}
	return err
}

// CloseWrite tells the other side that nothing more will come.
func (s *socket) CloseWrite() error {
	return s.Conn.(interface{ CloseWrite() error }).CloseWrite() // TCP and Unix sockets have it
}

func (s *socket) readOnce(fd uintptr) bool {
	r := &s.read
	r.buf = r.lend()
	for {
		r.n, r.err = syscall.Read(int(fd), r.buf)
		switch r.err {
		case syscall.EINTR:
			continue
		case syscall.EAGAIN:
			r.giveBack(r.buf)
			r.buf = nil
			return false // the poller waits, and calls again
		}
		return true
	}
}

// Borrow implements Conn. It is for one goroutine at a time.
func (s *socket) Borrow(lend func() []byte, giveBack func([]byte)) ([]byte, int, error) {
	r := &s.read
	r.lend, r.giveBack, r.n, r.err = lend, giveBack, 0, nil
	err := s.raw.Read(r.do)
	buf := r.buf
	r.buf = nil
	switch {
	case err == nil && r.err != nil:
		err = os.NewSyscallError("read", r.err)
	case err == nil && r.n <= 0:
		err = io.EOF
	}
	if err != nil {
		if buf != nil {
			giveBack(buf)
		}
		return nil, 0, s.ended(err)
	}
	return buf, r.n, nil
}

// Pending implements Conn.
func (s *socket) Pending() (some bool) {
	s.raw.Control(func(fd uintptr) {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(p, 0)
		some = n > 0 && err == nil
	})
	return some
}

func (s *socket) writeOnce(fd uintptr) bool {
	w := &s.write
	for w.n < len(w.b) {
		n, err := syscall.Write(int(fd), w.b[w.n:])
		switch {
		case err == syscall.EINTR:
			continue
		case err == syscall.EAGAIN:
			return true
		case err != nil:
			w.err = os.NewSyscallError("write", err)
			return true
		}
		w.n += n
	}
	return true
}

// TryWrite implements Conn. It is safe for concurrent use.
func (s *socket) TryWrite(b []byte) (int, error) {
	w := &s.write
	w.mu.Lock()
	defer w.mu.Unlock()
	w.b, w.n, w.err = b, 0, nil
	err := s.raw.Write(w.do)
	w.b = nil
	if err == nil {
		err = w.err
	}
	return w.n, s.ended(err)
}

type listener struct{ net.Listener }

// newListener keeps the name of a Unix socket when the listener is closed: somebody
// else, the service manager say, may have a copy of the socket.
func newListener(l net.Listener) listener {
	if u, ok := l.(*net.UnixListener); ok {
		u.SetUnlinkOnClose(false)
	}
	return listener{l}
}

// SyscallConn implements syscall.Conn, for who keeps a copy of the socket. It is not
// os.File's Fd, which would make Accept, and so Close, wait for the next connection.
func (l listener) SyscallConn() (syscall.RawConn, error) {
	return l.Listener.(syscall.Conn).SyscallConn()
}

// SetDeadline has Accept fail from a time on, and who waits there stay there.
func (l listener) SetDeadline(t time.Time) error {
	return l.Listener.(interface{ SetDeadline(time.Time) error }).SetDeadline(t) // TCP and Unix sockets have it
}

// Accept implements Listener.
func (l listener) Accept() (Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return asConn(newSocket(c, told(c)))
}

// told is what the other end of a Unix socket says of the line behind it: a dialler
// that knows something gives its own end a name that ends with it. Others have no
// name there, or a path, which is none of our business.
func told(c net.Conn) (line Properties) {
	if a, ok := c.RemoteAddr().(*net.UnixAddr); ok {
		if name, properties, _ := strings.Cut(a.Name, ","); name == lineName {
			line, _ = ParseProperties(properties[strings.IndexByte(properties, ',')+1:])
		}
	}
	return line
}

// lineName begins the name of such an end; a number follows, and then the
// properties. The @ says that it is no file.
const lineName = "@noipchat"

// FromFile makes a Listener of a socket that another process has opened for us, and
// closes f.
func FromFile(f *os.File) (Listener, error) {
	defer f.Close()
	l, err := net.FileListener(f)
	if err != nil {
		return nil, err
	}
	return newListener(l), nil
}

// Retire closes a listener for good: copies of its socket that others hold take no
// connections any more, and the name of a Unix socket goes.
func Retire(l Listener) error {
	s, ok := l.(listener)
	if !ok {
		return l.Close()
	}
	if a, ok := l.Addr().(*net.UnixAddr); ok {
		os.Remove(a.Name) // first: who comes now may make one of that name
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return err
	}
	var fd int
	if e := raw.Control(func(own uintptr) { fd, err = unix.FcntlInt(own, unix.F_DUPFD_CLOEXEC, 0) }); e != nil || err != nil {
		return errors.Join(e, err, l.Close())
	}
	defer unix.Close(fd)
	l.Close() // first, so that Accept says that it was closed
	return unix.Shutdown(fd, unix.SHUT_RDWR)
}

// keepAlive finds a peer whose machine is gone within two minutes or so. It is
// the kernel's and costs the channel no byte; what the channel does of its own
// finds peers that are there but dead. Every TCP socket gets it, also one whose
// listener somebody else has opened; what package net would set is turned off.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: time.Minute, Interval: 15 * time.Second, Count: 4}

const noKeepAlive = -1

func listenTCP(ctx context.Context, address string) (Listener, error) {
	a, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, fmt.Errorf("listening: %q is not ip:port", address)
	}
	network := "tcp4" // IPv6 only where IPv6 is meant: [::] is not 0.0.0.0 too
	if a.Addr().Is6() {
		network = "tcp6"
	}
	lc := net.ListenConfig{KeepAlive: noKeepAlive}
	l, err := lc.Listen(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return newListener(l), nil
}

func checkTCP(remote string) error {
	_, err := netip.ParseAddrPort(remote)
	if err != nil {
		return errors.New("not ip:port")
	}
	return nil
}

func dialTCP(ctx context.Context, a Address, _ *slog.Logger) (Conn, error) {
	if err := checkTCP(a.Remote); err != nil {
		return nil, fmt.Errorf("dialling: %q is %w", a.Remote, err)
	}
	d := net.Dialer{KeepAlive: noKeepAlive}
	if a.Local != "" {
		local, err := netip.ParseAddr(a.Local)
		if err != nil {
			return nil, fmt.Errorf("dialling from %q: not an IP address", a.Local)
		}
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(local, 0))
	}
	return dial(ctx, d, a)
}

func dial(ctx context.Context, d net.Dialer, a Address) (Conn, error) {
	c, err := d.DialContext(ctx, a.Kind, a.Remote)
	if err != nil {
		return nil, err
	}
	return asConn(newSocket(c, a.Line))
}

// asConn keeps a nil *socket from being a Conn that is not nil.
func asConn(s *socket, err error) (Conn, error) {
	if err != nil {
		return nil, err
	}
	return s, nil
}

// listenUnix takes over the path of a socket that nobody answers at. What is no
// socket stays: it is not ours.
func listenUnix(ctx context.Context, path string) (Listener, error) {
	var lc net.ListenConfig
	l, err := listenAtUnix(ctx, lc, path)
	if errors.Is(err, syscall.EADDRINUSE) && isSocket(path) {
		var d net.Dialer
		c, dialErr := d.DialContext(ctx, "unix", path)
		switch {
		case dialErr == nil:
			c.Close()
			return nil, fmt.Errorf("listening at %s: somebody answers there already", path)
		case !errors.Is(dialErr, syscall.ECONNREFUSED):
			return nil, err
		}
		if err := os.Remove(path); err != nil {
			return nil, err
		}
		l, err = listenAtUnix(ctx, lc, path)
	}
	if err != nil {
		return nil, err
	}
	return newListener(l), nil
}

// listenAtUnix lets everybody on this machine connect, as everybody in the network
// can at other addresses.
func listenAtUnix(ctx context.Context, lc net.ListenConfig, path string) (net.Listener, error) {
	l, err := lc.Listen(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o666); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

func isSocket(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.Mode().Type() == os.ModeSocket
}

// maxSocketPath is what Linux takes as the name of a Unix socket, in bytes.
const maxSocketPath = 107

func checkUnix(path string) error {
	if path == "" || len(path) > maxSocketPath {
		return fmt.Errorf("a socket's path has 1 to %d bytes, and this one %d", maxSocketPath, len(path))
	}
	return nil
}

func dialUnix(ctx context.Context, a Address, _ *slog.Logger) (Conn, error) {
	var d net.Dialer
	if a.Line != (Properties{}) {
		d.LocalAddr = &net.UnixAddr{Net: "unix", Name: fmt.Sprintf("%s,%016x,%v", lineName, rand.Uint64(), a.Line)}
	}
	return dial(ctx, d, a)
}
