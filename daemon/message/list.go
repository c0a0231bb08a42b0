package message

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
)

// MaxMembers bounds a list.
const MaxMembers = 1000

// ListID names a list as it was at one time: the first 16 bytes of SHA-256 over its
// Roster's bytes. Zero: none.
type ListID [16]byte

// String returns 32 lower-case hex digits.
func (id ListID) String() string { return hex.EncodeToString(id[:]) }

// Roster is who is in a list. Whoever makes or changes one sends it once to each
// member; what is written to the list names it by its id, so that members know whom
// else it went to and can answer all.
//
// On the wire it is an array of 3: name, members, and a map.
type Roster struct {
	Name    string    // a name as in an address
	Members []Address // 1 to MaxMembers users, rising
}

// ID returns the list's id.
func (l *Roster) ID() ListID {
	sum := sha256.Sum256(l.Append(nil))
	return ListID(sum[:16])
}

// Append appends the body to dst. It sorts the members.
func (l *Roster) Append(dst []byte) []byte {
	slices.Sort(l.Members)
	l.Members = slices.Compact(l.Members)
	dst = AppendString(AppendArray(dst, 3), l.Name)
	dst = AppendArray(dst, len(l.Members))
	for _, a := range l.Members {
		dst = AppendString(dst, string(a))
	}
	return AppendMap(dst, 0)
}

// Parse reads a body. Strings share its bytes.
func (l *Roster) Parse(body []byte) error {
	*l = Roster{}
	r := NewReader(body)
	r.Tuple(3)
	l.Name = r.Name()
	n := r.Array(MaxMembers)
	for i := range n {
		a := r.Address(true)
		if i > 0 && a <= l.Members[i-1] {
			r.Fail("the members are not in order, or one is there twice: %s", a)
		}
		if r.err != nil {
			break
		}
		l.Members = append(l.Members, a)
	}
	if n == 0 {
		r.Fail("a list of nobody")
	}
	r.Fields(nil)
	if err := r.End(); err != nil {
		return fmt.Errorf("list: %w", err)
	}
	return nil
}
