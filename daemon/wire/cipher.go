package wire

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"math"
)

// Keys are renewed after so many records or bytes in one direction, whichever
// comes first, on both sides at the same record.
const (
	rekeyRecords = 1 << 16
	rekeyBytes   = 1 << 30
)

// Direction is the state of one direction of a channel: all that another process
// needs to go on with it.
type Direction struct {
	Key    [32]byte // AES-256
	Number uint64   // of the next record; never used twice with one key, never reset
	Bytes  uint64   // plaintext since the key was new
}

// direction is a Direction at work. Its AES-GCM is the standard library's, with
// the nonce of the Noise framework: four zero bytes and the number, big-endian.
type direction struct {
	Direction
	aead  cipher.AEAD
	nonce [12]byte
}

var errExhausted = errors.New("this channel's record numbers are used up")

func newDirection(d Direction) (*direction, error) {
	s := &direction{Direction: d}
	return s, s.setKey()
}

func (d *direction) setKey() error {
	block, err := aes.NewCipher(d.Key[:])
	if err != nil {
		return err
	}
	d.aead, err = cipher.NewGCM(block)
	return err
}

// next gives the nonce of the next record.
func (d *direction) next() ([]byte, error) {
	if d.Number == math.MaxUint64 { // Noise keeps it for rekeying
		return nil, errExhausted
	}
	binary.BigEndian.PutUint64(d.nonce[4:], d.Number)
	return d.nonce[:], nil
}

// used counts a record of n bytes of plaintext, and renews the key when it is due.
func (d *direction) used(n int) error {
	d.Number++
	d.Bytes += uint64(n)
	if d.Number%rekeyRecords != 0 && d.Bytes < rekeyBytes {
		return nil
	}
	// REKEY of the Noise framework, revision 34, section 4.2: the first 32 bytes of
	// 32 zero bytes, encrypted with the last nonce.
	var zero [32]byte
	binary.BigEndian.PutUint64(d.nonce[4:], math.MaxUint64)
	fresh := d.aead.Seal(nil, d.nonce[:], zero[:], nil)
	copy(d.Key[:], fresh)
	d.Bytes = 0
	return d.setKey()
}

// seal makes b, whose first two bytes are free, a record in place. b must have
// tagSize bytes of room behind it.
func (d *direction) seal(b []byte) ([]byte, error) {
	nonce, err := d.next()
	if err != nil {
		return nil, err
	}
	plain := b[2:]
	sealed := d.aead.Seal(plain[:0], nonce, plain, nil)
	binary.BigEndian.PutUint16(b, uint16(len(sealed)))
	return b[:2+len(sealed)], d.used(len(plain))
}

// open returns the plaintext of a record's ciphertext in memory of its own.
func (d *direction) open(sealed []byte) ([]byte, error) {
	nonce, err := d.next()
	if err != nil {
		return nil, err
	}
	plain, err := d.aead.Open(make([]byte, 0, len(sealed)-tagSize), nonce, sealed, nil)
	if err != nil {
		return nil, broken("record %d is not what was sealed", d.Number)
	}
	return plain, d.used(len(plain))
}
