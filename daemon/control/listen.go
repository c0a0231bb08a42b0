package control

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"syscall"
	"time"
)

// Mode is the socket's usual mode: its owner and its group may administer.
const Mode fs.FileMode = 0o660

// Listen makes the socket at path, of at most 103 bytes. One that a dead daemon
// left is replaced; it is an error if one answers, or if what is there is not a
// socket. The socket has its mode before anybody can see it. Its folder must not
// be writable for strangers. Close removes it.
//
// Two daemons that start at the same moment are not kept apart here; what both of
// them need, the state directory, has a lock.
func Listen(path string, mode fs.FileMode) (net.Listener, error) {
	if err := checkStale(path); err != nil {
		return nil, fmt.Errorf("listening on control socket %s: %w", path, err)
	}
	// Bound under another name and renamed, because between bind and chmod the
	// mode is whatever the umask makes it.
	l, err := listen(path, path+".new", mode)
	if err != nil {
		return nil, fmt.Errorf("listening on control socket %s: %w", path, err)
	}
	return l, nil
}

// FromFile returns the listener of a control socket that a service manager or an image
// before this one has made, and closes f. Close removes ours, the path of one that is
// nobody else's; with "" it leaves the socket there.
func FromFile(f *os.File, ours string) (net.Listener, error) {
	defer f.Close()
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("the control socket that was given: %w", err)
	}
	u, ok := l.(*net.UnixListener)
	if !ok {
		l.Close()
		return nil, fmt.Errorf("the control socket that was given is one for %s", l.Addr().Network())
	}
	u.SetUnlinkOnClose(false)
	if ours != "" {
		return &listener{u, ours}, nil
	}
	return u, nil
}

func listen(path, temp string, mode fs.FileMode) (net.Listener, error) {
	if err := checkStale(temp); err != nil {
		return nil, err
	}
	if err := os.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: temp, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false) // it would unlink the first name
	if err = os.Chmod(temp, mode); err == nil {
		err = os.Rename(temp, path)
	}
	if err != nil {
		l.Close()
		os.Remove(temp)
		return nil, err
	}
	return &listener{l, path}, nil
}

// checkStale returns nil if there is nothing at path, or a socket that nobody
// listens on.
func checkStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("there is something else: %w", syscall.ENOTSOCK)
	}
	c, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		c.Close()
		return fmt.Errorf("another daemon answers there: %w", syscall.EADDRINUSE)
	}
	if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err // not allowed to ask, or its daemon is alive and has no time to answer
}

// listener removes its socket when it is closed.
type listener struct {
	*net.UnixListener
	path string
}

func (l *listener) Close() error {
	if err := l.UnixListener.Close(); err != nil {
		return err // closed before: by now the path may be somebody else's
	}
	if err := os.Remove(l.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing the control socket: %w", err)
	}
	return nil
}
