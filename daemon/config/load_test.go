package config

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Each file in testdata/bad begins with all the errors that it must give, one a
// line: "# error: LINE: WHAT".
func TestBad(t *testing.T) {
	for _, path := range files(t, "testdata/bad/*.toml") {
		t.Run(filepath.Base(path), func(t *testing.T) {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			var want []string
			for line := range strings.Lines(strings.TrimPrefix(string(text), "\uFEFF")) {
				what, ok := strings.CutPrefix(strings.TrimSpace(line), "# error: ")
				if !ok {
					break
				}
				want = append(want, path+":"+what)
			}
			if len(want) == 0 {
				t.Fatal("it says no error")
			}
			c, err := Load(path)
			if c != nil || err == nil || err.Error() != strings.Join(want, "\n") {
				t.Errorf("got\n%v\nwant\n%s", err, strings.Join(want, "\n"))
			}
		})
	}
}

func TestGood(t *testing.T) {
	for _, path := range files(t, "testdata/good/*.toml") {
		t.Run(filepath.Base(path), func(t *testing.T) {
			c, err := Load(path)
			if err != nil {
				t.Fatal(err)
			}
			sameAgain(t, c)
		})
	}
}

func files(t *testing.T, pattern string) []string {
	t.Helper()
	paths, err := filepath.Glob(pattern)
	if err != nil || len(paths) == 0 {
		t.Fatalf("no files: %v", err)
	}
	return paths
}

// sameAgain renders a configuration and loads that.
func sameAgain(t *testing.T, c *Config) {
	t.Helper()
	l := newLoader("rendered")
	l.add("rendered", string(c.Render()))
	again, err := l.finish()
	if err != nil {
		t.Fatalf("%v\n%s", err, c.Render())
	}
	a, b := *c, *again
	a.origin, b.origin = nil, nil
	if !reflect.DeepEqual(a, b) {
		t.Fatalf("%+v\nbecame\n%+v\nby\n%s", a, b, c.Render())
	}
}

const (
	nameLine      = "name = 'server1'\n"
	interfaceLine = "interface = [{bind = '192.0.2.1:1'}]\n"
)

func TestDropIns(t *testing.T) {
	for _, test := range []struct {
		name  string
		files map[string]string
		want  []string // errors, DIR being the folder; none: it loads
	}{
		{"they add up, hidden and other files don't count", map[string]string{
			"noipchat.toml":     nameLine + "[spool]\nquota = 65536\n[[interface]]\nbind = '192.0.2.1:1'\n",
			"conf.d/b.toml":     "[[interface]]\nbind = '192.0.2.1:3'\n[spool]\ntotal = '1TiB'\n",
			"conf.d/a.toml":     "interface = [{bind = '192.0.2.1:2'}]\nspool.hand = '1MiB'\n",
			"conf.d/.#b.toml":   "x",
			"conf.d/b.toml~":    "x",
			"conf.d/d/any.toml": "x",
		}, nil},
		{"all in drop-ins", map[string]string{"noipchat.toml": "", "conf.d/a.toml": nameLine, "conf.d/b.toml": interfaceLine}, nil},
		{"a scalar twice", map[string]string{
			"noipchat.toml": nameLine + interfaceLine + "\nmax_hops = 3\n",
			"conf.d/a.toml": "[spool]\nmax_age = '1d'\n",
			"conf.d/b.toml": "spool = {max_age = '1d'}\nmax_hops = 3\n",
		}, []string{
			"DIR/conf.d/b.toml:1: spool.max_age is already set at DIR/conf.d/a.toml:2",
			"DIR/conf.d/b.toml:2: max_hops is already set at DIR/noipchat.toml:4",
		}},
		{"overlap of files", map[string]string{
			"noipchat.toml": nameLine + interfaceLine, "conf.d/a.toml": "[[interface]]\nbind = '0.0.0.0:1'\n",
		}, []string{"DIR/conf.d/a.toml:2: interface.bind 0.0.0.0:1 overlaps with 192.0.2.1:1 at DIR/noipchat.toml:2"}},
		{"a syntax error hides only its own file", map[string]string{
			"noipchat.toml": "name = \nmax_hops = 0\n",
			"conf.d/a.toml": "[limits]\nsesions = 1\n[[interface]]\nbind = '192.0.2.1'\n[spool]\nquota = '1TiB'\n",
			"conf.d/b.toml": "[limits\n",
			"conf.d/c.toml": "log = 1\n",
		}, []string{
			"DIR/conf.d/a.toml:2: unknown key limits.sesions; did you mean limits.sessions?",
			`DIR/conf.d/a.toml:4: interface.bind is "192.0.2.1": a port is missing`,
			`DIR/conf.d/b.toml:1: expected '.' or ']' to end table name, but got '\n' instead`,
			"DIR/conf.d/c.toml:1: log is an integer, must be a string",
			`DIR/noipchat.toml:1: expected value but found '\n' instead`,
		}},
		{"no main file", map[string]string{"conf.d/a.toml": "max_hops = 0\n"}, []string{
			"DIR/conf.d/a.toml:1: max_hops is 0, must be from 1 to 64",
			"DIR/noipchat.toml: reading configuration: no such file or directory",
		}},
		{"no regular files", map[string]string{"noipchat.toml/x": "", "conf.d/a.toml/x": ""}, []string{
			"DIR/conf.d/a.toml: reading configuration: not a regular file",
			"DIR/noipchat.toml: reading configuration: not a regular file",
		}},
		{"conf.d is a file", map[string]string{"noipchat.toml": nameLine + interfaceLine, "conf.d": ""}, []string{
			"DIR/conf.d: reading configuration: not a directory",
		}},
		{"largest file", map[string]string{"noipchat.toml": pad(nameLine+interfaceLine, maxFile)}, nil},
		{"too large", map[string]string{"noipchat.toml": pad(nameLine+interfaceLine, maxFile+1)}, []string{
			"DIR/noipchat.toml: reading configuration: larger than 1MiB",
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			for name, text := range test.files {
				write(t, dir, name, text)
			}
			_, err := Load(filepath.Join(dir, "noipchat.toml"))
			got := strings.ReplaceAll(fmt.Sprint(err), dir, "DIR")
			if want := strings.Join(test.want, "\n"); test.want != nil && got != want || test.want == nil && err != nil {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

// What LoadWith says of a text is what Load says once it is written, and the disk
// stays as it is.
func TestLoadWith(t *testing.T) {
	dir := t.TempDir()
	main := write(t, dir, "noipchat.toml", nameLine+interfaceLine)
	write(t, dir, "conf.d/c.toml", "max_hops = 3\n")
	file := filepath.Join(dir, "conf.d", "b.toml")
	for _, text := range []string{"log = 'stderr'\n", "max_hops = 4\n", "max_hop = 4\n", ""} {
		have, haveErr := LoadWith(main, map[string]string{file: text})
		if _, err := os.Stat(file); err == nil {
			t.Fatal("it wrote the file")
		}
		if text != "" {
			write(t, dir, "conf.d/b.toml", text)
		}
		want, wantErr := Load(main)
		if !reflect.DeepEqual(have, want) || fmt.Sprint(haveErr) != fmt.Sprint(wantErr) {
			t.Errorf("%q: %v, %v, want %v, %v", text, have, haveErr, want, wantErr)
		}
		if without, err := LoadWith(main, map[string]string{file: ""}); err != nil || without.MaxHops != 3 || without.Log != "journal" {
			t.Errorf("%q: without the file: %v, %v", text, without, err)
		}
		os.Remove(file)
	}
}

func pad(text string, size int) string { return text + strings.Repeat("#", size-len(text)) }

func TestNamedPipe(t *testing.T) {
	path := filepath.Join(t.TempDir(), "noipchat.toml")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Error(err)
	}
}

func TestHints(t *testing.T) {
	_, err := Load(filepath.Join(t.TempDir(), "noipchat.toml"))
	errs, ok := err.(Errors)
	if !ok || len(errs) != 1 || errs[0].Line != 0 {
		t.Fatalf("%#v", err)
	}
	_, file, _ := strings.Cut(errs[0].Hint, "\n")
	if _, err := Load(write(t, t.TempDir(), "c.toml", file)); err != nil {
		t.Errorf("the file of the hint doesn't load: %v", err)
	}

	_, err = Load(write(t, t.TempDir(), "c.toml", nameLine+"[[interface]]\nbind = 'localhost:1'\n"))
	errs, ok = err.(Errors)
	if !ok || errs[0].Key != "interface[0].bind" || errs[0].Line != 3 || !strings.Contains(errs[0].Hint, "no DNS") {
		t.Errorf("%#v", err)
	}
}

// Whatever the bytes are: no panic, an end soon, and each error on a line of the
// file. What loads must load again as it is rendered.
func FuzzLoad(f *testing.F) {
	for _, pattern := range []string{"testdata/bad/*.toml", "testdata/good/*.toml", "../../etc/*.toml"} {
		paths, err := filepath.Glob(pattern)
		if err != nil || len(paths) == 0 {
			f.Fatalf("no seeds in %s: %v", pattern, err)
		}
		for _, path := range paths {
			text, err := os.ReadFile(path)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(string(text))
		}
	}
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > maxFile {
			return
		}
		start := time.Now()
		l := newLoader("f")
		l.add("f", text)
		c, err := l.finish()
		if took := time.Since(start); took > 20*time.Second {
			t.Errorf("took %v", took)
		}
		sameKeys(t, text)
		if err == nil {
			sameAgain(t, c)
			return
		}
		last := max(1, strings.Count(strings.TrimSuffix(text, "\n"), "\n")+1)
		for _, e := range err.(Errors) {
			if e.Line < 1 || e.Line > last || e.File != "f" || e.What == "" || strings.ContainsAny(e.What, "\n\r\x00") {
				t.Errorf("of %d lines: %#v", last, e)
			}
			if strings.Contains(e.What, "gave up") {
				t.Log(e)
			}
		}
	})
}
