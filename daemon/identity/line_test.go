package identity

import (
	"reflect"
	"strings"
	"testing"
)

func TestLine(t *testing.T) {
	key := KeyFromSeed([32]byte{7}).Public()
	const token = "aaaaaaaaaaaaaaaaaaaaaaaaaa"
	for text, want := range map[string]Line{
		"noipchat://server1@203.0.113.5:10001/":                   {Server: "server1", Addresses: []string{"203.0.113.5:10001"}},
		"noipchat://server1@[2001:db8::1]:10001/":                 {Server: "server1", Addresses: []string{"[2001:db8::1]:10001"}},
		"noipchat://s.x@127.0.0.1:1/?key=" + key.String():         {Server: "s.x", Addresses: []string{"127.0.0.1:1"}, Key: key},
		"noipchat://s@127.0.0.1:1/?user=alice&invite=" + token:    {Server: "s", Addresses: []string{"127.0.0.1:1"}, User: "alice", Invite: token},
		"noipchat://s@127.0.0.1:1/?via=[::1]:2&via=192.0.2.1:443": {Server: "s", Addresses: []string{"127.0.0.1:1", "[::1]:2", "192.0.2.1:443"}},
	} {
		got, err := ParseLine(text)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
		if got := want.String(); got != text {
			t.Errorf("have %s\nwant %s", got, text)
		}
	}
	// Spellings that are taken but not written.
	for text, canonical := range map[string]string{
		"noipchat://s@127.0.0.1:1":                                 "noipchat://s@127.0.0.1:1/",
		"noipchat://s@[2001:DB8:0::1]:1/":                          "noipchat://s@[2001:db8::1]:1/",
		"noipchat://s@[::ffff:192.0.2.1]:1/":                       "noipchat://s@192.0.2.1:1/",
		"noipchat://s@127.0.0.1:1/?via=[::1]:2&user=alice":         "noipchat://s@127.0.0.1:1/?user=alice&via=[::1]:2",
		"noipchat://s@127.0.0.1:1/?user=alice&key=" + key.String(): "noipchat://s@127.0.0.1:1/?key=" + key.String() + "&user=alice",
	} {
		got, err := ParseLine(text)
		if err != nil || got.String() != canonical {
			t.Errorf("%s: %s, %v", text, got, err)
		}
	}
}

func TestLineRefused(t *testing.T) {
	key := KeyFromSeed([32]byte{7}).Public().String()
	const token = "aaaaaaaaaaaaaaaaaaaaaaaaaa"
	for text, want := range map[string]string{
		"":                                                               "does not begin",
		"http://s@127.0.0.1:1/":                                          "does not begin",
		" noipchat://s@127.0.0.1:1/":                                     "does not begin",
		"noipchat://127.0.0.1:1/":                                        "name@address",
		"noipchat://Server@127.0.0.1:1/":                                 "server: name",
		"noipchat://@127.0.0.1:1/":                                       "server: a name is empty",
		"noipchat://s@/":                                                 "want ip:port",
		"noipchat://s@example.org:1/":                                    "want ip:port",
		"noipchat://s@127.0.0.1/":                                        "want ip:port",
		"noipchat://s@127.0.0.1:65536/":                                  "want ip:port",
		"noipchat://s@::1:1/":                                            "want ip:port",
		"noipchat://s@127.0.0.1:0/":                                      "port 0",
		"noipchat://s@0.0.0.0:1/":                                        "one machine",
		"noipchat://s@[ff02::1]:1/":                                      "one machine",
		"noipchat://s@[fe80::1%eth0]:1/":                                 "zone",
		"noipchat://s@127.0.0.1:1/x":                                     "want ? and",
		"noipchat://s@127.0.0.1:1/?":                                     `parameter "" is not known`,
		"noipchat://s@127.0.0.1:1/?user=a&":                              `parameter "" is not known`,
		"noipchat://s@127.0.0.1:1/?password=x":                           `parameter "password" is not known`,
		"noipchat://s@127.0.0.1:1/?user=a&user=b":                        "twice",
		"noipchat://s@127.0.0.1:1/?user=":                                "empty",
		"noipchat://s@127.0.0.1:1/?user=a%40b":                           "has '%'",
		"noipchat://s@127.0.0.1:1/?user=a@s":                             "has '@'",
		"noipchat://s@127.0.0.1:1/?user=a\n":                             `has '\n'`,
		"noipchat://s@127.0.0.1:1/?via=127.0.0.1:1":                      "twice",
		"noipchat://s@127.0.0.1:1/?key=" + key[:50]:                      "50 characters",
		"noipchat://s@127.0.0.1:1/?key=" + key + "&key=" + key:           "twice",
		"noipchat://s@127.0.0.1:1/?invite=" + token + "&invite=" + token: "twice",
		"noipchat://s@127.0.0.1:1/?invite=" + token[1:] + "b":            "26 characters", // bits left over
		"noipchat://s@127.0.0.1:1/?invite=" + token + "a":                "26 characters",
		"noipchat://s@127.0.0.1:1/?user=" + strings.Repeat("a", 2048):    "longer than 2048",
	} {
		_, err := ParseLine(text)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		} else if strings.Contains(err.Error(), token[1:]) {
			t.Errorf("%q: the error shows the invitation", text)
		}
	}
	many := "noipchat://s@127.0.0.1:1/?"
	for i := range 16 {
		many += "&via=127.0.0.1:" + string(rune('2'+i%8)) + string(rune('0'+i/8))
	}
	if _, err := ParseLine(strings.Replace(many, "?&", "?", 1)); err == nil || !strings.Contains(err.Error(), "more than 16") {
		t.Error(err)
	}
}

func FuzzParseLine(f *testing.F) {
	f.Fuzz(func(t *testing.T, s string) {
		l, err := ParseLine(s)
		if err != nil {
			return
		}
		text := l.String()
		again, err := ParseLine(text)
		if err != nil || !reflect.DeepEqual(again, l) || again.String() != text {
			t.Errorf("%q gave %q, which gave %+v, %v", s, text, again, err)
		}
	})
}
