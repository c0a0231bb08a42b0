package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/noipchat/noipchat/daemon/client"
	"github.com/noipchat/noipchat/daemon/control"
	"github.com/noipchat/noipchat/daemon/message"
)

// TestMain is the server itself when stage.start starts this program, and so for the
// command of a link, and the demo.
func TestMain(m *testing.M) {
	if slices.ContainsFunc([]string{"--config", "--stdio", "demo"}, func(ours string) bool { return slices.Contains(os.Args, ours) }) {
		if err := errors.Join(breakState(), takeMemory()); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		main()
		return
	}
	os.Exit(m.Run())
}

// TestKilled kills a real server under load, again and again: every message that
// was sent is in the history of each receiver once, in its sender's order, and the
// sender knows it.
func TestKilled(t *testing.T) {
	kill(t, killing{dir: t.TempDir(), kills: 10, long: 300, before: func(*stage, *rand.Rand) {}})
}

// TestHandoffKilled does so while the server hands over, at any moment of that, and
// after it was asked to more than once: the old image dies, or the new one.
func TestHandoffKilled(t *testing.T) {
	kill(t, killing{dir: t.TempDir(), kills: 15, long: 500, before: func(s *stage, rnd *rand.Rand) {
		for range 1 + rnd.IntN(3) {
			s.server.Process.Signal(syscall.SIGUSR2)
		}
		time.Sleep(time.Duration(rnd.Int64N(int64(250 * time.Millisecond)))) // a handoff takes about half of that
	}})
}

// TestFullKilled does so on a disk that is full: what waits for who is away takes all of
// it, and the senders keep the rest. For half of the kills it is; then he comes now and then.
func TestFullKilled(t *testing.T) {
	if testing.Short() {
		t.Skip("it writes 60 MB to four profiles")
	}
	dir := t.TempDir()
	disk(t, filepath.Join(dir, "state"), 56) // a file of the journal, the reserve, and a little
	kill(t, killing{dir: dir, kills: 6, long: 100, full: true, before: func(*stage, *rand.Rand) {}})
}

// disk mounts a small file system of its own at dir.
func disk(t *testing.T, dir string, megabytes int64) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("mounting a file system takes root")
	}
	image := filepath.Join(t.TempDir(), "image")
	for _, command := range [][]string{
		{"mkdir", dir},
		{"truncate", "-s", fmt.Sprint(megabytes << 20), image},
		{"mkfs.ext4", "-q", "-F", "-m", "0", image},
		{"mount", "-o", "loop", image, dir},
	} {
		if out, err := exec.Command(command[0], command[1:]...).CombinedOutput(); err != nil {
			t.Skipf("no file system can be mounted here: %v: %s", err, out)
		}
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
}

// killing is what kill does.
type killing struct {
	dir         string
	kills, long int                      // how often, and with $NOIPCHAT_LONG
	full        bool                     // the disk of the state is small, and is filled first
	before      func(*stage, *rand.Rand) // what else is done to the server
}

// shows waits for a status.
func (s *stage) shows(ctx context.Context, what func(control.Status) bool) error {
	for {
		if status, err := s.admin.Status(ctx); err != nil || what(status) {
			return err
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// kill has four people talk, and the server die again and again.
func kill(t *testing.T, k killing) {
	kills := k.kills
	if os.Getenv("NOIPCHAT_LONG") != "" {
		kills = k.long
	}
	seed := rand.Uint64()
	rnd := rand.New(rand.NewPCG(seed, 0))
	t.Logf("seed %d", seed)
	ctx, cancel := context.WithTimeout(context.Background(), patience+time.Duration(kills)*6*time.Second)
	defer cancel()

	s := &stage{name: "server1", dir: k.dir, out: t.Output(), began: time.Now()}
	defer s.kill(syscall.SIGKILL)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%v\nthe server says:\n%s", err, s.log.String())
		}
	}
	must(s.configure())
	must(s.start(ctx))
	status, err := s.admin.Status(ctx)
	must(err)
	people := map[string]*person{}
	for _, name := range []string{"alice", "bob", "carol", "dave"} {
		people[name], err = s.cast(ctx, name, status.Key)
		must(err)
		people[name].come(ctx)
		defer people[name].leave()
	}
	senders := []*person{people["alice"], people["bob"]}
	receivers := []*person{people["carol"], people["dave"]} // dave comes and goes
	sent := make([][]client.Message, len(senders))
	for round := range kills {
		filling := k.full && round < kills/2
		var load sync.WaitGroup
		for i, p := range senders {
			n, padding := 1+rnd.IntN(30), ""
			if k.full {
				padding = strings.Repeat(".", 50_000)
			}
			if filling && round == 0 {
				n += 550
			}
			load.Go(func() {
				for range n {
					m, err := p.c.Send(ctx, client.Outgoing{
						To:   []message.Address{receivers[0].address(), receivers[1].address()},
						Body: fmt.Appendf(nil, "%s %d%s", p.name, len(sent[i]), padding),
					})
					if err != nil {
						t.Error(err)
						return
					}
					sent[i] = append(sent[i], m)
				}
			})
		}
		receivers[1].leave()
		if rnd.IntN(2) == 0 && !filling {
			receivers[1].come(ctx)
		}
		if filling {
			must(s.shows(ctx, func(status control.Status) bool { return status.Disk.Full }))
		}
		time.Sleep(time.Duration(rnd.Int64N(int64(150 * time.Millisecond)))) // any moment is as good for a death
		k.before(s, rnd)
		s.kill(syscall.SIGKILL)
		load.Wait()
		must(s.start(ctx))
	}
	again := func(people []*person) { // who has found nobody ten times waits for up to a minute
		for _, p := range people {
			p.leave()
			p.come(ctx)
		}
	}
	again(slices.Concat(senders, receivers))
	if k.full { // and who was told that it is
		must(s.shows(ctx, func(status control.Status) bool { return status.Queues.Messages == 0 }))
		again(senders)
	}

	for i, p := range senders {
		for _, m := range sent[i] {
			must(p.until(ctx, func() (bool, error) {
				now, _, err := p.store.Status(m.ID)
				for _, r := range now.Recipients {
					if r.State != message.Delivered {
						return false, err
					}
				}
				return len(now.Recipients) == len(receivers), err
			}))
		}
	}
	for _, p := range receivers {
		for i, from := range senders {
			have, err := p.store.History(client.Query{Only: client.In, With: from.address()})
			must(err)
			if len(have) != len(sent[i]) {
				t.Errorf("%s has %d messages from %s, who sent %d", p.name, len(have), from.name, len(sent[i]))
				continue
			}
			if k.full { // what was refused for now comes later
				for _, all := range [][]client.Message{have, sent[i]} {
					slices.SortFunc(all, func(a, b client.Message) int { return bytes.Compare(a.ID[:], b.ID[:]) })
				}
			}
			for n, m := range have {
				if m.ID != sent[i][n].ID {
					t.Errorf("%s has %.20q in place %d of %s's", p.name, m.Body, n, from.name)
				}
			}
		}
	}
	t.Logf("%d kills, %d messages, %d handoffs begun and %d done", kills, len(sent[0])+len(sent[1]),
		strings.Count(s.log.String(), "handing over"), strings.Count(s.log.String(), "all was handed over"))
}
