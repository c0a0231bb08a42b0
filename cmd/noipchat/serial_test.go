package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestSerial talks over a slow line that loses bytes, with real programs in real time.
// The line is a program named shaper, which makes a pair of pseudo-terminals;
// $NOIPCHAT_SHAPER is where it is, or the folder with its source. NOIPCHAT_LONG makes
// the line as slow as a line may be.
func TestSerial(t *testing.T) {
	shaper := os.Getenv("NOIPCHAT_SHAPER")
	if shaper == "" {
		t.Skip("NOIPCHAT_SHAPER is not set")
	}
	dir := t.TempDir()
	build := exec.Command("go", "build", "-o", filepath.Join(dir, "arq"), "../../contrib/arq")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	placeShaper(t, shaper, dir)
	p := params("testdata/serial")
	setup := p.Setup
	p.Setup = func(e *testscript.Env) error {
		if err := setup(e); err != nil {
			return err
		}
		e.Setenv("PATH", dir+string(os.PathListSeparator)+e.Getenv("PATH"))
		// The latency is longer than the line's by the time that it takes to turn it.
		e.Setenv("DELAY", "100ms")
		e.Setenv("LATENCY", "500ms")
		e.Setenv("LOSS", "0.0001")
		if os.Getenv("NOIPCHAT_LONG") != "" {
			e.Setenv("DELAY", "2.2s")
			e.Setenv("LATENCY", "2.5s")
			e.Setenv("LOSS", "0.0005")
		}
		return nil
	}
	testscript.Run(t, p)
}

// placeShaper puts the shaper into a folder: a program, or one that it builds from the folder
// with its source.
func placeShaper(t *testing.T, shaper, dir string) {
	t.Helper()
	if info, err := os.Stat(shaper); err == nil && info.IsDir() {
		build := exec.Command("go", "build", "-o", filepath.Join(dir, "shaper"), ".")
		build.Dir = shaper
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	} else if err := os.Symlink(shaper, filepath.Join(dir, "shaper")); err != nil {
		t.Fatal(err)
	}
}
