package identity

import "fmt"

// Standing says how sure we are of a server's key.
type Standing int8

// The standings, least first.
const (
	Distrusted Standing = iota - 2 // an admin will have nothing to do with it
	Waiting                        // it dialled in, and an admin has to say whether it may
	New                            // no key is known for the name
	FirstSeen                      // the one it showed when we first met
	Confirmed                      // a user or an admin compared it
	Pinned                         // it came with the configuration or an invitation
)

var standings = [...]string{"distrusted", "waiting", "new", "first seen", "confirmed", "pinned"}

func (s Standing) String() string {
	if s < Distrusted || s > Pinned {
		return fmt.Sprintf("standing %d", int8(s))
	}
	return standings[s-Distrusted]
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
