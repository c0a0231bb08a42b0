package transport

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// How a command is ended: its input ends; then it is asked; then it is made to.
const (
	execGrace = time.Second
	execTerm  = 2 * time.Second
)

const maxErrorLine = 1 << 10 // bytes of a line of a command's standard error; the rest is dropped

// command is a running program whose standard input and output are the stream.
// Both are one end of a pair of sockets: so the other end is a socket as any, with
// its deadlines and its ways to read and write. The price is that a program can't
// open its /dev/stdin by name.
//
// Three goroutines live as long as the program: two wait for its end, one reads its
// standard error. Close joins them.
type command struct {
	*socket
	name   string
	pid    int
	stderr *os.File
	log    *slog.Logger
	closed chan struct{}
	once   sync.Once

	ended chan struct{} // after it the next two are set
	err   error         // how the program ended
	last  string        // the last line of its standard error
}

func checkCommand(s string) error {
	argv, err := words(s)
	if err == nil && len(argv) == 0 {
		err = errors.New("there is no command")
	}
	return err
}

// Command writes an argv as an Address's Remote.
func Command(argv []string) string {
	words := make([]string, len(argv))
	for i, w := range argv {
		switch {
		case w != "" && !strings.ContainsAny(w, " '\""):
			words[i] = w
		case !strings.Contains(w, "'"):
			words[i] = "'" + w + "'"
		default: // in pieces, each in the quotes that it hasn't
			words[i] = "'" + strings.ReplaceAll(w, "'", `'"'"'`) + "'"
		}
	}
	return strings.Join(words, " ")
}

// words splits a command at spaces outside of quotes.
func words(s string) (argv []string, err error) {
	var word []byte
	quote, some := byte(0), false
	for i := range len(s) {
		c := s[i]
		switch {
		case c == quote:
			quote = 0
		case quote != 0:
			word = append(word, c)
		case c == '\'' || c == '"':
			quote, some = c, true
		case c == ' ' || c == '\t':
			if some {
				argv = append(argv, string(word))
			}
			word, some = word[:0], false
		default:
			word, some = append(word, c), true
		}
	}
	if quote != 0 {
		return nil, fmt.Errorf("a %c has no end", quote)
	}
	if some {
		argv = append(argv, string(word))
	}
	return argv, nil
}

func listenExec(context.Context, string) (Listener, error) {
	return nil, errors.New("listening: a command can't be listened at; noipchatd --stdio is the other end of one")
}

func dialExec(_ context.Context, a Address, log *slog.Logger) (Conn, error) {
	argv, err := words(a.Remote)
	if err == nil && len(argv) == 0 {
		err = errors.New("there is no command")
	}
	if err != nil {
		return nil, fmt.Errorf("running %q: %w", clip(a.Remote), err)
	}
	return start(argv, a.Line, log)
}

// start runs a command in a process group of its own, so that what it starts can be
// ended with it.
func start(argv []string, line Properties, log *slog.Logger) (Conn, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	near, far := os.NewFile(uintptr(fds[0]), argv[0]), os.NewFile(uintptr(fds[1]), argv[0])
	defer far.Close()
	conn, err := net.FileConn(near)
	near.Close()
	if err != nil {
		return nil, err
	}
	s, err := newSocket(conn, line)
	if err != nil {
		return nil, err
	}
	stderr, theirs, err := os.Pipe()
	if err != nil {
		s.Close()
		return nil, err
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = far, far, theirs
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	err = cmd.Start()
	theirs.Close()
	if err != nil {
		s.Close()
		stderr.Close()
		if forbidden(argv[0]) {
			err = errors.New("permission denied: the unit's sandbox allows it only with /usr/share/noipchat/exec-links.conf")
		}
		return nil, fmt.Errorf("running %s: %w", argv[0], err)
	}
	return watch(&command{socket: s, name: argv[0], pid: cmd.Process.Pid, stderr: stderr, log: log}, cmd.Process), nil
}

// forbidden tells whether a program is there and its mode lets anybody run it, but its mount
// doesn't: that is how our unit's sandbox keeps us from running programs, and os/exec calls
// it not found.
func forbidden(program string) bool {
	paths := []string{program}
	if !strings.Contains(program, "/") {
		paths = nil
		for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
			paths = append(paths, filepath.Join(dir, program))
		}
	}
	return slices.ContainsFunc(paths, func(path string) bool {
		info, err := os.Stat(path)
		return err == nil && info.Mode().IsRegular() && info.Mode()&0o001 != 0 && errors.Is(unix.Access(path, unix.X_OK), unix.EACCES)
	})
}

// watch starts the goroutines of a command.
func watch(c *command, process *os.Process) *command {
	c.closed, c.ended = make(chan struct{}), make(chan struct{})
	said := make(chan string, 1)
	go func() { said <- c.listen(c.stderr) }()
	go c.wait(process, said)
	return c
}

// listen logs what the command says on its standard error, and returns the last line.
func (c *command) listen(r io.Reader) (last string) {
	b := bufio.NewReaderSize(r, maxErrorLine)
	for whole := true; ; {
		line, err := b.ReadSlice('\n')
		if text := strings.TrimRight(string(line), "\r\n"); whole && text != "" {
			last = strings.ToValidUTF8(text, "\uFFFD")
			c.log.Info("a command says", "command", c.name, "pid", c.pid, "text", last)
		}
		whole = !errors.Is(err, bufio.ErrBufferFull)
		if err != nil && whole {
			return last
		}
	}
}

// wait ends the command when the stream is closed, and whatever it has started when
// it has ended; then it takes its status.
func (c *command) wait(process *os.Process, said <-chan string) {
	over := make(chan struct{})
	go func() {
		defer close(over)
		// It stays a zombie until we have ended its group, whose number is its own.
		for unix.Waitid(unix.P_PID, c.pid, nil, unix.WEXITED|unix.WNOWAIT, nil) == unix.EINTR {
		}
	}()
	select {
	case <-over:
	case <-c.closed:
		c.end(over)
	}
	unix.Kill(-c.pid, unix.SIGKILL)
	status, err := process.Wait()
	if err == nil && !status.Success() {
		err = &exec.ExitError{ProcessState: status}
	}
	c.err = err
	c.stderr.SetReadDeadline(time.Now().Add(execGrace)) // somebody else may have it open: who left the group
	c.last = <-said
	c.stderr.Close()
	close(c.ended)
}

func (c *command) end(over <-chan struct{}) {
	for _, step := range []struct {
		wait   time.Duration
		signal unix.Signal
	}{{execGrace, unix.SIGTERM}, {execTerm, unix.SIGKILL}} {
		select {
		case <-over:
			return
		case <-time.After(step.wait):
			unix.Kill(-c.pid, step.signal)
		}
	}
	<-over
}

// Close ends the stream and the command, and returns when that has ended: at once
// if it ends with its input, within three seconds if it must be made to.
func (c *command) Close() error {
	err := c.socket.Close()
	c.once.Do(func() { close(c.closed) })
	<-c.ended
	return err
}

// why makes the end of the stream an error that says how the command ended, unless
// that was well.
func (c *command) why(err error) error {
	if err != io.EOF && !errors.Is(err, syscall.EPIPE) && !errors.Is(err, syscall.ECONNRESET) {
		return err
	}
	select {
	case <-c.ended:
	case <-time.After(execGrace): // it has closed its output only
		return err
	}
	switch {
	case c.err == nil:
		return err
	case c.last == "":
		return fmt.Errorf("%s ended with %v: %w", c.name, c.err, err)
	}
	return fmt.Errorf("%s ended with %v, and said %q: %w", c.name, c.err, c.last, err)
}

// Read implements net.Conn.
func (c *command) Read(b []byte) (int, error) {
	n, err := c.socket.Read(b)
	if err != nil {
		err = c.why(err)
	}
	return n, err
}

// Borrow implements Conn.
func (c *command) Borrow(lend func() []byte, giveBack func([]byte)) ([]byte, int, error) {
	b, n, err := c.socket.Borrow(lend, giveBack)
	if err != nil {
		err = c.why(err)
	}
	return b, n, err
}

// Write implements net.Conn.
func (c *command) Write(b []byte) (int, error) {
	n, err := c.socket.Write(b)
	if err != nil {
		err = c.why(err)
	}
	return n, err
}

type commandAddr string

func (commandAddr) Network() string  { return "exec" }
func (a commandAddr) String() string { return string(a) }

func (c *command) LocalAddr() net.Addr  { return commandAddr(c.name) }
func (c *command) RemoteAddr() net.Addr { return commandAddr(c.name) }
