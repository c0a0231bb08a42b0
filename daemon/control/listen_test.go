package control

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// abandon leaves a socket at path as a daemon does that was killed.
func abandon(t *testing.T, path string) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
}

func TestListenReplacesDeadSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	abandon(t, path)
	abandon(t, path+".new") // killed between bind and rename
	l, err := Listen(path, Mode)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Lstat(path)
	if err != nil || info.Mode() != fs.ModeSocket|Mode {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(path + "*"); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestListenRefuses(t *testing.T) {
	dir := t.TempDir()
	live := filepath.Join(dir, "live")
	l, err := Listen(live, Mode)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		live:                         "another daemon answers",
		file:                         "something else",
		dir:                          "something else",
		filepath.Join(dir, "no/dir"): "no such file",
		filepath.Join(dir, strings.Repeat("long", 30)): "invalid argument",
	} {
		if l, err := Listen(path, Mode); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: have %v, want %q", path, err, want)
			if err == nil {
				l.Close()
			}
		}
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "precious" {
		t.Errorf("the file: %q, %v", b, err)
	}
	if c, err := net.Dial("unix", live); err != nil {
		t.Errorf("the daemon that was there is cut off: %v", err)
	} else {
		c.Close()
	}
}

// TestCloseTwice: the second time the path may be another daemon's.
func TestCloseTwice(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := Listen(path, Mode)
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	next, err := Listen(path, Mode)
	if err != nil {
		t.Fatal(err)
	}
	defer next.Close()
	if err := l.Close(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the second close: %v", err)
	}
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("the next one's socket: %v", err)
	}
}
