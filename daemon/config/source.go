package config

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/BurntSushi/toml"
)

// Bounds of a TOML text. The parser recurses with the nesting and copies the
// whole path for each key, so both are bounded before it sees the text.
const (
	maxFile  = 1 << 20 // bytes
	maxDepth = 64      // tables and arrays in each other
	maxPath  = 256     // bytes of a key with the tables around it
)

// source is a TOML text and where in it everything is. A path is spelled like
// "interface[1].bind": names that are not bare are quoted, elements of arrays
// counted from 0.
//
// The scanner only has to understand well-formed texts: the parser has the last
// word on what is well-formed. Up to the parser's first error both see the same.
type source struct {
	text     string
	pos      int
	newlines []int          // offsets
	at       map[string]int // path of a table, key or element → offset where it is first named
	tables   map[string]int // path in a [header] → its offset
	elements map[string]int // path in a [[header]] → how many there are so far
	twice    []Error        // keys and tables that are there already
	headers  []header       // in their order
	spans    map[string]span
	open     int // offset of what is not closed at the end, if there is such a thing
	err      *Error
}

// header is the beginning of a table.
type header struct {
	path string
	at   int
}

// span is where the value of a key is, from its first byte to behind its last.
type span struct{ start, end int }

// parse checks a TOML text and returns its values and where they are. The errors
// are of this file, whose name the caller adds.
func parse(text string) (map[string]any, *source, []Error) {
	// Line ends are made one byte, and there is one at the end: the parser is a
	// line off for some errors otherwise.
	text = strings.TrimLeft(text, "\uFEFF")
	text = strings.ReplaceAll(text, "\r\n", "\n")
	if !strings.HasSuffix(text, "\n") {
		text += "\n"
	}
	s := &source{text: text, open: -1, at: map[string]int{}, tables: map[string]int{}, elements: map[string]int{}, spans: map[string]span{}}
	for i := range len(text) {
		if text[i] == '\n' {
			s.newlines = append(s.newlines, i)
		}
	}
	if s.checkBytes(); s.err == nil {
		s.scan()
	}
	if s.err != nil {
		return nil, nil, []Error{*s.err}
	}
	values, _, err := decode(text)
	if err != nil {
		return nil, nil, s.explain(err)
	}
	if len(s.twice) > 0 { // in a few cases the parser drops one of the two: a.b.c = 1, a.b = 2
		return nil, nil, s.twice
	}
	return values, s, nil
}

// decode is the parser, with its panics made errors: it has some for bugs of its
// own.
func decode(text string) (values map[string]any, meta toml.MetaData, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("the TOML parser gave up: %v", r)
		}
	}()
	meta, err = toml.Decode(text, &values)
	return values, meta, err
}

// explain makes our errors of the parser's one. It tells the line from the
// offset, because the parser counts lines to the end of what it was reading.
func (s *source) explain(err error) []Error {
	var pe toml.ParseError
	if !errors.As(err, &pe) {
		return []Error{{Line: 1, What: clip(err.Error())}}
	}
	offset := min(pe.Position.Start, len(s.text)-1)
	line := s.line(offset)
	if strings.Contains(pe.Message, "already") && len(s.twice) > 0 && s.twice[0].Line <= line {
		return s.twice
	}
	what := strings.TrimSuffix(strings.ToLower(pe.Message[:1])+pe.Message[1:], ".")
	if offset == len(s.text)-1 && s.open >= 0 {
		return []Error{{Line: s.line(s.open), What: "what begins here is not closed: " + clip(what)}}
	}
	return []Error{{Line: line, What: clip(what)}}
}

// line returns the line of an offset, from 1.
func (s *source) line(offset int) int {
	i, _ := slices.BinarySearch(s.newlines, offset)
	return i + 1
}

// lineOf returns the line where a path is first named.
func (s *source) lineOf(path string) int { return s.line(s.at[path]) }

// fail keeps an error and ends the scan.
func (s *source) fail(offset int, what, hint string) {
	s.err = &Error{Line: s.line(offset), What: what, Hint: hint}
	s.pos = len(s.text)
}

func (s *source) checkBytes() {
	for i, r := range s.text {
		switch {
		case r == utf8.RuneError && !strings.HasPrefix(s.text[i:], "\uFFFD"):
			s.fail(i, fmt.Sprintf("byte 0x%02x is not UTF-8", s.text[i]), "save the file as UTF-8")
			return
		case r < ' ' && r != '\n' && r != '\t', r == 0x7f:
			s.fail(i, fmt.Sprintf("control character 0x%02x", r), "save the file as plain text in UTF-8")
			return
		}
	}
}

func (s *source) scan() {
	table := ""
	for s.blank(); s.pos < len(s.text); s.blank() {
		if s.text[s.pos] == '[' {
			table = s.header()
		} else {
			s.pair(table)
		}
		for s.pos < len(s.text) && s.text[s.pos] != '\n' {
			s.pos++
		}
	}
}

// header reads [a.b] or [[a.b]] and returns its path.
func (s *source) header() string {
	start := s.pos
	array := strings.HasPrefix(s.text[s.pos:], "[[")
	s.pos++
	if array {
		s.pos++
	}
	names := split(s.until(']'))
	path := s.descend("", names[:len(names)-1], start)
	path = join(path, names[len(names)-1])
	s.mark(path, start)
	if array {
		n := s.elements[path]
		s.elements[path] = n + 1
		path = index(path, n)
		s.mark(path, start)
	} else if first, ok := s.tables[path]; ok {
		s.again(path, "["+plain(path)+"]", start, first)
	} else {
		s.tables[path] = start
	}
	s.headers = append(s.headers, header{path, start})
	return path
}

// pair reads key = value, in a table at path.
func (s *source) pair(path string) {
	start := s.pos
	names := split(s.until('='))
	if s.pos == len(s.text) || s.text[s.pos] != '=' {
		return
	}
	s.pos++
	path = join(s.descend(path, names[:len(names)-1], start), names[len(names)-1])
	if first, ok := s.at[path]; ok {
		s.again(path, plain(path), start, first)
	}
	s.mark(path, start)
	start = s.pos
	s.value(path)
	written := strings.TrimRight(s.text[start:s.pos], " \t")
	value := strings.TrimLeft(written, " \t")
	s.spans[path] = span{start + len(written) - len(value), start + len(written)}
}

// value reads over a value, noting what it contains.
func (s *source) value(path string) {
	for s.pos < len(s.text) && (s.text[s.pos] == ' ' || s.text[s.pos] == '\t') {
		s.pos++
	}
	switch c := s.text[min(s.pos, len(s.text)-1)]; c {
	case '"', '\'':
		s.quoted()
	case '[':
		s.list(path, ']')
	case '{':
		s.list(path, '}')
	default:
		for s.pos < len(s.text) && !strings.ContainsRune(",]}#\n", rune(s.text[s.pos])) {
			s.pos++
		}
	}
}

// list reads an array or an inline table up to its end.
func (s *source) list(path string, end byte) {
	start := s.pos
	s.pos++
	for n := 0; ; {
		s.blank()
		before := s.pos
		switch {
		case s.pos >= len(s.text):
			if s.open < 0 {
				s.open = start
			}
			return
		case s.text[s.pos] == end:
			s.pos++
			return
		case s.text[s.pos] == ',':
		case end == ']':
			element := index(path, n)
			s.mark(element, s.pos)
			s.value(element)
			n++
		default:
			s.pair(path)
		}
		if s.pos == before { // a comma, or something that the parser refuses
			s.pos++
		}
	}
}

// blank reads over white space, line ends and comments.
func (s *source) blank() {
	for ; s.pos < len(s.text); s.pos++ {
		switch s.text[s.pos] {
		case ' ', '\t', '\n':
		case '#':
			s.pos += strings.IndexByte(s.text[s.pos:], '\n')
		default:
			return
		}
	}
}

// until returns the text up to a byte that is not in quotes, or up to the end of
// the line.
func (s *source) until(end byte) string {
	start := s.pos
	for s.pos < len(s.text) && s.text[s.pos] != end && s.text[s.pos] != '\n' {
		if c := s.text[s.pos]; c == '"' || c == '\'' {
			s.quoted()
		} else {
			s.pos++
		}
	}
	return s.text[start:s.pos]
}

// quoted reads over a string of any kind. One that isn't closed ends with its
// line, or with the text if it may have several.
func (s *source) quoted() {
	start := s.pos
	quote := s.text[s.pos : s.pos+1]
	if three := strings.Repeat(quote, 3); strings.HasPrefix(s.text[s.pos:], three) {
		quote = three
	}
	for s.pos += len(quote); s.pos < len(s.text); s.pos++ {
		switch {
		case strings.HasPrefix(s.text[s.pos:], quote):
			s.pos += len(quote)
			if len(quote) == 3 { // up to two quotes at its end belong to the string
				for i := 0; i < 2 && strings.HasPrefix(s.text[s.pos:], quote[:1]); i++ {
					s.pos++
				}
			}
			return
		case s.text[s.pos] == '\n' && len(quote) == 1:
			return
		case s.text[s.pos] == '\\' && quote[0] == '"':
			s.pos++
		}
	}
	s.pos = len(s.text)
	if s.open < 0 {
		s.open = start
	}
}

// descend notes the tables that a dotted key goes through, and returns the path
// of the last. An array of tables stands for its last element.
func (s *source) descend(path string, names []string, offset int) string {
	for _, name := range names {
		if s.err != nil {
			break
		}
		path = join(path, name)
		s.mark(path, offset)
		if n := s.elements[path]; n > 0 {
			path = index(path, n-1)
		}
	}
	return path
}

// mark notes where a path is first named.
func (s *source) mark(path string, offset int) {
	if strings.Count(path, ".")+strings.Count(path, "[") >= maxDepth {
		s.fail(offset, fmt.Sprintf("tables and arrays are nested more than %d deep", maxDepth), "")
	} else if len(path) > maxPath {
		s.fail(offset, fmt.Sprintf("a key is longer than %d bytes", maxPath), "")
	} else if _, ok := s.at[path]; !ok {
		s.at[path] = offset
	}
}

// again notes that something is in the text for the second time.
func (s *source) again(path, name string, offset, first int) {
	s.twice = append(s.twice, Error{
		Line: s.line(offset), Key: path, What: fmt.Sprintf("%s is already set at line %d", name, s.line(first)),
	})
}

// split parts a dotted key as it is written; there is at least one part. Quoted
// names are left to the parser, which knows the escapes.
func split(key string) []string {
	if strings.ContainsAny(key, `"'`) && len(key) <= 8*maxPath {
		if _, meta, err := decode(key + " = 0"); err == nil && len(meta.Keys()) == 1 {
			return meta.Keys()[0]
		}
	}
	names := strings.Split(key, ".")
	for i := range names {
		names[i] = strings.TrimSpace(names[i])
	}
	return names
}

// join makes the path of a name in a table.
func join(path, name string) string {
	if name == "" || strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") != "" {
		name = strconv.Quote(name)
	}
	if path == "" {
		return name
	}
	return path + "." + name
}

// index makes the path of an element of an array.
func index(path string, n int) string { return path + "[" + strconv.Itoa(n) + "]" }

// plain is a path without the numbers of elements, as people write the key.
func plain(path string) string {
	for {
		before, after, found := strings.Cut(path, "[")
		_, after, closed := strings.Cut(after, "]")
		if !found || !closed {
			return path
		}
		path = before + after
	}
}

// clip makes a text that quotes from a file fit for an error: one line, bounded.
func clip(s string) string {
	end := ""
	if len(s) > 160 {
		s, end = strings.ToValidUTF8(s[:160], ""), "…"
	}
	return strings.Join(strings.Fields(s), " ") + end
}
