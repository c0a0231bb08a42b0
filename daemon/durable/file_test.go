package durable

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

func TestFile(t *testing.T) {
	const size = 3<<20 + 5
	dir := t.TempDir()
	path := filepath.Join(dir, "journal")
	f, err := CreateFile(path, size)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := CreateFile(path, 10); !errors.Is(err, fs.ErrExist) {
		t.Errorf("second CreateFile: %v", err)
	}
	if n, err := f.Size(); n != size || err != nil {
		t.Errorf("size is %d, %v", n, err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := info.Sys().(*syscall.Stat_t).Blocks * 512; got < size {
		t.Errorf("has %d bytes on the disk", got)
	}
	wantMode(t, path, 0o600)
	if all, _ := os.ReadFile(path); !bytes.Equal(all, make([]byte, size)) {
		t.Error("is not all zeros")
	}

	if n, err := f.WriteAt([]byte("hello"), size-5); n != 5 || err != nil {
		t.Errorf("WriteAt: %d, %v", n, err)
	}
	if err := f.Datasync(); err != nil {
		t.Error(err)
	}
	if err := MkdirAll(filepath.Join(dir, "old"), 0o700); err != nil {
		t.Fatal(err)
	}
	moved := filepath.Join(dir, "old/journal")
	if err := f.Rename(moved); err != nil || f.Name() != moved {
		t.Errorf("Rename: %v, name %s", err, f.Name())
	}
	if err := f.Rename(filepath.Join(dir, "missing/journal")); err == nil || f.Name() != moved {
		t.Errorf("Rename into a missing directory: %v, name %s", err, f.Name())
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	if err := f.Datasync(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Datasync after Close: %v", err)
	}

	if f, err = OpenFile(moved); err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	p := make([]byte, 10)
	if n, err := f.ReadAt(p, size-5); n != 5 || err != io.EOF || string(p[:5]) != "hello" {
		t.Errorf("ReadAt: %d, %v, %q", n, err, p)
	}
	if _, err := OpenFile(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("OpenFile of the old name: %v", err)
	}
}

func TestCreateFileEmpty(t *testing.T) {
	f, err := CreateFile(filepath.Join(t.TempDir(), "f"), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if n, err := f.Size(); n != 0 || err != nil {
		t.Errorf("size is %d, %v", n, err)
	}
}
