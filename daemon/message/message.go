// Package message is the vocabulary of NoIPChat: names, addresses, devices,
// envelopes and their ids, receipts, states and refusals; how each is parsed,
// printed and bounded. Bytes are canonical MessagePack: one value has one
// encoding, and a decoder takes no other, so that an id over the bytes is an id
// over the meaning.
//
// It decides nothing, knows no queue and no connection, starts no goroutine and
// touches no disk. What Parse returns points into the bytes that it was given.
package message

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
)

// ID names an envelope: the first 16 bytes of SHA-256 over its canonical bytes.
// It is never sent; whoever needs it computes it.
type ID [16]byte

// IDOf computes the id of an envelope's canonical bytes.
func IDOf(envelope []byte) ID {
	sum := sha256.Sum256(envelope)
	return ID(sum[:16])
}

// String returns 32 lower-case hex digits.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// ParseID reads what String wrote.
func ParseID(s string) (ID, error) {
	var id ID
	if len(s) != 32 {
		return id, fmt.Errorf("message id %q: want 32 hex digits, have %d characters", clip(s), len(s))
	}
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return id, fmt.Errorf("message id %q: %q is not a lower-case hex digit", s, c)
		}
	}
	hex.Decode(id[:], []byte(s))
	return id, nil
}

// MarshalText and UnmarshalText make an ID a string in JSON.
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (id *ID) UnmarshalText(text []byte) (err error) {
	*id, err = ParseID(string(text))
	return err
}

// DeviceID names one of a user's devices: the first 8 bytes of SHA-256 over its
// public key, big-endian. A server that writes envelopes of its own (receipts,
// bounces) takes a random one at each start instead.
type DeviceID uint64

// String returns 16 lower-case hex digits.
func (d DeviceID) String() string { return fmt.Sprintf("%016x", uint64(d)) }

// ParseDeviceID reads what String wrote.
func ParseDeviceID(s string) (DeviceID, error) {
	var d DeviceID
	if len(s) != 16 {
		return 0, fmt.Errorf("device id %q: want 16 hex digits, have %d characters", clip(s), len(s))
	}
	for _, c := range []byte(s) {
		switch {
		case c >= '0' && c <= '9':
			d = d<<4 | DeviceID(c-'0')
		case c >= 'a' && c <= 'f':
			d = d<<4 | DeviceID(c-'a'+10)
		default:
			return 0, fmt.Errorf("device id %q: %q is not a lower-case hex digit", s, c)
		}
	}
	return d, nil
}

// MarshalText makes a DeviceID a string in JSON, where a number of 64 bits would be rounded.
func (d DeviceID) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (d *DeviceID) UnmarshalText(text []byte) (err error) {
	*d, err = ParseDeviceID(string(text))
	return err
}

// State is what a sender knows of one receiver of a message. It only rises: of
// two reports the greater is the truth, in whatever order they come. Delivered
// is above Refused and Expired, because a message that took two ways may expire
// on one and arrive on the other.
type State uint8

// The states, lowest first.
const (
	Queued    State = iota + 1 // on the sender's device
	Held                       // a server has it on disk
	Refused                    // a server won't have it; there is a reason
	Expired                    // it waited longer than its lifetime
	Delivered                  // the receiver's first device has it on disk
	Read                       // the receiver has seen it
)

var stateNames = [...]string{"", "queued", "held", "refused", "expired", "delivered", "read"}

// String returns the state's name, as in commands and JSON.
func (s State) String() string {
	if s == 0 || int(s) >= len(stateNames) {
		return fmt.Sprintf("state %d", uint8(s))
	}
	return stateNames[s]
}

// ParseState reads what String wrote.
func ParseState(name string) (State, error) {
	for i, n := range stateNames {
		if i > 0 && n == name {
			return State(i), nil
		}
	}
	return 0, fmt.Errorf("state %q: want queued, held, refused, expired, delivered or read", clip(name))
}

// MarshalText makes a State its name in JSON.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (s *State) UnmarshalText(text []byte) (err error) {
	*s, err = ParseState(string(text))
	return err
}

// Final tells that nothing more is to come that a sender would wait for.
func (s State) Final() bool { return s >= Refused && s != Delivered }

// clip bounds a stranger's text in an error.
func clip(s string) string {
	if len(s) > 80 {
		return s[:80] + "…"
	}
	return s
}
