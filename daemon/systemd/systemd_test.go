package systemd

import (
	"bytes"
	"log/slog"
	"net"
	"path/filepath"
	"testing"
)

func TestHandler(t *testing.T) {
	var b bytes.Buffer
	log := slog.New(NewHandler(&b, slog.LevelInfo)).With("room", "test")
	log.Debug("not seen")
	log.Info("one", "text", "a\n<0>b\x1b[31m")
	log.WithGroup("g").Warn("two", "n", 2)
	log.Error("three")
	want := "<6>msg=one room=test text=\"a\\n<0>b\\x1b[31m\"\n<4>msg=two room=test g.n=2\n<3>msg=three room=test\n"
	if b.String() != want {
		t.Errorf("have %q, want %q", b.String(), want)
	}
}

func TestNotify(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	if Notify("READY=1") {
		t.Error("told a service manager that isn't there")
	}
	path := filepath.Join(t.TempDir(), "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	if !Notify("READY=1", "STATUS=two users") {
		t.Fatal("not told")
	}
	var got [100]byte
	n, err := l.Read(got[:])
	if err != nil || string(got[:n]) != "READY=1\nSTATUS=two users" {
		t.Errorf("have %q, %v", got[:n], err)
	}
}
