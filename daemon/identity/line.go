package identity

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/noipchat/noipchat/daemon/message"
)

// Line is what people paste to tell where a server is and who it is:
//
//	noipchat://server1@203.0.113.5:10001/?key=noip1…&user=alice&invite=…&via=[2001:db8::1]:10001
//
// It looks like a URL and has no escapes, because nothing in it needs one.
type Line struct {
	Server    string
	Addresses []string  // ip:port, 1 to 16 of them, the best first; IPv6 in brackets; the others are written as via=
	Key       PublicKey // zero: not told
	User      string    // whom it is for, without the server; may be empty
	Invite    string    // a token from Users.Invite; may be empty
}

// Bounds of a line.
const (
	MaxLine      = 2048 // bytes
	MaxAddresses = 16
	scheme       = "noipchat://"
)

// ParseLine reads a line. Parameters may come in any order, each but via once. A
// name in place of an address, an unknown parameter, or anything before or after
// the line is an error, which does not repeat the invitation.
func ParseLine(s string) (Line, error) {
	l, err := parseLine(s)
	if err != nil {
		return Line{}, fmt.Errorf("line: %w", err)
	}
	return l, nil
}

func parseLine(s string) (l Line, err error) {
	if len(s) > MaxLine {
		return l, fmt.Errorf("longer than %d bytes", MaxLine)
	}
	rest, found := strings.CutPrefix(s, scheme)
	if !found {
		return l, fmt.Errorf("does not begin with %q", scheme)
	}
	authority, rest, _ := strings.Cut(rest, "/")
	server, address, found := strings.Cut(authority, "@")
	if !found {
		return l, errors.New("want name@address after " + scheme)
	}
	if err := message.CheckName(server); err != nil {
		return l, fmt.Errorf("server: %w", err)
	}
	l.Server = server
	if err := l.addAddress(address); err != nil {
		return l, err
	}
	if rest == "" {
		return l, nil
	}
	query, found := strings.CutPrefix(rest, "?")
	if !found {
		return l, errors.New("want ? and parameters after the /")
	}
	for parameter := range strings.SplitSeq(query, "&") {
		name, value, _ := strings.Cut(parameter, "=")
		if err := l.set(name, value); err != nil {
			return l, err
		}
	}
	return l, nil
}

func (l *Line) set(name, value string) (err error) {
	var twice bool
	switch name {
	case "key":
		twice = !l.Key.IsZero()
		l.Key, err = ParsePublicKey(value)
	case "user":
		twice = l.User != ""
		l.User, err = value, message.CheckName(value)
	case "invite":
		twice = l.Invite != ""
		l.Invite = value
		_, err = hashToken(value)
	case "via":
		return l.addAddress(value)
	default:
		return fmt.Errorf("parameter %.20q is not known", name)
	}
	if twice {
		return fmt.Errorf("parameter %q is there twice", name)
	}
	return err
}

func (l *Line) addAddress(s string) error {
	a, err := netip.ParseAddrPort(s)
	switch {
	case err != nil:
		return fmt.Errorf("address %.60q: want ip:port, as in 203.0.113.5:10001 or [2001:db8::1]:10001", s)
	case a.Addr().Zone() != "":
		return fmt.Errorf("address %.60q: has a zone, which means something on one machine only", s)
	case a.Port() == 0:
		return fmt.Errorf("address %.60q: port 0", s)
	case a.Addr().IsUnspecified() || a.Addr().IsMulticast():
		return fmt.Errorf("address %.60q: is not the address of one machine", s)
	}
	canonical := netip.AddrPortFrom(a.Addr().Unmap(), a.Port()).String()
	if slices.Contains(l.Addresses, canonical) {
		return fmt.Errorf("address %s is there twice", canonical)
	}
	if len(l.Addresses) == MaxAddresses {
		return fmt.Errorf("more than %d addresses", MaxAddresses)
	}
	l.Addresses = append(l.Addresses, canonical)
	return nil
}

// String writes the line in its canonical form. ParseLine of it tells whether the
// fields were good; a line needs a server and an address.
func (l Line) String() string {
	var first string
	if len(l.Addresses) > 0 {
		first = l.Addresses[0]
	}
	var b strings.Builder
	b.WriteString(scheme + l.Server + "@" + first + "/")
	separator := "?"
	add := func(name, value string) {
		b.WriteString(separator + name + "=" + value)
		separator = "&"
	}
	if !l.Key.IsZero() {
		add("key", l.Key.String())
	}
	if l.User != "" {
		add("user", l.User)
	}
	if l.Invite != "" {
		add("invite", l.Invite)
	}
	for _, via := range l.Addresses[min(1, len(l.Addresses)):] {
		add("via", via)
	}
	return b.String()
}
