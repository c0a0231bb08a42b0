package cli

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"unicode/utf8"

	"golang.org/x/term"
)

// Bounds of a password, in bytes.
const (
	MinPassword = 8
	MaxPassword = 1024
)

// Password is how a command comes by a password.
type Password struct {
	Prompt string // "password of alice", for instance
	Stdin  bool   // --password-stdin: a line of standard input
	New    bool   // it will be set: asked twice, and not too short
	File   string // --passphrase-file: the first line of this, instead; "": none
	Hint   string // for who has no terminal; "": --password-stdin
}

// Read reads the password from standard input, or asks for it on the terminal
// without echo. Without a terminal it is the caller's mistake.
func (p Password) Read() (string, error) {
	var password string
	var err error
	switch {
	case p.File != "":
		password, err = readFirst(p.File)
	case p.Stdin:
		password, err = readLine(os.Stdin)
	case !term.IsTerminal(int(os.Stdin.Fd())):
		return "", Misuse(cmp.Or(p.Hint, "use --password-stdin"), "there is no terminal to ask for the %s", p.Prompt)
	default:
		password, err = p.ask()
	}
	if err != nil {
		return "", err
	}
	return password, p.check(password)
}

func (p Password) ask() (string, error) {
	first, err := readHidden(p.Prompt)
	if err != nil || !p.New {
		return first, err
	}
	if err := p.check(first); err != nil {
		return "", err // before it is typed again
	}
	again, err := readHidden(p.Prompt + ", again")
	if err == nil && again != first {
		err = Misuse("try again", "the passwords are not the same")
	}
	return first, err
}

func (p Password) check(password string) error {
	switch n := len(password); {
	case n == 0:
		return Misuse("", "the %s is empty", p.Prompt)
	case n < MinPassword && p.New:
		return Misuse("", "the %s has %d bytes; want %d at least", p.Prompt, n, MinPassword)
	case n > MaxPassword:
		return Misuse("", "the %s has more than %d bytes", p.Prompt, MaxPassword)
	case !utf8.ValidString(password):
		return Misuse("", "the %s is not valid UTF-8", p.Prompt)
	}
	return nil
}

func readFirst(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	return readLine(f)
}

// readLine reads up to the end of a line, which is cut off, and never takes a byte
// behind it. It gives up on lines that are longer than any password.
func readLine(r io.Reader) (string, error) {
	var line strings.Builder
	for b := make([]byte, 1); line.Len() <= MaxPassword+1; {
		_, err := io.ReadFull(r, b)
		if errors.Is(err, io.EOF) || err == nil && b[0] == '\n' {
			break
		}
		if err != nil {
			return "", fmt.Errorf("reading standard input: %w", err)
		}
		line.WriteByte(b[0])
	}
	return strings.TrimSuffix(line.String(), "\r"), nil
}

// readHidden asks on the terminal. A signal that ends the program gives it back
// its echo first.
func readHidden(prompt string) (string, error) {
	fd := int(os.Stdin.Fd())
	before, err := term.GetState(fd)
	if err != nil {
		return "", fmt.Errorf("asking for the %s: %w", prompt, err)
	}
	answered := make(chan struct{})
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	joined := make(chan struct{})
	go func() {
		defer close(joined)
		select {
		case s := <-signals:
			term.Restore(fd, before)
			fmt.Fprintln(os.Stderr)
			signal.Reset(s)
			syscall.Kill(os.Getpid(), s.(syscall.Signal))
		case <-answered:
		}
	}()
	fmt.Fprintf(os.Stderr, "%s: ", Sanitise(prompt))
	password, err := term.ReadPassword(fd)
	signal.Stop(signals)
	close(answered)
	<-joined
	fmt.Fprintln(os.Stderr)
	if errors.Is(err, io.EOF) {
		return "", Misuse("", "no %s was given", prompt)
	}
	if err != nil {
		return "", fmt.Errorf("asking for the %s: %w", prompt, err)
	}
	return string(password), nil
}

// Confirm asks a question on the terminal, and returns nil for yes. Without a
// terminal it is the caller's mistake not to have given flag.
func Confirm(question, flag string) error {
	if !term.IsTerminal(int(os.Stdin.Fd())) {
		return Misuse("use "+flag, "there is no terminal to ask: %s", question)
	}
	fmt.Fprintf(os.Stderr, "%s [y/N] ", Sanitise(question))
	answer, err := readLine(os.Stdin)
	if err != nil {
		return err
	}
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return nil
	}
	return &Error{ExitRefused, errors.New("not confirmed; nothing was done"), ""}
}
