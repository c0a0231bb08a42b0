package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/noipchat/noipchat/daemon/message"
)

func TestExplain(t *testing.T) {
	for _, x := range []struct {
		err  error
		code int
		hint string
	}{
		{Misuse("so", "what"), ExitUsage, "so"},
		{fmt.Errorf("around: %w", &Error{ExitConfig, errors.New("x"), "so"}), ExitConfig, "so"},
		{message.Refuse(message.CodeQuota, "full"), ExitRefused, ""},
		{fmt.Errorf("sending: %w", message.Defer(message.CodeLater, time.Minute, "slow down")), ExitRefused, "try again in 1m0s"},
		{message.Refuse(message.CodeProtocol, "what"), ExitProtocol, "same version"},
		{fmt.Errorf("frame: %w", message.ErrMalformed), ExitProtocol, "same version"},
		{context.DeadlineExceeded, ExitNotYet, "--timeout"},
		{context.Canceled, ExitNotYet, "interrupted"},
		{fmt.Errorf("writing: %w", syscall.EIO), ExitIO, ""},
		{fmt.Errorf("writing: %w", syscall.ENOSPC), ExitIO, "df -h"},
		{errors.New("surprise"), ExitFault, "report"},
	} {
		e := Explain(x.err)
		if e.Code != x.code || !strings.Contains(e.Hint, x.hint) || e.Hint != "" && x.hint == "" || e.Error() != x.err.Error() {
			t.Errorf("%v: have %+v, want code %d, hint %q", x.err, e, x.code, x.hint)
		}
	}
}

// TestErrorText: no text from elsewhere looks like a line of the program's own.
func TestErrorText(t *testing.T) {
	var b bytes.Buffer
	Report(&b, "noipctl", &Error{ExitRefused, errors.New("no\nhint: \x1b[31mrm -rf /\r\nnoipctl: done\n"), "wait\nor not"})
	want := "noipctl: no\n  hint: \ufffd[31mrm -rf /\ufffd\n  noipctl: done\nhint: wait\n  or not\n"
	if b.String() != want {
		t.Errorf("have %q, want %q", b.String(), want)
	}
}

func TestSanitise(t *testing.T) {
	for in, want := range map[string]string{
		"":                                  "",
		"Grüße 你好 👩\u200d🚀":                 "Grüße 你好 👩\u200d🚀",
		"می\u200cخواهم":                     "می\u200cخواهم",
		"a\x1b[2Jb":                         "a\ufffd[2Jb",
		"a\tb\r\n\x00\x07\x7f":              "a\ufffdb\ufffd\ufffd\ufffd\ufffd\ufffd",
		"\u009b31m\u0085":                   "\ufffd31m\ufffd",
		"\u202etxt\u2066\u2069\u200f\u061c": "\ufffdtxt\ufffd\ufffd\ufffd\ufffd",
		"a\u200bb\ufeff\u2028\u2029\u00ad":  "a\ufffdb\ufffd\ufffd\ufffd\ufffd",
		"\U000e0041\U000e007f":              "\ufffd\ufffd",
		"a\xffb\xc3":                        "a\ufffdb\ufffd",
	} {
		if have := Sanitise(in); have != want {
			t.Errorf("%q: have %q, want %q", in, have, want)
		}
	}
}

func TestJSON(t *testing.T) {
	for _, x := range []struct {
		v    any
		want string
	}{
		{struct{}{}, `{"schema":1}`},
		{map[string]int{"a": 1}, `{"schema":1,"a":1}`},
		{struct {
			Text string `json:"text"`
		}{"<a&b> \x1b\n\u0085\u202e\u200d\U000e0041\x7f\"ü"}, `{"schema":1,"text":"<a&b> \u001b\n\u0085\u202e` + "\u200d" + `\udb40\udc41\u007f\"ü"}`},
	} {
		var b bytes.Buffer
		if err := JSON(&b, x.v); err != nil || b.String() != x.want+"\n" {
			t.Errorf("have %s, %v, want %s", b.String(), err, x.want)
		}
	}
	for _, v := range []any{nil, 7, []int{}, func() {}} {
		var b bytes.Buffer
		if err := JSON(&b, v); err == nil || b.Len() > 0 {
			t.Errorf("%T was written: %s", v, b.String())
		}
	}
}

// FuzzOutput: whatever a text holds, a line of a table shows no hidden character,
// and a line of JSON neither shows one nor loses one.
func FuzzOutput(f *testing.F) {
	f.Fuzz(func(t *testing.T, text string) {
		var table Table
		table.Row("TEXT", "END")
		table.Row(text, "end")
		var b bytes.Buffer
		if err := table.Write(&b, "none"); err != nil {
			t.Fatal(err)
		}
		fit(t, b.String(), 2)
		b.Reset()
		if err := JSON(&b, map[string]string{"text": text}); err != nil {
			t.Fatal(err)
		}
		fit(t, b.String(), 1)
		var back struct{ Text string }
		if err := json.Unmarshal(b.Bytes(), &back); err != nil || back.Text != strings.ToValidUTF8(text, "\ufffd") && utf8.ValidString(text) {
			t.Fatalf("%q came back as %q, %v", text, back.Text, err)
		}
	})
}

func fit(t *testing.T, out string, lines int) {
	if strings.Count(out, "\n") != lines || !utf8.ValidString(out) {
		t.Fatalf("want %d lines of UTF-8, have %q", lines, out)
	}
	for _, r := range strings.ReplaceAll(out, "\n", "") {
		if unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) {
			t.Fatalf("%U in %q", r, out)
		}
	}
}

func TestTable(t *testing.T) {
	var table Table
	table.Row("NAME", "AGE")
	var b bytes.Buffer
	if err := table.Write(&b, "nobody"); err != nil || b.String() != "nobody\n" {
		t.Errorf("have %q, %v", b.String(), err)
	}
	table.Row("", "1")
	table.Row("Jürgen", "22")
	b.Reset()
	want := "NAME    AGE\n-       1\nJürgen  22\n"
	if err := table.Write(&b, "nobody"); err != nil || b.String() != want {
		t.Errorf("have %q, %v, want %q", b.String(), err, want)
	}
}

func TestSize(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1536: "1.5 KiB", 1<<20 - 1: "1.0 MiB", 1 << 20: "1.0 MiB", 5 << 40: "5.0 TiB", math.MaxInt64: "8.0 EiB",
	} {
		if have := Size(n); have != want {
			t.Errorf("%d: have %s, want %s", n, have, want)
		}
	}
}

func TestAge(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Hour: "0s", 0: "0s", 119 * time.Second: "119s", 2 * time.Minute: "2m", 119 * time.Minute: "119m",
		2 * time.Hour: "2h", 47 * time.Hour: "47h", 48 * time.Hour: "2d", 400 * 24 * time.Hour: "400d",
	} {
		if have := Age(d); have != want {
			t.Errorf("%v: have %s, want %s", d, have, want)
		}
	}
	if Ago(time.Time{}) != "never" || Ago(time.Now().Add(-3*time.Hour)) != "3h ago" {
		t.Error("ago")
	}
}

// TestReadLine takes one line and leaves the rest.
func TestReadLine(t *testing.T) {
	long := strings.Repeat("x", 3000)
	for in, want := range map[string]struct{ line, rest string }{
		"one\ntwo\n":  {"one", "two\n"},
		"one\r\ntwo":  {"one", "two"},
		"one":         {"one", ""},
		"":            {"", ""},
		"\n":          {"", ""},
		long + "\nxy": {long[:MaxPassword+2], long[MaxPassword+2:] + "\nxy"},
	} {
		r := strings.NewReader(in)
		line, err := readLine(r)
		rest := in[len(in)-r.Len():]
		if err != nil || line != want.line || rest != want.rest {
			t.Errorf("%.20q: have %.20q and %.20q, %v", in, line, rest, err)
		}
	}
}
