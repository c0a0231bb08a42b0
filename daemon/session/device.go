package session

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/noipchat/noipchat/daemon/message"
)

// suspend has a device get nothing more, if its user has another one. It returns at
// once, because the relay asks from amid its work.
func (h *Host) suspend(user message.Address, device message.DeviceID, why string) {
	key := deviceKey{user, device}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.idle[key] || h.closed != nil {
		return
	}
	h.idle[key] = true
	h.wg.Add(1)
	go func() {
		defer h.wg.Done()
		done, err := h.users.Suspend(user.User(), device, why)
		switch {
		case err != nil:
			h.o.Log.Error("suspending a device", "user", string(user), "device", device.String(), "error", err)
		case done:
			h.o.Log.Warn("a device is suspended", "user", string(user), "device", device.String(), "reason", why)
			h.Refresh(user.User())
		}
		h.mu.Lock()
		delete(h.idle, key)
		h.mu.Unlock()
	}()
}

// devices answers wire.OpDevices.
func (h *Host) devices(user message.Address) (fields []string) {
	account, _ := h.users.Show(user.User())
	for _, d := range account.Devices {
		online := ""
		if h.Online(user, d.ID) {
			online = "1"
		}
		fields = append(fields, d.ID.String(), d.Key.String(), d.Label, seconds(d.Created), seconds(d.Seen), online, d.Suspended)
	}
	return fields
}

// keys answers wire.OpKeys, for whoever writes to somebody. Who is not of this server,
// who is no user, and who has no device are all the same.
func (h *Host) keys(of string) (keys []string) {
	address, err := message.ParseUser(of)
	if err != nil || address.Server() != h.home {
		return nil
	}
	account, _ := h.users.Show(address.User())
	for _, d := range account.Devices {
		keys = append(keys, d.Key.String())
	}
	return keys
}

func seconds(t time.Time) string {
	if t.IsZero() {
		return "0"
	}
	return strconv.FormatInt(t.Unix(), 10)
}

func (h *Host) password(s *session, old, fresh string) *message.Refusal {
	return h.change(s, "a password was changed", "", func(ctx context.Context) error {
		return h.users.ChangePassword(ctx, s.user.User(), old, fresh)
	})
}

// errRemovedItself ends the session of a device that has asked for its own end.
var errRemovedItself = errors.New("the device has removed itself")

// removeDevice answers wire.OpRemoveDevice.
func (h *Host) removeDevice(s *session, password, device string) *message.Refusal {
	id, err := message.ParseDeviceID(device)
	if err != nil {
		return message.Refuse(message.CodeInvalid, "%v", err)
	}
	no := h.change(s, "a device was removed", device, func(ctx context.Context) error {
		return h.users.RemoveOwnDevice(ctx, s.user.User(), password, id)
	})
	switch {
	case no != nil:
	case id == s.device: // the session ends by itself, after the answer
		h.refresh(s.user.User())
	default:
		h.Refresh(s.user.User())
	}
	return no
}

// change makes a change to an account that its user has asked for.
func (h *Host) change(s *session, what, about string, do func(ctx context.Context) error) *message.Refusal {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	err := do(ctx)
	var no *message.Refusal
	switch {
	case err == nil:
		h.o.Log.Info(what, "user", string(s.user), "by", s.device.String(), "about", about)
		return nil
	case errors.As(err, &no):
		return no
	}
	h.o.Log.Error("changing an account", "user", string(s.user), "error", err)
	return message.Defer(message.CodeLater, time.Minute, "the server could not do it; its log says why")
}
