package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/noipchat/noipchat/cmd/cli"
	"github.com/noipchat/noipchat/daemon"
	"github.com/noipchat/noipchat/daemon/client"
	"github.com/noipchat/noipchat/daemon/control"
	"github.com/noipchat/noipchat/daemon/message"
	"github.com/noipchat/noipchat/daemon/transport"
)

// patience is what a test waits for what it waits for at most: much, as the machine may be
// slow and have other things to do.
const patience = 5 * time.Minute

// theatre is a stage whose server was started from a path of its own, where other
// programs can be put.
type theatre struct {
	*stage
	t       *testing.T
	ctx     context.Context
	program string
}

func newTheatre(t *testing.T, most time.Duration) *theatre {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), most)
	t.Cleanup(cancel)
	dir := t.TempDir()
	h := &theatre{&stage{name: "server1", dir: dir, out: io.Discard, began: time.Now()}, t, ctx, filepath.Join(dir, "noipchatd")}
	t.Cleanup(func() {
		h.kill(syscall.SIGKILL)
		if strings.Contains(h.log.String(), "DATA RACE") {
			t.Error("the server has a race")
		}
		if t.Failed() {
			t.Logf("the server says:\n%s", h.log.String())
		}
	})
	h.must(h.configure())
	h.install()
	return h
}

func (h *theatre) must(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

// install puts the server's program at its path.
func (h *theatre) install() {
	h.t.Helper()
	self, err := os.Executable()
	h.must(err)
	h.put(self)
}

// put puts another program there.
func (h *theatre) put(program string) {
	h.t.Helper()
	b, err := os.ReadFile(program)
	h.must(err)
	h.must(os.WriteFile(h.program+".new", b, 0o755))
	h.must(os.Rename(h.program+".new", h.program))
}

// script puts another program there, which can call the real one "$0.real".
func (h *theatre) script(text string) {
	h.t.Helper()
	if _, err := os.Stat(h.program + ".real"); err != nil {
		h.must(os.Link(h.program, h.program+".real"))
	}
	h.must(os.WriteFile(h.program+".new", []byte("#!/bin/sh\n"+text+"\n"), 0o755))
	h.must(os.Rename(h.program+".new", h.program))
}

func (h *theatre) start() {
	h.t.Helper()
	h.must(h.run(h.ctx, h.program))
}

func (h *theatre) status() control.Status {
	h.t.Helper()
	status, err := h.admin.Status(h.ctx)
	h.must(err)
	return status
}

// handOver has all handed over. Where the machine stands still for longer than sessions may
// be kept waiting, all goes on as before, and it is asked again.
func (h *theatre) handOver(reason string) (o control.Handoff, err error) {
	for range 3 {
		if o, err = h.admin.Handoff(h.ctx, reason); err == nil || !late(err) {
			break
		}
	}
	return o, err
}

func late(err error) bool { return strings.Contains(err.Error(), context.DeadlineExceeded.Error()) }

// refuses has noipctl ask for a handoff, which comes to nothing: what it says, and the log,
// and the status say why.
func (h *theatre) refuses(noipctl, reason string, code int, why ...string) {
	h.t.Helper()
	call := func(args ...string) (string, error) {
		args = append([]string{"--socket", filepath.Join(h.dir, "run", "control.sock")}, args...)
		out, err := exec.CommandContext(h.ctx, noipctl, args...).CombinedOutput()
		return string(out), err
	}
	says := func(text string, parts ...string) bool {
		return !slices.ContainsFunc(append(parts, why...), func(part string) bool { return !strings.Contains(text, part) })
	}
	failures := func() float64 { return h.status().Counters["noipchat_handoff_failures_total"] }
	var logged int
	var failed float64
	var out string
	var err error
	for range 3 { // as handOver
		logged, failed = len(h.log.String()), failures()
		if out, err = call("handoff", "--reason", reason); says(out) || !strings.Contains(out, context.DeadlineExceeded.Error()) {
			break
		}
	}
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != code || !says(out) {
		h.t.Errorf("%s: noipctl handoff ends with %v, and says %s", reason, err, out)
	}
	for said := ""; !says(said, "no handoff, all goes on as before"); said = h.log.String()[logged:] {
		if h.ctx.Err() != nil {
			h.t.Fatalf("%s: the log says %s", reason, said)
		}
		time.Sleep(time.Millisecond) // it is on its way to us
	}
	if out, err = call("status"); err != nil || !says(out, "FAILED", "("+reason+")") {
		h.t.Errorf("%s: noipctl status ends with %v, and says %s", reason, err, out)
	}
	if n := failures(); n != failed+1 {
		h.t.Errorf("%s: %v failures were counted", reason, n-failed)
	}
}

// sessions are their numbers, which a new login would change.
func (h *theatre) sessions() string {
	h.t.Helper()
	all, err := h.admin.Sessions(h.ctx)
	h.must(err)
	var ids []string
	for _, s := range all {
		ids = append(ids, s.ID)
	}
	return strings.Join(ids, " ")
}

// TestHandoffs has many talk, some of whom stop reading for a while, and the server hand
// over again and again: no connection ends, and nothing is lost, repeated or reordered.
func TestHandoffs(t *testing.T) {
	sizes, handoffs := []int{60}, 10
	if os.Getenv("NOIPCHAT_LONG") != "" {
		sizes, handoffs = []int{100, 1000, 5000}, 20
	}
	for _, n := range sizes {
		t.Run(strconv.Itoa(n), func(t *testing.T) {
			h := newTheatre(t, patience+time.Duration(n/10)*time.Second)
			f := newFlock(t, n, h.stage)
			f.pause = time.Duration(max(20, n/2)) * time.Millisecond // what two processors can do besides
			h.start()
			h.must(f.come(h.ctx))
			before := h.sessions()
			pid := h.status().PID
			var pauses []time.Duration
			for range handoffs {
				release := f.hinder(n / 10)
				o, err := h.handOver("a test")
				h.must(err)
				release()
				if o.Sessions != n || o.Closed != 0 {
					t.Errorf("%d sessions were handed over and %d closed, of %d", o.Sessions, o.Closed, n)
				}
				pauses = append(pauses, time.Duration(o.PauseSeconds*float64(time.Second)))
			}
			texts, err := f.settle(h.ctx)
			h.must(err)
			if after := h.sessions(); after != before {
				t.Errorf("sessions were %s, and are %s", before, after)
			}
			status := h.status()
			if status.PID != pid || status.Counters["noipchat_handoffs_total"] != float64(handoffs) || len(status.Handoffs) != min(handoffs, 10) {
				t.Errorf("process %d is %d; %d handoffs are remembered, %v counted", pid, status.PID, len(status.Handoffs), status.Counters["noipchat_handoffs_total"])
			}
			h.must(f.leave())
			seen := nonces{}
			for _, b := range f.birds[:min(n, 100)] {
				h.must(seen.hear(b.tapes...))
			}
			p50, p99 := quantiles(pauses)
			l50, l99 := f.latencies()
			t.Logf("%d sessions, %d handoffs, %d texts: pause p50 %v, p99 %v; a text's ack p50 %v, p99 %v; %d nonces, none twice",
				n, handoffs, texts, p50.Round(time.Millisecond/10), p99.Round(time.Millisecond/10), l50.Round(time.Millisecond/10), l99.Round(time.Millisecond/10), len(seen))
		})
	}
}

// TestHandoffRefused: whatever is wrong, and whenever that shows, the old program goes
// on with all sessions, and says why.
func TestHandoffRefused(t *testing.T) {
	noipctl, old := build(t, "noipctl", "noipctl"), build(t, "ancient", "noipchatd", ancient...)
	h := newTheatre(t, patience)
	f := newFlock(t, 20, h.stage)
	h.start()
	h.must(f.come(h.ctx))
	before := h.sessions()
	config := filepath.Join(h.dir, "noipchat.toml")
	good, err := os.ReadFile(config)
	h.must(err)
	fds := func() int { return h.figures().fds }
	steps := []struct {
		name, want string
		make, mend func()
	}{
		{"missing", "no such file", func() { h.must(os.Rename(h.program, h.program+".away")) }, nil},
		{"not executable", "permission denied", func() {
			h.script("exit 0")
			h.must(os.Chmod(h.program, 0o600))
		}, nil},
		{"no program", "exec format error", func() {
			h.script("")
			h.must(os.WriteFile(h.program, []byte{0x7f, 'E', 'L', 'F', 0}, 0o755))
		}, nil},
		{"another program", "it knows nothing of handoffs", func() { h.script("exit 0") }, nil},
		{"it fails", "exit status 3: it has no wish to", func() { h.script("echo it has no wish to >&2; exit 3") }, nil},
		{"another configuration", "exit status 78", func() { h.script("exit 78") }, nil},
		{"killed", "signal: killed", func() { h.script("kill -9 $$") }, nil},
		{"bad configuration", "unknown key", func() { h.must(os.WriteFile(config, append(good, "max_hopp = 3\n"...), 0o600)) }, nil},
		{"state not good", "reads the state: exit status 4", func() { h.script(`"$0.real" "$@" || exit; exit 4`) }, nil},
		{"state too new", "the new program reads the state: exit status 70: noipchatd: the state has version 1, and this program reads 0 to 0", func() { h.put(old) }, nil},
		{"no memory for it", "failed to ", func() { h.script(`ulimit -v 100000; exec "$0.real" "$@"`) }, nil},
		{"gone at last", "becoming ", func() { h.script(`"$0.real" "$@"; code=$?; rm "$0"; exit $code`) }, nil},
		{"too many files", "too many open files", func() {
			limit := unix.Rlimit{Cur: uint64(fds()) + 14, Max: 20000}
			h.must(unix.Prlimit(h.server.Process.Pid, unix.RLIMIT_NOFILE, &limit, nil))
		}, func() {
			h.must(unix.Prlimit(h.server.Process.Pid, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 20000, Max: 20000}, nil))
		}},
	}
	open := 0
	for _, step := range steps {
		step.make()
		code := cli.ExitFault
		if strings.HasSuffix(step.name, "configuration") {
			code = cli.ExitConfig
		}
		h.refuses(noipctl, step.name, code, step.want)
		if step.mend != nil {
			step.mend()
		}
		h.must(os.WriteFile(config, good, 0o600))
		h.install()
		if after := h.sessions(); after != before {
			t.Errorf("%s: sessions were %s, and are %s", step.name, before, after)
		}
		if open == 0 {
			open = fds()
		} else if n := fds(); n > open+8 { // those of the spool come and go: journal and queue files
			t.Errorf("%s: %d descriptors are open, and %d were", step.name, n, open)
		}
	}
	o, err := h.handOver("at last")
	if err != nil || o.Sessions != len(f.birds) {
		t.Errorf("%+v, %v", o, err)
	}
	_, err = f.settle(h.ctx)
	h.must(err)
	h.must(f.leave())
	seen := nonces{}
	for _, b := range f.birds {
		h.must(seen.hear(b.tapes...))
	}
}

// TestHandoffFull: on a full disk there is no handoff, but the old program goes on and
// says why; when there is room, there is one.
func TestHandoffFull(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root makes a small disk")
	}
	h := newTheatre(t, patience)
	state := filepath.Join(h.dir, "state")
	h.must(os.Mkdir(state, 0o700))
	if err := unix.Mount("tmpfs", state, "tmpfs", 0, "size=256m"); err != nil {
		t.Skip("no small disk here:", err)
	}
	t.Cleanup(func() {
		h.kill(syscall.SIGKILL)
		unix.Unmount(state, unix.MNT_DETACH)
	})
	f := newFlock(t, 10, h.stage)
	h.start()
	h.must(f.come(h.ctx))
	before := h.sessions()
	ballast := filepath.Join(state, "ballast")
	fill, err := os.Create(ballast)
	h.must(err)
	for err == nil {
		_, err = fill.Write(make([]byte, 1<<16))
	}
	for err = nil; err == nil; {
		_, err = fill.Write([]byte{0})
	}
	h.must(fill.Close())
	_, err = h.admin.Handoff(h.ctx, "a full disk")
	if err == nil || !strings.Contains(err.Error(), "no space left on device") && !strings.Contains(err.Error(), "the disk is full") {
		t.Errorf("a handoff on a full disk: %v", err)
	}
	status := h.status()
	if last := status.Handoffs[len(status.Handoffs)-1]; last.Error == "" {
		t.Errorf("status says %+v", last)
	}
	h.must(os.Remove(ballast))
	o, err := h.admin.Handoff(h.ctx, "there is room")
	for ; err != nil && h.ctx.Err() == nil; o, err = h.admin.Handoff(h.ctx, "there is room") {
		time.Sleep(100 * time.Millisecond) // it looks at the disk now and then
	}
	if err != nil || o.Sessions != len(f.birds) || o.Closed != 0 {
		t.Errorf("%+v, %v", o, err)
	}
	if after := h.sessions(); after != before {
		t.Errorf("sessions were %s, and are %s", before, after)
	}
	_, err = f.settle(h.ctx)
	h.must(err)
	h.must(f.leave())
}

// TestHandoffSignals: many signals of each kind at any time are as good as one, and the
// last one ends the server in order, whatever it is at.
func TestHandoffSignals(t *testing.T) {
	h := newTheatre(t, patience)
	f := newFlock(t, 10, h.stage)
	h.start()
	h.must(f.come(h.ctx))
	before := h.sessions()
	for n := range 300 {
		for _, s := range []syscall.Signal{syscall.SIGUSR2, syscall.SIGHUP} {
			h.must(h.server.Process.Signal(s))
		}
		time.Sleep(time.Duration(n%7) * time.Millisecond) // at another moment each time
	}
	for done := 0.0; done < 3; done = h.status().Counters["noipchat_handoffs_total"] {
		h.must(h.server.Process.Signal(syscall.SIGUSR2))
	}
	if after := h.sessions(); after != before {
		t.Errorf("sessions were %s, and are %s", before, after)
	}
	_, err := f.settle(h.ctx)
	h.must(err)
	for range 10 {
		h.must(h.server.Process.Signal(syscall.SIGUSR2))
	}
	h.must(h.server.Process.Signal(syscall.SIGTERM))
	if err := h.server.Wait(); err != nil && h.server.ProcessState.String() != "signal: terminated" { // in the moment between two images
		t.Errorf("it ended with %v", err)
	}
	f.leave() // they were told that it is going down
}

// figures are what a process holds.
type figures struct {
	fds, goroutines, threads, kib int
}

func (h *theatre) figures() (f figures) {
	h.t.Helper()
	all, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", h.server.Process.Pid))
	h.must(err)
	f.fds = len(all)
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", h.server.Process.Pid))
	h.must(err)
	for line := range strings.Lines(string(status)) {
		fmt.Sscanf(line, "Threads: %d", &f.threads)
		fmt.Sscanf(line, "VmRSS: %d", &f.kib)
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(h.dir, "run", "control.sock"))
	}}}
	r, err := client.Get("http://noipchatd/metrics")
	h.must(err)
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	h.must(err)
	for line := range strings.Lines(string(text)) {
		fmt.Sscanf(line, "go_goroutines %d", &f.goroutines)
	}
	return f
}

// TestHandoffLeaks: after a hundred handoffs the process holds what it held after one.
func TestHandoffLeaks(t *testing.T) {
	handoffs := 20
	if os.Getenv("NOIPCHAT_LONG") != "" {
		handoffs = 100
	} else if testing.Short() {
		handoffs = 5
	}
	h := newTheatre(t, patience)
	f := newFlock(t, 10, h.stage)
	h.start()
	h.must(f.come(h.ctx))
	handOver := func() {
		o, err := h.handOver("a test")
		if err != nil || o.Sessions != len(f.birds) {
			t.Fatalf("%+v, %v", o, err)
		}
	}
	handOver()
	first := h.figures()
	for range handoffs {
		handOver()
	}
	last := h.figures()
	const some = 8 // the spool's files and goroutines come and go
	more := func() bool {
		return last.fds > first.fds+some || last.goroutines > first.goroutines+some || last.threads > first.threads+some || last.kib > first.kib*3/2
	}
	for again := 0; more() && again < 5; again++ { // what is there for a moment is not there at the next one
		handOver()
		handoffs++
		last = h.figures()
	}
	t.Logf("after one handoff %+v, after %d more %+v", first, handoffs, last)
	if more() {
		t.Error("something is left by each")
	}
	environment, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", h.server.Process.Pid))
	h.must(err)
	if n := strings.Count(string(environment), "NOIPCHAT_HANDOFF"); n != 1 {
		t.Errorf("the environment has it %d times", n)
	}
	_, err = f.settle(h.ctx)
	h.must(err)
	h.must(f.leave())
}

// TestHandoffConfiguration: what can't be applied while running is taken by a handoff,
// except for the name.
func TestHandoffConfiguration(t *testing.T) {
	h := newTheatre(t, patience)
	f := newFlock(t, 3, h.stage)
	h.start()
	h.must(f.come(h.ctx))
	before := h.sessions()
	config := filepath.Join(h.dir, "noipchat.toml")
	good, err := os.ReadFile(config)
	h.must(err)
	reload := func(old, changed string) (control.Reloaded, error) {
		h.must(os.WriteFile(config+".new", []byte(strings.Replace(string(good), old, changed, 1)), 0o600))
		h.must(os.Rename(config+".new", config))
		return h.admin.Reload(h.ctx, 0) // the server may see it by itself, before or after
	}
	if _, err := reload(`"server1"`, `"server2"`); err == nil || !strings.Contains(err.Error(), "name can't change") {
		t.Errorf("another name: %v", err)
	}
	if _, err := h.admin.Handoff(h.ctx, "another name"); err == nil || !strings.Contains(err.Error(), "name can't change") {
		t.Errorf("another name by a handoff: %v", err)
	}
	taken, err := net.Listen("tcp", strings.TrimRight(h.address, "0123456789")+"0")
	h.must(err)
	defer taken.Close()
	journal, busy := "log = \"journal\"\n", taken.Addr().String() // which logs to the same place here
	for _, bad := range []struct{ name, toml, want string }{
		{"a log without a folder", "log = \"/var/log/noipchat/none/x.log\"\n", "noipchat.toml:2: log /var/log/noipchat/none/x.log can't be written: its folder: no such file or directory"},
		{"metrics that can't be had", journal + "metrics.listen = \"" + busy + "\"\n", "address already in use"},
		{"one more interface that can't be had", journal + "[[interface]]\nbind = \"" + busy + "\"\n", "address already in use"},
	} {
		_, err := reload("log = \"stderr\"\n", bad.toml)
		if err == nil || !errors.Is(err, control.ErrConfig) || !strings.Contains(err.Error(), bad.want) {
			t.Errorf("%s: %v", bad.name, err)
		}
		if s := h.status(); len(s.Interfaces) != 1 || !strings.Contains(s.Config.LastError, bad.want) {
			t.Errorf("%s: the interfaces are %v, the error %q", bad.name, s.Interfaces, s.Config.LastError)
		}
		if after := h.sessions(); after != before {
			t.Errorf("%s: sessions were %s, and are %s", bad.name, before, after)
		}
	}
	// It can't return, so it isn't taken: not now, and not by itself either.
	h.must(os.WriteFile(config, good, 0o600))
	_, err = h.admin.Reload(h.ctx, 0)
	h.must(err)
	h.must(os.WriteFile(config+".new", []byte(strings.Replace(string(good), `log = "stderr"`, `log = "journal"`, 1)), 0o600))
	h.must(os.Rename(config+".new", config))
	const never = "can't return unless confirmed"
	if _, err = h.admin.Reload(h.ctx, time.Minute); err != nil && strings.Contains(err.Error(), never) { // else the server has seen the file first
		said := func() int { // that it has taken the file, or that it hasn't
			return strings.Count(h.log.String(), `"the configuration stays as it was" error=`) + strings.Count(h.log.String(), `"all was handed over"`)
		}
		for n := said(); said() == n && h.ctx.Err() == nil; {
			time.Sleep(10 * time.Millisecond) // between two looks
		}
		if s := h.status(); s.Counters["noipchat_handoffs_total"] != 0 || !strings.Contains(s.Config.LastError, never) {
			t.Errorf("after %v handoffs the error is %q", s.Counters["noipchat_handoffs_total"], s.Config.LastError)
		}
		_, err = h.admin.Reload(h.ctx, 0)
		for try := 0; try < 3 && err != nil && late(err); try++ {
			_, err = h.admin.Reload(h.ctx, 0)
		}
		h.must(err)
	}
	status := h.status()
	last := status.Handoffs[len(status.Handoffs)-1]
	if last.Error != "" || last.Reason != "the configuration" || !strings.Contains(strings.Join(last.Changes, " "), `~ log = "journal" (was "stderr")`) {
		t.Errorf("another log: %+v", last)
	}
	if after := h.sessions(); after != before {
		t.Errorf("sessions were %s, and are %s", before, after)
	}
	_, err = f.settle(h.ctx)
	h.must(err)
	h.must(f.leave())
}

// TestHandoffLinks: a server hands over again and again, and so do those that it has
// links to, one of them at the same time. Their users write to each other, all of them by
// way of it: no connection ends, no link does, be it a command's, nothing is lost, repeated
// or reordered, and no nonce used twice.
func TestHandoffLinks(t *testing.T) {
	const links = 10
	handoffs, birds, here := 20, 2*(links+1), 1
	if testing.Short() {
		handoffs = 5
	}
	if os.Getenv("NOIPCHAT_LONG") != "" {
		birds, here = 1010, 100 // of which 1,000 are at the hub
	}
	hub := newTheatre(t, patience)
	hub.must(hub.add("[federation]\nunknown = \"accept\"\n"))
	all, bridges := []*theatre{hub}, []*bridge(nil)
	for i := range links {
		h := newTheatre(t, patience)
		h.name = fmt.Sprintf("server%d", i+2)
		h.must(h.configure())
		kind, at, hubs := "tcp", "127.0.0.1:0", hub.address
		if i%3 == 0 {
			kind, at, hubs = "unix", daemon.StdioSocket(h.dir), daemon.StdioSocket(filepath.Join(hub.dir, "run"))
		}
		l, err := transport.Listen(hub.ctx, kind, at)
		hub.must(err)
		bridges = append(bridges, newBridge(t, l, h.stage, hub.stage, func(ctx context.Context) (transport.Conn, error) {
			return transport.Dial(ctx, kind, "", hubs)
		}))
		way := fmt.Sprintf("remote = %q", l.Addr())
		if kind == "unix" {
			way = fmt.Sprintf("kind = \"exec\"\ncommand = [%q, \"--stdio\", \"--runtime\", %q]", hub.program, h.dir)
		}
		h.must(h.add("[federation]\nunknown = \"accept\"\n[[peer]]\nname = \"server1\"\n[[peer.link]]\n%s\ntimeout = \"0s\"\n", way))
		all = append(all, h)
	}
	stages := slices.Repeat([]*stage{hub.stage}, here)
	for i, h := range all[1:] {
		if i > 0 && here > 1 {
			stages = append(stages, slices.Repeat([]*stage{hub.stage}, here)...)
		}
		stages = append(stages, h.stage)
	}
	f := newFlock(t, birds, stages...)
	f.pause = time.Duration(max(20, birds/2)) * time.Millisecond
	for _, h := range all {
		h.start()
	}
	for _, h := range all {
		h.linked(links)
	}
	hub.must(f.come(hub.ctx))
	before := map[*theatre]string{}
	for _, h := range all {
		before[h] = h.sessions() + h.links()
	}
	var pauses []time.Duration
	for n := range handoffs {
		other := all[1+n%links]
		var both errgroup.Group
		both.Go(func() error {
			o, err := other.handOver("a test")
			if err == nil && (o.Links != 1 || o.Closed != 0) {
				err = fmt.Errorf("%s: %d links were handed over, and %d connections closed", other.name, o.Links, o.Closed)
			}
			return err
		})
		o, err := hub.handOver("a test")
		hub.must(err)
		if o.Links != links || o.Closed != 0 {
			t.Errorf("%d links were handed over, and %d connections closed", o.Links, o.Closed)
		}
		pauses = append(pauses, time.Duration(o.PauseSeconds*float64(time.Second)))
		hub.must(both.Wait())
	}
	texts, err := f.settle(hub.ctx)
	if err != nil {
		t.Fatal(err, f.leave())
	}
	for _, h := range all {
		if after := h.sessions() + h.links(); after != before[h] {
			t.Errorf("%s: sessions and links were %s, and are %s", h.name, before[h], after)
		}
	}
	hub.must(f.leave())
	seen := nonces{}
	for _, b := range f.birds[:min(birds, 100)] {
		hub.must(seen.hear(b.tapes...))
	}
	devices := len(seen)
	for _, b := range bridges {
		before := len(seen)
		if tapes := b.close(); len(tapes) != 2 {
			t.Errorf("%s has made %d links", b.from.name, len(tapes)/2)
		} else if hub.must(seen.hear(tapes...)); len(seen) == before {
			t.Errorf("nothing was heard of the link of %s", b.from.name)
		}
	}
	p50, p99 := quantiles(pauses)
	t.Logf("%d sessions, %d links, %d handoffs, %d texts: pause p50 %v, p99 %v; %d nonces of devices and %d of links, none twice",
		birds, links, handoffs, texts, p50, p99, devices, len(seen)-devices)
}

// links are those of a server, and since when they are up: a new one would change that.
func (h *theatre) links() string {
	h.t.Helper()
	all, err := h.admin.Peers(h.ctx)
	h.must(err)
	var up []string
	for _, p := range all {
		if p.State == control.Up {
			up = append(up, p.Name+p.Since.Format(time.RFC3339Nano))
		}
	}
	return strings.Join(up, " ")
}

// linked waits until a server knows ways to so many others.
func (h *theatre) linked(n int) {
	h.t.Helper()
	for {
		all, err := h.admin.Routes(h.ctx)
		h.must(err)
		if len(all) == n {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// TestHandoffLinked: of two servers one hands over again and again, while their users
// talk: the link stays, and everything arrives once.
func TestHandoffLinked(t *testing.T) {
	one, two := newTheatre(t, patience), newTheatre(t, patience)
	two.name = "server2"
	two.must(two.configure())
	one.must(one.add("[[peer]]\nname = \"server2\"\n"))
	two.must(two.add("[[peer]]\nname = \"server1\"\n[[peer.link]]\nremote = %q\ntimeout = \"0s\"\n", one.address))
	one.start()
	two.start()
	alice, err := one.cast(one.ctx, "alice", one.status().Key)
	one.must(err)
	bob, err := two.cast(two.ctx, "bob", two.status().Key)
	one.must(err)
	for _, p := range []*person{alice, bob} {
		p.come(one.ctx)
		defer p.leave()
	}
	one.linked(1)
	link := one.links()
	var sent []client.Message
	const handoffs, each = 5, 10
	for range handoffs {
		for range each {
			m, err := alice.c.Send(one.ctx, client.Outgoing{To: []message.Address{bob.address()}, Body: fmt.Appendf(nil, "text %d", len(sent))})
			one.must(err)
			sent = append(sent, m)
		}
		_, err := one.handOver("a test")
		one.must(err)
	}
	for _, m := range sent {
		one.must(alice.learns(one.ctx, one.stage, m, bob, message.Delivered))
	}
	if after := one.links(); link == "" || after != link {
		t.Errorf("the link was %s, and is %s", link, after)
	}
	have, err := bob.store.History(client.Query{Only: client.In})
	one.must(err)
	if len(have) != len(sent) {
		t.Fatalf("bob has %d texts of %d", len(have), len(sent))
	}
	for i, m := range have {
		if m.ID != sent[i].ID {
			t.Errorf("bob has %q in place %d", m.Body, i)
		}
	}
}
