package client

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestSafeName(t *testing.T) {
	for name, want := range map[string]string{
		"a photo.jpg":                       "a photo.jpg",
		"../../etc/passwd":                  "passwd",
		`C:\Windows\system32\evil.exe`:      "evil.exe",
		".bashrc":                           "_bashrc",
		"-rf":                               "_rf",
		"~":                                 "_",
		"":                                  "file",
		".":                                 "file",
		"..":                                "file",
		"/":                                 "file",
		"a\x00b\x1b[31m\nc":                 "a_b_[31m_c",
		"invoice\u202egpj.exe":              "invoice_gpj.exe",
		"zero\u200bwidth":                   "zero_width",
		"$(reboot).txt":                     "_(reboot).txt",
		"what? <now> | later*":              "what_ _now_ _ later_",
		"  spaces . ":                       "spaces",
		"Grüße aus Zürich.pdf":              "Grüße aus Zürich.pdf",
		strings.Repeat("long", 60) + ".txt": strings.Repeat("long", 49) + ".txt",
		"bad\xffutf8":                       "bad_utf8",
	} {
		if have := SafeName(name); have != want {
			t.Errorf("%q became %q, not %q", name, have, want)
		}
	}
}

func FuzzSafeName(f *testing.F) {
	for _, s := range []string{"a.txt", "../..", "\u202e", "..\\..", "a/b", strings.Repeat("ü", 300)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		have := SafeName(name)
		if have == "" || have == "." || have == ".." || strings.ContainsAny(have, "/\\\x00\n\x1b\u202e") || len(have) > maxSavedName ||
			have[0] == '.' || have[0] == '-' || !utf8.ValidString(have) || SafeName(have) != have {
			t.Errorf("%q became %q", name, have)
		}
	})
}

// TestSaveFile: nothing is overwritten, whatever is there already, and a file that was
// saved stays.
func TestSaveFile(t *testing.T) {
	s := aliceStore(t)
	dir := t.TempDir()
	check(t, os.WriteFile(filepath.Join(dir, "a.txt"), []byte("mine"), 0o600))
	check(t, os.Symlink("/etc/passwd", filepath.Join(dir, "a (1).txt")))
	check(t, os.Mkdir(filepath.Join(dir, "a (2).txt"), 0o700))
	folder := filepath.Join(filepath.Dir(s.path), filesFolder)
	check(t, os.Mkdir(folder, 0o700))
	save := func(seq, content string) string {
		t.Helper()
		check(t, os.WriteFile(filepath.Join(folder, seq), []byte(content), 0o600))
		path, err := s.SaveFile(Message{File: &File{Name: "x/a.txt", Path: filepath.Join(filesFolder, seq)}}, dir)
		check(t, err)
		if b, err := os.ReadFile(path); err != nil || string(b) != content {
			t.Errorf("%s has %q, %v", path, b, err)
		}
		if _, err := os.Stat(filepath.Join(folder, seq)); err == nil {
			t.Error("it is still where it was")
		}
		return filepath.Base(path)
	}
	if name := save("1", "first"); name != "a (3).txt" {
		t.Error(name)
	}
	if name := save("2", "second"); name != "a (4).txt" {
		t.Error(name)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "a.txt")); err != nil || string(b) != "mine" {
		t.Errorf("what was there is %q, %v", b, err)
	}
	// A crash after the link: the same file again is no other one.
	check(t, os.WriteFile(filepath.Join(folder, "3"), []byte("third"), 0o600))
	check(t, os.Link(filepath.Join(folder, "3"), filepath.Join(dir, "b.txt")))
	path, err := s.SaveFile(Message{File: &File{Name: "b.txt", Path: filepath.Join(filesFolder, "3")}}, dir)
	if err != nil || filepath.Base(path) != "b.txt" {
		t.Errorf("%s, %v", path, err)
	}
	// Another file system: a copy.
	if other, err := os.MkdirTemp("/dev/shm", "noipchat-test-"); err == nil {
		defer os.RemoveAll(other)
		dir = other
		if name := save("4", "fourth"); name != "a.txt" {
			t.Error(name)
		}
		if left, _ := filepath.Glob(filepath.Join(other, ".*")); len(left) > 0 {
			t.Errorf("left are %q", left)
		}
	}
	again, err := s.SaveFile(Message{File: &File{Name: "a.txt", Path: path}}, t.TempDir())
	if err != nil || again != path {
		t.Errorf("a saved file: %s, %v", again, err)
	}
}
