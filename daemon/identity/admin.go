package identity

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/noipchat/noipchat/daemon/durable"
	"github.com/noipchat/noipchat/daemon/message"
)

// Add makes a user without devices. Its errors that are no fault of ours are
// *message.Refusal: invalid, exists.
func (u *Users) Add(ctx context.Context, name, password string) error {
	if err := u.checkNew(name, password); err != nil {
		return err
	}
	p, err := u.hash(ctx, password)
	if err != nil {
		return err
	}
	u.change.Lock()
	defer u.change.Unlock()
	if err := u.checkFree(name); err != nil {
		return err
	}
	return u.store(&account{name: name, password: p, epoch: u.nextEpoch(), created: u.today()})
}

// SetPassword is the admin's: it needs no old password. Devices that are
// registered stay so.
func (u *Users) SetPassword(ctx context.Context, name, password string) error {
	if err := CheckPassword(password); err != nil {
		return message.Refuse(message.CodeInvalid, "%v", err)
	}
	if u.account(name) == nil {
		return noUser(name)
	}
	p, err := u.hash(ctx, password)
	if err != nil {
		return err
	}
	return u.alter(name, func(a *account) error {
		a.password, a.epoch = p, u.nextEpoch()
		return nil
	})
}

// ChangePassword is the user's own, who is logged in. Wrong old passwords are
// limited for the account, apart from wrong logins, so that strangers can't keep
// a user from changing it. Devices that are registered stay so.
func (u *Users) ChangePassword(ctx context.Context, name, old, password string) error {
	if err := CheckPassword(password); err != nil {
		return message.Refuse(message.CodeInvalid, "%v", err)
	}
	known, _, err := u.authenticate(ctx, name, old, "", "change "+name)
	if err != nil {
		return err
	}
	p, err := u.hash(ctx, password)
	if err != nil {
		return err
	}
	return u.alter(name, func(a *account) error {
		if a.epoch != known.epoch || a.disabled {
			return badLogin()
		}
		a.password, a.epoch = p, u.nextEpoch()
		return nil
	})
}

// Disable keeps a user from logging in, with password or device, or ends that.
func (u *Users) Disable(name string, disabled bool) error {
	return u.alter(name, func(a *account) error {
		a.disabled = disabled
		return nil
	})
}

// RemoveDevice makes a user's device unknown.
func (u *Users) RemoveDevice(name string, id message.DeviceID) error {
	return u.alter(name, func(a *account) error { return a.remove(id) })
}

// RemoveOwnDevice is RemoveDevice by the user himself, who proves it with his
// password: a device in the wrong hands must not be able to remove the others.
// Wrong passwords are limited as those of ChangePassword.
func (u *Users) RemoveOwnDevice(ctx context.Context, name, password string, id message.DeviceID) error {
	known, _, err := u.authenticate(ctx, name, password, "", "change "+name)
	if err != nil {
		return err
	}
	return u.alter(name, func(a *account) error {
		if a.epoch != known.epoch || a.disabled {
			return badLogin()
		}
		return a.remove(id)
	})
}

func (a *account) remove(id message.DeviceID) error {
	i := slices.IndexFunc(a.devices, func(d *device) bool { return d.ID == id })
	if i < 0 {
		return message.Refuse(message.CodeInvalid, "%s has no device %s", a.name, id)
	}
	a.devices = slices.Delete(a.devices, i, i+1)
	return nil
}

// Suspend has nothing kept for a device any more, and tells whether it did so: the
// last device of a user that isn't suspended stays as it is, because somebody must
// get his messages.
func (u *Users) Suspend(name string, id message.DeviceID, why string) (done bool, err error) {
	err = u.alter(name, func(a *account) error {
		var it *device
		others := false
		for _, d := range a.devices {
			if d.ID == id {
				it = d
			} else {
				others = others || d.Suspended == ""
			}
		}
		if it == nil || it.Suspended != "" || !others {
			return errUnchanged
		}
		a.suspend(it, message.Clean(why, message.MaxReason))
		return nil
	})
	if errors.Is(err, errUnchanged) {
		return false, nil
	}
	return err == nil, err
}

// suspend replaces a device by one with this reason, "" for none.
func (a *account) suspend(d *device, why string) *device {
	changed := &device{Device: d.Device}
	changed.Suspended = why
	changed.seen.Store(d.seen.Load())
	a.devices[slices.Index(a.devices, d)] = changed
	return changed
}

// Remove removes a user, or the file of one that is too damaged to be read.
func (u *Users) Remove(name string) error {
	u.change.Lock()
	defer u.change.Unlock()
	u.mu.RLock()
	known := u.accounts[name] != nil || u.damaged[name]
	u.mu.RUnlock()
	if !known {
		return noUser(name)
	}
	if err := u.unlink(name); err != nil {
		return fmt.Errorf("removing user %s: %w", name, err)
	}
	u.publish(name, nil)
	return nil
}

// unlink makes sure that there is no file of this user, not after a power cut either.
func (u *Users) unlink(name string) error {
	if err := durable.Remove(u.path(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return durable.SyncDir(u.folder())
}

// alter makes a change to a copy of the account, and stores that.
func (u *Users) alter(name string, change func(*account) error) error {
	u.change.Lock()
	defer u.change.Unlock()
	old := u.account(name)
	if old == nil {
		return noUser(name)
	}
	a := *old
	a.devices = slices.Clone(old.devices)
	if err := change(&a); err != nil {
		return err
	}
	return u.store(&a)
}

// store writes an account and makes it visible. The caller holds change.
func (u *Users) store(a *account) error {
	b, err := formatJSON(a.record())
	if err == nil {
		err = durable.WriteFile(u.path(a.name), b, 0o600)
	}
	if err != nil {
		return fmt.Errorf("storing user %s: %w", a.name, err)
	}
	u.publish(a.name, a)
	return nil
}

// hash hashes a new password.
func (u *Users) hash(ctx context.Context, password string) (hashed, error) {
	if err := u.hasher.acquire(ctx); err != nil {
		return hashed{}, err
	}
	defer u.hasher.release()
	return u.hasher.hash(password), nil
}

// checkNew refuses before a hash is computed in vain; checkFree is asked again
// with the lock.
func (u *Users) checkNew(name, password string) error {
	if err := message.CheckName(name); err != nil {
		return message.Refuse(message.CodeInvalid, "%v", err)
	}
	if err := CheckPassword(password); err != nil {
		return message.Refuse(message.CodeInvalid, "%v", err)
	}
	return u.checkFree(name)
}

func (u *Users) checkFree(name string) error {
	u.mu.RLock()
	defer u.mu.RUnlock()
	if u.accounts[name] != nil || u.damaged[name] {
		return message.Refuse(message.CodeExists, "there is a user %s already", name)
	}
	return nil
}

func noUser(name string) error {
	return message.Refuse(message.CodeNoUser, "there is no user %.63q here", name)
}
