package identity

import (
	"errors"
	"fmt"
	"sync"
)

// Standing says how sure we are of a server's key.
type Standing uint8

// The standings, least first.
const (
	New       Standing = iota // no key is known for the name
	FirstSeen                 // the one it showed when we first met
	Confirmed                 // the user compared it
	Pinned                    // it came with the configuration or an invitation
)

var standings = [...]string{"new", "first seen", "confirmed", "pinned"}

func (s Standing) String() string {
	if int(s) >= len(standings) {
		return fmt.Sprintf("standing %d", uint8(s))
	}
	return standings[s]
}

// Proven tells whether a password may be sent to the key: only first sight is not
// enough for that.
func (s Standing) Proven() bool { return s >= Confirmed }

// ChangedKeyError says that a server shows another key than the one we know.
type ChangedKeyError struct {
	Name      string
	Want, Got PublicKey
}

func (e *ChangedKeyError) Error() string {
	return fmt.Sprintf("%s shows another key than before: known is %s (%s), shown was %s (%s)."+
		" Somebody may be in between. Ask its admin, by another way than this one, which is right;"+
		" only if it is the new one, trust that for %[1]s",
		e.Name, e.Want.Fingerprint(), e.Want.Words(), e.Got.Fingerprint(), e.Got.Words())
}

// Trust holds the keys of the servers that we talk to directly, by name. It is
// memory only: whoever uses it stores what it puts in, and puts it back. It is
// safe for concurrent use; the zero Trust is empty and ready.
type Trust struct {
	mu    sync.Mutex
	known map[string]trusted
}

type trusted struct {
	key      PublicKey
	standing Standing
}

// Check says how the key stands that a server of this name has shown: New if we
// know none for the name (the caller decides, and calls Put), its standing if it
// is the one that we know, or a *ChangedKeyError. It changes nothing.
func (t *Trust) Check(name string, key PublicKey) (Standing, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if key.IsZero() {
		return New, errors.New("checking a server's key: there is none")
	}
	known, found := t.known[name]
	if found && known.key != key {
		return New, &ChangedKeyError{Name: name, Want: known.key, Got: key}
	}
	return known.standing, nil
}

// Put records the key of a server. A first sight never takes the place of a key
// that is known: for another key it is a *ChangedKeyError, for the same one it
// changes nothing. Confirmed and Pinned are somebody's decision and replace.
func (t *Trust) Put(name string, key PublicKey, s Standing) error {
	if key.IsZero() || s == New {
		return fmt.Errorf("trusting %s: no key, or no reason to", name)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	known, found := t.known[name]
	switch {
	case found && known.key != key && s == FirstSeen:
		return &ChangedKeyError{Name: name, Want: known.key, Got: key}
	case found && known.key == key && s < known.standing:
		return nil
	}
	if t.known == nil {
		t.known = make(map[string]trusted)
	}
	t.known[name] = trusted{key, s}
	return nil
}

// Known returns the key of a server and its standing; New if there is none.
func (t *Trust) Known(name string) (PublicKey, Standing) {
	t.mu.Lock()
	defer t.mu.Unlock()
	known := t.known[name]
	return known.key, known.standing
}

// Forget makes a name new again.
func (t *Trust) Forget(name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.known, name)
}
