package control

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/noipchat/noipchat/daemon/message"
)

// A request is the body of a call. Its check is made before the Daemon sees it,
// and fails with a refusal; its subject is what the log says that it was about,
// never a secret.
type request interface {
	check() error
	subject() string
}

// decode reads the one JSON object that body holds. Fields that r doesn't have
// are errors: a caller who says more than we understand must not be told "done".
func decode(body io.Reader, r any) error {
	d := json.NewDecoder(body)
	d.DisallowUnknownFields()
	if err := d.Decode(r); err != nil {
		return fmt.Errorf("%w: reading the request: %v", ErrProtocol, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: the request goes on behind its object", ErrProtocol)
	}
	return nil
}

// nothing is the request of a call that needs none; it has no body.
type nothing struct{}

func (nothing) check() error    { return nil }
func (nothing) subject() string { return "" }

// userName is the name of a user or, for the calls about peers, of a server; a
// fingerprint passes for one.
type userName struct {
	Name string `json:"name"`
}

func (r userName) check() error    { return checkName(r.Name) }
func (r userName) subject() string { return r.Name }

func checkName(name string) error {
	if err := message.CheckName(name); err != nil {
		return message.Refuse(message.CodeInvalid, "%v", err)
	}
	return nil
}

type userDevice struct {
	userName
	Device message.DeviceID `json:"device"`
}

func (r userDevice) subject() string { return r.Name + " " + r.Device.String() }

type credentials struct {
	userName
	Password string `json:"password"`
}

func (r InviteRequest) subject() string { return r.User }
func (r InviteRequest) check() error {
	switch {
	case r.ValidSeconds <= 0 || r.ValidSeconds > int64(maxSpan):
		return message.Refuse(message.CodeInvalid, "an invitation can't be valid for %d seconds", r.ValidSeconds)
	case r.Uses <= 0:
		return message.Refuse(message.CodeInvalid, "an invitation can't be for %d uses", r.Uses)
	case r.User != "":
		return checkName(r.User)
	}
	return nil
}

// maxSpan is what a time.Duration holds.
const maxSpan = time.Duration(1<<63-1) / time.Second

type inviteID struct {
	ID string `json:"id"`
}

func (inviteID) check() error    { return nil }
func (inviteID) subject() string { return "" } // somebody may have pasted the secret

type sessionID struct {
	ID string `json:"id"`
}

func (sessionID) check() error      { return nil }
func (r sessionID) subject() string { return r.ID }

func (r QueuePage) subject() string { return r.Name }
func (r QueuePage) check() error {
	if r.Limit < 0 || r.Limit > PageMax {
		return message.Refuse(message.CodeInvalid, "limit %d: want 1 to %d", r.Limit, PageMax)
	}
	return nil
}

type removal struct {
	Name string       `json:"name"`
	IDs  []message.ID `json:"ids"`
}

func (removal) check() error      { return nil }
func (r removal) subject() string { return fmt.Sprintf("%s: %d messages", r.Name, len(r.IDs)) }

type queueName struct {
	Name string `json:"name"`
}

func (queueName) check() error      { return nil }
func (r queueName) subject() string { return r.Name }

type removed struct {
	Removed int `json:"removed"`
}

type messageID struct {
	ID message.ID `json:"id"`
}

func (messageID) check() error      { return nil }
func (r messageID) subject() string { return r.ID.String() }

// maxReason bounds why somebody wants a handoff, in bytes.
const maxReason = 200

type handingOver struct {
	Reason string `json:"reason"`
}

func (r handingOver) subject() string { return r.Reason }
func (r handingOver) check() error {
	if r.Reason == "" || len(r.Reason) > maxReason {
		return message.Refuse(message.CodeInvalid, "a reason has 1 to %d bytes, and this one %d", maxReason, len(r.Reason))
	}
	return nil
}

type reloading struct {
	ConfirmSeconds int64 `json:"confirm_seconds,omitempty"`
}

func (reloading) subject() string { return "" }
func (r reloading) check() error {
	if r.ConfirmSeconds < 0 || r.ConfirmSeconds > int64(maxSpan) {
		return message.Refuse(message.CodeInvalid, "can't wait %d seconds for a confirmation", r.ConfirmSeconds)
	}
	return nil
}
