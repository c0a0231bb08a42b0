package transport

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestKinds(t *testing.T) {
	for _, c := range []struct{ kind, address, want string }{
		{"carrier-pigeon", "x", "there are exec, tcp, unix"},
		{"tcp", "localhost:80", "not ip:port"},
		{"tcp", "127.0.0.1", "not ip:port"},
		{"tcp", "127.0.0.1:65536", "not ip:port"},
		{"tcp", ":80", "not ip:port"},
		{"unix", "/nowhere/at/all", "no such file"},
	} {
		if l, err := Listen(t.Context(), c.kind, c.address); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("listening at %s %s: %v, %v", c.kind, c.address, l, err)
		}
		if conn, err := Dial(t.Context(), c.kind, "", c.address); err == nil || conn != nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("dialling %s %s: %v, %v", c.kind, c.address, conn, err)
		}
	}
	if c, err := Dial(t.Context(), "tcp", "here", "127.0.0.1:1"); err == nil || c != nil || !strings.Contains(err.Error(), "not an IP address") {
		t.Error(c, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if c, err := Dial(ctx, "tcp", "", "127.0.0.1:1"); err == nil || c != nil {
		t.Error(c, err)
	}
}

func TestQuiet(t *testing.T) {
	for p, want := range map[Properties]bool{
		{}: false, {Rate: 1200}: true, {Rate: 1_000_000}: false, {Metered: true}: true, {Exclusive: true}: true, {Latency: time.Minute}: false,
	} {
		if p.Quiet() != want {
			t.Errorf("%+v: %v", p, !want)
		}
	}
}

// TestFamilies: an IPv6 listener does not take IPv4 too, so that both can be
// configured for one port.
func TestFamilies(t *testing.T) {
	var port string
	var four Listener
	for try := 0; four == nil; try++ { // others use ports of one family too
		six, err := Listen(t.Context(), "tcp", "[::]:0")
		if err != nil {
			t.Skip(err)
		}
		defer six.Close()
		_, port, _ = net.SplitHostPort(six.Addr().String())
		if four, err = Listen(t.Context(), "tcp", "0.0.0.0:"+port); err != nil && try == 10 {
			t.Fatalf("both families of one port: %v", err)
		}
	}
	four.Close()
	if c, err := Dial(t.Context(), "tcp", "", "127.0.0.1:"+port); err == nil {
		c.Close()
		t.Error("the IPv6 listener answers to IPv4")
	}
	c, err := Dial(t.Context(), "tcp", "::1", "[::1]:"+port)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if a := c.LocalAddr().(*net.TCPAddr); !a.IP.Equal(net.IPv6loopback) {
		t.Errorf("dialled from %v", a)
	}
}

// TestOptions: what the kernel is told of a socket is the same however the
// socket came to us.
func TestOptions(t *testing.T) {
	ours, err := Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	given, err := FromFile(opened(t, "tcp", "127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	defer given.Close()
	for _, l := range []Listener{ours, given} {
		dialled, err := Dial(t.Context(), "tcp", "127.0.0.1", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer dialled.Close()
		accepted, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer accepted.Close()
		for _, c := range []Conn{dialled, accepted} {
			for _, o := range []struct{ level, name, want int }{
				{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1}, {unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 60}, {unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 15},
				{unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 4}, {unix.IPPROTO_TCP, unix.TCP_NODELAY, 1},
			} {
				var got int
				c.(*socket).raw.Control(func(fd uintptr) { got, err = unix.GetsockoptInt(int(fd), o.level, o.name) })
				if got != o.want || err != nil {
					t.Errorf("option %d/%d is %d, want %d, %v", o.level, o.name, got, o.want, err)
				}
			}
			if p := c.Properties(); p != (Properties{}) {
				t.Errorf("%+v", p)
			}
		}
	}
}

func TestUnixPaths(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "socket")
	live, err := Listen(t.Context(), "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(t.Context(), "unix", path); err == nil || !strings.Contains(err.Error(), "somebody answers") {
		t.Errorf("a live socket: %v", err)
	}
	if c, err := live.Accept(); err != nil { // the one that looked whether somebody answers
		t.Error(err)
	} else {
		c.Close()
	}
	// What is left after a crash: the path, and nobody behind it.
	live.Close()
	if _, err := os.Lstat(path); err != nil {
		t.Fatal(err)
	}
	l, err := Listen(t.Context(), "unix", path)
	if err != nil {
		t.Fatalf("a stale socket: %v", err)
	}
	c, err := Dial(t.Context(), "unix", "", path)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	Retire(l)
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Errorf("Retire leaves the path: %v", err)
	}

	// Whatever else there is stays as it is.
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(file, link); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{file, link, dir} {
		if l, err := Listen(t.Context(), "unix", path); err == nil {
			l.Close()
			t.Errorf("listening at %s", path)
		}
		if _, err := os.Lstat(path); err != nil {
			t.Errorf("it is gone: %v", err)
		}
	}
}

// opened is a socket that listens, as another process hands it over.
func opened(t *testing.T, network, address string) *os.File {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	if u, ok := l.(*net.UnixListener); ok {
		u.SetUnlinkOnClose(false)
	}
	defer l.Close()
	f, err := l.(interface{ File() (*os.File, error) }).File()
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// TestRetire: whoever has a copy of the socket, it takes nobody any more after
// Retire; after Close it does.
func TestRetire(t *testing.T) {
	for _, at := range [][2]string{{"tcp", "127.0.0.1:0"}, {"unix", filepath.Join(t.TempDir(), "s")}} {
		copied := opened(t, at[0], at[1])
		defer copied.Close()
		dup, err := unix.Dup(int(copied.Fd()))
		if err != nil {
			t.Fatal(err)
		}
		l, err := FromFile(os.NewFile(uintptr(dup), "given"))
		if err != nil {
			t.Fatal(err)
		}
		address := l.Addr().String()
		l.Close()
		c, err := Dial(t.Context(), at[0], "", address)
		if err != nil {
			t.Fatalf("%s, closed: %v", at[0], err)
		}
		c.Close()
		if l, err = FromFile(copied); err != nil {
			t.Fatal(err)
		}
		ends := make(chan error)
		if c, err := l.Accept(); err != nil { // the one from above
			t.Fatal(err)
		} else {
			c.Close()
		}
		go func() { ends <- second(l.Accept()) }()
		if err := Retire(l); err != nil {
			t.Error(err)
		}
		if err := <-ends; !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s: Accept ends with %v", at[0], err)
		}
		if c, err := Dial(t.Context(), at[0], "", address); err == nil {
			c.Close()
			t.Errorf("%s, retired: somebody takes connections", at[0])
		}
		again, err := Listen(t.Context(), at[0], address)
		if err != nil {
			t.Errorf("%s, retired: the address is taken: %v", at[0], err)
		} else {
			Retire(again)
		}
	}
	var m Memory
	l, err := m.Listen("server")
	if err != nil {
		t.Fatal(err)
	}
	if err := Retire(l); err != nil {
		t.Error(err)
	}
}

// TestNoSocket: a listener of something else gives errors, not panics.
func TestNoSocket(t *testing.T) {
	c, err := listener{pipes{}}.Accept()
	if err == nil || c != nil || !strings.Contains(err.Error(), "no socket") {
		t.Errorf("%v, %v", c, err)
	}
}

type pipes struct{ net.Listener }

func (pipes) Accept() (net.Conn, error) {
	a, _ := net.Pipe()
	return a, nil
}

// TestResources: many connections that come and go leave no descriptor open.
func TestResources(t *testing.T) {
	count := func() int {
		names, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Skip(err)
		}
		return len(names)
	}
	l, err := Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	before := count()
	for range 50 {
		a, err := Dial(t.Context(), "tcp", "", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		b, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		a.Close()
		b.Close()
	}
	if after := count(); after > before+5 {
		t.Errorf("%d descriptors became %d", before, after)
	}
}
