package identity

import (
	"errors"
	"strings"
	"testing"
)

func TestTrust(t *testing.T) {
	one, two := NewKey().Public(), NewKey().Public()
	var trust Trust
	check := func(key PublicKey, want Standing) {
		t.Helper()
		if got, err := trust.Check("server1", key); err != nil || got != want {
			t.Errorf("%v, %v, want %v", got, err, want)
		}
	}
	put := func(key PublicKey, s Standing) {
		t.Helper()
		if err := trust.Put("server1", key, s); err != nil {
			t.Error(err)
		}
	}
	check(one, New)
	check(two, New) // looking changes nothing
	put(one, FirstSeen)
	check(one, FirstSeen)
	if FirstSeen.Proven() || !Confirmed.Proven() || !Pinned.Proven() || New.Proven() {
		t.Error("what is proven")
	}

	_, err := trust.Check("server1", two)
	var changed *ChangedKeyError
	if !errors.As(err, &changed) || changed.Name != "server1" || changed.Want != one || changed.Got != two {
		t.Fatal(err)
	}
	for _, part := range []string{"server1", one.Fingerprint(), two.Fingerprint(), "trust that for server1"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q is not in: %v", part, err)
		}
	}
	if err := trust.Put("server1", two, FirstSeen); !errors.As(err, &changed) {
		t.Error("a first sight took the place of a known key", err)
	}
	check(one, FirstSeen)

	put(one, Pinned)
	put(one, Confirmed) // less than what we know
	put(one, FirstSeen)
	check(one, Pinned)
	put(two, Confirmed)
	check(two, Confirmed)
	if _, err := trust.Check("server1", one); !errors.As(err, &changed) {
		t.Error("the old key is still good", err)
	}
	if key, s := trust.Known("server1"); key != two || s != Confirmed {
		t.Error(key, s)
	}
	trust.Forget("server1")
	check(one, New)

	if _, err := trust.Check("server1", PublicKey{}); err == nil {
		t.Error("no key is a key")
	}
	if trust.Put("server1", PublicKey{}, Pinned) == nil || trust.Put("server1", one, New) == nil {
		t.Error("put nothing")
	}
}
