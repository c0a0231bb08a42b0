package systemd

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"

	"github.com/coreos/go-systemd/v22/activation"
	"golang.org/x/sys/unix"
)

// Socket is a listening stream socket that the service manager gave us: from a
// socket unit, or because an earlier process of this service stored it.
type Socket struct {
	Network string // "tcp", "unix"
	Address string // "ip:port", path
	File    *os.File
}

// Inherited returns the sockets that were given to this process, which owns them
// now; what is given and is no listening stream socket is closed. Only the first
// call finds them: they are taken out of the environment, away from children.
func Inherited() (all []Socket) {
	for _, f := range activation.Files(true) {
		if s, err := describe(f); err == nil {
			all = append(all, s)
		} else {
			f.Close()
		}
	}
	return all
}

// describe tells what a file listens on. A socket that was shut down listens no
// more: it is one that an earlier process gave up.
func describe(f *os.File) (Socket, error) {
	listens := 0
	err := withFD(f, func(fd int) (err error) {
		listens, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
		return err
	})
	if err != nil {
		return Socket{}, err
	}
	if listens == 0 {
		return Socket{}, errors.New("it listens on nothing")
	}
	l, err := net.FileListener(f)
	if err != nil {
		return Socket{}, err
	}
	defer l.Close()
	if u, ok := l.(*net.UnixListener); ok {
		u.SetUnlinkOnClose(false)
	}
	return Socket{l.Addr().Network(), l.Addr().String(), f}, nil
}

// TurnAway closes the connections that wait at a given socket. A service that can't
// serve them must do so before it ends: the service manager sees them wait, and would
// start it again at once, over and over.
func TurnAway(f *os.File) {
	withFD(f, func(fd int) error {
		for range unix.SOMAXCONN { // new ones come all the time, perhaps
			c, _, err := unix.Accept4(fd, unix.SOCK_CLOEXEC) // it doesn't wait: describe saw to that
			if err != nil {
				return err
			}
			unix.Close(c)
		}
		return nil
	})
}

// StoreSocket has the service manager keep a copy of a socket for the next process
// of this service, by a name of its own: a socket that has it already is replaced.
// Without a service manager it does nothing.
func StoreSocket(network, address string, s syscall.Conn) error {
	name := storeName(network, address)
	if err := send("FDSTOREREMOVE=1\nFDNAME=" + name); err != nil {
		return err
	}
	return withFD(s, func(fd int) error { return send("FDSTORE=1\nFDNAME="+name, fd) })
}

// withFD calls use with the descriptor of s, which stays as it is: os.File's Fd would
// make it blocking, for everybody who has the socket.
func withFD(s syscall.Conn, use func(fd int) error) error {
	raw, err := s.SyscallConn()
	if err != nil {
		return err
	}
	if e := raw.Control(func(fd uintptr) { err = use(int(fd)) }); e != nil {
		return e
	}
	return err
}

// ForgetSocket has the service manager close its stored copy.
func ForgetSocket(network, address string) error {
	return send("FDSTOREREMOVE=1\nFDNAME=" + storeName(network, address))
}

// storeName is fit for FDNAME=: at most 255 printable characters, and no colon.
func storeName(network, address string) string {
	return network + "_" + strings.ReplaceAll(address, ":", "_")
}

// send is Notify with files.
func send(state string, files ...int) error {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return nil
	}
	s, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("telling the service manager: %w", err)
	}
	defer unix.Close(s)
	var rights []byte
	if len(files) > 0 {
		rights = unix.UnixRights(files...)
	}
	if err := unix.Sendmsg(s, []byte(state), rights, &unix.SockaddrUnix{Name: path}, 0); err != nil { // "@" is known there
		return fmt.Errorf("telling the service manager: %w", err)
	}
	return nil
}
