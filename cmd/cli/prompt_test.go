package cli

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestMain makes the test binary a program that asks for a password, too.
func TestMain(m *testing.M) {
	if os.Getenv("ASK_FOR_PASSWORD") == "" {
		os.Exit(m.Run())
	}
	password, err := Password{Prompt: "password", New: true}.Read()
	fmt.Printf("%q %v\n", password, err)
}

// terminal makes a pseudo-terminal: what is typed into keys, a program reads from tty.
func terminal(t *testing.T) (keys, tty *os.File) {
	t.Helper()
	keys, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Skip("no pseudo-terminals here:", err)
	}
	t.Cleanup(func() { keys.Close() })
	n, err := unix.IoctlGetInt(int(keys.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(keys.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		tty, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|syscall.O_NOCTTY, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tty.Close() })
	return keys, tty
}

func echoes(t *testing.T, tty *os.File) bool {
	t.Helper()
	state, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	return state.Lflag&unix.ECHO != 0
}

// asking is a program that has asked for a password, and does not echo.
func asking(t *testing.T) (cmd *exec.Cmd, out *strings.Builder, keys, tty *os.File) {
	t.Helper()
	keys, tty = terminal(t)
	out = new(strings.Builder)
	cmd = exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "ASK_FOR_PASSWORD=1")
	cmd.Stdin, cmd.Stdout = tty, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	prompts, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill() })
	if prompt, err := bufio.NewReader(prompts).ReadString(':'); prompt != "password:" {
		t.Fatalf("the prompt is %q, %v", prompt, err)
	}
	for end := time.Now().Add(time.Minute); echoes(t, tty); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the terminal still echoes")
		}
	}
	return cmd, out, keys, tty
}

// TestInterrupt: whoever gives up gets a terminal back that echoes.
func TestInterrupt(t *testing.T) {
	cmd, _, keys, tty := asking(t)
	keys.WriteString("correct\x03")
	exit, ok := errors.AsType[*exec.ExitError](cmd.Wait())
	if !ok || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGINT {
		t.Errorf("it ended by %v, want the interrupt", exit)
	}
	if !echoes(t, tty) {
		t.Error("the terminal does not echo any more")
	}
}

func TestAskTwice(t *testing.T) {
	cmd, out, keys, tty := asking(t)
	keys.WriteString("correct horse\ncorrect horse\n")
	if err := cmd.Wait(); err != nil || out.String() != "\"correct horse\" <nil>\n" {
		t.Errorf("have %s, %v", out, err)
	}
	if !echoes(t, tty) {
		t.Error("the terminal does not echo any more")
	}
	fd := int(keys.Fd())
	if err := unix.SetNonblock(fd, true); err != nil {
		t.Fatal(err)
	}
	shown := make([]byte, 1<<10)
	if n, err := unix.Read(fd, shown); !errors.Is(err, unix.EAGAIN) {
		t.Errorf("the terminal shows %q, %v", shown[:max(n, 0)], err)
	}
}
