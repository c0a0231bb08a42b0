package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/noipchat/noipchat/daemon/client"
	"github.com/noipchat/noipchat/daemon/message"
)

// TestMain is the server itself when stage.start starts this program, and so for the
// command of a link.
func TestMain(m *testing.M) {
	if slices.Contains(os.Args, "--config") || slices.Contains(os.Args, "--stdio") {
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
func TestKilled(t *testing.T) { kill(t, 10, 300, func(*stage, *rand.Rand) {}) }

// TestHandoffKilled does so while the server hands over, at any moment of that, and
// after it was asked to more than once: the old image dies, or the new one.
func TestHandoffKilled(t *testing.T) {
	kill(t, 15, 500, func(s *stage, rnd *rand.Rand) {
		for range 1 + rnd.IntN(3) {
			s.server.Process.Signal(syscall.SIGUSR2)
		}
		time.Sleep(time.Duration(rnd.Int64N(int64(250 * time.Millisecond)))) // a handoff takes about half of that
	})
}

// kill has four people talk, and the server die after something else was done to it.
func kill(t *testing.T, kills, long int, before func(*stage, *rand.Rand)) {
	if os.Getenv("NOIPCHAT_LONG") != "" {
		kills = long
	}
	seed := rand.Uint64()
	rnd := rand.New(rand.NewPCG(seed, 0))
	t.Logf("seed %d", seed)
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(kills)*6*time.Second)
	defer cancel()

	s := &stage{name: "server1", dir: t.TempDir(), out: t.Output(), began: time.Now()}
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
	for range kills {
		var load sync.WaitGroup
		for i, p := range senders {
			n := 1 + rnd.IntN(30)
			load.Go(func() {
				for range n {
					m, err := p.c.Send(ctx, client.Outgoing{
						To:   []message.Address{receivers[0].address(), receivers[1].address()},
						Body: fmt.Appendf(nil, "%s %d", p.name, len(sent[i])),
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
		if rnd.IntN(2) == 0 {
			receivers[1].come(ctx)
		}
		time.Sleep(time.Duration(rnd.Int64N(int64(150 * time.Millisecond)))) // any moment is as good for a death
		before(s, rnd)
		s.kill(syscall.SIGKILL)
		load.Wait()
		must(s.start(ctx))
	}
	for _, p := range people { // who has found nobody ten times waits for up to a minute
		p.leave()
		p.come(ctx)
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
			for n, m := range have {
				if m.ID != sent[i][n].ID {
					t.Errorf("%s has %q in place %d of %s's", p.name, m.Body, n, from.name)
				}
			}
		}
	}
	t.Logf("%d kills, %d messages, %d handoffs begun and %d done", kills, len(sent[0])+len(sent[1]),
		strings.Count(s.log.String(), "handing over"), strings.Count(s.log.String(), "all was handed over"))
}
