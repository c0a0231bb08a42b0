package handoff

import (
	"bytes"
	"context"
	"encoding/gob"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// state is what the tests hand on. Newer has another field, and lacks one.
type state struct {
	Name  string
	FD    int
	Bytes []byte
}

type newer struct {
	Name  string
	FD    int
	Added *int
}

const image = "NOIPCHAT_TEST_IMAGE"

// TestMain is the program that is checked, when it is run so.
func TestMain(m *testing.M) {
	if os.Args[len(os.Args)-1] == "--check" {
		var s newer
		asked, err := Answer(os.Stdin, os.Stdout, &s)
		switch {
		case !asked:
			os.Exit(3)
		case err != nil:
			os.Stderr.WriteString(err.Error())
			os.Exit(4)
		case s.Name != "good":
			os.Stderr.WriteString("the name is " + s.Name)
			os.Exit(5)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// TestBecome has this program become itself, with a pipe and a state.
func TestBecome(t *testing.T) {
	switch os.Getenv(image) {
	case "":
		cmd := exec.Command(os.Args[0], "-test.run=^TestBecome$", "-test.v")
		cmd.Env = append(os.Environ(), image+"=old")
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), "it arrived") {
			t.Fatalf("%v\n%s", err, out)
		}
	case "old":
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, "through the pipe")
		w.Close()
		p, err := New()
		if err != nil {
			t.Fatal(err)
		}
		s := state{Name: "good", Bytes: bytes.Repeat([]byte{7}, 1<<20)}
		if s.FD, err = p.Keep(r); err != nil {
			t.Fatal(err)
		}
		if err := p.Write(&s); err != nil {
			t.Fatal(err)
		}
		if _, err := unix.Pwrite(int(p.state.Fd()), []byte{0}, 9); err != unix.EPERM {
			t.Errorf("a sealed state can be changed: %v", err)
		}
		// What fails leaves all as it was.
		if err := p.Become("/nowhere/nothing", nil); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("becoming nothing: %v", err)
		}
		for _, fd := range []int{s.FD, int(p.state.Fd())} {
			if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
				t.Errorf("after a failure %d has flags %d, %v", fd, flags, err)
			}
		}
		os.Setenv(image, "new")
		t.Fatal(p.Become(os.Args[0], os.Args[1:]))
	case "new":
		var s state
		ok, err := Receive(&s)
		if !ok || err != nil {
			t.Fatalf("received %v, %v", ok, err)
		}
		if s.Name != "good" || len(s.Bytes) != 1<<20 || os.Getenv(environment) != "" {
			t.Errorf("it is %q with %d bytes; the environment has %q", s.Name, len(s.Bytes), os.Getenv(environment))
		}
		if flags, err := unix.FcntlInt(uintptr(s.FD), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
			t.Errorf("a child would get %d: flags %d, %v", s.FD, flags, err)
		}
		b, err := io.ReadAll(os.NewFile(uintptr(s.FD), "pipe"))
		if err != nil || string(b) != "through the pipe" {
			t.Errorf("have %q, %v", b, err)
		}
		if ok, err := Receive(&s); ok || err != nil {
			t.Errorf("a second time: %v, %v", ok, err)
		}
		all, _ := os.ReadDir("/proc/self/fd")
		for _, d := range all {
			if to, _ := os.Readlink("/proc/self/fd/" + d.Name()); strings.Contains(to, "noipchat-handoff") {
				t.Errorf("the state is still there, as %s", d.Name())
			}
		}
		t.Log("it arrived")
	}
}

func parcel(t *testing.T) *Parcel {
	t.Helper()
	p, err := New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

// TestCheck: another program reads the state, which says more and less than it knows,
// or has to say why it can't.
func TestCheck(t *testing.T) {
	for _, x := range []struct {
		name  string
		state state
		want  string
	}{
		{"good", state{Name: "good", Bytes: []byte{1}}, ""},
		{"bad", state{Name: "bad"}, "exit status 5: the name is bad"},
	} {
		p := parcel(t)
		c, err := p.Check(t.Context(), os.Args[0], nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Write(&x.state); err != nil {
			t.Fatal(err)
		}
		if err := c.Show(); (err == nil) != (x.want == "") || err != nil && !strings.Contains(err.Error(), x.want) {
			t.Errorf("%s: %v", x.name, err)
		}
		c.End()
	}
	p := parcel(t)
	c, err := p.Check(t.Context(), os.Args[0], nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Show(); err == nil || !strings.Contains(err.Error(), "it is none") {
		t.Errorf("without a state: %v", err)
	}
	if c, err = p.Check(t.Context(), os.Args[0], nil); err != nil {
		t.Fatal(err)
	}
	c.End()
	if err := c.cmd.Process.Signal(syscall.Signal(0)); err == nil {
		t.Error("it goes on after its end")
	}
	for program, want := range map[string]string{"/bin/true": "knows nothing of handoffs", "/bin/false": "exit status 1", "/nothing": "no such file"} {
		if _, err := p.Check(t.Context(), program, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", program, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := p.Check(ctx, os.Args[0], nil); !errors.Is(err, context.Canceled) {
		t.Errorf("without time: %v", err)
	}
}

// TestRead: what isn't a state that we know is refused, with the reason.
func TestRead(t *testing.T) {
	var good bytes.Buffer
	if err := gob.NewEncoder(&good).Encode(state{Name: "good"}); err != nil {
		t.Fatal(err)
	}
	head := func(version byte, rest ...byte) string { return string(append(append(magic[:], version), rest...)) }
	for _, x := range []struct{ text, want string }{
		{head(newest, good.Bytes()...), ""},
		{head(newest+1, good.Bytes()...), "the state has version 2, and this program reads 1 to 1"},
		{head(0, good.Bytes()...), "the state has version 0"},
		{head(newest, good.Bytes()[:good.Len()-3]...), "unexpected EOF"},
		{"", "it is none"},
		{"noiphand", "it is none"},
	} {
		path := filepath.Join(t.TempDir(), "state")
		if err := os.WriteFile(path, []byte(x.text), 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		f.Seek(3, io.SeekStart) // as somebody else has left it
		var s newer
		if err := read(f, &s); (err == nil) != (x.want == "") || err != nil && !strings.Contains(err.Error(), x.want) {
			t.Errorf("%q: %v", x.text, err)
		}
		f.Close()
	}
	t.Setenv(environment, "0")
	if _, err := Receive(new(state)); err == nil || !strings.Contains(err.Error(), "no descriptor") {
		t.Error(err)
	}
	t.Setenv(environment, "1000000")
	if _, err := Receive(new(state)); err == nil || !strings.Contains(err.Error(), "is not what a server hands on") {
		t.Error(err)
	}
}
