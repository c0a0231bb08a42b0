package identity

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/noipchat/noipchat/daemon/durable"
)

// A key file is one line: this, and the base32 of the seed and of a checksum, the
// first 8 bytes of SHA-256 over "noipchat seed" and the seed: 64 characters.
const seedPrefix = "noipchat-seed-1 "

// LoadOrCreateKey returns the key that is in the file at path, or makes one and
// the file (mode 0600, durable before it returns) if there is none. It never
// changes a file that is there. One that others may read, or that is damaged, is
// an error which says what to do; a new key is never made in its place, because
// everybody who knows this server would refuse it.
func LoadOrCreateKey(path string) (key Key, created bool, err error) {
	key, err = LoadKey(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return key, false, err
	}
	key = NewKey()
	err = durable.Create(path, formatSeed(key.Seed()), 0o600)
	if errors.Is(err, fs.ErrExist) { // somebody was quicker
		key, err = LoadKey(path)
		return key, false, err
	}
	if err != nil {
		return Key{}, false, fmt.Errorf("making the key file: %w", err)
	}
	return key, true, nil
}

// LoadKey is LoadOrCreateKey without the creating: without a file its error is
// fs.ErrNotExist.
func LoadKey(path string) (Key, error) {
	f, err := os.Open(path)
	if err != nil {
		return Key{}, fmt.Errorf("reading the key file: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return Key{}, fmt.Errorf("reading the key file: %w", err)
	}
	if !st.Mode().IsRegular() {
		return Key{}, spoiltf("key file %s is no regular file; move it away", path)
	}
	if perm := st.Mode().Perm(); perm&0o077 != 0 {
		return Key{}, spoiltf("key file %s has mode %04o, so others than its owner can use it; run chmod 600 %s,"+
			" and make a new key if somebody may have read it", path, perm, path)
	}
	b, err := io.ReadAll(io.LimitReader(f, 200))
	if err != nil {
		return Key{}, fmt.Errorf("reading the key file: %w", err)
	}
	seed, err := parseSeed(b)
	if err != nil {
		return Key{}, spoiltf("key file %s is damaged (%w); restore it from a backup, or move it away to get a new key,"+
			" which everybody who knows the old one must then be told to trust", path, err)
	}
	return KeyFromSeed(seed), nil
}

func formatSeed(seed [32]byte) []byte {
	return []byte(seedPrefix + base32Lower.EncodeToString(append(seed[:], seedChecksum(seed)...)) + "\n")
}

func seedChecksum(seed [32]byte) []byte {
	sum := sha256.Sum256(append([]byte("noipchat seed"), seed[:]...))
	return sum[:8]
}

// parseSeed reads what formatSeed wrote; the end of the line may be missing. Its
// errors show nothing of the text.
func parseSeed(b []byte) (seed [32]byte, err error) {
	rest, found := strings.CutPrefix(strings.TrimSuffix(string(b), "\n"), seedPrefix)
	switch {
	case len(b) == 0:
		return seed, errors.New("it is empty")
	case !found:
		return seed, fmt.Errorf("it does not begin with %q", seedPrefix)
	case len(rest) != 64:
		return seed, errors.New("the line has the wrong length")
	}
	raw, err := base32Lower.DecodeString(rest)
	if err != nil || len(raw) != 40 {
		return seed, errors.New("the line has a character that does not belong there")
	}
	copy(seed[:], raw)
	if !bytes.Equal(raw[32:], seedChecksum(seed)) {
		return [32]byte{}, errors.New("the checksum is wrong")
	}
	return seed, nil
}
