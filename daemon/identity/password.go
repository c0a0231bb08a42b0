package identity

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"sync/atomic"
	"unicode"
	"unicode/utf8"

	"golang.org/x/crypto/argon2"
)

// Bounds of a password, in bytes of UTF-8.
const (
	MinPassword = 8
	MaxPassword = 1024
)

// CheckPassword says what keeps s from being a password. It never shows s.
func CheckPassword(s string) error {
	switch {
	case len(s) < MinPassword:
		return fmt.Errorf("a password has at least %d bytes", MinPassword)
	case len(s) > MaxPassword:
		return fmt.Errorf("a password has at most %d bytes", MaxPassword)
	case !utf8.ValidString(s):
		return errors.New("a password is valid UTF-8")
	}
	for _, c := range s {
		if unicode.IsControl(c) {
			return errors.New("a password has no control characters")
		}
	}
	return nil
}

// Hasher hashes passwords, a few at a time: each takes memory and a processor
// for a while, and strangers can ask for it.
type Hasher struct {
	cost        Cost
	slots       chan struct{}
	evaluations atomic.Uint64
}

// NewHasher makes a hasher that hashes at cost (zero: DefaultCost) and computes
// at most parallel hashes at once (zero: 2), counting those of old passwords too.
func NewHasher(cost Cost, parallel int) (*Hasher, error) {
	if cost == (Cost{}) {
		cost = DefaultCost()
	}
	if err := cost.check(); err != nil {
		return nil, fmt.Errorf("cost of a password hash: %w", err)
	}
	if parallel <= 0 {
		parallel = 2
	}
	return &Hasher{cost: cost, slots: make(chan struct{}, parallel)}, nil
}

// Evaluations returns how many times argon2 was computed.
func (h *Hasher) Evaluations() uint64 { return h.evaluations.Load() }

// Hash returns the PHC string of a password, with a salt of its own. It waits for
// its turn, or returns the error of ctx.
func (h *Hasher) Hash(ctx context.Context, password string) (string, error) {
	if err := h.acquire(ctx); err != nil {
		return "", err
	}
	defer h.release()
	return h.hash(password).String(), nil
}

// Verify tells whether password is the one that phc was made from, and whether it
// should be hashed again, because the cost is another one now. It waits as Hash
// does; what is wrong with phc is an error before anything is computed.
func (h *Hasher) Verify(ctx context.Context, phc, password string) (ok, rehash bool, err error) {
	known, err := parseHashed(phc)
	if err != nil {
		return false, false, err
	}
	if err := h.acquire(ctx); err != nil {
		return false, false, err
	}
	defer h.release()
	return h.verify(known, password), known.cost != h.cost, nil
}

// acquire waits for one of the slots. Whoever has one calls hash and verify as
// often as needed, and release.
func (h *Hasher) acquire(ctx context.Context) error {
	select {
	case h.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting to hash a password: %w", context.Cause(ctx))
	}
}

func (h *Hasher) release() { <-h.slots }

func (h *Hasher) hash(password string) hashed {
	p := hashed{cost: h.cost}
	rand.Read(p.salt[:])
	p.tag = h.evaluate(p, password)
	return p
}

func (h *Hasher) verify(known hashed, password string) bool {
	tag := h.evaluate(known, password)
	return subtle.ConstantTimeCompare(tag[:], known.tag[:]) == 1
}

// nobody returns a hash of today's cost that no password has, to verify in vain.
func (h *Hasher) nobody() hashed {
	p := hashed{cost: h.cost}
	rand.Read(p.salt[:])
	rand.Read(p.tag[:])
	return p
}

func (h *Hasher) evaluate(p hashed, password string) [tagLength]byte {
	h.evaluations.Add(1)
	return [tagLength]byte(argon2.IDKey([]byte(password), p.salt[:], p.cost.Passes, p.cost.Memory, p.cost.Lanes, tagLength))
}
