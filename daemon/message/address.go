package message

import (
	"fmt"
	"strings"
)

// Bounds of names and addresses, in bytes.
const (
	MaxName    = 63
	MaxAddress = 2*MaxName + 1
)

// Address is "alice@server1", a user at a home server, or "server1", a server
// itself. A value of this type that came from ParseAddress or Parse is valid
// and has one spelling.
type Address string

// nameByte has the bytes that a name is made of; those with nameEdge may be
// its first or last.
var nameByte = func() (t [256]byte) {
	for c := '0'; c <= '9'; c++ {
		t[c] = nameInner | nameEdge
	}
	for c := 'a'; c <= 'z'; c++ {
		t[c] = nameInner | nameEdge
	}
	t['-'], t['.'] = nameInner, nameInner
	return t
}()

const (
	nameInner = 1 << iota
	nameEdge
)

// CheckName says what is wrong with the name of a user or a server: 1 to 63 of
// a-z 0-9 - . with a letter or digit at both ends and no "..".
func CheckName(s string) error {
	switch {
	case validName(s):
		return nil
	case s == "":
		return fmt.Errorf("a name is empty")
	case len(s) > MaxName:
		return fmt.Errorf("name %q: longer than %d bytes", clip(s), MaxName)
	case strings.Contains(s, ".."):
		return fmt.Errorf("name %q: has \"..\" in it", s)
	}
	for i := range len(s) {
		if nameByte[s[i]] == 0 {
			return fmt.Errorf("name %q: has %q; names are made of a-z 0-9 - and '.'", s, s[i])
		}
	}
	return fmt.Errorf("name %q: must begin and end with a letter or digit", s)
}

// validName is CheckName for the path of every message.
func validName(s string) bool {
	if len(s) == 0 || len(s) > MaxName {
		return false
	}
	if nameByte[s[0]]&nameByte[s[len(s)-1]]&nameEdge == 0 {
		return false
	}
	for i := range len(s) {
		if nameByte[s[i]] == 0 || s[i] == '.' && s[i-1] == '.' { // s[0] is no '.'
			return false
		}
	}
	return true
}

// ParseAddress takes "user@server" or "server".
func ParseAddress(s string) (Address, error) {
	if validAddress(s) {
		return Address(s), nil
	}
	user, server, found := strings.Cut(s, "@")
	if !found {
		return "", fmt.Errorf("address %q: %w", clip(s), CheckName(s))
	}
	if err := CheckName(user); err != nil {
		return "", fmt.Errorf("address %q: %w", clip(s), err)
	}
	return "", fmt.Errorf("address %q: %w", clip(s), CheckName(server))
}

// ParseUser takes "user@server" only.
func ParseUser(s string) (Address, error) {
	a, err := ParseAddress(s)
	if err == nil && a.User() == "" {
		return "", fmt.Errorf("address %q: has no user; write it as user@server", s)
	}
	return a, err
}

func validAddress(s string) bool {
	if i := strings.IndexByte(s, '@'); i >= 0 {
		return validName(s[:i]) && validName(s[i+1:])
	}
	return validName(s)
}

// User returns the part before the '@'; "" for a server.
func (a Address) User() string {
	if i := strings.IndexByte(string(a), '@'); i >= 0 {
		return string(a[:i])
	}
	return ""
}

// Server returns the part after the '@', or all of a server's address.
func (a Address) Server() string {
	return string(a[strings.IndexByte(string(a), '@')+1:])
}

// Join makes the address of a user, whose parts are valid names.
func Join(user, server string) Address { return Address(user + "@" + server) }
