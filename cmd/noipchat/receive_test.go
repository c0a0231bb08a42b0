package main

import (
	"bufio"
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/noipchat/noipchat/cmd/cli"
	"github.com/noipchat/noipchat/daemon/client"
	"github.com/noipchat/noipchat/daemon/identity"
	"github.com/noipchat/noipchat/daemon/message"
)

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// unread makes profiles with the texts "0 …" to "n-1 …", which came in and were not
// shown yet; some are longer than what a pipe takes in one piece. Its home is nowhere.
func unread(t *testing.T, n int) (home string) {
	t.Helper()
	home = t.TempDir()
	s, err := client.OpenStore(filepath.Join(home, "default"))
	check(t, err)
	defer s.Close()
	check(t, s.SetAccount(client.Account{Address: "alice@server1", ServerKey: identity.KeyFromSeed([32]byte{9}).Public().String()}))
	var batch []client.Incoming
	for i := range n {
		long := 0
		if i%4 != 0 {
			long = rand.IntN(20_000)
		}
		e := message.Envelope{Kind: message.Text, Priority: message.Normal, From: "bob@server1", Device: 7, Counter: uint64(i + 1),
			To: []message.Address{"alice@server1"}, Body: fmt.Appendf(nil, "%d %s", i, strings.Repeat("x", long))}
		raw, err := e.Append(nil)
		check(t, err)
		in := new(message.Envelope)
		check(t, in.Parse(raw))
		batch = append(batch, client.Incoming{Envelope: in})
	}
	_, err = s.Receive(batch)
	check(t, err)
	return home
}

func receiving(home string, args ...string) *exec.Cmd {
	return exec.Command(filepath.Join(programs, "noipchat"), append([]string{"--home", home, "receive"}, args...)...)
}

// number is which of the texts a line has.
func number(t *testing.T, line string) int {
	t.Helper()
	fields := strings.Split(line, "\t")
	if len(fields) < 6 { // the first of somebody has one more
		t.Fatalf("a line has %d fields: %.80q", len(fields), line)
	}
	first, _, _ := strings.Cut(fields[4], " ")
	n, err := strconv.Atoi(first)
	check(t, err)
	return n
}

// Whenever it is killed, and whether its reader reads or not: no text is skipped,
// and only the last whole line may come for a second time.
func TestReceiveKilled(t *testing.T) {
	const texts, kills = 1000, 30
	home := unread(t, texts)
	next, twice, torn := 0, 0, 0
	take := func(line string) {
		switch n := number(t, line); n {
		case next:
			next++
		case next - 1:
			twice++
		default:
			t.Fatalf("text %d comes after %d", n, next-1)
		}
	}
	for kill := range kills {
		cmd := receiving(home, "--follow")
		out := pipe(t, cmd)
		check(t, cmd.Start())
		cmd.Stdout.(*os.File).Close()
		r := bufio.NewReader(out)
		before := twice
		for lines, last := 0, rand.IntN(20); ; {
			line, err := r.ReadString('\n')
			if err != nil {
				if line != "" {
					torn++ // the beginning of one that was being written
				}
				break
			}
			take(line)
			lines++
			switch {
			case kill%2 == 0 && lines == last+1:
				check(t, cmd.Process.Kill())
			case kill%2 == 1 && lines == 1: // the reader stops, and the pipe fills
				wait := time.Duration(rand.IntN(60)) * time.Millisecond
				if kill%4 == 1 { // however slow it is, some lines are torn
					full(t, out)
					wait += 100 * time.Millisecond
				}
				time.AfterFunc(wait, func() { cmd.Process.Kill() })
				cmd.Process.Wait()
			}
		}
		cmd.Wait() // an error: it was killed, and that may be known already
		if twice > before+1 {
			t.Errorf("%d lines came twice after one kill", twice-before)
		}
	}
	out, err := receiving(home).Output()
	check(t, err)
	for line := range strings.Lines(string(out)) {
		take(line)
	}
	if next != texts || torn == 0 {
		t.Errorf("%d texts came, and %d lines were torn", next, torn)
	}
	t.Logf("%d kills, %d lines twice, %d torn", kills, twice, torn)
}

// pipe gives a command a pipe to write to, whose end Wait does not close.
func pipe(t *testing.T, cmd *exec.Cmd) *os.File {
	t.Helper()
	r, w, err := os.Pipe()
	check(t, err)
	t.Cleanup(func() { r.Close(); w.Close() })
	cmd.Stdout = w
	return r
}

// full waits until a pipe takes nothing more.
func full(t *testing.T, r *os.File) {
	t.Helper()
	w, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", r.Fd()), os.O_WRONLY, 0)
	check(t, err)
	defer w.Close() // or it would have no end
	for room := 1; room > 0; time.Sleep(time.Millisecond) {
		room, err = unix.Poll([]unix.PollFd{{Fd: int32(w.Fd()), Events: unix.POLLOUT}}, 0)
		check(t, err)
	}
}

// A line that can't be written counts as not printed.
func TestReceiveNowhere(t *testing.T) {
	home := unread(t, 20)
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	check(t, err)
	defer full.Close()
	closed := receiving(home)
	pipe(t, closed).Close()
	noSpace := receiving(home, "--json")
	noSpace.Stdout = full
	for want, cmd := range map[string]*exec.Cmd{"broken pipe": closed, "no space left on device": noSpace} {
		var stderr strings.Builder
		cmd.Stderr = &stderr
		cmd.Run()
		if code := cmd.ProcessState.ExitCode(); code != cli.ExitIO || !strings.Contains(stderr.String(), want) {
			t.Errorf("exit code %d, and %q; want %q", code, stderr.String(), want)
		}
	}
	out, err := receiving(home, "--count", "1").Output()
	check(t, err)
	if n := number(t, string(out)); n != 0 {
		t.Errorf("the first text that comes is %d", n)
	}
}

// Who waits for texts notices that nobody would read them.
func TestReceiveUnread(t *testing.T) {
	cmd := receiving(unread(t, 1), "--follow")
	out := pipe(t, cmd)
	check(t, cmd.Start())
	_, err := bufio.NewReader(out).ReadString('\n')
	check(t, err)
	check(t, out.Close())
	cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != cli.ExitIO {
		t.Errorf("exit code %d", code)
	}
}

// Two at once share the texts: each comes once.
func TestReceiveTwice(t *testing.T) {
	const texts = 200
	home := unread(t, texts)
	var outs [4]bytes.Buffer
	var cmds [len(outs)]*exec.Cmd
	for i := range outs {
		cmds[i] = receiving(home, "--count", strconv.Itoa(texts/len(outs)))
		cmds[i].Stdout = &outs[i]
		check(t, cmds[i].Start())
	}
	seen := map[int]bool{}
	for i := range outs {
		check(t, cmds[i].Wait())
		for line := range strings.Lines(outs[i].String()) {
			n := number(t, line)
			if seen[n] {
				t.Errorf("text %d came twice", n)
			}
			seen[n] = true
		}
	}
	if len(seen) != texts {
		t.Errorf("%d texts came", len(seen))
	}
}

// Who is stuck in writing to somebody who does not read ends at the second signal.
func TestReceiveStuck(t *testing.T) {
	cmd := receiving(unread(t, 200), "--follow")
	out := pipe(t, cmd)
	check(t, cmd.Start())
	defer cmd.Process.Kill()
	_, err := out.Read(make([]byte, 1)) // it has begun, and nobody reads on
	check(t, err)
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	late := time.After(time.Minute)
	for tick := time.Tick(10 * time.Millisecond); ; {
		select {
		case <-tick:
			cmd.Process.Signal(syscall.SIGTERM)
		case <-late:
			t.Fatal("it doesn't end")
		case <-ended:
			return
		}
	}
}
