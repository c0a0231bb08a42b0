package transport

import (
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Carried is a Conn between two images of one process: what the new one needs to make
// it again of the descriptors that it has kept.
type Carried struct {
	FD            int
	Line          Properties
	Local, Remote Name
	Command       *CarriedCommand // nil: it is none
}

// Name is an address as text.
type Name struct{ Kind, Text string }

func nameOf(a net.Addr) Name { return Name{a.Network(), a.String()} }

// namesOf asks the kernel, which is two system calls more than a state that has them.
func namesOf(fd int) (local, remote Name) {
	a, _ := unix.Getsockname(fd) // of no socket there are none
	b, _ := unix.Getpeername(fd)
	return nameIn(a), nameIn(b)
}

// nameIn is what nameOf is of package net's address for the same.
func nameIn(a unix.Sockaddr) Name {
	switch a := a.(type) {
	case *unix.SockaddrInet4:
		return Name{"tcp", netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port)).String()}
	case *unix.SockaddrInet6:
		ip := netip.AddrFrom16(a.Addr).Unmap()
		if zone, err := net.InterfaceByIndex(int(a.ZoneId)); err == nil {
			ip = ip.WithZone(zone.Name)
		}
		return Name{"tcp", netip.AddrPortFrom(ip, uint16(a.Port)).String()}
	case *unix.SockaddrUnix:
		return Name{"unix", a.Name}
	}
	return Name{}
}

// Network implements net.Addr.
func (n Name) Network() string { return n.Kind }
func (n Name) String() string  { return n.Text }

// CarriedCommand is the program behind a Conn. It stays a child of the process.
type CarriedCommand struct {
	Name   string
	PID    int
	Stderr int
}

// Carry describes a Conn; keep duplicates a descriptor for the next image and returns
// the copy's number. The Conn stays as it is, and must not be closed until the exec:
// that would end a command.
func Carry(c Conn, keep func(syscall.Conn) (int, error)) (k Carried, err error) {
	s, ok := c.(*socket)
	if command, is := c.(*command); is {
		s, ok = command.socket, true
		k.Command = &CarriedCommand{Name: command.name, PID: command.pid}
		if k.Command.Stderr, err = keep(command.stderr); err != nil {
			return k, err
		}
	}
	if !ok {
		return k, fmt.Errorf("a connection of type %T can't be handed on", c)
	}
	k.Line, k.Local, k.Remote = s.line, nameOf(s.LocalAddr()), nameOf(s.RemoteAddr())
	k.FD, err = keep(s.Conn.(syscall.Conn)) // newSocket has seen that it is one
	return k, err
}

// Conn makes the Conn again, and owns the descriptors from then on, also after an error.
func (k Carried) Conn(log *slog.Logger) (Conn, error) {
	unix.SetNonblock(k.FD, true) // who has asked for a descriptor has made it a blocking one
	if k.Local.Kind == "" {      // the program before knew nothing of names
		k.Local, k.Remote = namesOf(k.FD)
	}
	c := carried{os.NewFile(uintptr(k.FD), "carried"), k.Local, k.Remote}
	if err := c.SetDeadline(time.Time{}); err != nil { // what the poller knows has deadlines
		c.Close()
		if k.Command != nil {
			os.NewFile(uintptr(k.Command.Stderr), "carried").Close()
		}
		return nil, err
	}
	s, err := newSocket(c, k.Line)
	if err != nil || k.Command == nil {
		return asConn(s, err)
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	process, err := os.FindProcess(k.Command.PID) // a child stays there until it is waited for
	stderr := os.NewFile(uintptr(k.Command.Stderr), "stderr of "+k.Command.Name)
	if err != nil {
		s.Close()
		stderr.Close()
		return nil, err
	}
	return watch(&command{socket: s, name: k.Command.Name, pid: k.Command.PID, stderr: stderr, log: log}, process), nil
}

// carried is a socket that another image has made, with all its options. net.FileConn would
// make the same of it, and set all options again: 18 system calls instead of 3.
type carried struct {
	*os.File
	local, remote Name
}

func (c carried) LocalAddr() net.Addr  { return c.local }
func (c carried) RemoteAddr() net.Addr { return c.remote }

// CloseWrite is as net.TCPConn's.
func (c carried) CloseWrite() (err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	if e := raw.Control(func(fd uintptr) { err = unix.Shutdown(int(fd), unix.SHUT_WR) }); e != nil {
		return e
	}
	return err
}
