package main

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/noipchat/noipchat/daemon/client"
	"github.com/noipchat/noipchat/daemon/message"
)

var hostile = []string{
	"", "plain", "<script>alert(1)</script>", `"><img src=x onerror='alert(1)'>`, "</p></li></ol><h1>from admin@server1</h1>",
	"&lt;&amp;&#60;", "a\nb\r\nc\td", "\x1b[2J\x1b]0;x\x07", "\u202etxt.exe\u2066", "<!--", "]]>", "{{.}}", "\u2028\u0085", "-->\x00",
	"2026-03-01 12:00:00  from bob@server1  yes  (read, 00000000)", "Grüße 你好 👩\u200d🚀",
}

// exported is a store with these texts, and what an export of it says.
func exported(t testing.TB, form string, n names, texts ...string) (store *client.Store, content []byte) {
	t.Helper()
	store, err := client.OpenStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	if err := store.SetAccount(client.Account{Address: "alice@server1", Device: 1, ServerKey: "noip1key"}); err != nil {
		t.Fatal(err)
	}
	for i, text := range texts {
		if i%2 == 0 {
			_, err = store.Enqueue(t.Context(), client.Outgoing{To: []message.Address{"bob@server1", "carol@server1"}, Body: []byte(text)})
		} else {
			e := message.Envelope{Kind: message.Text, Priority: message.Normal, From: "bob@server1", Device: 2, Counter: uint64(i), To: []message.Address{"alice@server1"}, Body: []byte(text)}
			raw, appendErr := e.Append(nil)
			if appendErr != nil {
				t.Fatal(appendErr)
			}
			if err = e.Parse(raw); err == nil {
				_, err = store.Receive([]client.Incoming{{Envelope: &e, Server: "server1"}})
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	e := export{path: filepath.Join(t.TempDir(), "file"), form: form}
	if count, err := e.run(t.Context(), store, client.Query{}, n); err != nil || count != len(texts) {
		t.Fatalf("%d of %d were exported, %v", count, len(texts), err)
	}
	if st, err := os.Stat(e.path); err != nil || st.Mode() != 0o600 {
		t.Fatalf("%v, %v", st, err)
	}
	if content, err = os.ReadFile(e.path); err != nil {
		t.Fatal(err)
	}
	return store, content
}

// An export as JSON has all that the history has.
func TestExportJSON(t *testing.T) {
	store, content := exported(t, "json", nil, hostile...)
	want, err := store.History(client.Query{})
	if err != nil {
		t.Fatal(err)
	}
	var have []client.Message
	for line := range bytes.Lines(content) {
		var m client.Message
		if err := json.Unmarshal(line, &m); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		have = append(have, m)
	}
	if !reflect.DeepEqual(have, want) {
		t.Errorf("have %+v\nwant %+v", have, want)
	}
}

func TestExportText(t *testing.T) {
	_, content := exported(t, "text", names{"bob@server1": "Bob"}, hostile...)
	lines := strings.Split(strings.TrimSuffix(string(content), "\n"), "\n")
	if len(lines) != len(hostile) {
		t.Fatalf("%d lines for %d texts:\n%s", len(lines), len(hostile), content)
	}
	for i, line := range lines {
		rest := strings.TrimPrefix(line[len(time.DateTime):], "  ")
		who, end := "to Bob <bob@server1>, carol@server1  ", "  (queued, "
		if i%2 == 1 {
			who, end = "from Bob <bob@server1>  ", "delivered, "
		}
		if !strings.HasPrefix(rest, who) || !strings.Contains(line[len(line)-30:], end) || strings.ContainsFunc(line, unicode.IsControl) {
			t.Errorf("%q: want %q and %q", line, who, end)
		}
	}
}

// The page is the same elements whatever the texts are: nothing of them is markup,
// nothing hides, and nothing is fetched or run.
func TestExportHTML(t *testing.T) {
	_, content := exported(t, "html", names{"bob@server1": "Bob's"}, hostile...)
	wellFormed(t, string(content), hostile...)
	for _, want := range []string{"default-src 'none'", "@media print", `content="light dark"`, "from Bob&#39;s &lt;bob@server1&gt;"} {
		if !strings.Contains(string(content), want) {
			t.Errorf("there is no %s in\n%s", want, content)
		}
	}
}

// wellFormed reads a page with the list of texts, as XML but for its head.
func wellFormed(t *testing.T, page string, texts ...string) {
	t.Helper()
	_, list, _ := strings.Cut(page, "<body>\n")
	list, foot, found := strings.Cut(list, "\n</body>")
	if !found || foot != "\n</html>\n" {
		t.Fatalf("the page ends with %q", foot)
	}
	d := xml.NewDecoder(strings.NewReader(list))
	count, text := map[string]int{}, ""
	var paragraphs []string
	for {
		token, err := d.Token()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatalf("%v in\n%s", err, list)
		}
		switch token := token.(type) {
		case xml.StartElement:
			count[token.Name.Local]++
			text = ""
			for _, a := range token.Attr {
				if !strings.Contains(" class id datetime dir ", " "+a.Name.Local+" ") {
					t.Errorf("an attribute %s", a.Name.Local)
				}
			}
		case xml.CharData:
			text += string(token)
		case xml.EndElement:
			if token.Name.Local == "p" {
				paragraphs = append(paragraphs, text)
			}
		default:
			t.Errorf("a %T in\n%s", token, list)
		}
	}
	n := len(texts)
	if want := map[string]int{"ol": 1, "li": n, "header": n, "time": n, "p": n, "footer": n}; !reflect.DeepEqual(count, want) {
		t.Errorf("the elements are %v, want %v", count, want)
	}
	for i, p := range paragraphs {
		if strings.ContainsFunc(p, func(r rune) bool { return r != '\n' && (unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r)) }) {
			t.Errorf("%q became %q", texts[i], p)
		}
		if plain := !strings.ContainsFunc(texts[i], func(r rune) bool { return !unicode.IsPrint(r) }); plain && p != texts[i] {
			t.Errorf("%q became %q", texts[i], p)
		}
	}
}

// FuzzExport: no text gets out of its paragraph, nor out of its line.
func FuzzExport(f *testing.F) {
	f.Fuzz(func(t *testing.T, text string) {
		m := client.Message{From: "bob@server1", State: "read", Body: strings.ToValidUTF8(text, "?"), At: time.Unix(0, 0)}
		var b bytes.Buffer
		b.WriteString(page)
		if err := writeHTML(&b, m, nil); err != nil {
			t.Fatal(err)
		}
		b.WriteString("</ol>\n</body>\n</html>\n")
		wellFormed(t, b.String(), m.Body)
		b.Reset()
		if err := writeHistory(&b, m, nil); err != nil {
			t.Fatal(err)
		}
		if line := b.String(); strings.Count(line, "\n") != 1 || !strings.HasSuffix(line, "  (read, 00000000)\n") || strings.ContainsFunc(line[:len(line)-1], unicode.IsControl) {
			t.Fatalf("%q became %q", text, line)
		}
	})
}

// What fails leaves no file, and what is there stays.
func TestExportFails(t *testing.T) {
	store, _ := exported(t, "text", nil, "one", "two")
	dir := t.TempDir()
	e := export{path: filepath.Join(dir, "all.html")}
	if err := e.check(); err != nil || e.form != "html" {
		t.Fatalf("%+v, %v", e, err)
	}
	broken := errors.New("broken")
	forms["broken"] = form{message: func(w io.Writer, _ client.Message, _ names) error {
		fmt.Fprint(w, strings.Repeat("x", 1<<20))
		return broken
	}}
	defer delete(forms, "broken")
	for _, replace := range []bool{false, true} {
		if replace {
			if err := os.WriteFile(e.path, []byte("old"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		bad := export{path: e.path, form: "broken", replace: replace}
		if _, err := bad.run(t.Context(), store, client.Query{}, nil); !errors.Is(err, broken) {
			t.Errorf("it ends with %v", err)
		}
	}
	if have, err := os.ReadFile(e.path); err != nil || string(have) != "old" {
		t.Errorf("it is %q, %v", have, err)
	}
	// Somebody else was faster than check.
	if _, err := e.run(t.Context(), store, client.Query{}, nil); err == nil || !strings.Contains(explain(err).Hint, "--force") {
		t.Errorf("it replaced a file: %v", err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("left are %v, %v", left, err)
	}
}
