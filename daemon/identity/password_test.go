package identity

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
)

// cheap is a cost for tests that are about something else.
var cheap = Cost{Memory: 8, Passes: 1, Lanes: 1}

func newHasher(t testing.TB, c Cost, parallel int) *Hasher {
	t.Helper()
	h, err := NewHasher(c, parallel)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// Computed by another implementation of argon2id.
const horse = "$argon2id$v=19$m=19456,t=2,p=1$AAECAwQFBgcICQoLDA0ODw$0AuQxA+RjPiJeA19Op7DwrFxnfh9xeTU2T6mFj2wThc"

func TestVerifyVector(t *testing.T) {
	h := newHasher(t, Cost{}, 0)
	for password, want := range map[string]bool{"correct horse": true, "correct horsf": false, "": false} {
		ok, rehash, err := h.Verify(t.Context(), horse, password)
		if err != nil || ok != want || rehash {
			t.Errorf("%q: %v, %v, %v", password, ok, rehash, err)
		}
	}
}

func TestHash(t *testing.T) {
	h := newHasher(t, cheap, 0)
	one, err := h.Hash(t.Context(), "correct horse")
	if err != nil {
		t.Fatal(err)
	}
	two, err := h.Hash(t.Context(), "correct horse")
	if err != nil {
		t.Fatal(err)
	}
	if one == two {
		t.Error("the salt is the same")
	}
	if !strings.HasPrefix(one, "$argon2id$v=19$m=8,t=1,p=1$") {
		t.Error(one)
	}
	if ok, rehash, err := h.Verify(t.Context(), one, "correct horse"); !ok || rehash || err != nil {
		t.Error(ok, rehash, err)
	}
	dearer := newHasher(t, Cost{Memory: 16, Passes: 1, Lanes: 1}, 0)
	if ok, rehash, err := dearer.Verify(t.Context(), one, "correct horse"); !ok || !rehash || err != nil {
		t.Error(ok, rehash, err)
	}
	if n := h.Evaluations(); n != 3 {
		t.Errorf("%d evaluations", n)
	}
}

func TestHashRefusedBeforeItIsComputed(t *testing.T) {
	h := newHasher(t, cheap, 0)
	salt := "$AAECAwQFBgcICQoLDA0ODw"
	tag := "$0AuQxA+RjPiJeA19Op7DwrFxnfh9xeTU2T6mFj2wThc"
	for name, phc := range map[string]string{
		"empty":         "",
		"memory":        "$argon2id$v=19$m=262145,t=2,p=1" + salt + tag,
		"all memory":    "$argon2id$v=19$m=4294967295,t=2,p=1" + salt + tag,
		"too little":    "$argon2id$v=19$m=15,t=2,p=2" + salt + tag,
		"no passes":     "$argon2id$v=19$m=19456,t=0,p=1" + salt + tag,
		"passes":        "$argon2id$v=19$m=19456,t=17,p=1" + salt + tag,
		"no lanes":      "$argon2id$v=19$m=19456,t=2,p=0" + salt + tag,
		"lanes":         "$argon2id$v=19$m=19456,t=2,p=9" + salt + tag,
		"lanes of 257":  "$argon2id$v=19$m=19456,t=2,p=257" + salt + tag,
		"argon2i":       "$argon2i$v=19$m=19456,t=2,p=1" + salt + tag,
		"version":       "$argon2id$v=16$m=19456,t=2,p=1" + salt + tag,
		"order":         "$argon2id$v=19$t=2,m=19456,p=1" + salt + tag,
		"leading zero":  "$argon2id$v=19$m=019456,t=2,p=1" + salt + tag,
		"plus":          "$argon2id$v=19$m=+19456,t=2,p=1" + salt + tag,
		"more":          "$argon2id$v=19$m=19456,t=2,p=1,x=1" + salt + tag,
		"short salt":    "$argon2id$v=19$m=19456,t=2,p=1$AAECAwQFBgcICQoLDA0O" + tag,
		"long salt":     "$argon2id$v=19$m=19456,t=2,p=1$AAECAwQFBgcICQoLDA0ODxA" + tag,
		"short tag":     "$argon2id$v=19$m=19456,t=2,p=1" + salt + "$AAAA",
		"no tag":        "$argon2id$v=19$m=19456,t=2,p=1" + salt,
		"padding":       "$argon2id$v=19$m=19456,t=2,p=1" + salt + "==" + tag,
		"bits left":     "$argon2id$v=19$m=19456,t=2,p=1" + salt + tag[:len(tag)-1] + "d",
		"line break":    horse + "\n",
		"inner break":   "$argon2id$v=19$m=19456,t=2,p=1" + salt + "\n" + tag,
		"something":     horse + "$",
		"a long string": strings.Repeat("$", 10000),
	} {
		if ok, _, err := h.Verify(t.Context(), phc, "correct horse"); err == nil || ok {
			t.Errorf("%s: %v %v", name, ok, err)
		}
	}
	if n := h.Evaluations(); n != 0 {
		t.Errorf("%d evaluations", n)
	}
	if _, err := NewHasher(Cost{Memory: 1 << 30, Passes: 1, Lanes: 1}, 1); err == nil {
		t.Error("a hasher of a terabyte")
	}
}

func TestHashBounded(t *testing.T) {
	h := newHasher(t, cheap, 2)
	for range 2 {
		if err := h.acquire(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	gave := make(chan error)
	go func() {
		_, err := h.Hash(ctx, "correct horse")
		gave <- err
	}()
	cancel()
	if err := <-gave; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if n := h.Evaluations(); n != 0 {
		t.Errorf("%d evaluations while there was no slot", n)
	}
	h.release()
	if _, err := h.Hash(t.Context(), "correct horse"); err != nil {
		t.Error(err)
	}
	h.release()

	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if _, err := h.Hash(t.Context(), "correct horse"); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := h.Evaluations(); n != 21 {
		t.Errorf("%d evaluations, want 21", n)
	}
}

func TestCheckPassword(t *testing.T) {
	for password, want := range map[string]bool{
		"1234567":                 false,
		"12345678":                true,
		"ümläuté":                 true, // bytes, not letters
		strings.Repeat("a", 1024): true,
		strings.Repeat("a", 1025): false,
		"12345678\xff":            false,
		"1234\n5678":              false,
		"1234\x005678":            false,
		"1234\u00855678":          false,
		"with spaces too":         true,
	} {
		if err := CheckPassword(password); (err == nil) != want {
			t.Errorf("%.20q: %v", password, err)
		}
	}
}

func FuzzParseHashed(f *testing.F) {
	f.Fuzz(func(t *testing.T, s string) {
		h, err := parseHashed(s)
		if err != nil {
			return
		}
		if h.String() != s {
			t.Errorf("%q is a second spelling of %s", s, h)
		}
		if err := h.cost.check(); err != nil {
			t.Errorf("%q: %v", s, err)
		}
	})
}
