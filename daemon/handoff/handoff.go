// Package handoff replaces this program by another one, or a newer one, in the same
// process: its sockets and the state of its connections go over, so that nobody at
// their other ends notices. What the state says is its users' business; here is how it
// gets there, and that nothing has happened if it doesn't.
//
//	Check   the new program runs beside us, and looks at what is on disk
//	Keep    descriptors are duplicated, still closed at an exec
//	Write   the state goes into a sealed memfd, which the checking program reads too
//	Become  the duplicates are opened for the exec, and the program is replaced
//
// The memfd is never on a disk, and is closed by whoever receives it before it does
// anything else. It starts no goroutine.
package handoff

import (
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The versions of what a state says, as far as fields that are missing or not known
// don't explain themselves. A program writes one that the program before it reads.
const (
	writes = 1
	oldest = 1 // that is read
	newest = 1
)

// environment has the memfd's number. It is taken away from children.
const environment = "NOIPCHAT_HANDOFF"

var magic = [8]byte([]byte("noiphand"))

// Parcel is a state on its way, with descriptors. It belongs to one goroutine.
type Parcel struct {
	state *os.File
	fds   []int // closed at an exec, until Become
}

// New makes an empty one.
func New() (*Parcel, error) {
	const flags = unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING
	fd, err := unix.MemfdCreate("noipchat-handoff", flags|unix.MFD_NOEXEC_SEAL)
	if err == unix.EINVAL { // before Linux 6.3
		fd, err = unix.MemfdCreate("noipchat-handoff", flags)
	}
	if err != nil {
		return nil, fmt.Errorf("making memory for the state: %w", err)
	}
	return &Parcel{state: os.NewFile(uintptr(fd), "handoff")}, nil
}

// Keep duplicates a descriptor for the next image, and returns the copy's number.
func (p *Parcel) Keep(c syscall.Conn) (copied int, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	if e := raw.Control(func(fd uintptr) { copied, err = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0) }); e != nil {
		return 0, e
	}
	if err != nil {
		return 0, fmt.Errorf("keeping a connection or socket open: %w", err)
	}
	p.fds = append(p.fds, copied)
	return copied, nil
}

// Write writes the state, once, and seals it.
func (p *Parcel) Write(state any) error {
	if err := Encode(p.state, state); err != nil {
		return err
	}
	const seals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
	if _, err := unix.FcntlInt(p.state.Fd(), unix.F_ADD_SEALS, seals); err != nil {
		return fmt.Errorf("sealing the state: %w", err)
	}
	return nil
}

// Encode writes a state with its version.
func Encode(w io.Writer, state any) error {
	_, err := w.Write(append(magic[:], writes))
	if err == nil {
		err = gob.NewEncoder(w).Encode(state)
	}
	if err != nil {
		return fmt.Errorf("writing the state: %w", err)
	}
	return nil
}

// Close gives all back. Nothing has happened.
func (p *Parcel) Close() {
	p.state.Close()
	for _, fd := range p.fds {
		unix.Close(fd)
	}
	p.fds = nil
}

// Become replaces this program. It returns only if that fails, and then all is as
// before.
func (p *Parcel) Become(program string, args []string) error {
	var limit unix.Rlimit
	unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) // Exec sets it back to what we were started with
	env := append(os.Environ(), environment+"="+strconv.Itoa(int(p.state.Fd())))
	all := append([]int{int(p.state.Fd())}, p.fds...)
	syscall.ForkLock.Lock() // no child may get the descriptors
	defer syscall.ForkLock.Unlock()
	err := inherited(all, 0)
	if err == nil {
		err = syscall.Exec(program, append([]string{program}, args...), env)
		unix.Setrlimit(unix.RLIMIT_NOFILE, &limit)
	}
	return errors.Join(fmt.Errorf("becoming %s: %w", program, err), inherited(all, unix.FD_CLOEXEC))
}

func inherited(fds []int, flag int) error {
	for _, fd := range fds {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, flag); err != nil {
			return err
		}
	}
	return nil
}

// Receive reads into state what an earlier image has left to this one, and tells
// whether there is anything. All that was inherited is closed at an exec again.
func Receive(state any) (ok bool, err error) {
	f, err := take()
	if f == nil || err != nil {
		return false, err
	}
	defer f.Close()
	if err := closeOnExec(); err != nil {
		return false, err
	}
	return true, read(f, state)
}

// take returns the memfd, nil if there is none. Only the first call finds it.
func take() (*os.File, error) {
	text, ok := os.LookupEnv(environment)
	if !ok {
		return nil, nil
	}
	os.Unsetenv(environment)
	fd, err := strconv.Atoi(text)
	if err != nil || fd < 3 {
		return nil, fmt.Errorf("%s=%q is no descriptor", environment, text)
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0); err != nil { // it is no memfd
		return nil, fmt.Errorf("%s=%d is not what a server hands on: %w", environment, fd, err)
	}
	return os.NewFile(uintptr(fd), "handoff"), nil
}

// read reads the state from the beginning, whatever others have read from f.
func read(f *os.File, state any) error {
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("reading the state: %w", err)
	}
	return Decode(io.NewSectionReader(f, 0, info.Size()), state)
}

// Decode reads what Encode has written, here or in another version of this program.
func Decode(r io.Reader, state any) error {
	var head [len(magic) + 1]byte
	if _, err := io.ReadFull(r, head[:]); err != nil || [8]byte(head[:8]) != magic {
		return errors.New("reading the state: it is none")
	}
	if version := int(head[8]); version < oldest || version > newest {
		return fmt.Errorf("the state has version %d, and this program reads %d to %d", version, oldest, newest)
	}
	if err := gob.NewDecoder(r).Decode(state); err != nil {
		return fmt.Errorf("reading the state: %w", err)
	}
	return nil
}

// closeOnExec sets that for every descriptor but the standard ones.
func closeOnExec() error {
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return fmt.Errorf("looking at what was inherited: %w", err)
	}
	for _, d := range all {
		if fd, err := strconv.Atoi(d.Name()); err == nil && fd > 2 {
			unix.FcntlInt(uintptr(fd), unix.F_SETFD, unix.FD_CLOEXEC) // the folder's own is closed already
		}
	}
	return nil
}

// Clock is time since the machine's start, by which both images reckon.
func Clock() time.Duration {
	var now unix.Timespec
	unix.ClockGettime(unix.CLOCK_MONOTONIC, &now) // it exists
	return time.Duration(now.Nano())
}
