package identity

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/noipchat/noipchat/daemon/message"
)

// Enrolment is a device that logs in with a password, for the first time.
type Enrolment struct {
	User     string
	Password string
	Key      PublicKey // the caller knows that the other side holds both halves
	Label    string    // at most 64 bytes of printable UTF-8; may be empty
	Source   string    // where it comes from, ip or ip:port; empty: not limited by address
}

// Enrol checks the password and registers the device. A key that the user has
// registered already is returned as it is, and not suspended any more. An unknown user, a wrong password and
// a disabled user get one answer at one cost, the computation of one hash; only
// where a hash on disk is of another cost than today's, its user shows in the
// time until he logs in. Failures are limited by address and by account, whether
// there is such an account or not: *message.Refusal later.
//
// Errors that are no *message.Refusal are our fault: the disk, or ctx.
func (u *Users) Enrol(ctx context.Context, e Enrolment) (Device, error) {
	if err := checkDevice(e.Key, e.Label); err != nil {
		return Device{}, err
	}
	address := ""
	if e.Source != "" {
		address = AddressKey(e.Source)
	}
	known, rehashed, err := u.authenticate(ctx, e.User, e.Password, address, e.User)
	if err != nil {
		return Device{}, err
	}
	var d *device
	err = u.alter(e.User, func(a *account) error {
		if a.epoch != known.epoch || a.disabled {
			return badLogin() // since we looked
		}
		d = a.clash(e.Key)
		switch {
		case d != nil && d.Key != e.Key:
			return message.Refuse(message.CodeInvalid, "half of this device's key belongs to another device")
		case d != nil && d.Suspended != "":
			d = a.suspend(d, "")
		case d != nil && rehashed == nil:
			return errUnchanged
		case d == nil && len(a.devices) >= u.o.MaxDevices:
			return message.Refuse(message.CodeNotAllowed, "%s has %d devices, and no more are allowed: remove one first", a.name, len(a.devices))
		case d == nil:
			d = u.newDevice(e.Key, e.Label)
			a.devices = append(a.devices, d)
		}
		if rehashed != nil {
			a.password = *rehashed
		}
		return nil
	})
	if err != nil && !errors.Is(err, errUnchanged) {
		var refusal *message.Refusal
		if errors.As(err, &refusal) && refusal.Code == message.CodeNoUser {
			err = badLogin() // removed since we looked
		}
		return Device{}, err
	}
	return u.saw(d), nil
}

// errUnchanged ends an alter that has nothing to write.
var errUnchanged = errors.New("unchanged")

// authenticate returns the user whose password this is, and the password's new
// hash if its cost has changed; else a *message.Refusal. Exactly one hash is
// computed for whoever fails, none for who must wait or sends what can't be a
// password. It counts under address, unless that is empty, and under account.
func (u *Users) authenticate(ctx context.Context, name, password, address, account string) (*account, *hashed, error) {
	if message.CheckName(name) != nil || CheckPassword(password) != nil {
		u.fail(address, "") // not under a name that is no name
		return nil, nil, badLogin()
	}
	if err := u.allow(address, account); err != nil {
		return nil, nil, err // before it waits for its turn
	}
	if err := u.hasher.acquire(ctx); err != nil {
		return nil, nil, err
	}
	defer u.hasher.release()
	// Asked again, because many may have waited together: with the failure counted
	// before the turn ends, no more can fail above the limit than have turns at once.
	if err := u.allow(address, account); err != nil {
		return nil, nil, err
	}
	a := u.account(name)
	known := u.hasher.nobody()
	if a != nil {
		known = a.password
	}
	right := u.hasher.verify(known, password)
	if !right || a == nil || a.disabled {
		u.fail(address, account)
		return nil, nil, badLogin()
	}
	u.limits.Load().byAccount.Success(account)
	if known.cost == u.hasher.cost {
		return a, nil, nil
	}
	again := u.hasher.hash(password)
	return a, &again, nil
}

func (u *Users) allow(address, account string) error {
	now := u.o.Now()
	return later(max(u.limits.Load().byAddress.Allow(now, address), u.limits.Load().byAccount.Allow(now, account)), "too many failures")
}

func (u *Users) fail(address, account string) {
	now := u.o.Now()
	if address != "" {
		u.limits.Load().byAddress.Fail(now, address)
	}
	if account != "" {
		u.limits.Load().byAccount.Fail(now, account)
	}
}

// later is nil when there is nothing to wait for.
func later(wait time.Duration, reason string) error {
	if wait <= 0 {
		return nil
	}
	return message.Defer(message.CodeLater, wait, "%s", reason)
}

func (u *Users) newDevice(key PublicKey, label string) *device {
	return &device{Device: Device{ID: key.DeviceID(), Key: key, Label: label, Created: u.today()}}
}

// clash returns the device that has this key, or half of it, or its id.
func (a *account) clash(key PublicKey) *device {
	i := slices.IndexFunc(a.devices, func(d *device) bool {
		return d.ID == key.DeviceID() || d.Key.X25519() == key.X25519()
	})
	if i < 0 {
		return nil
	}
	return a.devices[i]
}

func checkDevice(key PublicKey, label string) error {
	err := key.Check()
	if err == nil {
		err = checkLabel(label)
	}
	if err != nil {
		return message.Refuse(message.CodeInvalid, "%v", err)
	}
	return nil
}

// checkLabel keeps out what would do something to the terminal it is shown on.
func checkLabel(s string) error {
	if len(s) > 64 || !utf8.ValidString(s) {
		return errors.New("a device's label is at most 64 bytes of UTF-8")
	}
	for _, c := range s {
		if !unicode.IsPrint(c) {
			return fmt.Errorf("a device's label has %+q, which can't be printed", c)
		}
	}
	return nil
}
