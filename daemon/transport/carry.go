package transport

import (
	"fmt"
	"log/slog"
	"net"
	"os"
	"syscall"
)

// Carried is a Conn between two images of one process: what the new one needs to make
// it again of the descriptors that it has kept.
type Carried struct {
	FD      int
	Line    Properties
	Command *CarriedCommand // nil: it is none
}

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
	k.Line = s.line
	k.FD, err = keep(s.Conn.(syscall.Conn)) // newSocket has seen that it is one
	return k, err
}

// Conn makes the Conn again, and owns the descriptors from then on, also after an error.
func (k Carried) Conn(log *slog.Logger) (Conn, error) {
	f := os.NewFile(uintptr(k.FD), "carried")
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
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
