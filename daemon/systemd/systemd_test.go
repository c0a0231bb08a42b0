package systemd

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
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
	l := manager(t)
	if !Notify("READY=1", "STATUS=two users") {
		t.Fatal("not told")
	}
	var got [100]byte
	n, err := l.Read(got[:])
	if err != nil || string(got[:n]) != "READY=1\nSTATUS=two users" {
		t.Errorf("have %q, %v", got[:n], err)
	}
}

// manager plays the service manager's end of the notify socket.
func manager(t *testing.T) *net.UnixConn {
	path := filepath.Join(t.TempDir(), "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	return l
}

func TestStore(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	f := l.(*net.TCPListener)
	t.Setenv("NOTIFY_SOCKET", "")
	if err := StoreSocket("tcp", l.Addr().String(), f); err != nil {
		t.Errorf("without a manager: %v", err)
	}
	m := manager(t)
	if err := StoreSocket("tcp", l.Addr().String(), f); err != nil {
		t.Fatal(err)
	}
	name := "FDNAME=tcp_" + strings.ReplaceAll(l.Addr().String(), ":", "_")
	got, oob := make([]byte, 1000), make([]byte, 1000)
	for _, want := range []string{"FDSTOREREMOVE=1\n" + name, "FDSTORE=1\n" + name} {
		n, oobn, _, _, err := m.ReadMsgUnix(got, oob)
		if err != nil || string(got[:n]) != want {
			t.Fatalf("have %q, %v, want %q", got[:n], err, want)
		}
		oob = oob[:oobn]
		if oobn == 0 {
			oob = oob[:cap(oob)]
		}
	}
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil || len(messages) != 1 {
		t.Fatalf("%v, %v", messages, err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		t.Fatalf("%v, %v", fds, err)
	}
	stored := os.NewFile(uintptr(fds[0]), "stored")
	defer stored.Close()
	if s, err := describe(stored); err != nil || s.Network != "tcp" || s.Address != l.Addr().String() {
		t.Errorf("it is %+v, %v", s, err)
	}
	unix.Shutdown(fds[0], unix.SHUT_RDWR)
	if s, err := describe(stored); err == nil {
		t.Errorf("one that was shut down is %+v", s)
	}
}

func TestTurnAway(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	f, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var waiting []net.Conn
	for range 3 {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		waiting = append(waiting, c)
	}
	TurnAway(f)
	for _, c := range waiting {
		if n, err := c.Read(make([]byte, 1)); n != 0 || err != io.EOF {
			t.Errorf("have %d, %v", n, err)
		}
	}
	TurnAway(f) // nobody waits, and neither does it
}

// TestInherited runs this program again as a service with three files: two that
// listen, and one that doesn't.
func TestInherited(t *testing.T) {
	if os.Getenv("NOIPCHAT_TEST_CHILD") != "" {
		os.Setenv("LISTEN_PID", os.Getenv("NOIPCHAT_TEST_CHILD_PID"))
		for _, s := range Inherited() {
			os.Stdout.WriteString(s.Network + " " + s.Address + "\n")
		}
		if again := Inherited(); again != nil || os.Getenv("LISTEN_FDS") != "" {
			os.Stdout.WriteString("a second time\n")
		}
		os.Exit(0)
	}
	path := filepath.Join(t.TempDir(), "s")
	var files []*os.File
	var want []string
	for _, at := range [][2]string{{"tcp", "127.0.0.1:0"}, {"unix", path}} {
		l, err := net.Listen(at[0], at[1])
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		f, err := l.(interface{ File() (*os.File, error) }).File()
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		files = append(files, f)
		want = append(want, at[0]+" "+l.Addr().String())
	}
	files = slices.Insert(files, 1, os.Stdin)
	// The shell becomes the child, so that it knows the process id that stands in LISTEN_PID.
	cmd := exec.Command("/bin/sh", "-c", `NOIPCHAT_TEST_CHILD_PID=$$ exec "$0" -test.run='^TestInherited$'`, os.Args[0])
	cmd.Env = append(os.Environ(), "NOIPCHAT_TEST_CHILD=1", "LISTEN_FDS=3", "LISTEN_FDNAMES=a:b:c")
	cmd.ExtraFiles = files
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Split(strings.TrimSpace(string(out)), "\n"); !slices.Equal(got, want) {
		t.Errorf("have %q, want %q", got, want)
	}
	if _, err := os.Stat(path); err != nil {
		t.Error("the child removed the socket's file")
	}
}

func TestReport(t *testing.T) {
	t.Setenv("WATCHDOG_USEC", "3000000")
	synctest.Test(t, func(t *testing.T) {
		t.Setenv("NOTIFY_SOCKET", "")
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		n := 0
		Report(ctx, func() string { n++; return "well" })
		if n != 10 && n != 11 { // the last at the same moment as the end
			t.Errorf("asked %d times in 10 s", n)
		}
	})
	m := manager(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	Report(ctx, func() string { return "two sessions" })
	got := make([]byte, 100)
	if n, err := m.Read(got); err != nil || string(got[:n]) != "STATUS=two sessions\nWATCHDOG=1" {
		t.Errorf("have %q, %v", got[:n], err)
	}
}
