package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/noipchat/noipchat/cmd/cli"
	"github.com/noipchat/noipchat/daemon/client"
	"github.com/noipchat/noipchat/daemon/control"
	"github.com/noipchat/noipchat/daemon/identity"
	"github.com/noipchat/noipchat/daemon/message"
	"github.com/noipchat/noipchat/daemon/transport"
)

// demo shows the main job with a real server and real clients: what is sent to
// somebody who is away survives a handoff and the death of the server, and arrives once.
func demo(args []string, out io.Writer) error {
	flags := flag.NewFlagSet("demo", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	keep := flags.Bool("keep", false, "")
	if err := flags.Parse(args); err != nil || flags.NArg() > 0 {
		return cli.Misuse("usage: noipchatd demo [--keep]", "what is %q?", strings.Join(args, " "))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	dir, err := os.MkdirTemp("", "noipchat-demo-")
	if err != nil {
		return err
	}
	began := time.Now()
	s := &stage{name: "server1", out: out, dir: filepath.Join(dir, "0"), began: began}
	limited, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err = s.play(limited); err == nil {
		err = playThree(limited, out, dir, began)
	}
	if err == nil && *keep {
		s.linger(ctx)
	}
	s.kill(syscall.SIGTERM)
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("the demo failed (its folder is %s): %w", dir, err)
	}
	if gone := os.RemoveAll(dir); err == nil || gone != nil {
		return gone
	}
	return &cli.Error{Code: cli.ExitNotYet, Err: errors.New("the demo was ended by a signal, before all had arrived")}
}

// stage is a server and its folder.
type stage struct {
	name    string
	out     io.Writer
	dir     string
	began   time.Time
	address string
	admin   *control.Client
	server  *exec.Cmd
	log     said
}

func (s *stage) say(format string, args ...any) {
	fmt.Fprintf(s.out, "%7.3f s  %s\n", time.Since(s.began).Seconds(), fmt.Sprintf(format, args...))
}

// play is the piece.
func (s *stage) play(ctx context.Context) error {
	if err := s.configure(); err != nil {
		return err
	}
	if err := s.start(ctx); err != nil {
		return err
	}
	status, err := s.admin.Status(ctx)
	if err != nil {
		return err
	}
	s.say("server1 runs at %s, its key is %s", s.address, status.Fingerprint)
	people := map[string]*person{}
	for _, name := range []string{"alice", "bob", "carol"} {
		if people[name], err = s.cast(ctx, name, status.Key); err != nil {
			return err
		}
		defer people[name].leave()
	}
	alice, bob, carol := people["alice"], people["bob"], people["carol"]
	alice.come(ctx)
	bob.come(ctx)
	s.say("alice and bob are online, carol is away")

	first, err := alice.c.Send(ctx, client.Outgoing{To: []message.Address{bob.address(), carol.address()}, Body: []byte("dinner at eight?")})
	if err != nil {
		return err
	}
	s.say("alice writes to bob and carol: dinner at eight?")
	if err := bob.reads(ctx, s, first); err != nil {
		return err
	}
	if err := alice.learns(ctx, s, first, bob, message.Delivered); err != nil {
		return err
	}
	if err := alice.learns(ctx, s, first, carol, message.Held); err != nil {
		return err
	}

	h, err := s.admin.Handoff(ctx, "the demo")
	if err != nil {
		return err
	}
	if h.Sessions != 2 {
		return fmt.Errorf("%d sessions were handed over, not 2", h.Sessions)
	}
	s.say("another image of the server takes over, with alice's and bob's sessions: they waited for %.0f ms", h.PauseSeconds*1000)

	s.kill(syscall.SIGKILL)
	s.say("the server is killed (SIGKILL)")
	second, err := alice.c.Send(ctx, client.Outgoing{To: []message.Address{carol.address()}, Body: []byte("are you there?")})
	if err != nil {
		return err
	}
	s.say("alice writes to carol, and nobody answers: are you there? (%s)", second.State)
	if err := s.start(ctx); err != nil {
		return err
	}
	s.say("the server runs again; alice and bob connect again by themselves")
	if err := alice.learns(ctx, s, second, carol, message.Held); err != nil {
		return err
	}

	carol.come(ctx)
	s.say("carol returns")
	for _, m := range []client.Message{first, second} {
		if err := carol.reads(ctx, s, m); err != nil {
			return err
		}
		if err := alice.learns(ctx, s, m, carol, message.Delivered); err != nil {
			return err
		}
	}
	for _, p := range people {
		p.leave()
	}
	return s.count(history{bob, []client.Message{first}}, history{carol, []client.Message{first, second}})
}

// said is what a server says, while it says it.
type said struct {
	mu sync.Mutex
	b  strings.Builder // guarded by mu
}

// Write implements io.Writer.
func (s *said) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(b)
}

func (s *said) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// configure chooses a port and writes the TOML.
func (s *stage) configure() error {
	l, err := net.Listen("tcp", transport.Loopback())
	if err != nil {
		return err
	}
	s.address = l.Addr().String()
	l.Close()
	s.admin = control.New(filepath.Join(s.dir, "run", "control.sock"))
	toml := fmt.Sprintf("name = %q\nlog = \"stderr\"\n\n[[interface]]\nbind = %q\n", s.name, s.address)
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(s.dir, "noipchat.toml"), []byte(toml), 0o600)
}

// start starts this same program as a server, and returns when it answers.
func (s *stage) start(ctx context.Context) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	return s.run(ctx, self)
}

func (s *stage) run(ctx context.Context, program string) (err error) {
	s.server = exec.Command(program, "--config", filepath.Join(s.dir, "noipchat.toml"),
		"--state", filepath.Join(s.dir, "state"), "--runtime", filepath.Join(s.dir, "run"))
	s.server.Stderr = &s.log
	s.server.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true} // it dies with us, and not by our Ctrl-C
	if err := s.server.Start(); err != nil {
		return err
	}
	for {
		if _, err = s.admin.Status(ctx); err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the server doesn't answer: %w; it says:\n%s", err, s.log.String())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// kill ends the server, and returns when it is gone.
func (s *stage) kill(how syscall.Signal) {
	if s.server != nil && s.server.ProcessState == nil && s.server.Process != nil {
		s.server.Process.Signal(how)
		s.server.Wait()
	}
}

// person is a user with one device, which is here or away.
type person struct {
	name  string
	home  string
	store *client.Store
	c     *client.Client
	end   context.CancelFunc
	done  sync.WaitGroup
}

// cast makes a user, and a device that knows the server's key.
func (s *stage) cast(ctx context.Context, name, key string) (*person, error) {
	if _, err := s.admin.AddUser(ctx, name, "not a secret"); err != nil {
		return nil, err
	}
	p := &person{name: name, home: s.name}
	server, err := identity.ParsePublicKey(key)
	if err != nil {
		return nil, err
	}
	if p.store, err = client.OpenStore(filepath.Join(s.dir, name, "default")); err != nil {
		return nil, err
	}
	_, err = client.Login(ctx, p.store, client.Entry{
		Address: p.address(), Servers: []string{s.address}, Key: server, Standing: identity.Pinned,
		Password: "not a secret", Label: "demo",
	}, client.Options{})
	if err == nil {
		p.c, err = client.New(p.store, client.Options{})
	}
	return p, err
}

func (p *person) address() message.Address { return message.Join(p.name, p.home) }

func (p *person) come(ctx context.Context) {
	ctx, p.end = context.WithCancel(ctx)
	p.done.Go(func() { p.c.Run(ctx) })
}

func (p *person) leave() {
	if p.end != nil {
		p.end()
		p.done.Wait()
	}
}

// until waits for the store to say what look wants to hear.
func (p *person) until(ctx context.Context, look func() (bool, error)) error {
	for {
		changed := p.c.Changed()
		if done, err := look(); done || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}

// reads waits for a message, and shows it.
func (p *person) reads(ctx context.Context, s *stage, m client.Message) error {
	err := p.until(ctx, func() (bool, error) {
		got, found, err := p.store.Status(m.ID)
		if found {
			s.say("%s has it: %s", p.name, got.Body)
		}
		return found, err
	})
	if err != nil {
		return fmt.Errorf("%q did not reach %s: %w", m.Body, p.name, err)
	}
	return nil
}

// learns waits until the sender knows of a state.
func (p *person) learns(ctx context.Context, s *stage, m client.Message, of *person, state message.State) error {
	err := p.until(ctx, func() (bool, error) {
		now, _, err := p.store.Status(m.ID)
		for _, r := range now.Recipients {
			if r.Address == of.address() && r.State >= state {
				s.say("%s learns: for %s it is %s", p.name, of.name, r.State)
				return true, err
			}
		}
		return false, err
	})
	if err != nil {
		return fmt.Errorf("%s did not learn that %q is %s for %s: %w", p.name, m.Body, state, of.name, err)
	}
	return nil
}

// history is what somebody must have got, in order.
type history struct {
	who  *person
	want []client.Message
}

// count checks that everything is there once.
func (s *stage) count(all ...history) error {
	var errs []error
	arrived, sent := 0, 0
	for _, x := range all {
		have, err := x.who.store.History(client.Query{Only: client.In})
		if err != nil {
			return err
		}
		arrived += len(have)
		sent += len(x.want)
		if len(have) != len(x.want) {
			errs = append(errs, fmt.Errorf("%s has %d messages, not %d", x.who.name, len(have), len(x.want)))
		}
		for i := range min(len(have), len(x.want)) {
			if have[i].ID != x.want[i].ID {
				errs = append(errs, fmt.Errorf("%s has %q in place %d, not %q", x.who.name, have[i].Body, i+1, x.want[i].Body))
			}
		}
	}
	if len(errs) == 0 {
		s.say("%d of %d messages arrived, each once", arrived, sent)
	}
	return errors.Join(errs...)
}

// linger leaves the server up until a signal.
func (s *stage) linger(ctx context.Context) {
	fmt.Fprintf(s.out, `
The server stays up until you press Ctrl-C. In two other terminals:

  noipchat --home %[1]s/bob receive --follow
  noipchat --home %[1]s/alice send bob@server1 -m 'hello'

and for its admin: noipctl --socket %[1]s/run/control.sock status
`, s.dir)
	<-ctx.Done()
}
