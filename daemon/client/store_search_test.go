package client

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/noipchat/noipchat/daemon/message"
)

func TestParseSearch(t *testing.T) {
	for in, want := range map[string]Search{
		"dinner":                   `"dinner"`,
		"  dinner\tat\u00a0eight ": `"dinner" "at" "eight"`,
		`"dinner at" eight`:        `"dinner at" "eight"`,
		"din*":                     `"din"*`,
		`"dinner at ei"*`:          `"dinner at ei"*`,
		`"never closed`:            `"never closed"`,
		`half"quoted"words`:        `"half" "quoted" "words"`,
		`"a*" *b`:                  `"a*" "*b"`,
		"a OR b NOT NEAR(c)":       `"a" "OR" "b" "NOT" "NEAR(c)"`,
		"body:x ^y + -z {q}":       `"body:x" "^y" "-z" "{q}"`,
		"well-known ☕ !":           `"well-known"`,
		"a\x00b c\xffd":            `"a b" "c" "d"`,
		"晩ご飯":                      `"晩ご飯"`,
	} {
		if have, err := ParseSearch(in); err != nil || have != want {
			t.Errorf("%q: %s, %v; want %s", in, have, err, want)
		}
	}
	for in, want := range map[string]string{
		"": "no word", " ": "no word", `""`: "no word", "*": "no word", "☕ !": "no word", "\x00": "no word",
		strings.Repeat("a ", 65): "64 words", strings.Repeat("a", 1025): "1024 bytes",
	} {
		if have, err := ParseSearch(in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.20q: %s, %v; want an error with %q", in, have, err, want)
		}
	}
}

func TestSearch(t *testing.T) {
	s := aliceStore(t)
	receive(t, s, textFrom(t, 1, "Dinner at EIGHT, in the well-known café?"), textFrom(t, 2, "eight dinners\nat Zoë's"), textFrom(t, 3, "☕ OR tea"))
	enqueue(t, s, Outgoing{To: to(bob), Body: []byte("dinner: yes")})
	enqueue(t, s, Outgoing{To: to(bob), Kind: message.Receipt, Body: []byte("dinner")})
	receive(t, s, incoming(t, message.Envelope{Kind: 100, From: bob, Device: bobDevice, Counter: 4, To: to(alice), Body: []byte(" dinner ")}),
		incoming(t, message.Envelope{Kind: message.Text, Sealing: 1, From: bob, Device: bobDevice, Counter: 5, To: to(alice), Body: []byte(" dinner ")}))
	file := filepath.Join(t.TempDir(), "quarterly-report.pdf")
	check(t, os.WriteFile(file, []byte("dinner"), 0o600))
	_, err := s.EnqueueFile(t.Context(), OutgoingFile{To: to(bob), Path: file})
	check(t, err)
	for search, want := range map[string]string{
		"quarterly report.pdf": "quarterly-report.pdf",
		"dinner":               "1,dinner: yes",
		"DINNER eight":         "1",
		"eight dinner":         "1",
		`"eight dinner"`:       "",
		`"dinner at eight"`:    "1",
		"dinn*":                "1,2,dinner: yes",
		`"dinner at ei"*`:      "1",
		"cafe":                 "1",
		"CAFÉ":                 "1",
		"zoe":                  "2",
		"zoë*":                 "2",
		"known":                "1",
		"well-known":           "1",
		"wellknown":            "",
		"OR":                   "3",
		"tea OR dinner":        "",
		"☕ tea":                "3",
		"at":                   "1,2",
		"lunch":                "",
	} {
		q, err := ParseSearch(search)
		check(t, err)
		all, err := s.History(Query{Search: q})
		check(t, err)
		var have []string
		for _, m := range all {
			name := m.Body
			if !m.Out {
				name = string('0' + rune(m.Counter))
			}
			have = append(have, name)
		}
		if strings.Join(have, ",") != want {
			t.Errorf("%s: %q, want %q", search, have, want)
		}
	}
	// What leaves the history leaves the index too.
	_, err = s.writer.ExecContext(t.Context(), "DELETE FROM message WHERE kind = 1 AND counter = 1")
	check(t, err)
	if all, err := s.History(Query{Search: `"dinner"`}); err != nil || len(all) != 0 || count(t, s, `word WHERE word MATCH '"dinner"'`) != 0 {
		t.Errorf("after its end: %q, %v", bodies(all), err)
	}
	_, err = s.writer.ExecContext(t.Context(), "INSERT INTO word (word) VALUES ('integrity-check')")
	check(t, err)
}

// A search with somebody finds what is his alone, whatever addresses look like.
func TestSearchWith(t *testing.T) {
	s := aliceStore(t)
	people := to("bob@server2", "bob@server", "b-o.b@server2", "o.b@server2", "server2@bob", "bob.server2@x", "bob-server2@x", "server2")
	for i, from := range people {
		receive(t, s, incoming(t, message.Envelope{Kind: message.Text, From: from, Device: 1, Counter: uint64(i + 1), To: to(alice, bob), Body: []byte("word from " + from)}))
		if from.User() != "" {
			enqueue(t, s, Outgoing{To: to(from, "zoe@server9"), Body: []byte("word to " + from)})
		}
	}
	for _, who := range people {
		all, err := s.History(Query{Search: `"word"`, With: who})
		check(t, err)
		if want := strings.TrimSuffix("word from "+string(who)+",word to "+string(who), ",word to server2"); strings.Join(bodies(all), ",") != want {
			t.Errorf("%s: %q", who, bodies(all))
		}
	}
	for search, want := range map[Search]int{`"server9"`: 0, `"zoe"`: 0, `"word"`: 7} {
		if all, err := s.History(Query{Search: search, With: "zoe@server9"}); err != nil || len(all) != want {
			t.Errorf("%s with zoe: %q, %v", search, bodies(all), err)
		}
	}
}

// Searching is in another league than reading everything. Both take what the
// machine lets them, so the better of three tries counts.
func TestSearchTime(t *testing.T) {
	s := aliceStore(t)
	fill(t, s, 10_000)
	took := func(q Query) time.Duration {
		best := time.Hour
		for range 3 {
			start := time.Now()
			if all, err := s.History(q); err != nil || len(all) != 1 {
				t.Fatalf("%+v: %d, %v", q, len(all), err)
			}
			best = min(best, time.Since(start))
		}
		return best
	}
	read := took(Query{Grep: regexp.MustCompile(`\b5007$`)})
	for _, search := range []Search{`"5007"`, `"number 5007"`, `"number" "5007"`} {
		if have := took(Query{Search: search}); have > read/4 {
			t.Errorf("%s takes %v, reading everything %v", search, have, read)
		}
	}
}

// Whatever somebody types is an error of ours or a search, never one of SQLite's,
// and finds the text that it was taken from if it has a word at all.
func FuzzSearch(f *testing.F) {
	s := aliceStore(f)
	counter := uint64(0)
	f.Fuzz(func(t *testing.T, typed string) {
		q, err := ParseSearch(typed)
		if err != nil {
			return
		}
		counter++
		if r := receive(t, s, textFrom(t, counter, strings.ToValidUTF8(typed, " "))); !r[0].New {
			t.Fatal("not new")
		}
		all, err := s.History(Query{Search: q, Limit: 1})
		if err != nil {
			t.Fatalf("%q became %s: %v", typed, q, err)
		}
		known := !strings.ContainsFunc(typed, func(r rune) bool { return r > 0x24f }) // of later scripts FTS5 may not know what is a letter
		if known && (len(all) != 1 || all[0].Counter != counter) {
			t.Errorf("%q became %s, which finds %q", typed, q, bodies(all))
		}
	})
}
