package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/noipchat/noipchat/daemon/client"
	"github.com/noipchat/noipchat/daemon/message"
)

// playThree is the second piece: a message goes from server1 by server2 to server3,
// although no more than two of them run until it has, and server1 has never heard of server3.
func playThree(ctx context.Context, out io.Writer, dir string, began time.Time) error {
	var stages []*stage
	for i, name := range []string{"server1", "server2", "server3"} {
		// The folder's name is short: the path of a socket has at most 107 bytes.
		s := &stage{name: name, out: out, dir: filepath.Join(dir, fmt.Sprint(i+1)), began: began}
		if err := s.configure(); err != nil {
			return err
		}
		defer s.kill(syscall.SIGTERM)
		stages = append(stages, s)
	}
	home, middle, far := stages[0], stages[1], stages[2]
	for _, s := range []*stage{home, far} {
		if err := s.add("[[peer]]\nname = \"server2\"\n[[peer.link]]\nremote = %q\ntimeout = \"0s\"\n", middle.address); err != nil {
			return err
		}
	}
	if err := middle.add("[federation]\nunknown = \"accept\"\n"); err != nil {
		return err
	}
	var people []*person
	for i, s := range []*stage{home, far} {
		if err := s.start(ctx); err != nil {
			return err
		}
		status, err := s.admin.Status(ctx)
		if err != nil {
			return err
		}
		p, err := s.cast(ctx, []string{"alice", "bob"}[i], status.Key)
		if err != nil {
			return err
		}
		defer p.leave()
		people = append(people, p)
		if s == far {
			s.kill(syscall.SIGTERM)
		}
	}
	alice, bob := people[0], people[1]

	if err := middle.start(ctx); err != nil {
		return err
	}
	alice.come(ctx)
	m, err := alice.c.Send(ctx, client.Outgoing{To: []message.Address{bob.address()}, Body: []byte("is the bridge up?")})
	if err != nil {
		return err
	}
	home.say("three servers in a row, and server3 is down: alice@server1 writes to bob@server3: is the bridge up?")
	if err := middle.holds(ctx); err != nil {
		return err
	}
	home.kill(syscall.SIGKILL)
	home.say("server2 has it; server1 is killed, and server3 starts")
	if err := far.start(ctx); err != nil {
		return err
	}
	bob.come(ctx)
	if err := bob.reads(ctx, far, m); err != nil {
		return err
	}
	if err := middle.holds(ctx); err != nil { // what server3 reports
		return err
	}
	bob.leave()
	far.kill(syscall.SIGKILL)
	home.say("server3 is killed, and server1 starts again")
	if err := home.start(ctx); err != nil {
		return err
	}
	if err := alice.learns(ctx, home, m, bob, message.Delivered); err != nil {
		return err
	}

	// What would come twice comes before what is written now.
	if err := far.start(ctx); err != nil {
		return err
	}
	bob.come(ctx)
	last, err := alice.c.Send(ctx, client.Outgoing{To: []message.Address{bob.address()}, Body: []byte("it is")})
	if err != nil {
		return err
	}
	home.say("server3 runs again, and alice writes once more: it is")
	if err := bob.reads(ctx, far, last); err != nil {
		return err
	}
	bob.leave()
	return home.count(history{bob, []client.Message{m, last}})
}

// add appends to the configuration.
func (s *stage) add(format string, args ...any) error {
	f, err := os.OpenFile(filepath.Join(s.dir, "noipchat.toml"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = fmt.Fprintf(f, "\n"+format, args...)
	return err
}

// holds waits until a message waits at a server's disk for another one that is down.
func (s *stage) holds(ctx context.Context) error {
	for {
		queues, err := s.admin.Queues(ctx)
		if err != nil {
			return err
		}
		for _, q := range queues {
			if q.Messages > 0 && !q.Online {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("nothing waits at %s: %w; it says:\n%s", s.name, ctx.Err(), s.log.String())
		case <-time.After(10 * time.Millisecond):
		}
	}
}
