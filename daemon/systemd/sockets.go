package systemd

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"

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
	listens, err := unix.GetsockoptInt(int(f.Fd()), unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	if err != nil || listens == 0 {
		return Socket{}, fmt.Errorf("%s listens on nothing: %w", f.Name(), errors.Join(err))
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

// StoreSocket has the service manager keep a copy of a socket for the next process
// of this service, by a name of its own: a socket that has it already is replaced.
// Without a service manager it does nothing.
func StoreSocket(network, address string, f *os.File) error {
	name := storeName(network, address)
	if err := send("FDSTOREREMOVE=1\nFDNAME=" + name); err != nil {
		return err
	}
	return send("FDSTORE=1\nFDNAME="+name, int(f.Fd()))
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
