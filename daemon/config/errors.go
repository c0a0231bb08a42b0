package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Error is one thing that is wrong.
type Error struct {
	File string
	Line int    // from 1; 0 if it is the file as a whole: missing, not readable, too big
	Key  string // as Config.Origin takes it; "" if it is none: syntax
	What string // names the key
	Hint string // what to do about it; "" if What says enough; may have several lines
}

// Error returns "file:line: what".
func (e Error) Error() string { return place{e.File, e.Line}.String() + ": " + e.What }

// Errors is all that is wrong, sorted by file and line.
type Errors []Error

// Error has one line for each: "file:line: what".
func (es Errors) Error() string {
	lines := make([]string, len(es))
	for i, e := range es {
		lines[i] = e.Error()
	}
	return strings.Join(lines, "\n")
}

// Hint says what to do about the first error that comes with a hint.
func (es Errors) Hint() string {
	for _, e := range es {
		if e.Hint != "" {
			return e.Hint
		}
	}
	return "correct it and try again"
}

func (es Errors) sort() {
	slices.SortFunc(es, func(a, b Error) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.What, b.What))
	})
}

// place is a line of a file; line 0 is the file as a whole.
type place struct {
	file string
	line int
}

func (p place) String() string {
	if p.line == 0 {
		return p.file
	}
	return fmt.Sprintf("%s:%d", p.file, p.line)
}

// seenFrom names p in an error about another place: without the file if that is
// the same.
func (p place) seenFrom(other place) string {
	if p.file == other.file {
		return fmt.Sprintf("line %d", p.line)
	}
	return p.String()
}
