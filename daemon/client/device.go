package client

import (
	"cmp"
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/noipchat/noipchat/daemon/identity"
	"github.com/noipchat/noipchat/daemon/message"
	"github.com/noipchat/noipchat/daemon/wire"
)

// Device is one of the user's devices, as his home has it.
type Device struct {
	ID        message.DeviceID `json:"id"`
	Key       string           `json:"key"` // "noip1…", public
	Label     string           `json:"label"`
	Created   time.Time        `json:"created"`
	Seen      time.Time        `json:"seen,omitzero"` // its last login; zero: none
	Online    bool             `json:"online"`
	Suspended string           `json:"suspended,omitempty"` // why it gets nothing
	This      bool             `json:"this"`                // the one that asks
}

// Devices asks the home for the user's devices, over the session that Run keeps.
func (c *Client) Devices(ctx context.Context) ([]Device, error) {
	return devices(ctx, c.Ask, c.account.Device)
}

// Devices is Client.Devices, by whoever has the session.
func (p *Profile) Devices(ctx context.Context) ([]Device, error) {
	account, known, err := p.store.Account()
	if err != nil || !known {
		return nil, cmp.Or(err, ErrNoAccount)
	}
	return devices(ctx, p.Ask, account.Device)
}

func devices(ctx context.Context, ask asker, this message.DeviceID) ([]Device, error) {
	fields, err := ask(ctx, wire.OpDevices)
	if err != nil {
		return nil, err
	}
	if len(fields)%wire.DeviceFields != 0 {
		return nil, fmt.Errorf("%w: %d fields are no devices", wire.ErrProtocol, len(fields))
	}
	var all []Device
	for f := fields; len(f) > 0; f = f[wire.DeviceFields:] {
		d, err := parseDevice(f)
		if err != nil {
			return nil, fmt.Errorf("%w: a device: %w", wire.ErrProtocol, err)
		}
		d.This = d.ID == this
		all = append(all, d)
	}
	return all, nil
}

func parseDevice(f []string) (d Device, err error) {
	if d.ID, err = message.ParseDeviceID(f[0]); err != nil {
		return d, err
	}
	key, err := identity.ParsePublicKey(f[1])
	if err != nil {
		return d, err
	}
	d.Key, d.Label, d.Online, d.Suspended = key.String(), f[2], f[5] == "1", f[6]
	for i, to := range []*time.Time{&d.Created, &d.Seen} {
		s, err := strconv.ParseUint(f[3+i], 10, 40)
		if err != nil {
			return d, err
		}
		if s > 0 {
			*to = storedTime(int64(s) * 1000)
		}
	}
	return d, nil
}

// RemoveDevice makes one of the user's devices unknown to his home. Removing the one
// that asks ends its session.
func (c *Client) RemoveDevice(ctx context.Context, password string, id message.DeviceID) error {
	return removeDevice(ctx, c.Ask, password, id)
}

// RemoveDevice is Client.RemoveDevice, by whoever has the session.
func (p *Profile) RemoveDevice(ctx context.Context, password string, id message.DeviceID) error {
	return removeDevice(ctx, p.Ask, password, id)
}

func removeDevice(ctx context.Context, ask asker, password string, id message.DeviceID) error {
	_, err := ask(ctx, wire.OpRemoveDevice, password, id.String())
	return err
}
