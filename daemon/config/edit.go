package config

import (
	"errors"
	"fmt"
	"strings"
)

// Set returns a text in which key has value, which is spelt as TOML. All else stays
// as it was: comments, order, keys that nobody knows. Keys are spelt as Origin takes
// them, counted in this file: "name", "register.mode", "interface[1].public".
func Set(text, key, value string) (string, error) {
	return edit(text, key, func(s *source) (string, error) {
		at, there := s.spans[key]
		if there {
			return s.text[:at.start] + value + s.text[at.end:], nil
		}
		table, name := "", key
		if dot := strings.LastIndexByte(key, '.'); dot >= 0 {
			table, name = key[:dot], key[dot+1:]
		}
		line := name + " = " + value + "\n"
		offset, known := s.endOf(table)
		if !known {
			return fmt.Sprintf("%s\n[%s]\n%s", s.text, table, line), nil
		}
		return s.text[:offset] + line + s.text[offset:], nil
	}, func(before, after *source) bool {
		at, there := after.spans[key]
		grown := len(after.spans) - len(before.spans)
		_, was := before.spans[key]
		return there && after.text[at.start:at.end] == value && grown == map[bool]int{true: 0, false: 1}[was]
	})
}

// Cut returns a text without a table of an array, "interface[1]", and the tables in
// it. The comment above it stays.
func Cut(text, table string) (string, error) {
	return edit(text, table, func(s *source) (string, error) {
		for i, h := range s.headers {
			if h.path != table {
				continue
			}
			for _, next := range s.headers[i+1:] {
				if !strings.HasPrefix(next.path, table+".") {
					return s.text[:h.at] + s.text[s.aboveComments(next.at):], nil
				}
			}
			return s.text[:h.at], nil
		}
		return "", errors.New("there is no such table")
	}, func(before, after *source) bool { return len(after.headers) < len(before.headers) })
}

// edit changes a text, and makes sure that the change is what was meant: keys may be
// written in ways (inline tables, dotted keys) to which it would have to be added in another.
func edit(text, key string, change func(*source) (string, error), good func(before, after *source) bool) (string, error) {
	_, before, errs := parse(text)
	if errs != nil {
		return "", Errors(errs)
	}
	changed, err := change(before)
	if err != nil {
		return "", fmt.Errorf("changing %s: %w", plain(key), err)
	}
	_, after, errs := parse(changed)
	if errs != nil || !good(before, after) {
		return "", fmt.Errorf("changing %s: the way it is written here can only be changed by hand", plain(key))
	}
	if strings.Contains(text, "\r\n") {
		changed = strings.ReplaceAll(changed, "\n", "\r\n")
	}
	return changed, nil
}

// endOf returns where a line can be added to a table, and whether there is that table.
func (s *source) endOf(table string) (offset int, known bool) {
	first := len(s.text) // of the other tables
	if table == "" {
		if len(s.headers) > 0 {
			first = s.headers[0].at
		}
	} else {
		offset = -1
		for i, h := range s.headers {
			if h.path != table {
				continue
			}
			offset = h.at
			if i+1 < len(s.headers) {
				first = s.headers[i+1].at
			}
		}
		if offset < 0 {
			return 0, false
		}
	}
	last := offset
	for _, at := range s.spans {
		if at.start >= offset && at.start < first {
			last = max(last, at.end)
		}
	}
	if table == "" && last == 0 {
		return s.aboveComments(first), true
	}
	return last + strings.IndexByte(s.text[last:], '\n') + 1, true
}

// aboveComments returns the beginning of the comment that ends above a line, or of
// the line if there is none.
func (s *source) aboveComments(offset int) int {
	for offset > 0 {
		start := strings.LastIndexByte(s.text[:offset-1], '\n') + 1
		if !strings.HasPrefix(strings.TrimLeft(s.text[start:offset], " \t"), "#") {
			break
		}
		offset = start
	}
	return offset
}
