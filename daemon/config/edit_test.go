package config

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const edited = `# Our server.
name = "server1"   # do not change
later = 3          # a key of tomorrow

# Where they come in:
[[interface]]
bind = "192.0.2.1:1"

# and by IPv6
[[interface]]
bind = "[2001:db8::1]:1"   # v6
public = ["[2001:db8::2]:1"]

# who may
[register]
mode = "closed"
`

func TestSet(t *testing.T) {
	tests := []struct{ text, key, value, from, to string }{
		{edited, "name", `"server2"`, `"server1"`, `"server2"`},
		{edited, "later", `[1, 2]`, "later = 3 ", "later = [1, 2] "},
		{edited, "interface[1].public", `[]`, `["[2001:db8::2]:1"]`, `[]`},
		{edited, "register.mode", `"open"`, `"closed"`, `"open"`},
		{edited, "log", `"stderr"`, "tomorrow\n", "tomorrow\nlog = \"stderr\"\n"},
		{edited, "interface[0].public", `["203.0.113.5:1"]`, "bind = \"192.0.2.1:1\"\n", "bind = \"192.0.2.1:1\"\npublic = [\"203.0.113.5:1\"]\n"},
		{edited, "spool.max_age", `"1d"`, "mode = \"closed\"\n", "mode = \"closed\"\n\n[spool]\nmax_age = \"1d\"\n"},
		{"", "name", `"a"`, "", "name = \"a\"\n"},
		{"# only a comment\n[spool]\n", "name", `"a"`, "# only", "name = \"a\"\n# only"},
		{"register.mode = 'closed'\n", "register.mode", `"open"`, "'closed'", `"open"`},
		{"register = {mode = 'closed'}\n", "register.mode", `"open"`, "'closed'", `"open"`},
		{"name=\"a\"\r\n[[interface]]\r\n", "log", `"x"`, "\"a\"\r\n", "\"a\"\r\nlog = \"x\"\r\n"},
	}
	for _, test := range tests {
		want := strings.Replace(test.text, test.from, test.to, 1)
		if test.text == "" {
			want = "\n" + test.to // an empty line, as parse makes it
		}
		have, err := Set(test.text, test.key, test.value)
		if err != nil || strings.TrimLeft(have, "\n") != strings.TrimLeft(want, "\n") {
			t.Errorf("%s: %v\nhave %s\nwant %s", test.key, err, have, want)
		}
	}
}

// What can't be done so is refused, and nothing is half done.
func TestSetRefused(t *testing.T) {
	for _, test := range [][3]string{
		{"a = {b = 1}\n", "a.c", "2"},       // an inline table is closed
		{"name = \"a\"\n", "name", "b"},     // no value
		{"name = \"a\"\n", "log", "1\nx=2"}, // two keys
		{"interface = []\n", "interface[0].bind", `"x"`},
	} {
		if text, err := Set(test[0], test[1], test[2]); err == nil {
			t.Errorf("%q %s: %s", test[0], test[1], text)
		}
	}
	var bad Errors
	if _, err := Set("name = \n", "name", `"a"`); !errors.As(err, &bad) {
		t.Errorf("a text that is no TOML: %v", err)
	}
}

func TestCut(t *testing.T) {
	for table, part := range map[string]string{
		"interface[0]": "[[interface]]\nbind = \"192.0.2.1:1\"\n\n",
		"interface[1]": "[[interface]]\nbind = \"[2001:db8::1]:1\"   # v6\npublic = [\"[2001:db8::2]:1\"]\n\n",
	} {
		have, err := Cut(edited, table)
		if want := strings.Replace(edited, part, "", 1); err != nil || have != want {
			t.Errorf("%s: %v\n%s", table, err, have)
		}
	}
	if text, err := Cut("a = 1\n[[peer]]\n[[peer.link]]\n[peer.link.x]\n", "peer[0]"); err != nil || text != "a = 1\n" {
		t.Errorf("%q %v", text, err)
	}
	if _, err := Cut("interface = [{bind = 'a'}]\n", "interface[0]"); err == nil {
		t.Error("cut an element of an inline array")
	}
}

// FuzzSet: a text that is changed has that value and, besides, every other value that
// it had.
func FuzzSet(f *testing.F) {
	for _, pattern := range []string{"testdata/bad/*.toml", "testdata/good/*.toml", "../../etc/*.toml"} {
		paths, err := filepath.Glob(pattern)
		if err != nil || len(paths) == 0 {
			f.Fatalf("no seeds in %s: %v", pattern, err)
		}
		for _, path := range paths {
			text, err := os.ReadFile(path)
			if err != nil {
				f.Fatal(err)
			}
			for _, key := range []string{"name", "register.mode", "interface[0].public"} {
				f.Add(string(text), key, `"x"`)
			}
		}
	}
	f.Fuzz(func(t *testing.T, text, key, value string) {
		if len(text)+len(key)+len(value) > 1<<16 {
			return
		}
		changed, err := Set(text, key, value)
		if err != nil {
			return
		}
		_, before, _ := parse(text)
		_, after, errs := parse(changed)
		if errs != nil {
			t.Fatalf("%q: %v", changed, errs)
		}
		for path, at := range before.spans {
			now, there := after.spans[path]
			if !strings.HasPrefix(key, path) && (!there || after.text[now.start:now.end] != before.text[at.start:at.end]) && !strings.HasPrefix(path, key) {
				t.Errorf("%s was lost by setting %s to %s:\n%s", path, key, value, changed)
			}
		}
	})
}
