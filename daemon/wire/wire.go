// Package wire is the protocol: the only room that knows the bytes between a
// client and a server. Bottom up: a Noise handshake (handshake.go), records with
// our own keys and counters (cipher.go, conn.go), frames in records (frame.go),
// and what the handshake and the frames say (hello.go, transit.go, ack.go,
// request.go). The document is docs/protocol.md; the vectors are in testdata.
//
// A Conn has one reader, its caller, and any number of callers of Flush. It
// starts a goroutine only while the other side doesn't read as fast as we write,
// and that one ends with the connection at the latest. Nothing is on disk.
package wire

import (
	"errors"
	"fmt"
)

// Magic begins a connection; its last byte is the version, for what can't be
// negotiated. Both are in the handshake's prologue, so nobody can change them.
const Magic = "NoI\x01"

// Bounds, in bytes.
const (
	maxRecord = 65535                                            // ciphertext and tag
	tagSize   = 16                                               // of AES-GCM
	keySize   = 32                                               // of X25519, and of the first handshake message
	MaxPlain  = maxRecord - tagSize                              // frames in one record
	maxHello  = 2048                                             // the payload of a handshake message
	maxMsg    = keySize + keySize + tagSize + maxHello + tagSize // a handshake message
)

// ErrProtocol is wrapped by every error that is the other side's doing.
var ErrProtocol = errors.New("the other side broke the protocol")

func broken(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrProtocol, fmt.Sprintf(format, args...))
}
