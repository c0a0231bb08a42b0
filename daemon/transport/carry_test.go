package transport

import (
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestCarry has this program start a command, talk with it, become another image of
// itself and talk on: over the same stream, with the same child, whose end it sees.
func TestCarry(t *testing.T) {
	switch os.Getenv("NOIPCHAT_TEST_IMAGE") {
	case "":
		cmd := exec.Command(os.Args[0], "-test.run=^TestCarry$", "-test.v")
		cmd.Env = append(os.Environ(), "NOIPCHAT_TEST_IMAGE=old")
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), "it went on") {
			t.Fatalf("%v\n%s", err, out)
		}
	case "old":
		c, _ := shell(t, "echo one >&2; read a; echo $a; read b; echo $b; echo gone >&2; exit 3")
		c.Describe(Properties{Metered: true})
		say(t, c, "first\n")
		k, err := Carry(c, keepOpen)
		if err != nil {
			t.Fatal(err)
		}
		b, err := json.Marshal(k)
		if err != nil {
			t.Fatal(err)
		}
		os.Setenv("NOIPCHAT_TEST_IMAGE", "new")
		os.Setenv("NOIPCHAT_TEST_CARRIED", string(b))
		t.Fatal(syscall.Exec("/proc/self/exe", os.Args, os.Environ()))
	case "new":
		var k Carried
		if err := json.Unmarshal([]byte(os.Getenv("NOIPCHAT_TEST_CARRIED")), &k); err != nil {
			t.Fatal(err)
		}
		c, err := k.Conn(nil)
		if err != nil {
			t.Fatal(err)
		}
		if !c.Properties().Metered {
			t.Error("what is known of the line is lost")
		}
		say(t, c, "second\n")
		if _, err := c.Read(make([]byte, 1)); err == nil || err == io.EOF || !strings.Contains(err.Error(), `exit status 3, and said "gone"`) {
			t.Errorf("it ended with %v", err)
		}
		c.Close()
		if err := unix.Waitid(unix.P_PID, k.Command.PID, nil, unix.WEXITED|unix.WNOHANG, nil); err != unix.ECHILD {
			t.Errorf("the child is still there: %v", err)
		}
		t.Log("it went on")
	}
}

// say writes a line, and reads it again.
func say(t *testing.T, c Conn, line string) {
	t.Helper()
	if _, err := io.WriteString(c, line); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(line))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != line {
		t.Fatalf("have %q, %v", got, err)
	}
}

// keepOpen duplicates a descriptor for the next image.
func keepOpen(c syscall.Conn) (copied int, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	if e := raw.Control(func(fd uintptr) { copied, err = unix.Dup(int(fd)) }); e != nil {
		return 0, e
	}
	return copied, err
}

func TestCarryNothing(t *testing.T) {
	a, b := MemoryPipe("test")
	defer a.Close()
	defer b.Close()
	if _, err := Carry(a, keepOpen); err == nil {
		t.Error("what has no descriptor is carried")
	}
	if _, err := (Carried{FD: 1 << 20}).Conn(nil); err == nil {
		t.Error("what isn't open is a connection")
	}
}

// TestCarryNameless: an earlier program's state has no names, and the socket knows them.
func TestCarryNameless(t *testing.T) {
	for _, n := range networks() {
		if n.name == "memory" {
			continue
		}
		t.Run(n.name, func(t *testing.T) {
			n.meet(t, func(t *testing.T, a, b Conn) {
				for _, c := range []Conn{a, b} {
					k, err := Carry(c, keepOpen)
					if err != nil {
						t.Fatal(err)
					}
					named := k
					k.Local, k.Remote = Name{}, Name{}
					again, err := k.Conn(nil)
					if err != nil {
						t.Fatal(err)
					}
					defer again.Close()
					if local, remote := nameOf(again.LocalAddr()), nameOf(again.RemoteAddr()); local != named.Local || remote != named.Remote {
						t.Errorf("it is between %q and %q, not between %q and %q", local, remote, named.Local, named.Remote)
					}
				}
			})
		})
	}
}
