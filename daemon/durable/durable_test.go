package durable

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
)

// tree returns what is below dir: the content of files, "/" for directories.
func tree(t testing.TB, dir string) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		name, _ := filepath.Rel(dir, path)
		if d.IsDir() {
			found[name] = "/"
			return nil
		}
		data, err := os.ReadFile(path)
		found[name] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func put(t testing.TB, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func wantMode(t testing.TB, path string, want fs.FileMode) {
	t.Helper()
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode() != want {
		t.Errorf("%s has mode %v, want %v", path, info.Mode(), want)
	}
}

func wantOnly(t testing.TB, dir string, want map[string]string) {
	t.Helper()
	got := tree(t, dir)
	for name, content := range got {
		if w, ok := want[name]; !ok {
			t.Errorf("%s is there", name)
		} else if w != content {
			t.Errorf("%s holds %.40q, want %.40q", name, content, w)
		}
	}
	for name := range want {
		if _, ok := got[name]; !ok {
			t.Errorf("%s is not there", name)
		}
	}
}

// umask sets the umask, which is the process's, until the end of the test.
func umask(t *testing.T, mask int) {
	old := syscall.Umask(mask)
	t.Cleanup(func() { syscall.Umask(old) })
}

func TestWriteFile(t *testing.T) {
	umask(t, 0o077)
	t.Setenv("TMPDIR", filepath.Join(t.TempDir(), "missing"))
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	for _, c := range []struct {
		content string
		perm    fs.FileMode
	}{{"", 0o600}, {"one", 0o644}, {strings.Repeat("two", 1<<16), 0o400}, {"three", 0o666}} {
		if err := WriteFile(path, []byte(c.content), c.perm); err != nil {
			t.Fatal(err)
		}
		wantOnly(t, dir, map[string]string{"f": c.content})
		wantMode(t, path, c.perm)
	}
}

func TestWriteFileReplacesLink(t *testing.T) {
	dir := t.TempDir()
	put(t, filepath.Join(dir, "target"), "target")
	if err := os.Symlink("target", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if err := WriteFile(filepath.Join(dir, "link"), []byte("new"), 0o600); err != nil {
		t.Fatal(err)
	}
	wantMode(t, filepath.Join(dir, "link"), 0o600)
	wantOnly(t, dir, map[string]string{"target": "target", "link": "new"})
}

func TestErrorsNamePathAndLeaveNothing(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "d", "full"), 0o700); err != nil {
		t.Fatal(err)
	}
	before := tree(t, dir)
	for name, write := range map[string]func(path string) error{
		"WriteFile":  func(p string) error { return WriteFile(p, []byte("x"), 0o600) },
		"Create":     func(p string) error { return Create(p, []byte("x"), 0o600) },
		"CreateFile": func(p string) error { _, err := CreateFile(p, 4096); return err },
	} {
		for _, path := range []string{filepath.Join(dir, "d"), filepath.Join(dir, "missing", "f")} {
			if err := write(path); err == nil || !strings.Contains(err.Error(), path) {
				t.Errorf("%s(%s): error %v", name, path, err)
			}
		}
	}
	wantOnly(t, dir, before)
}

func TestCreate(t *testing.T) {
	umask(t, 0o077)
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	if err := Create(path, []byte("one"), 0o640); err != nil {
		t.Fatal(err)
	}
	wantMode(t, path, 0o640)
	if err := Create(path, []byte("two"), 0o640); !errors.Is(err, fs.ErrExist) || !strings.Contains(err.Error(), path) {
		t.Errorf("second Create: %v", err)
	}
	dangling := filepath.Join(dir, "link")
	if err := os.Symlink(path, dangling); err != nil {
		t.Fatal(err)
	}
	if err := Create(dangling, []byte("two"), 0o640); !errors.Is(err, fs.ErrExist) {
		t.Errorf("Create at a link: %v", err)
	}
	wantOnly(t, dir, map[string]string{"f": "one", "link": "one"})
}

// What is written in pieces is there whole or not at all, too.
func TestWriteInPieces(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	pieces := func(err error, words ...string) func(io.Writer) error {
		return func(w io.Writer) error {
			for _, word := range words {
				io.WriteString(w, word)
			}
			return err
		}
	}
	broken := errors.New("broken")
	for _, x := range []struct {
		put   func(string, fs.FileMode, func(io.Writer) error) error
		write func(io.Writer) error
		err   error
		want  string
	}{
		{CreateFunc, pieces(broken, "o", "n"), broken, ""},
		{CreateFunc, pieces(nil, "o", "ne"), nil, "one"},
		{CreateFunc, pieces(nil, "two"), fs.ErrExist, "one"},
		{WriteFunc, pieces(broken, "t"), broken, "one"},
		{WriteFunc, pieces(nil, "t", "w", "o"), nil, "two"},
	} {
		if err := x.put(path, 0o600, x.write); !errors.Is(err, x.err) || err != nil && !strings.Contains(err.Error(), path) {
			t.Errorf("have %v, want %v", err, x.err)
		}
		want := map[string]string{"f": x.want}
		if x.want == "" {
			want = nil
		}
		wantOnly(t, dir, want)
	}
	wantMode(t, path, 0o600)
}

func TestCreateOneWins(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	var wins atomic.Int32
	var winner atomic.Value
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			content := bytes.Repeat([]byte{'a' + byte(i)}, 10_000)
			switch err := Create(path, content, 0o600); {
			case err == nil:
				wins.Add(1)
				winner.Store(content)
			case !errors.Is(err, fs.ErrExist):
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if wins.Load() != 1 {
		t.Fatalf("%d of 16 created the file", wins.Load())
	}
	if got, _ := os.ReadFile(path); !bytes.Equal(got, winner.Load().([]byte)) {
		t.Error("the file is not the winner's")
	}
}

func TestMkdirAll(t *testing.T) {
	umask(t, 0o077)
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700|fs.ModeSetgid); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := MkdirAll(filepath.Join(dir, "a/b/c"), 0o750); err != nil {
			t.Fatal(err)
		}
	}
	wantOnly(t, dir, map[string]string{"a": "/", "a/b": "/", "a/b/c": "/"})
	wantMode(t, filepath.Join(dir, "a"), fs.ModeDir|fs.ModeSetgid|0o750)
	wantMode(t, filepath.Join(dir, "a/b/c"), fs.ModeDir|fs.ModeSetgid|0o750)

	put(t, filepath.Join(dir, "f"), "")
	if err := os.Symlink("nowhere", filepath.Join(dir, "dangling")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"f", "f/x", "dangling", "dangling/x"} {
		path := filepath.Join(dir, name)
		if err := MkdirAll(path, 0o700); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("MkdirAll(%s): error %v", name, err)
		}
	}
}

func TestMkdirAllAtOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a/b/c/d")
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			if err := MkdirAll(path, 0o700); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	wantMode(t, path, fs.ModeDir|0o700)
}

func TestRenameAndRemove(t *testing.T) {
	dir := t.TempDir()
	put(t, filepath.Join(dir, "a"), "a")
	put(t, filepath.Join(dir, "b"), "b")
	if err := MkdirAll(filepath.Join(dir, "d"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, r := range [][2]string{{"a", "b"}, {"b", "d/c"}} {
		if err := Rename(filepath.Join(dir, r[0]), filepath.Join(dir, r[1])); err != nil {
			t.Fatal(err)
		}
	}
	wantOnly(t, dir, map[string]string{"d": "/", "d/c": "a"})
	if err := Rename(filepath.Join(dir, "a"), filepath.Join(dir, "b")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Rename of a missing file: %v", err)
	}
	if err := Remove(filepath.Join(dir, "d")); err == nil {
		t.Error("Remove removed a directory that is not empty")
	}
	for _, name := range []string{"d/c", "d"} {
		if err := Remove(filepath.Join(dir, name)); err != nil {
			t.Error(err)
		}
	}
	if err := Remove(filepath.Join(dir, "d")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Remove of a missing file: %v", err)
	}
	if err := SyncDir(filepath.Join(dir, "d")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("SyncDir of a missing directory: %v", err)
	}
	wantOnly(t, dir, nil)
}
