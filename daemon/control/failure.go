package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"syscall"
	"time"

	"github.com/noipchat/noipchat/daemon/message"
)

// failure is the body of every answer whose status is not 200.
type failure struct {
	Error        string  `json:"error"` // "refused", "internal", or one of errorKinds
	Text         string  `json:"text"`
	Code         string  `json:"code,omitempty"` // this and the rest: of a refusal
	Permanent    bool    `json:"permanent,omitempty"`
	AfterSeconds float64 `json:"after_seconds,omitempty"`
}

const (
	kindRefused  = "refused"
	kindIO       = "io"
	kindInternal = "internal"
)

// errorKinds are the errors that are the same at both ends of the socket.
var errorKinds = []struct {
	name   string
	status int
	err    error
}{
	{"not-found", http.StatusNotFound, ErrNotFound},
	{"protocol", http.StatusBadRequest, ErrProtocol},
	{"handoff-config", http.StatusConflict, ErrHandoffConfig},
	{"config", http.StatusUnprocessableEntity, ErrConfig},
	{"handoff", http.StatusConflict, ErrHandoff},
	{kindIO, http.StatusInternalServerError, ErrIO},
	{"timeout", http.StatusGatewayTimeout, context.DeadlineExceeded},
	{kindInternal, http.StatusInternalServerError, ErrFault},
}

// describe makes what is sent of an error, and its HTTP status.
func describe(err error) (failure, int) {
	if errors.Is(err, context.Canceled) { // only the end of Serve cancels a call whose caller still listens
		err = message.Defer(message.CodeStopping, 0, "the daemon is going down")
	}
	if refusal, ok := errors.AsType[*message.Refusal](err); ok {
		return failure{kindRefused, refusal.Reason, refusal.Code.String(), refusal.Permanent, refusal.After.Seconds()}, http.StatusForbidden
	}
	for _, k := range errorKinds {
		if errors.Is(err, k.err) {
			return failure{Error: k.name, Text: err.Error()}, k.status
		}
	}
	kind := kindInternal
	if _, ok := errors.AsType[syscall.Errno](err); ok {
		kind = kindIO
	}
	return failure{Error: kind, Text: err.Error()}, http.StatusInternalServerError
}

// restore makes the error of an answer whose status is not 200.
func restore(status string, body []byte) error {
	var f failure
	if err := json.Unmarshal(body, &f); err != nil || f.Error == "" {
		return fmt.Errorf("%w: the answer is %q", ErrProtocol, status)
	}
	if f.Error == kindRefused {
		r := &message.Refusal{Permanent: f.Permanent, Reason: f.Text, After: time.Duration(f.AfterSeconds * float64(time.Second))}
		for _, c := range message.Codes() {
			if c.String() == f.Code {
				r.Code = c
				return r
			}
		}
		r.Reason = f.Code + ": " + f.Text // of a newer daemon's
		return r
	}
	for _, k := range errorKinds {
		if k.name == f.Error {
			return &remoteError{k.err, f.Text}
		}
	}
	return &remoteError{ErrFault, f.Text} // of a newer daemon's
}

// remoteError has the text that an error had in the daemon, and is the same error
// to errors.Is.
type remoteError struct {
	is   error
	text string
}

func (e *remoteError) Error() string { return e.text }
func (e *remoteError) Unwrap() error { return e.is }
