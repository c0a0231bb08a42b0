package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"
	"time"

	"github.com/noipchat/noipchat/daemon/message"
)

// The exit codes of every program.
const (
	ExitDone        = 0
	ExitUsage       = 64 // the command line is wrong
	ExitUnreachable = 69 // no daemon, or no server, answers
	ExitFault       = 70 // ours
	ExitIO          = 74
	ExitNotYet      = 75 // time-out, or fewer than asked for
	ExitProtocol    = 76 // the other side broke the protocol
	ExitRefused     = 77 // refused, or not allowed
	ExitConfig      = 78 // the configuration is wrong
)

// Error is an error that knows its exit code, and what to do about it.
type Error struct {
	Code int
	Err  error
	Hint string // our own words, no text from elsewhere; "": nobody knows
}

func (e *Error) Error() string { return e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

// Misuse makes an error of the command line.
func Misuse(hint, format string, args ...any) *Error {
	return &Error{ExitUsage, fmt.Errorf(format, args...), hint}
}

// Explain finds the exit code and the hint of errors that every program has. Those
// that it doesn't know are our fault.
func Explain(err error) *Error {
	e, explained := errors.AsType[*Error](err)
	refusal, refused := errors.AsType[*message.Refusal](err)
	_, system := errors.AsType[syscall.Errno](err)
	switch {
	case explained:
		return &Error{e.Code, err, e.Hint}
	case refused && refusal.Code == message.CodeProtocol:
		return &Error{ExitProtocol, err, "do both sides run the same version?"}
	case refused && refusal.After > 0:
		return &Error{ExitRefused, err, fmt.Sprintf("try again in %v", refusal.After.Round(time.Second))}
	case refused:
		return &Error{ExitRefused, err, ""}
	case errors.Is(err, context.DeadlineExceeded):
		return &Error{ExitNotYet, err, "give it more time with --timeout"}
	case errors.Is(err, context.Canceled):
		return &Error{ExitNotYet, err, "it was interrupted; how far it came is not known here"}
	case errors.Is(err, message.ErrMalformed):
		return &Error{ExitProtocol, err, "do both sides run the same version?"}
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return &Error{ExitIO, err, "make room there: df -h"}
	case system, errors.Is(err, io.ErrShortWrite):
		return &Error{ExitIO, err, ""}
	}
	return &Error{ExitFault, err, "this should not happen: please report it"}
}

// Report says what went wrong, and returns the exit code. Lines after the first are
// indented, so that no text from elsewhere can pose as a hint.
func Report(w io.Writer, program string, e *Error) int {
	for i, line := range strings.Split(strings.TrimRight(e.Error(), "\n"), "\n") {
		if i == 0 {
			line = program + ": " + Sanitise(line)
		} else {
			line = "  " + Sanitise(line)
		}
		fmt.Fprintln(w, line)
	}
	for i, line := range strings.Split(e.Hint, "\n") {
		switch {
		case i > 0:
			fmt.Fprintln(w, "  "+Sanitise(line))
		case line != "":
			fmt.Fprintln(w, "hint: "+Sanitise(line))
		}
	}
	return e.Code
}
