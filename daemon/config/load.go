package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

const minimalFile = `a file needs at least:
name = "server1"
[[interface]]
bind = "192.0.2.1:10001"`

// Load reads path, and then conf.d/*.toml beside it in the order of their names
// (but none that begins with a dot: editors leave such files behind). The tables
// [[interface]] and [[peer]] of all files add up; any other key may be set once.
//
// The error is of type Errors and has everything that is wrong in all files,
// except that of a file with a syntax error it has only that.
func Load(path string) (*Config, error) {
	return LoadWith(path, nil)
}

// LoadWith is Load as if the files in texts, path itself or such in conf.d, had
// these texts, or were not there if the text is empty: for who wants to know before
// he writes.
func LoadWith(path string, texts map[string]string) (*Config, error) {
	l := newLoader(path)
	files, err := Files(path)
	if err != nil {
		l.unread(confD(path), err)
	}
	for f, text := range texts {
		if text != "" && !slices.Contains(files, f) {
			files = append(files, f)
		}
	}
	slices.Sort(files[1:])
	for _, f := range files {
		if text, ok := texts[f]; !ok {
			l.read(f)
		} else if text != "" {
			l.add(f, text)
		}
	}
	return l.finish()
}

// Parse reads a text as if it were the only file, at path.
func Parse(path, text string) (*Config, error) {
	l := newLoader(path)
	l.add(path, text)
	return l.finish()
}

// loader makes a Config of some files, each given to read or add, and finish at
// the end.
type loader struct {
	main    string // the file that the others belong to
	config  Config
	errs    Errors
	wrong   map[string]bool // keys that have an error
	partial bool            // a file is missing or could not be parsed, so what is not set may be in there
	file    string          // being added
	src     *source         // of file
}

func newLoader(main string) *loader {
	l := &loader{main: main, config: Default(), wrong: map[string]bool{}}
	l.config.origin = map[string]place{}
	return l
}

func (l *loader) finish() (*Config, error) {
	l.check()
	if len(l.errs) > 0 {
		l.errs.sort()
		return nil, l.errs
	}
	return &l.config, nil
}

// fail keeps an error about a key at a place.
func (l *loader) fail(at place, key, hint, format string, args ...any) {
	l.wrong[key] = true
	l.errs = append(l.errs, Error{at.file, at.line, key, fmt.Sprintf(format, args...), hint})
}

func (l *loader) unread(path string, err error) {
	l.partial = true
	hint := ""
	if pe := (*fs.PathError)(nil); errors.As(err, &pe) {
		err = pe.Err // the path is there already
	}
	switch {
	case errors.Is(err, fs.ErrNotExist) && path == l.main:
		hint = minimalFile
	case errors.Is(err, fs.ErrPermission):
		hint = fmt.Sprintf("the service reads it as the user noipchat: chgrp noipchat %[1]s && chmod g=rX %[1]s", path)
	}
	l.fail(place{file: path}, "", hint, "reading configuration: %v", err)
}

func (l *loader) read(path string) {
	text, err := readFile(path)
	if err != nil {
		l.unread(path, err)
		return
	}
	l.add(path, string(text))
}

// Files returns what Load(path) reads, in this order, also with an error of conf.d.
func Files(path string) (all []string, err error) {
	all = []string{path}
	entries, err := os.ReadDir(confD(path))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	for _, e := range entries { // sorted by name
		if strings.HasSuffix(e.Name(), ".toml") && !strings.HasPrefix(e.Name(), ".") {
			all = append(all, filepath.Join(confD(path), e.Name()))
		}
	}
	return all, err
}

func confD(path string) string { return filepath.Join(filepath.Dir(path), "conf.d") }

func readFile(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err == nil && !info.Mode().IsRegular() { // opening a named pipe would wait for its writer
		err = errors.New("not a regular file")
	}
	if err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(text) > maxFile {
		err = fmt.Errorf("larger than %v", Size(maxFile))
	}
	return text, err
}

// add takes the values of a text.
func (l *loader) add(file, text string) {
	values, src, errs := parse(text)
	if errs != nil {
		l.partial = true
		for _, e := range errs {
			e.File = file
			l.errs = append(l.errs, e)
		}
		return
	}
	l.file, l.src = file, src
	l.table(reflect.ValueOf(&l.config).Elem(), values, spot{})
}

// spot is where a value is: its path in the file, and its key in the Config. They
// differ in the numbers of [[interface]], which count on from file to file.
type spot struct{ path, key string }

func (s spot) join(name string) spot { return spot{join(s.path, name), join(s.key, name)} }

func (l *loader) place(s spot) place { return place{l.file, l.src.lineOf(s.path)} }

func (l *loader) failAt(at spot, format string, args ...any) {
	l.fail(l.place(at), at.key, "", "%s %s", plain(at.key), fmt.Sprintf(format, args...))
}

func (l *loader) table(to reflect.Value, from map[string]any, at spot) {
	for name, value := range from {
		at := at.join(name)
		field, ok := fieldOf(to.Type(), name)
		if !ok {
			what := "unknown key " + clip(plain(at.key))
			if near := nearest(at.key); near != "" {
				what += "; did you mean " + near + "?"
			}
			l.fail(l.place(at), at.key, "", "%s", what)
			continue
		}
		l.set(to.FieldByIndex(field.Index), field.Tag, value, at)
	}
}

func fieldOf(t reflect.Type, name string) (reflect.StructField, bool) {
	for field := range t.Fields() {
		if field.Tag.Get("toml") == name && name != "" {
			return field, true
		}
	}
	return reflect.StructField{}, false
}

func (l *loader) set(to reflect.Value, tag reflect.StructTag, value any, at spot) {
	switch {
	case to.Kind() == reflect.Struct:
		if table, ok := value.(map[string]any); ok {
			l.table(to, table, at)
		} else {
			l.failAt(at, "is %s, must be a table: [%s]", kindOf(value), plain(at.key))
		}
	case to.Kind() == reflect.Slice && to.Type().Elem().Kind() == reflect.Struct:
		tables, ok := tablesOf(value)
		if !ok {
			l.failAt(at, "is %s, must be an array of tables: [[%s]]", kindOf(value), plain(at.key))
		}
		for i, table := range tables {
			n := to.Len()
			to.Set(reflect.Append(to, reflect.Zero(to.Type().Elem())))
			at := spot{index(at.path, i), index(at.key, n)}
			l.config.origin[at.key] = l.place(at)
			l.table(to.Index(n), table, at)
		}
	default:
		if first, ok := l.config.origin[at.key]; ok {
			l.failAt(at, "is already set at %v", first)
			return
		}
		l.config.origin[at.key] = l.place(at)
		l.assign(to, tag, value, at)
	}
}

// assign converts and bounds a single value, or a list of strings.
func (l *loader) assign(to reflect.Value, tag reflect.StructTag, value any, at spot) {
	switch to := to.Addr().Interface().(type) {
	case *[]string:
		list, ok := value.([]any)
		if !ok {
			l.failAt(at, "is %s, must be an array of strings", kindOf(value))
			return
		}
		*to = make([]string, len(list))
		for i, element := range list {
			at := spot{index(at.path, i), index(at.key, i)}
			l.config.origin[at.key] = l.place(at)
			l.assign(reflect.ValueOf(&(*to)[i]).Elem(), tag, element, at)
		}
		return
	case *string:
		s, ok := value.(string)
		if !ok {
			l.failAt(at, "is %s, must be a string", kindOf(value))
			return
		}
		*to = s
	case *int:
		n, ok := value.(int64)
		if !ok {
			l.failAt(at, "is %s, must be an integer", kindOf(value))
			return
		}
		*to = int(n)
	case *Size:
		if n, ok := value.(int64); ok {
			value = strconv.FormatInt(n, 10)
		}
		if !l.unmarshal(to.UnmarshalText, value, `a size: "64MiB"`, at) {
			return
		}
	case *Duration:
		if !l.unmarshal(to.UnmarshalText, value, `a duration: "15m"`, at) {
			return
		}
	}
	if words, ok := tag.Lookup("oneof"); ok && !slices.Contains(strings.Fields(words), to.String()) {
		l.failAt(at, "is %.40q, must be one of: %s", to, words)
	}
	if low, high, ok := strings.Cut(tag.Get("range"), ".."); ok {
		if n := to.Int(); n < bound(to.Type(), low) || n > bound(to.Type(), high) {
			l.failAt(at, "is %v, must be from %s to %s", to, low, high)
		}
	}
}

func (l *loader) unmarshal(unmarshal func([]byte) error, value any, want string, at spot) bool {
	s, ok := value.(string)
	if !ok {
		l.failAt(at, "is %s, must be %s", kindOf(value), want)
		return false
	}
	if err := unmarshal([]byte(s)); err != nil {
		l.fail(l.place(at), at.key, "", "%s: %v", plain(at.key), err)
		return false
	}
	return true
}

// bound reads one end of a range tag; a test reads them all.
func bound(t reflect.Type, s string) int64 {
	var n int64
	switch t {
	case reflect.TypeFor[Size]():
		size, _ := ParseSize(s)
		n = int64(size)
	case reflect.TypeFor[Duration]():
		d, _ := ParseDuration(s)
		n = int64(d)
	default:
		n, _ = strconv.ParseInt(s, 10, 64)
	}
	return n
}

// tablesOf takes both spellings, [[a]] and a = [{…}].
func tablesOf(value any) ([]map[string]any, bool) {
	if tables, ok := value.([]map[string]any); ok {
		return tables, true
	}
	list, ok := value.([]any)
	if !ok {
		return nil, false
	}
	tables := make([]map[string]any, len(list))
	for i, element := range list {
		if tables[i], ok = element.(map[string]any); !ok {
			return nil, false
		}
	}
	return tables, true
}

func kindOf(value any) string {
	switch value.(type) {
	case string:
		return "a string"
	case int64:
		return "an integer"
	case float64:
		return "a number with a fraction"
	case bool:
		return "true or false"
	case time.Time:
		return "a date or time"
	case map[string]any:
		return "a table"
	case []map[string]any:
		return "an array of tables"
	}
	return "an array"
}
