package message

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"
)

func TestIDs(t *testing.T) {
	id := IDOf([]byte("abc"))
	if id.String() != "ba7816bf8f01cfea414140de5dae2223" { // of FIPS 180-2, appendix B.1
		t.Errorf("the id of abc is %s", id)
	}
	if again, err := ParseID(id.String()); again != id || err != nil {
		t.Error(again, err)
	}
	d := DeviceID(0x0123456789abcdef)
	if again, err := ParseDeviceID(d.String()); again != d || err != nil || d.String() != "0123456789abcdef" {
		t.Error(again, err)
	}
	for _, s := range []string{"", "0", strings.Repeat("0", 31), strings.Repeat("0", 33), strings.Repeat("0", 31) + "A", strings.Repeat("0", 31) + "g"} {
		if _, err := ParseID(s); err == nil {
			t.Errorf("ParseID takes %q", s)
		}
		if s = s[len(s)/2:]; s != "" {
			if _, err := ParseDeviceID(s); err == nil && len(s) != 16 {
				t.Errorf("ParseDeviceID takes %q", s)
			}
		}
	}
}

func TestJSON(t *testing.T) {
	type all struct {
		ID     ID
		Device DeviceID
		State  State
		Code   Code
		None   Code
	}
	in := all{IDOf(nil), 1<<64 - 1, Delivered, CodeQuota, 0}
	b, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"ID":"e3b0c44298fc1c149afbf4c8996fb924","Device":"ffffffffffffffff","State":"delivered","Code":"quota","None":""}`; string(b) != want {
		t.Errorf("%s", b)
	}
	var out all
	if err := json.Unmarshal(b, &out); err != nil || in != out {
		t.Errorf("%+v became %+v, %v", in, out, err)
	}
	for _, bad := range []string{`{"ID":"x"}`, `{"Device":"x"}`, `{"State":"x"}`, `{"State":""}`} {
		if json.Unmarshal([]byte(bad), &out) == nil {
			t.Errorf("%s is taken", bad)
		}
	}
	if err := json.Unmarshal([]byte(`{"Code":"of-a-later-version"}`), &out); err != nil || out.Code != 0 {
		t.Error(err, out.Code)
	}
}

func TestNames(t *testing.T) {
	seen := map[string]bool{}
	for s := Queued; s <= Read; s++ {
		if again, err := ParseState(s.String()); again != s || err != nil || seen[s.String()] {
			t.Errorf("%d is %q, and that is %d, %v", s, s, again, err)
		}
		seen[s.String()] = true
	}
	clear(seen) // expired is a state and a code
	for _, c := range Codes() {
		var again Code
		text, _ := c.MarshalText()
		if again.UnmarshalText(text); again != c || seen[c.String()] || strings.HasPrefix(c.String(), "code-") {
			t.Errorf("%d is %q, and that is %d", c, c, again)
		}
		seen[c.String()] = true
	}
	if Code(99).String() != "code-99" || State(99).String() != "state 99" {
		t.Error(Code(99), State(99))
	}
	if !Refused.Final() || !Expired.Final() || !Read.Final() || Delivered.Final() || Held.Final() || Queued.Final() {
		t.Error("final are refused, expired and read")
	}
}

func TestRefusal(t *testing.T) {
	for want, r := range map[string]*Refusal{
		"quota":                              {Code: CodeQuota},
		"quota: full of 7":                   Refuse(CodeQuota, "full of %d", 7),
		"later: not now (try again in 1m0s)": Defer(CodeLater, time.Minute, "not now"),
	} {
		if r.Error() != want {
			t.Errorf("%q, want %q", r.Error(), want)
		}
	}
	if Defer(CodeLater, 0, "").Permanent || !Refuse(CodeLater, "").Permanent {
		t.Error("Refuse is for good, Defer is not")
	}
}

func TestClean(t *testing.T) {
	for _, c := range []struct {
		in   string
		max  int
		want string
	}{
		{"plain", 9, "plain"},
		{"plain", 3, "pla"},
		{"äöü", 4, "äö"},
		{"äöü", 3, "ä"},
		{"äöü", 0, ""},
		{"two\nlines\x1b[31m", 99, "two lines [31m"},
		{"\u009b", 99, " "},
		{"a\xffb", 99, "a\ufffdb"},
		{"a\xff", 3, "a"},
		{"\ufffd", 3, "\ufffd"},
	} {
		got := Clean(c.in, c.max)
		if got != c.want || len(got) > c.max || !utf8.ValidString(got) || strings.ContainsFunc(got, unicode.IsControl) {
			t.Errorf("Clean(%q, %d) = %q, want %q", c.in, c.max, got, c.want)
		}
	}
}
