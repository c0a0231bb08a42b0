package identity

import (
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"io"
	"log/slog"
)

// Key is the private key of a server or a device. All of it comes from one seed
// of 32 bytes: HKDF-SHA256 (RFC 5869, no salt) gives an X25519 key for channels
// and an Ed25519 key for signatures.
//
// It never prints itself: every verb of fmt, text, JSON and slog show which key
// it is and nothing of the secret. The zero Key is of no use.
type Key struct {
	// A function, because fmt does not ask what is in an unexported field of
	// somebody else's struct how it wants to be printed. It follows a pointer there
	// for some verbs; of a function it has only the address.
	open func() *secret
}

type secret struct {
	seed   [32]byte
	x25519 *ecdh.PrivateKey
	sign   ed25519.PrivateKey
	public PublicKey
}

// What HKDF is told, so that the two keys have nothing in common.
const (
	infoX25519  = "noipchat x25519"
	infoEd25519 = "noipchat ed25519"
)

// NewKey makes a key from the system's random numbers.
func NewKey() Key {
	var seed [32]byte
	rand.Read(seed[:]) // never fails: the runtime ends the program first
	return KeyFromSeed(seed)
}

// KeyFromSeed makes the key that belongs to a seed. It is always the same one.
func KeyFromSeed(seed [32]byte) Key {
	x, err := ecdh.X25519().NewPrivateKey(derive(seed, infoX25519))
	if err != nil {
		panic(err) // only for a length other than 32
	}
	s := &secret{seed: seed, x25519: x, sign: ed25519.NewKeyFromSeed(derive(seed, infoEd25519))}
	copy(s.public[:32], x.PublicKey().Bytes())
	copy(s.public[32:], s.sign.Public().(ed25519.PublicKey))
	return Key{func() *secret { return s }}
}

func derive(seed [32]byte, info string) []byte {
	b, err := hkdf.Key(sha256.New, seed[:], nil, info, 32)
	if err != nil {
		panic(err) // only for a length above 255 hashes
	}
	return b
}

// Public returns the public half.
func (k Key) Public() PublicKey { return k.open().public }

// X25519 returns the half that opens channels. It does print itself.
func (k Key) X25519() *ecdh.PrivateKey { return k.open().x25519 }

// Sign returns the Ed25519 signature (RFC 8032) of msg, 64 bytes. The caller puts
// in front of msg what it is for, so that no signature fits two purposes.
func (k Key) Sign(msg []byte) []byte { return ed25519.Sign(k.open().sign, msg) }

// Seed returns the secret that the key is made from, for whoever stores it.
func (k Key) Seed() [32]byte { return k.open().seed }

// String tells which key it is, never the key.
func (k Key) String() string {
	if k.open == nil {
		return "private key (none)"
	}
	return "private key of " + k.open().public.Fingerprint()
}

// GoString is String, for %#v.
func (k Key) GoString() string { return k.String() }

// Format is String for every verb, %x and %d too, which would go around String.
func (k Key) Format(f fmt.State, _ rune) { io.WriteString(f, k.String()) }

// MarshalText is String, for JSON and the like. There is no way back.
func (k Key) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// LogValue is String, for slog.
func (k Key) LogValue() slog.Value { return slog.StringValue(k.String()) }
