package durable

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// nth is the path of the n-th file of a test batch: two directories, the first
// shared by every four files.
func nth(n int) string { return fmt.Sprintf("q%d/d%d/f", n/4, n) }

func TestBatch(t *testing.T) {
	umask(t, 0o077)
	for _, n := range []int{0, 1, shareFrom - 1, shareFrom, 100} {
		root := t.TempDir()
		if err := os.Chmod(root, 0o750); err != nil {
			t.Fatal(err)
		}
		want := map[string]string{}
		for round := range 2 { // the second replaces
			b := NewBatch(root)
			for i := range n {
				content := fmt.Sprintf("file %d, round %d", i, round)
				path := filepath.Join(root, nth(i))
				if i%2 == 0 {
					b.Add(path, []byte(content), 0o644)
				} else {
					b.AddFunc(path, func(w io.Writer) error { return spell(w, content) }, 0o644)
				}
				want[nth(i)] = content
				want[filepath.Dir(nth(i))], want[filepath.Dir(filepath.Dir(nth(i)))] = "/", "/"
			}
			if err := b.Commit(); err != nil {
				t.Fatal(err)
			}
			wantOnly(t, root, want)
		}
		if n > 0 {
			wantMode(t, filepath.Join(root, nth(0)), 0o644)
			wantMode(t, filepath.Join(root, "q0/d0"), fs.ModeDir|0o750)
		}
	}
}

// spell writes s byte by byte.
func spell(w io.Writer, s string) error {
	for _, c := range []byte(s) {
		if _, err := w.Write([]byte{c}); err != nil {
			return err
		}
	}
	return nil
}

func TestBatchFails(t *testing.T) {
	failed := errors.New("no more to read")
	for _, n := range []int{4, 40} {
		root := t.TempDir()
		old := map[string]string{"q0": "/", "q0/d0": "/", "q0/d0/f": "old"}
		if err := MkdirAll(filepath.Join(root, "q0/d0"), 0o700); err != nil {
			t.Fatal(err)
		}
		put(t, filepath.Join(root, nth(0)), "old")
		fill := func(last func(io.Writer) error) error {
			b := NewBatch(root)
			for i := range n - 1 {
				b.Add(filepath.Join(root, nth(i)), []byte("new"), 0o600)
			}
			b.AddFunc(filepath.Join(root, nth(n-1)), last, 0o600)
			return b.Commit()
		}

		err := fill(func(w io.Writer) error {
			w.Write(make([]byte, 100_000))
			return failed
		})
		if !errors.Is(err, failed) || !strings.Contains(err.Error(), filepath.Join(root, nth(n-1))) {
			t.Errorf("%d files: error %v", n, err)
		}
		if n >= shareFrom {
			wantOnly(t, root, old)
		}

		// A directory in the place of the last file fails the last rename.
		if err := MkdirAll(filepath.Join(root, nth(n-1)), 0o700); err != nil {
			t.Fatal(err)
		}
		err = fill(func(io.Writer) error { return nil })
		if err == nil || !strings.Contains(err.Error(), filepath.Join(root, nth(n-1))) {
			t.Errorf("%d files: error %v", n, err)
		}
		want := map[string]string{}
		for i := range n {
			want[filepath.Dir(filepath.Dir(nth(i)))], want[filepath.Dir(nth(i))], want[nth(i)] = "/", "/", "new"
		}
		want[nth(n-1)] = "/"
		wantOnly(t, root, want)

		if err := Remove(filepath.Join(root, nth(n-1))); err != nil {
			t.Fatal(err)
		}
		if err := fill(func(w io.Writer) error { return spell(w, "new") }); err != nil {
			t.Error(err)
		}
		want[nth(n-1)] = "new"
		wantOnly(t, root, want)
	}
}

func TestBatchMissingRoot(t *testing.T) {
	root := filepath.Join(t.TempDir(), "missing")
	b := NewBatch(root)
	b.Add(filepath.Join(root, "f"), nil, 0o600)
	if err := b.Commit(); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), root) {
		t.Errorf("error %v", err)
	}
}

// Files on another file system than root's are written all the same.
func TestBatchOtherFileSystem(t *testing.T) {
	root := t.TempDir()
	other, err := os.MkdirTemp("/dev/shm", "durable")
	if err != nil {
		t.Skip(err)
	}
	defer os.RemoveAll(other)
	if device(other) == device(root) {
		t.Skip("no other file system at hand")
	}
	b := NewBatch(root)
	want := map[string]string{"new": "/"}
	for i := range shareFrom {
		name := fmt.Sprintf("new/f%d", i)
		b.Add(filepath.Join(other, name), []byte(name), 0o600)
		want[name] = name
	}
	dir, err := os.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	info, err := dir.Stat()
	if err != nil {
		t.Fatal(err)
	}
	if b.canShare(dir, info) {
		t.Error("a sync of root would have to do for another file system")
	}
	if err := b.Commit(); err != nil {
		t.Fatal(err)
	}
	wantOnly(t, other, want)
}
