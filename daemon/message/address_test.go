package message

import (
	"regexp"
	"strings"
	"testing"
)

func TestAddress(t *testing.T) {
	long := strings.Repeat("a", MaxName)
	for _, s := range []string{"a", "0", "alice", "a-b", "a.b", "a--b", "1.2.3.4", long, "alice@server1", "0@0", long + "@" + long} {
		a, err := ParseAddress(s)
		if err != nil || string(a) != s {
			t.Errorf("ParseAddress(%q) = %q, %v", s, a, err)
		}
		user, server, found := strings.Cut(s, "@")
		if !found {
			user, server = "", s
		}
		if a.User() != user || a.Server() != server {
			t.Errorf("%q is of user %q and server %q", s, a.User(), a.Server())
		}
		if _, err := ParseUser(s); (err == nil) != found {
			t.Errorf("ParseUser(%q): %v", s, err)
		}
		if found && Join(user, server) != a {
			t.Errorf("Join makes %q of %q", Join(user, server), s)
		}
	}
	for s, want := range map[string]string{
		"":                                 "empty",
		"@":                                "empty",
		"@server1":                         "empty",
		"alice@":                           "empty",
		"alice@b@c":                        `'@'`,
		"Alice":                            `'A'`,
		"al ice":                           `' '`,
		"al_ice":                           `'_'`,
		"alicé":                            "a-z",
		"al\x00ice":                        "a-z",
		"-a":                               "begin and end",
		"a-":                               "begin and end",
		".a":                               "begin and end",
		"a.":                               "begin and end",
		"a..b":                             `".."`,
		"..":                               `".."`,
		"../x":                             `".."`,
		"a/b":                              `'/'`,
		long + "a":                         "longer",
		"alice@" + long + "a":              "longer",
		strings.Repeat("a", 1<<20) + "@b":  "longer",
		"alice@" + strings.Repeat("é", 99): "longer",
	} {
		a, err := ParseAddress(s)
		if err == nil || !strings.Contains(err.Error(), want) || len(err.Error()) > 500 {
			t.Errorf("ParseAddress(%q) = %q, %v; want an error with %q", clip(s), a, err, want)
		}
	}
}

// FuzzAddress compares with the rule as a regular expression.
func FuzzAddress(f *testing.F) {
	name := `[a-z0-9](?:[a-z0-9.-]{0,61}[a-z0-9])?`
	rule := regexp.MustCompile(`\A(?:` + name + `@)?` + name + `\z`)
	for _, s := range []string{"server1", "alice@server1", "a.b-c@1.2", strings.Repeat("a", MaxName) + "@b", "", "@", "alice@b@c", "Alice", "a-@b", "a..b@c", "alicé"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		want := rule.MatchString(s) && !strings.Contains(s, "..")
		a, err := ParseAddress(s)
		if (err == nil) != want {
			t.Fatalf("ParseAddress(%q) = %q, %v", s, a, err)
		}
		if err != nil {
			if a != "" {
				t.Fatalf("an address %q with an error", a)
			}
			return
		}
		if string(a) != s || a.User() != "" && Join(a.User(), a.Server()) != a {
			t.Fatalf("%q became %q", s, a)
		}
		if CheckName(a.Server()) != nil || a.User() != "" && CheckName(a.User()) != nil {
			t.Fatalf("CheckName refuses a part of %q", a)
		}
		r := NewReader(AppendString(nil, s))
		if b := r.Address(false); b != a || r.End() != nil {
			t.Fatalf("a Reader makes %q of it: %v", b, r.Err())
		}
	})
}
