package control

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

var discard = slog.New(slog.DiscardHandler)

// answering is a socket whose every caller gets text and an end.
func answering(t *testing.T, text string) string {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Read(make([]byte, 1<<10))
			io.WriteString(c, text)
			c.Close()
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-ended
	})
	return path
}

// TestNoAnswer: the ways in which there is no daemon that answers.
func TestNoAnswer(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	dead := filepath.Join(dir, "dead")
	abandon(t, dead)
	for name, x := range map[string]struct {
		path string
		want error
	}{
		"no socket":     {filepath.Join(dir, "none"), ErrUnreachable},
		"dead socket":   {dead, ErrUnreachable},
		"a file":        {file, ErrUnreachable},
		"hangs up":      {answering(t, ""), ErrUnreachable},
		"cut off":       {answering(t, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"), ErrUnreachable},
		"not HTTP":      {answering(t, "220 mail ESMTP\r\n"), ErrProtocol},
		"not JSON":      {answering(t, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"), ErrProtocol},
		"other JSON":    {answering(t, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]"), ErrProtocol},
		"other server":  {answering(t, "HTTP/1.1 404 Not Found\r\nContent-Length: 9\r\n\r\nnot found"), ErrProtocol},
		"sent away":     {answering(t, "HTTP/1.1 301 Moved\r\nLocation: http://x/\r\nContent-Length: 0\r\n\r\n"), ErrProtocol},
		"endless heads": {answering(t, "HTTP/1.1 200 OK\r\nX: "+string(make([]byte, 200<<10))), ErrProtocol},
	} {
		if _, err := New(x.path).Status(t.Context()); !errors.Is(err, x.want) {
			t.Errorf("%s: have %v, want %v", name, err, x.want)
		}
	}
}

// TestNoTime: a daemon that takes the connection and says nothing.
func TestNoTime(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path) // the kernel takes connections, nobody else does
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c := New(path)
	c.Timeout = 10 * time.Millisecond
	if _, err := c.Status(t.Context()); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("have %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := New(path).Status(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("have %v", err)
	}
}

func TestNotAllowed(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root may open every socket")
	}
	r := start(t, sample(), defaultLimits)
	if err := os.Chmod(r.path, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := New(r.path).Status(t.Context()); !errors.Is(err, ErrPermission) {
		t.Errorf("have %v", err)
	}
}
