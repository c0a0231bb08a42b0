//go:build fault

package spool

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/noipchat/noipchat/daemon/durable"
	"github.com/noipchat/noipchat/daemon/message"
)

// promises is what a spool has said in one life: by entry, whether it was held,
// and whether its device has had it.
type promises struct {
	held, refused, done map[uint64]bool
}

// life is what happens to a spool in a test: it is filled, drained in part, files
// while it is at work, and stops. It writes what it is told to say as it happens,
// because the process may be killed at any step. Any error of Open and Run is the
// disk's, and returned.
func life(t testing.TB, dir string, say io.Writer) error {
	sp, err := Open(dir, Options{JournalFile: 1 << 18, JournalFiles: 3, Quiet: 5 * time.Millisecond})
	if err != nil {
		return err
	}
	r := &rig{t: t, sp: sp, told: map[uint64]message.State{}, news: make(chan struct{})}
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- sp.Run(ctx) }()
	end := sync.OnceValue(func() error { cancel(); return <-ran })
	defer end()

	alice, carol := sp.Queue(aliceQueue), sp.Queue(carolQueue)
	put := func(q *Queue, first, last uint64, size int) {
		for n := first; n <= last; n++ {
			r.put(q, n, size)
		}
		for n := first; n <= last; n++ {
			switch s := r.await(n); s {
			case message.Held:
				fmt.Fprintln(say, "held", n)
			case message.Refused:
				fmt.Fprintln(say, "refused", n)
			default:
				t.Errorf("%d is %v", n, s)
			}
		}
	}
	put(alice, 1, 4, 3000)
	put(carol, 101, 106, 50000) // more than one journal file
	for _, n := range r.drain(alice, true) {
		fmt.Fprintln(say, "done", n)
	}
	put(alice, 5, 8, 3000)
	put(carol, 107, 108, 50000)
	return end()
}

// listen reads what life has said.
func listen(t testing.TB, said io.Reader) promises {
	p := promises{map[uint64]bool{}, map[uint64]bool{}, map[uint64]bool{}}
	lines := bufio.NewScanner(said)
	for lines.Scan() {
		var what string
		var n uint64
		if _, err := fmt.Sscan(lines.Text(), &what, &n); err != nil {
			t.Fatalf("%q: %v", lines.Text(), err)
		}
		map[string]map[uint64]bool{"held": p.held, "refused": p.refused, "done": p.done}[what][n] = true
	}
	return p
}

// keeps opens the spool on a good disk and checks what was promised: what was held
// and not taken is there, once and in order; what was refused may be put again.
func (p promises) keeps(t *testing.T, dir string) {
	t.Helper()
	r := open(t, dir, Options{})
	for _, name := range []string{aliceQueue, carolQueue} {
		q := r.sp.Queue(name)
		there, last := map[uint64]bool{}, uint64(0)
		for _, n := range r.drain(q, true) {
			if n <= last {
				t.Errorf("%s: %d after %d", name, n, last)
			}
			last, there[n] = n, true
		}
		for n := range p.held {
			if (n > 100) == (name == carolQueue) && !there[n] && !p.done[n] {
				t.Errorf("%d was held, and is lost", n)
			}
		}
	}
	for n := range p.refused {
		q := r.sp.Queue(aliceQueue)
		r.put(q, n, 3000)
		if s := r.await(n); s != message.Held {
			t.Errorf("%d is %v when it is put again", n, s)
		}
	}
	r.end()
	if n := r.sp.Notices(); len(n) != 0 {
		t.Errorf("damage: %v", n)
	}
}

// TestFaultAtEachStep: a step fails once, or the disk is broken from there on.
func TestFaultAtEachStep(t *testing.T) {
	t.Cleanup(func() { durable.SetFault(durable.Plan{}) })
	for _, broken := range []bool{false, true} {
		for n, reached := 1, true; reached; n++ {
			dir := t.TempDir()
			var said bytes.Buffer
			durable.SetFault(durable.Plan{N: n, Err: []syscall.Errno{syscall.EIO, syscall.ENOSPC}[n%2], On: broken})
			err := life(t, dir, &said)
			reached = durable.Steps() >= n
			durable.SetFault(durable.Plan{})
			p := listen(t, &said)
			p.keeps(t, dir)
			if !reached && (err != nil || len(p.refused) > 0 || n < 20) {
				t.Errorf("nothing failed in %d steps: %v, %d refused", n-1, err, len(p.refused))
			}
			if t.Failed() {
				t.Fatalf("step %d, broken for ever: %v; it ended with %v", n, broken, err)
			}
		}
	}
}

// TestLife is what TestKilledAtEachStep starts.
func TestLife(t *testing.T) {
	dir := os.Getenv("SPOOL_TEST_DIR")
	if dir == "" {
		t.Skip("for other tests")
	}
	out, err := os.OpenFile(os.Getenv("SPOOL_TEST_SAYS"), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := life(t, dir, out); err != nil {
		t.Error(err)
	}
}

// TestKilledAtEachStep: the process dies at a step, and another one goes on.
func TestKilledAtEachStep(t *testing.T) {
	every := 3
	if os.Getenv("NOIPCHAT_LONG") != "" {
		every = 1
	}
	for n := 1; ; n += every {
		dir := t.TempDir()
		said, err := os.CreateTemp(t.TempDir(), "")
		if err != nil {
			t.Fatal(err)
		}
		c := exec.Command(os.Args[0], "-test.run=^TestLife$")
		c.Env = append(os.Environ(), "SPOOL_TEST_DIR="+dir, "SPOOL_TEST_SAYS="+said.Name(), fmt.Sprintf("NOIPCHAT_FAULT=kill:%d", n))
		out, err := c.CombinedOutput()
		var exit *exec.ExitError
		if err != nil && (!errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL) {
			t.Fatalf("step %d: %v %s", n, err, out)
		}
		p := listen(t, said)
		said.Close()
		p.keeps(t, dir)
		if t.Failed() {
			t.Fatalf("killed at step %d", n)
		}
		if err == nil {
			if n < 20 || len(p.held) != 16 {
				t.Errorf("the whole life has %d steps, and %d are held", n, len(p.held))
			}
			return
		}
	}
}
