package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/noipchat/noipchat/daemon/config"
	"github.com/noipchat/noipchat/daemon/systemd"
	"github.com/noipchat/noipchat/daemon/transport"
)

// interfaces are the addresses that we listen on. They change while others go on,
// and outlive the process where there is a service manager to keep them.
type interfaces struct {
	log   *slog.Logger
	serve func(transport.Listener) // accepts until it is closed

	serving sync.WaitGroup
	mu      sync.Mutex // guards what follows
	doors   []door
	inner   []transport.Listener // others that are served, and closed at the end
	given   map[string]*os.File  // sockets from the service manager that nobody has claimed, by kind and address
	started bool                 // those that open are served
	closed  bool                 // none opens any more
}

// door is an interface, open or not.
type door struct {
	config.Interface
	l   transport.Listener // nil: it could not be opened
	err error              // why
}

// receive takes the sockets that the service manager has for us.
func (s *interfaces) receive(sockets []systemd.Socket) {
	s.given = map[string]*os.File{}
	for _, in := range sockets {
		key := in.Network + " " + in.Address
		if s.given[key] != nil { // kept by a unit and stored by us too: one of them will do
			in.File.Close()
			continue
		}
		s.given[key] = in.File
	}
}

// claim returns a given socket once, or nil.
func (s *interfaces) claim(kind, address string) *os.File {
	f := s.given[kind+" "+address]
	delete(s.given, kind+" "+address)
	return f
}

// dropRest shuts down what was given and nobody wants: else it would accept into a void.
func (s *interfaces) dropRest() {
	for key, f := range s.given {
		s.log.Info("a socket from the service manager is in no configuration, and is shut down", "address", key)
		l, err := transport.FromFile(f)
		if err == nil {
			s.forget(l)
		}
	}
	s.given = nil
}

// open opens every interface that it can, and fails if it can open none.
func (s *interfaces) open(ctx context.Context, all []config.Interface) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, i := range all {
		l, err := s.listen(ctx, i)
		if err != nil {
			errs = append(errs, err)
		}
		s.doors = append(s.doors, door{i, l, err})
	}
	if len(errs) == len(all) {
		return errors.Join(errs...)
	}
	for _, err := range errs {
		s.log.Error("an interface is not open; the others are", "error", err)
	}
	return nil
}

func (s *interfaces) listen(ctx context.Context, i config.Interface) (transport.Listener, error) {
	if f := s.claim(i.Kind, i.Bind); f != nil {
		return transport.FromFile(f)
	}
	l, err := transport.Listen(ctx, i.Kind, i.Bind)
	if errors.Is(err, syscall.EACCES) && i.Kind == "tcp" && systemd.Managed() {
		err = fmt.Errorf("%w: systemd must open a port below 1024: systemctl daemon-reload && systemctl stop noipchat.socket noipchat.service && systemctl start noipchat.socket noipchat.service", err)
	}
	if err != nil {
		return nil, fmt.Errorf("interface %s: %w", i.Bind, err)
	}
	if socket, ok := l.(syscall.Conn); ok {
		if err := systemd.StoreSocket(i.Kind, i.Bind, socket); err != nil {
			s.log.Warn("an interface will be closed for a moment when the service restarts", "address", i.Bind, "error", err)
		}
	}
	return l, nil
}

// forget closes a listener for good.
func (s *interfaces) forget(l transport.Listener) {
	address := l.Addr()
	err := errors.Join(transport.Retire(l), systemd.ForgetSocket(address.Network(), address.String()))
	if err != nil {
		s.log.Warn("closing an interface", "address", address.String(), "error", err)
	}
}

// start serves what is open, and what change opens later.
func (s *interfaces) start() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.started = true
	s.startLocked(s.allLocked()...)
}

// listenInner opens a listener that is no interface.
func (s *interfaces) listenInner(ctx context.Context, i config.Interface) (transport.Listener, error) {
	l, err := s.listen(ctx, i)
	if err == nil {
		s.inner = append(s.inner, l)
	}
	return l, err
}

// allLocked returns all that is open.
func (s *interfaces) allLocked() []transport.Listener {
	all := slices.Clone(s.inner)
	for _, d := range s.doors {
		if d.l != nil {
			all = append(all, d.l)
		}
	}
	return all
}

// pause has nobody accept: who comes waits in the kernel, until resume.
func (s *interfaces) pause() {
	s.setDeadline(time.Unix(1, 0))
	s.serving.Wait()
}

func (s *interfaces) resume() {
	s.setDeadline(time.Time{})
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.startLocked(s.allLocked()...)
	}
}

func (s *interfaces) setDeadline(t time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.allLocked() {
		l.(interface{ SetDeadline(time.Time) error }).SetDeadline(t) // an error means that it is closed
	}
}

func (s *interfaces) startLocked(all ...transport.Listener) {
	for _, l := range all {
		if s.started && l != nil {
			s.serving.Go(func() { s.serve(l) })
		}
	}
}

// change opens, keeps and closes interfaces so that they are those of a new
// configuration; or it fails, and all is as before. One that could not be opened
// before either is no failure. Connections go on, whatever happens to the interface
// that they came by.
func (s *interfaces) change(ctx context.Context, all []config.Interface) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return net.ErrClosed
	}
	next := make([]door, len(all))
	var opened, blocked []int
	goes := slices.Clone(s.doors)
	undo := func() {
		for _, n := range opened {
			s.forget(next[n].l)
		}
	}
	for n, i := range all {
		at := slices.IndexFunc(goes, func(d door) bool { return d.String() == i.String() })
		var before error
		if at >= 0 {
			next[n] = door{i, goes[at].l, goes[at].err}
			before = goes[at].err
			goes = slices.Delete(goes, at, at+1)
			if before == nil {
				continue
			}
		}
		l, err := s.listen(ctx, i)
		next[n] = door{i, l, err}
		switch {
		case err == nil:
			opened = append(opened, n)
		case before != nil:
		case errors.Is(err, syscall.EADDRINUSE):
			blocked = append(blocked, n) // by one that goes, perhaps
		default:
			undo()
			return err
		}
	}
	for _, n := range blocked {
		if !slices.ContainsFunc(goes, func(d door) bool { return d.l != nil && samePort(d.Bind, all[n].Bind) }) {
			undo()
			return next[n].err
		}
	}
	for _, d := range goes {
		if d.l != nil {
			s.forget(d.l)
		}
	}
	for _, n := range blocked {
		if next[n].l, next[n].err = s.listen(ctx, all[n]); next[n].err != nil {
			err := next[n].err
			undo()
			s.reopen(ctx, goes)
			return err
		}
		opened = append(opened, n)
	}
	s.doors = next
	for _, n := range opened {
		s.startLocked(next[n].l)
	}
	return nil
}

// reopen opens again what was closed for others that could not be opened.
func (s *interfaces) reopen(ctx context.Context, closed []door) {
	for _, d := range closed {
		at := slices.IndexFunc(s.doors, func(other door) bool { return other.String() == d.String() })
		s.doors[at].l, s.doors[at].err = s.listen(ctx, d.Interface)
		s.startLocked(s.doors[at].l)
	}
}

// samePort tells whether two addresses may be in each other's way.
func samePort(a, b string) bool {
	x, errX := netip.ParseAddrPort(a)
	y, errY := netip.ParseAddrPort(b)
	return errX == nil && errY == nil && x.Port() == y.Port()
}

// list returns a copy.
func (s *interfaces) list() []door {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.doors)
}

// public is the addresses that others are told.
func (s *interfaces) public() []string {
	var all []string
	for _, d := range s.list() {
		if d.err == nil {
			all = append(all, d.Public...)
		}
	}
	return all[:min(len(all), 32)]
}

// close stops accepting. A service manager keeps the sockets, with who waits there.
func (s *interfaces) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for _, l := range s.allLocked() {
		if systemd.Managed() {
			l.Close()
		} else {
			transport.Retire(l)
		}
	}
	for n := range s.doors {
		s.doors[n].l = nil
	}
	s.inner = nil
	for _, f := range s.given { // some are left only if Open has failed
		systemd.TurnAway(f)
		f.Close()
	}
	s.given = nil
}
