package identity

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"

	"github.com/noipchat/noipchat/daemon/message"
)

// PublicKey names a server or a device: its X25519 key and then its Ed25519 key,
// 32 bytes each. The zero PublicKey stands for none.
type PublicKey [64]byte

const (
	keyPrefix   = "noip1"
	keySum      = 6                    // bytes of checksum
	keyLength   = len(keyPrefix) + 112 // 64+6 bytes in base32: no bits are left over
	keyAlphabet = "abcdefghijklmnopqrstuvwxyz234567"
)

var base32Lower = base32.NewEncoding(keyAlphabet).WithPadding(base32.NoPadding)

// String returns the key as people paste it: "noip1" and 112 characters a-z 2-7,
// which are the base32 (RFC 4648, lower case) of the 64 bytes and of a checksum,
// the first 6 bytes of SHA-256 over "noipchat key" and the 64 bytes.
func (k PublicKey) String() string {
	return keyPrefix + base32Lower.EncodeToString(append(k[:], k.checksum()...))
}

func (k PublicKey) checksum() []byte {
	sum := sha256.Sum256(append([]byte("noipchat key"), k[:]...))
	return sum[:keySum]
}

// ParsePublicKey reads what String wrote, and takes no other spelling of it. The
// error tells a slip of the pen (checksum), a key that is cut off (length) and a
// character that no key has. A key that parses also passes Check.
func ParsePublicKey(s string) (PublicKey, error) {
	k, err := decodePublicKey(s)
	if err == nil {
		err = k.Check()
	}
	if err != nil {
		return PublicKey{}, err
	}
	return k, nil
}

// decodePublicKey is ParsePublicKey without Check, which is a thousand times as
// dear, for keys that were checked before they came to our own disk.
func decodePublicKey(s string) (k PublicKey, err error) {
	rest, found := strings.CutPrefix(s, keyPrefix)
	if !found {
		return k, fmt.Errorf("public key: does not begin with %q", keyPrefix)
	}
	if at, c, found := strangeRune(rest); found {
		return k, fmt.Errorf("public key: character %d is %q; a key is made of a-z and 2-7", len(keyPrefix)+at+1, c)
	}
	if len(s) != keyLength {
		return k, fmt.Errorf("public key: has %d characters, not %d", len(s), keyLength)
	}
	b, err := base32Lower.DecodeString(rest)
	if err != nil {
		return k, fmt.Errorf("public key: %w", err)
	}
	copy(k[:], b)
	if !bytes.Equal(b[len(k):], k.checksum()) {
		return PublicKey{}, errors.New("public key: the checksum is wrong; a character of it was mistyped or changed")
	}
	return k, nil
}

// strangeRune finds the first character that is not in our base32, and how many are before it.
func strangeRune(s string) (at int, c rune, found bool) {
	for _, c := range s {
		if !strings.ContainsRune(keyAlphabet, c) {
			return at, c, true
		}
		at++
	}
	return 0, 0, false
}

// Check says what is wrong with a key that did not come from ParsePublicKey. It
// refuses what no honest seed gives: coordinates that are not reduced (a second
// spelling of the same key), an Ed25519 key that is no point of the curve, and
// points of low order, for which a shared secret is zero and a signature proves
// nothing. About 0.2 ms.
func (k PublicKey) Check() error {
	if k == (PublicKey{}) {
		return errors.New("public key: all zero")
	}
	u, reduced := fieldElement(k[:32], 0)
	if !reduced {
		return errors.New("public key: the X25519 key is not in its canonical form")
	}
	if lowOrder(u) {
		return errors.New("public key: the X25519 key is of low order")
	}
	y, reduced := fieldElement(k[32:], 0x80) // the top bit is the sign of x
	if !reduced {
		return errors.New("public key: the Ed25519 key is not in its canonical form")
	}
	if !onCurve(y) {
		return errors.New("public key: the Ed25519 key is no point of the curve")
	}
	// The map to the other curve (RFC 7748, 4.1), u = (1+y)/(1-y), keeps the order.
	// It has no value for y = 1, the neutral point.
	u = new(big.Int).ModInverse(mod(new(big.Int).Sub(one, y)), prime)
	if u == nil || lowOrder(mod(u.Mul(u, new(big.Int).Add(one, y)))) {
		return errors.New("public key: the Ed25519 key is of low order")
	}
	return nil
}

// The field of both curves, and the d of Ed25519 (RFC 8032, 5.1).
var (
	one    = big.NewInt(1)
	prime  = new(big.Int).Sub(new(big.Int).Lsh(one, 255), big.NewInt(19))
	edward = mod(new(big.Int).Mul(big.NewInt(-121665), new(big.Int).ModInverse(big.NewInt(121666), prime)))
)

func mod(x *big.Int) *big.Int { return x.Mod(x, prime) }

// fieldElement reads 32 little-endian bytes without the bits of mask in the last
// one, and tells whether they are below the prime.
func fieldElement(b []byte, mask byte) (x *big.Int, reduced bool) {
	b = slices.Clone(b)
	b[31] &^= mask
	slices.Reverse(b)
	x = new(big.Int).SetBytes(b)
	return x, x.Cmp(prime) < 0
}

// onCurve tells whether there is an x with x² = (y²-1)/(dy²+1). The quotient is
// a square exactly if the product is.
func onCurve(y *big.Int) bool {
	yy := mod(new(big.Int).Mul(y, y))
	v := new(big.Int).Mul(edward, yy)
	v.Add(v, one)
	return big.Jacobi(mod(v.Mul(v, yy.Sub(yy, one))), prime) >= 0
}

// lowOrder asks X25519 itself: it multiplies by eight and refuses when that is zero.
func lowOrder(u *big.Int) bool {
	b := u.FillBytes(make([]byte, 32))
	slices.Reverse(b)
	public, err := ecdh.X25519().NewPublicKey(b)
	if err != nil {
		return true
	}
	anyone, err := ecdh.X25519().NewPrivateKey(bytes.Repeat([]byte{1}, 32))
	if err != nil {
		return true
	}
	_, err = anyone.ECDH(public)
	return err != nil
}

// short is what fingerprints, words and device ids are made from: the first 8
// bytes of SHA-256 over the key.
func (k PublicKey) short() [8]byte {
	sum := sha256.Sum256(k[:])
	return [8]byte(sum[:8])
}

// DeviceID returns the id of the device that has this key.
func (k PublicKey) DeviceID() message.DeviceID {
	s := k.short()
	return message.DeviceID(binary.BigEndian.Uint64(s[:]))
}

// Fingerprint returns the device id's 16 hex digits in groups: "3f2a-91c0-77de-0b1c".
// It is for people to compare, not for programs to trust: 64 bits can be searched.
func (k PublicKey) Fingerprint() string {
	s := k.short()
	h := hex.EncodeToString(s[:])
	return h[:4] + "-" + h[4:8] + "-" + h[8:12] + "-" + h[12:]
}

// Words returns the fingerprint as four words that can be said on a telephone,
// proquints (arXiv:0901.4016): "lusab-babad-gutih-tugad".
func (k PublicKey) Words() string {
	s := k.short()
	return proquints(s[:])
}

func proquints(b []byte) string {
	const consonants, vowels = "bdfghjklmnprstvz", "aiou"
	var words []string
	for ; len(b) >= 2; b = b[2:] {
		w := binary.BigEndian.Uint16(b)
		words = append(words, string([]byte{consonants[w>>12], vowels[w>>10&3], consonants[w>>6&15], vowels[w>>4&3], consonants[w&15]}))
	}
	return strings.Join(words, "-")
}

// X25519 returns the half that opens channels.
func (k PublicKey) X25519() [32]byte { return [32]byte(k[:32]) }

// Verify tells whether sig is this key's signature of msg.
func (k PublicKey) Verify(msg, sig []byte) bool { return ed25519.Verify(k[32:], msg, sig) }

// IsZero tells whether there is no key.
func (k PublicKey) IsZero() bool { return k == PublicKey{} }

// MarshalText is String, for JSON and TOML.
func (k PublicKey) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText is ParsePublicKey.
func (k *PublicKey) UnmarshalText(text []byte) (err error) {
	*k, err = ParsePublicKey(string(text))
	return err
}
