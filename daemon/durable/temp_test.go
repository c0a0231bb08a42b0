package durable

import (
	"io"
	"os"
	"path/filepath"
	"testing"
)

func TestIsTemp(t *testing.T) {
	for name, want := range map[string]bool{
		".f1234567890123456789":         true,
		".f123456789012345":             true,
		".0000011234567890123456789":    true,
		".noipchat.toml123456789012345": true,
		".f12345678901234":              false, // as long as a date and time
		".backup-20251123235900":        false,
		".noipchat.toml.swp":            false,
		"f1234567890123456789":          false,
		".f123456789012345x":            false,
		".":                             false,
		"":                              false,
	} {
		if IsTemp(name) != want {
			t.Errorf("IsTemp(%q) is %v", name, !want)
		}
	}
}

// The pattern is renameio's: this fails if another version has another one.
func TestTempFilesAreTemp(t *testing.T) {
	dir := t.TempDir()
	missed := 0
	for range 50 {
		f, err := fill(filepath.Join(dir, "000001.seg"), 0o600, func(io.Writer) error { return nil })
		if err != nil {
			t.Fatal(err)
		}
		if filepath.Dir(f.Name()) != dir {
			t.Fatalf("temporary file %s is not in %s", f.Name(), dir)
		}
		if !IsTemp(filepath.Base(f.Name())) {
			missed++
		}
		f.Close()
	}
	if missed > 1 { // chance: one in 90,000 each
		t.Errorf("%d of 50 temporary files not known as such", missed)
	}
}

func TestSweep(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"f", ".f1234567890123456789", ".hidden", ".g123456789012345678"} {
		put(t, filepath.Join(dir, name), name)
	}
	if err := os.Mkdir(filepath.Join(dir, ".d1234567890123456789"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := Sweep(dir); err != nil {
		t.Fatal(err)
	}
	wantOnly(t, dir, map[string]string{"f": "f", ".hidden": ".hidden", ".d1234567890123456789": "/"})
	if err := Sweep(filepath.Join(dir, "missing")); err == nil {
		t.Error("swept a missing directory")
	}
}
