package identity

import (
	"bytes"
	"crypto/sha256"
	"slices"

	"github.com/noipchat/noipchat/daemon/message"
)

// UserWords returns what two people compare to know that they see the same devices
// of a user: six proquints, the first 12 bytes of SHA-256 over "noipchat words",
// the length of the address, the address, the home's key and the devices' keys in
// rising order, each once.
//
// Whoever wants to pass with other devices needs a second set with the same 96
// bits, for this very user. A word for both sides in one would have to be twice as
// long: a server that deceives both could choose on both sides until they meet.
func UserWords(user message.Address, home PublicKey, devices []PublicKey) string {
	h := sha256.New()
	h.Write([]byte("noipchat words"))
	h.Write([]byte{byte(len(user))})
	h.Write([]byte(user))
	h.Write(home[:])
	for _, k := range SortKeys(devices) {
		h.Write(k[:])
	}
	return proquints(h.Sum(nil)[:12])
}

// SortKeys returns the keys in rising order, each once.
func SortKeys(keys []PublicKey) []PublicKey {
	compare := func(a, b PublicKey) int { return bytes.Compare(a[:], b[:]) }
	keys = slices.Clone(keys)
	slices.SortFunc(keys, compare)
	return slices.Compact(keys)
}
