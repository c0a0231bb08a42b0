package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/noipchat/noipchat/daemon/client"
	"github.com/noipchat/noipchat/daemon/control"
	"github.com/noipchat/noipchat/daemon/message"
)

// large is the file of TestLarge.
const large = 1 << 30

// TestLarge: a file of 1 GB costs neither side more than 32 MiB of memory and delays a line of
// text that goes the same way by less than 100 ms on the loopback interface, and by less than 2 s
// on a line of 1 Mbit/s, be that the sender's or the receiver's. The programs are real; the texts
// are those of somebody who sits at a client: no program is started for them. The lines are made
// by the program of TestSerial.
func TestLarge(t *testing.T) {
	if os.Getenv("NOIPCHAT_LONG") == "" {
		t.Skip("NOIPCHAT_LONG is not set")
	}
	t.Run("loopback", func(t *testing.T) {
		p := newPlay(t)
		p.enter("alice", p.address)
		p.enter("bob", p.address)
		p.measure(100*time.Millisecond, 100*time.Millisecond, true)
	})
	shaper := os.Getenv("NOIPCHAT_SHAPER")
	if shaper == "" {
		t.Skip("NOIPCHAT_SHAPER is not set")
	}
	for _, slow := range []string{"alice", "bob"} {
		t.Run("slow line of "+slow, func(t *testing.T) {
			p := newPlay(t)
			placeShaper(t, shaper, p.dir)
			line := free(t)
			p.begin(exec.Command(filepath.Join(p.dir, "shaper"), "-q", "-bps", "1000000", "-bits", "8", "-tcp", line+"="+p.address))
			for _, name := range []string{"alice", "bob"} {
				if name == slow {
					p.enter(name, line)
				} else {
					p.enter(name, p.address)
				}
			}
			p.measure(2*time.Second, 700*time.Millisecond, false)
		})
	}
}

// play is a server and who talks there.
type play struct {
	t            *testing.T
	dir, address string
	key          string
	server       *exec.Cmd
}

// free is an address where nobody listens.
func free(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	defer l.Close()
	return l.Addr().String()
}

func newPlay(t *testing.T) *play {
	t.Helper()
	p := &play{t: t, dir: t.TempDir(), address: free(t)}
	config := filepath.Join(p.dir, "noipchat.toml")
	check(t, os.WriteFile(config, fmt.Appendf(nil, "name = \"server1\"\nlog = \"stderr\"\n[[interface]]\nbind = %q\n", p.address), 0o600))
	p.server = p.begin(exec.Command(filepath.Join(programs, "noipchatd"), "--config", config, "--state", filepath.Join(p.dir, "state"), "--runtime", filepath.Join(p.dir, "run")))
	for start := time.Now(); ; time.Sleep(10 * time.Millisecond) { // between two attempts
		status, err := control.New(p.socket()).Status(t.Context())
		if err == nil {
			p.key = status.Key
			return p
		}
		if time.Since(start) > 20*time.Second {
			t.Fatal(err)
		}
	}
}

func (p *play) socket() string { return filepath.Join(p.dir, "run", "control.sock") }

// begin starts a program that ends with the test at the latest.
func (p *play) begin(cmd *exec.Cmd) *exec.Cmd {
	p.t.Helper()
	var says bytes.Buffer
	cmd.Stderr = &says
	cmd.Env = append(os.Environ(), "NOIPCHAT_SOCKET="+p.socket())
	check(p.t, cmd.Start())
	p.t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if p.t.Failed() {
			p.t.Logf("%s says:\n%s", filepath.Base(cmd.Path), says.String())
		}
	})
	return cmd
}

func (p *play) noipchat(name string, args ...string) *exec.Cmd {
	return exec.Command(filepath.Join(programs, "noipchat"), append([]string{"--home", filepath.Join(p.dir, name)}, args...)...)
}

// enter makes a user who connects to an address.
func (p *play) enter(name, address string) {
	p.t.Helper()
	for _, cmd := range []*exec.Cmd{
		exec.Command(filepath.Join(programs, "noipctl"), "user", "add", name, "--password-stdin"),
		p.noipchat(name, "login", name+"@server1", "--server", address, "--key", p.key, "--password-stdin"),
	} {
		cmd.Env = append(os.Environ(), "NOIPCHAT_SOCKET="+p.socket())
		cmd.Stdin = strings.NewReader("a good password\n")
		if out, err := cmd.CombinedOutput(); err != nil {
			p.t.Fatalf("%v: %s", err, out)
		}
	}
}

// memory is a figure of a process, in bytes; 0 if it has ended.
func (p *play) memory(cmd *exec.Cmd, figure string) int {
	p.t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", cmd.Process.Pid))
	check(p.t, err)
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, figure+":"); ok {
			n, err := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(rest), " kB"))
			check(p.t, err)
			return n << 10
		}
	}
	return 0
}

// lines are what a program prints.
func (p *play) lines(cmd *exec.Cmd) <-chan string {
	out := pipe(p.t, cmd)
	p.begin(cmd)
	lines := make(chan string, 1<<10)
	go func() {
		for s := bufio.NewScanner(out); s.Scan(); {
			lines <- s.Text()
		}
	}()
	return lines
}

// sample is how long some texts have taken, in order.
type sample []time.Duration

func (s sample) part(hundredths int) time.Duration { return s[(len(s)-1)*hundredths/100] }

func (s sample) String() string {
	round := func(n int) time.Duration { return s.part(n).Round(time.Millisecond) }
	return fmt.Sprintf("%d texts take %v, nine of ten at most %v, the longest %v", len(s), round(50), round(90), round(100))
}

// measure has alice and bob sit at their clients, and alice send bob texts, and then a file, and
// texts meanwhile: as long as the file takes, or for half a minute of that.
func (p *play) measure(most, pause time.Duration, whole bool) {
	t := p.t
	before := p.memory(p.server, "VmRSS")
	path := filepath.Join(p.dir, "large")
	check(t, os.WriteFile(path, nil, 0o600))
	check(t, os.Truncate(path, large)) // zeros are as long as anything else on the line

	alice, bob := p.noipchat("alice", "receive", "--follow"), p.noipchat("bob", "receive", "--follow")
	p.lines(alice)
	came := p.lines(bob)
	store, err := client.OpenStore(filepath.Join(p.dir, "alice", "default"))
	check(t, err)
	defer store.Close()
	profile := client.NewProfile(store, client.Options{})
	ctx, leave := context.WithCancel(t.Context())
	sat := make(chan error, 1)
	defer func() {
		leave()
		check(t, <-sat)
	}()
	for up := false; !up; time.Sleep(10 * time.Millisecond) { // nothing tells of that
		_, err := os.Stat(filepath.Join(p.dir, "alice", "default", "socket"))
		up = err == nil
	}
	go func() { sat <- profile.Run(ctx) }() // a guest of alice's program, which does the sending
	for up := false; !up; {
		changed := profile.Changed()
		if up, _ = profile.Connected(); !up {
			<-changed
		}
	}
	if !profile.Shared() {
		t.Fatal("the session is the test's")
	}

	arrived := false
	texts := func(n int, more func() bool) (took sample) {
		t.Helper()
		for len(took) < n || more() {
			start, body := time.Now(), fmt.Sprint("text ", len(took), " of ", n)
			_, err := store.Enqueue(ctx, client.Outgoing{To: []message.Address{"bob@server1"}, Body: []byte(body)})
			check(t, err)
			profile.Kick()
			for late, here := time.After(time.Minute), false; !here; {
				select {
				case line := <-came:
					arrived = arrived || strings.Contains(line, "/files/")
					here = strings.Contains(line, "\t"+body+"\t")
				case <-late:
					t.Fatalf("%s doesn't come", body)
				}
			}
			took = append(took, time.Since(start))
			time.Sleep(pause)
		}
		slices.Sort(took)
		return took
	}
	quiet := texts(10, func() bool { return false })

	start := time.Now()
	sending := p.begin(p.noipchat("alice", "send", "bob@server1", "--file", path, "--wait", "delivered", "--timeout", "2m"))
	for under := false; !under; time.Sleep(10 * time.Millisecond) {
		all, err := store.History(client.Query{Limit: 1})
		check(t, err)
		if len(all) > 0 && all[0].File != nil {
			settled, _, err := store.OutProgress(all[0])
			check(t, err)
			under = settled > 0
		}
	}
	asking := 0
	beside := texts(20, func() bool {
		asking = max(asking, p.memory(sending, "VmHWM"))
		return !arrived && (whole || time.Since(start) < 30*time.Second)
	})
	if whole {
		t.Logf("%d bytes take %v", large, time.Since(start).Round(time.Second))
	} else if arrived {
		t.Error("the file was there before the end")
	}
	t.Logf("without it %v", quiet)
	t.Logf("beside it %v", beside)
	if delay := beside.part(90) - quiet.part(90); delay >= most {
		t.Errorf("a text is delayed by %v, not by less than %v", delay, most)
	}
	for _, m := range []struct {
		who  string
		cost int
	}{
		{"who asks for it to be sent", asking},
		{"the sender", p.memory(alice, "VmHWM")},
		{"the receiver", p.memory(bob, "VmHWM")},
		{"the server, besides what it had,", p.memory(p.server, "VmHWM") - before},
	} {
		t.Logf("%s takes %.1f MiB at most", m.who, float64(m.cost)/(1<<20))
		if m.cost <= 0 || m.cost > 32<<20 {
			t.Errorf("%s takes %d bytes", m.who, m.cost)
		}
	}
}
