package identity

import (
	"context"
	"fmt"

	"github.com/noipchat/noipchat/daemon/message"
)

// Mode says who may become a user of this server without its admin.
type Mode uint8

// The modes, as in [register] mode.
const (
	Closed     Mode = iota // nobody
	InviteOnly             // who has an invitation
	Open                   // everybody
)

var modes = [...]string{"closed", "invite", "open"}

func (m Mode) String() string {
	if int(m) >= len(modes) {
		return fmt.Sprintf("mode %d", uint8(m))
	}
	return modes[m]
}

// ParseMode reads what String wrote.
func ParseMode(s string) (Mode, error) {
	for m, name := range modes {
		if s == name {
			return Mode(m), nil
		}
	}
	return Closed, fmt.Errorf("register mode %.20q: want closed, invite or open", s)
}

// Mode returns the mode that is in force.
func (u *Users) Mode() Mode { return Mode(u.mode.Load()) }

// SetMode puts a mode in force, from the next registration on.
func (u *Users) SetMode(m Mode) { u.mode.Store(uint32(m)) }

// Joining is somebody who wants to become a user, with a first device.
type Joining struct {
	Invite   string // a token; in open mode it may be empty
	User     string
	Password string
	Key      PublicKey // as in Enrolment
	Label    string
	Source   string
}

// Join makes the user and its first device, both or neither. The use of an
// invitation is durable before the user is: a crash in between costs that use,
// and never gives it twice.
//
// Errors that the other side is to see are *message.Refusal: closed (the mode, or
// the invitation), later, invalid, not allowed (an invitation for somebody else),
// quota (the server is full), and exists, which only those get to see who could
// have had the name.
func (u *Users) Join(ctx context.Context, j Joining) (Device, error) {
	address := ""
	if j.Source != "" {
		address = AddressKey(j.Source)
	}
	if err := u.admit(j, address); err != nil {
		return Device{}, err
	}
	if err := checkDevice(j.Key, j.Label); err != nil {
		return Device{}, err
	}
	if err := u.checkNew(j.User, j.Password); err != nil {
		u.fail(address, "") // or one invitation would find out every name
		return Device{}, err
	}
	p, err := u.hash(ctx, j.Password)
	if err != nil {
		return Device{}, err
	}
	u.change.Lock()
	defer u.change.Unlock()
	if err := u.admit(j, address); err != nil {
		return Device{}, err
	}
	if err := u.checkFree(j.User); err != nil {
		return Device{}, err
	}
	d := u.newDevice(j.Key, j.Label)
	a := &account{name: j.User, password: p, epoch: u.nextEpoch(), created: d.Created, devices: []*device{d}}
	if j.Invite == "" {
		err = u.store(a)
	} else {
		err = u.storeInvited(a, j.Invite)
	}
	if err != nil {
		return Device{}, err
	}
	if j.Invite == "" && address != "" {
		u.limits.Load().joinsByAddress.Fail(u.o.Now(), address) // what is limited here is success
	}
	return u.saw(d), nil
}

// admit says who may try. It is asked again when the change is made.
func (u *Users) admit(j Joining, address string) error {
	mode, now := u.Mode(), u.o.Now()
	if mode == Closed {
		return message.Refuse(message.CodeClosed, "this server takes no registrations; ask its admin for an account")
	}
	if err := later(u.limits.Load().byAddress.Allow(now, address), "too many failures"); err != nil {
		return err
	}
	if j.Invite != "" || mode != Open {
		i, found := u.invite(j.Invite)
		if !found {
			u.fail(address, "")
			return message.Refuse(message.CodeClosed, "the invitation is not valid, was used, or is too old; ask for a new one")
		}
		if i.User != "" && i.User != j.User {
			return message.Refuse(message.CodeNotAllowed, "the invitation is for %s", i.User)
		}
	} else if err := later(u.limits.Load().joinsByAddress.Allow(now, address), "too many new users from your address"); err != nil {
		return err
	}
	u.mu.RLock()
	defer u.mu.RUnlock()
	if len(u.accounts) >= u.o.MaxUsers {
		return message.Defer(message.CodeQuota, 0, "this server has all the users that it takes")
	}
	return nil
}

// storeInvited uses the invitation up, then stores the account. The caller holds
// change, and has found the invitation valid and the name free.
func (u *Users) storeInvited(a *account, token string) error {
	u.mu.RLock()
	before := u.invites
	u.mu.RUnlock()
	if err := u.storeInvites(redeem(before, token)); err != nil {
		return err
	}
	err := u.store(a)
	if err == nil {
		return nil
	}
	// The file may be there all the same. Only when it certainly isn't, the use is given back.
	undo := u.unlink(a.name)
	if undo == nil {
		undo = u.storeInvites(before)
	}
	if undo != nil {
		u.o.Log.Warn("an invitation is used up, but its user could not be made", "user", a.name, "error", undo)
	}
	return err
}
