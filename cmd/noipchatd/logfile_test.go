package main

import (
	"os"
	"path/filepath"
	"testing"
)

// TestLogFile: a log that can't be opened keeps nobody from running, and is opened later; and
// after a rotation there is another file.
func TestLogFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "folder", "server.log")
	log, reopen, err := logger(path)
	if err == nil || log == nil || reopen() == nil {
		t.Fatalf("%v, %v", log, err)
	}
	for _, said := range []string{"first", "second"} {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := reopen(); err != nil {
			t.Fatal(err)
		}
		log.Info(said)
		if b, err := os.ReadFile(path); err != nil || string(b[len(b)-len(said)-1:]) != said+"\n" {
			t.Errorf("the log has %q, %v", b, err)
		}
		if err := os.Rename(path, path+"."+said); err != nil {
			t.Fatal(err)
		}
	}
}
