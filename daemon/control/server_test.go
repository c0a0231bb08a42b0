package control

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/noipchat/noipchat/daemon/message"
)

func uid() int { return os.Geteuid() }

// raw sends text over a connection of its own and returns it.
func raw(t *testing.T, path, text string) net.Conn {
	t.Helper()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(time.Minute)) // of the test, should the server not keep its own
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	return c
}

func post(path, body string) string {
	return fmt.Sprintf("POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", path, len(body), body)
}

// TestRequests: what isn't a call of ours is answered, and never reaches the daemon.
func TestRequests(t *testing.T) {
	d := sample()
	path := start(t, d, defaultLimits).path
	for _, x := range []struct {
		request string
		status  int
		body    string // a part of it
	}{
		{"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", 200, "up 1"},
		{"POST /metrics HTTP/1.1\r\nHost: x\r\n\r\n", 405, ""},
		{post("/v1/status", "{}"), 405, ""},
		{"GET /v1/user HTTP/1.1\r\nHost: x\r\n\r\n", 405, ""},
		{"DELETE /v1/user/remove HTTP/1.1\r\nHost: x\r\n\r\n", 405, ""},
		{"GET /v2/status HTTP/1.1\r\nHost: x\r\n\r\n", 404, ""},
		{"GET /v1/../etc HTTP/1.1\r\nHost: x\r\n\r\n", 307, ""},
		{post("/v1/user", `{"name":"alice","nick":"al"}`), 400, `unknown field \"nick\"`},
		{post("/v1/user", `{"name":"alice"}{}`), 400, "goes on"},
		{post("/v1/user", `{"name":"alice"`), 400, "unexpected EOF"},
		{post("/v1/user", `{"name":7}`), 400, "protocol"},
		{post("/v1/user", ``), 400, "protocol"},
		{post("/v1/trace", `{"id":"xyz"}`), 400, "message id"},
		{post("/v1/user/remove", `{"name":"Alice"}`), 403, `"code":"invalid"`},
		{post("/v1/user", `{"name":"`+strings.Repeat("a", maxRequest)+`"}`), 400, "too large"},
		{"GET /v1/status HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("a", maxHeader+8<<10) + "\r\n\r\n", 431, ""},
		{"hello\r\n\r\n", 400, ""},
	} {
		name := x.request[:min(len(x.request), 60)]
		c := raw(t, path, x.request)
		answer, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Errorf("%q: %v", name, err)
			continue
		}
		body, _ := io.ReadAll(io.LimitReader(answer.Body, 1<<20))
		if answer.StatusCode != x.status || !strings.Contains(string(body), x.body) {
			t.Errorf("%q: have %d %s, want %d %s", name, answer.StatusCode, body, x.status, x.body)
		}
		c.Close()
	}
	if len(d.asked) != 0 {
		t.Errorf("the daemon was asked %q", d.asked)
	}
}

// TestSlowCallers: whoever does not get on with it loses the connection.
func TestSlowCallers(t *testing.T) {
	short := 50 * time.Millisecond
	path := start(t, sample(), limits{header: short, body: short, call: time.Second, idle: short, grace: short}).path
	for name, text := range map[string]string{
		"nothing":       "",
		"half a header": "GET /v1/status HTTP/1.1\r\nHo",
		"half a body":   "POST /v1/user HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{",
		"idle":          "GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n",
	} {
		c := raw(t, path, text)
		if _, err := io.Copy(io.Discard, c); err != nil {
			t.Errorf("%s: the server did not close: %v", name, err)
		}
	}
}

// TestEndlessBody: a body without an end is cut off by its size, long before its
// time is over.
func TestEndlessBody(t *testing.T) {
	d := sample()
	c := raw(t, start(t, d, defaultLimits).path, "POST /v1/user HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
	chunk := "1000\r\n" + strings.Repeat(" ", 0x1000) + "\r\n"
	sent := 0
	for {
		n, err := io.WriteString(c, chunk)
		sent += n
		if err != nil {
			break
		}
		if sent > 64<<20 {
			t.Fatal("64 MiB of a body were taken")
		}
	}
	if len(d.asked) != 0 {
		t.Errorf("the daemon was asked %q", d.asked)
	}
}

// TestStopWithHalfRequest: callers who hold a connection do not hold up the end.
func TestStopWithHalfRequest(t *testing.T) {
	lim := defaultLimits
	lim.grace = 20 * time.Millisecond
	r := start(t, sample(), lim)
	c := raw(t, r.path, "GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\nPOST /v1/us")
	if _, err := http.ReadResponse(bufio.NewReader(c), nil); err != nil {
		t.Fatal(err)
	}
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(r.path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
}

// TestStopDuringCall: a call that is under way is told that the daemon stops, and
// is joined.
func TestStopDuringCall(t *testing.T) {
	d := sample()
	d.block = make(chan struct{})
	lim := defaultLimits
	lim.grace = 20 * time.Millisecond
	r := start(t, d, lim)
	failed := make(chan error, 1)
	go func() {
		_, err := New(r.path).Status(context.Background())
		failed <- err
	}()
	<-d.block
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	// Whether the answer still gets out before the connection is closed is a race.
	if err := <-failed; !refusedAs(err, message.CodeStopping) && !errors.Is(err, ErrUnreachable) {
		t.Errorf("have %v", err)
	}
}

// TestLongCall: a daemon that takes too long is cut short, and the caller told.
func TestLongCall(t *testing.T) {
	d := sample()
	d.block = make(chan struct{})
	lim := defaultLimits
	lim.call = 20 * time.Millisecond
	_, err := New(start(t, d, lim).path).Status(t.Context())
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("have %v", err)
	}
}

func TestServeFails(t *testing.T) {
	l, err := Listen(t.TempDir()+"/s", Mode)
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if err := Serve(t.Context(), l, http.NotFoundHandler(), discard); err == nil || !errors.Is(err, net.ErrClosed) {
		t.Errorf("serving a closed listener: %v", err)
	}
}
