package message

import (
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Code says why something was refused, for programs.
type Code uint8

// The codes. Their numbers are on the wire: new ones are added at the end.
const (
	CodeBadLogin   Code = iota + 1 // unknown user, wrong password, unknown device or disabled: one answer for all
	CodeLater                      // too many attempts: try again after a time
	CodeNoUser                     // the home has no such user
	CodeQuota                      // the receiver's queue is full
	CodeFull                       // the server's disk is full
	CodeTooBig                     // larger than an envelope may be
	CodeExpired                    // waited longer than its lifetime
	CodeNotAllowed                 // not for this user or this connection
	CodeClosed                     // the server takes no registrations, or the invitation is not valid
	CodeExists                     // the name is taken
	CodeProtocol                   // the other side broke the protocol
	CodeInvalid                    // malformed
	CodeNoRoute                    // no way to that server
	CodeSuspended                  // the device was away too long
	CodeStopping                   // the server is going down
	CodeReplaced                   // the same device logged in again
	CodeIdle                       // nothing was heard for too long
	CodeRemoved                    // an admin took it out of the queue
	codeEnd
)

var codeNames = [codeEnd]string{"", "bad-login", "later", "no-such-user", "quota", "disk-full", "too-big", "expired",
	"not-allowed", "closed", "exists", "protocol", "invalid", "no-route", "suspended", "stopping", "replaced", "idle", "removed"}

// String returns the code's name, as in logs, metrics and JSON.
func (c Code) String() string {
	if c == 0 || c >= codeEnd {
		return fmt.Sprintf("code-%d", uint8(c))
	}
	return codeNames[c]
}

// MarshalText makes a Code its name in JSON; none is the empty string.
func (c Code) MarshalText() ([]byte, error) {
	if c == 0 {
		return nil, nil
	}
	return []byte(c.String()), nil
}

// UnmarshalText reads what MarshalText wrote; a code of a later version is 0.
func (c *Code) UnmarshalText(text []byte) error {
	*c = 0
	for i, n := range codeNames {
		if n == string(text) {
			*c = Code(i)
		}
	}
	return nil
}

// Codes lists every code, for counters.
func Codes() []Code {
	all := make([]Code, 0, codeEnd-1)
	for c := Code(1); c < codeEnd; c++ {
		all = append(all, c)
	}
	return all
}

// Refusal is the one error that crosses the protocol.
type Refusal struct {
	Code      Code
	Permanent bool          // trying again will not help
	Reason    string        // for people; at most MaxReason bytes of UTF-8 without control characters
	After     time.Duration // when to try again, if that is known
}

// MaxReason bounds a refusal's text, in bytes.
const MaxReason = 200

func (r *Refusal) Error() string {
	switch {
	case r.Reason == "":
		return r.Code.String()
	case r.After > 0:
		return fmt.Sprintf("%s: %s (try again in %v)", r.Code, r.Reason, r.After.Round(time.Second))
	}
	return r.Code.String() + ": " + r.Reason
}

// Later is when to offer again what was refused for now, and was so tries times before:
// after the time that the refusal names, 5 s at least, then after twice as long each time,
// but not after more than most, unless the refusal names that.
func (r *Refusal) Later(tries int, most time.Duration) time.Duration {
	wait := max(r.After, 5*time.Second)
	return max(wait, min(wait<<min(tries, 10), most))
}

// Backoff is how long to wait between attempts to reach somebody: First, then twice as long
// each time, up to Max. It belongs to one goroutine.
type Backoff struct {
	First, Max time.Duration
	next       time.Duration // 0: First
}

// Reset has it begin anew.
func (b *Backoff) Reset() { b.next = b.First }

// Met notes that an attempt was good for some time, and whether anything was carried then.
// It begins anew, but not for who lets us in and drops us at once.
func (b *Backoff) Met(up time.Duration, carried bool) {
	if carried || up > cmp.Or(b.next, b.First) {
		b.Reset()
	}
}

// Pause is how long to wait before the next attempt after err: at random, since others
// may have lost the same, between a half of its time and all of it; or, asked for by whoever
// refused, as long as he wants and up to a half more: all have been told the same.
func (b *Backoff) Pause(err error) (pause time.Duration, asked bool) {
	wait := cmp.Or(b.next, b.First)
	b.next = min(2*wait, b.Max)
	if no, ok := errors.AsType[*Refusal](err); ok && no.After > 0 {
		return no.After + rand.N(no.After/2+1), true
	}
	return wait - rand.N(wait/2+1), false
}

// Clean makes any text fit to be a refusal's or an agent's: valid UTF-8 of at
// most max bytes, blanks for control characters.
func Clean(s string, max int) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r // U+FFFD for what is not valid
	}, s)
	if len(s) <= max {
		return s
	}
	for !utf8.RuneStart(s[max]) {
		max--
	}
	return s[:max]
}

// Refuse makes a permanent refusal.
func Refuse(c Code, format string, args ...any) *Refusal {
	return &Refusal{Code: c, Permanent: true, Reason: fmt.Sprintf(format, args...)}
}

// Defer makes a refusal that may end: the sender keeps what it has and tries again.
func Defer(c Code, after time.Duration, format string, args ...any) *Refusal {
	return &Refusal{Code: c, After: after, Reason: fmt.Sprintf(format, args...)}
}
