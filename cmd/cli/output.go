package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"golang.org/x/term"
)

// Schema is the number in every JSON line. It rises when a field changes its
// meaning or goes away; fields may be added without.
const Schema = 1

// hidden tells the characters that a terminal acts on, or that make a text look
// like another: controls (also those above 127), line separators, and format
// characters such as bidi overrides, zero-width spaces and tags. The two joiners
// are none: Persian, Indian scripts and emoji need them.
func hidden(r rune) bool {
	return r != '\u200c' && r != '\u200d' && unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp)
}

// Sanitise makes a stranger's text fit for one line of a terminal: every hidden
// character, line ends and tabs among them, and every byte that isn't UTF-8,
// becomes U+FFFD.
func Sanitise(s string) string {
	return strings.Map(func(r rune) rune {
		if hidden(r) {
			return utf8.RuneError
		}
		return r
	}, s)
}

// JSON writes v, a struct or a map, as one compact line that begins with the
// schema. Hidden characters are escaped, so that a line is fit for a terminal and
// still says what was there.
func JSON(w io.Writer, v any) error {
	var b bytes.Buffer
	fmt.Fprintf(&b, `{"schema":%d`, Schema)
	head := b.Len()
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return fmt.Errorf("writing JSON: %w", err)
	}
	line := b.Bytes()
	switch {
	case line[head] != '{':
		return fmt.Errorf("writing JSON: %T is no object", v)
	case line[head+1] == '}':
		line = append(line[:head], "}\n"...)
	default:
		line[head] = ','
	}
	_, err := w.Write(escapeHidden(line))
	return err
}

// escapeHidden escapes what encoding/json leaves. Outside of strings JSON has
// nothing to escape but the line's own end.
func escapeHidden(line []byte) []byte {
	if !bytes.ContainsFunc(line[:len(line)-1], hidden) {
		return line
	}
	var b []byte
	for _, r := range string(line[:len(line)-1]) {
		switch {
		case !hidden(r):
			b = utf8.AppendRune(b, r)
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			b = fmt.Appendf(b, `\u%04x\u%04x`, high, low)
		default:
			b = fmt.Appendf(b, `\u%04x`, r)
		}
	}
	return append(b, '\n')
}

// Colours tells whether standard output is a terminal whose user wants colours.
func Colours() bool {
	return os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" && term.IsTerminal(int(os.Stdout.Fd()))
}

// Table is rows for people. Cells are sanitised when they are added.
type Table struct {
	rows [][]string
}

// Row adds a row; the first one is the head.
func (t *Table) Row(cells ...string) {
	for i, c := range cells {
		if cells[i] = Sanitise(c); c == "" {
			cells[i] = "-"
		}
	}
	t.rows = append(t.rows, cells)
}

// Write writes the rows in aligned columns, or, if there is none but the head,
// the line "none".
func (t *Table) Write(w io.Writer, none string) error {
	if len(t.rows) < 2 {
		_, err := fmt.Fprintln(w, none)
		return err
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, r := range t.rows {
		fmt.Fprintln(tw, strings.Join(r, "\t")) // its error is Flush's
	}
	return tw.Flush()
}

// Size writes a number of bytes for people: "512 B", "1.5 KiB".
func Size(n int64) string {
	if n < 1<<10 {
		return fmt.Sprintf("%d B", n)
	}
	f, unit := float64(n)/(1<<10), 0
	for f >= 1023.95 && unit < 5 { // what would be printed as 1024.0
		f /= 1 << 10
		unit++
	}
	return fmt.Sprintf("%.1f %ciB", f, "KMGTPE"[unit])
}

// Age writes a duration for people, in the largest unit that fits: "45s", "3d".
func Age(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d < time.Second:
		return "0s"
	case d < 2*time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < 2*time.Hour:
		return fmt.Sprintf("%dm", d/time.Minute)
	case d < 2*day:
		return fmt.Sprintf("%dh", d/time.Hour)
	}
	return fmt.Sprintf("%dd", d/day)
}

// Ago writes a time in the past, "never" for the zero time.
func Ago(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return Age(time.Since(t)) + " ago"
}
