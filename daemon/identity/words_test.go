package identity

import (
	"slices"
	"strings"
	"testing"
)

// What two people compare depends on the user, his home and his devices, and on
// nothing else.
func TestUserWords(t *testing.T) {
	key := func(n byte) PublicKey { return KeyFromSeed([32]byte{n}).Public() }
	home, one, two := key(9), key(1), key(2)
	words := UserWords("bob@server1", home, []PublicKey{one, two})
	if want := "pujol-lozag-jarap-nagof-zagiz-potoh"; words != want {
		t.Errorf("have %s, want %s", words, want)
	}
	if again := UserWords("bob@server1", home, []PublicKey{two, one, two}); again != words {
		t.Errorf("in another order: %s", again)
	}
	all := []string{words}
	for _, other := range []string{
		UserWords("bob@server2", home, []PublicKey{one, two}), UserWords("bob@server1", one, []PublicKey{one, two}),
		UserWords("bob@server1", home, []PublicKey{one}), UserWords("bob@server1", home, []PublicKey{one, two, key(3)}),
		UserWords("bob@server1", home, nil), UserWords("bob@server1", one, []PublicKey{home, two}),
	} {
		if slices.Contains(all, other) || strings.Count(other, "-") != 5 {
			t.Errorf("%s is one of %v", other, all)
		}
		all = append(all, other)
	}
}
