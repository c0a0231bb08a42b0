package client

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/noipchat/noipchat/daemon/durable"
	"github.com/noipchat/noipchat/daemon/identity"
	"github.com/noipchat/noipchat/daemon/message"
	"github.com/noipchat/noipchat/daemon/transport"
)

// profileDir is a profile whose home can't be reached.
func profileDir(t testing.TB, dir string) string {
	t.Helper()
	s := openStore(t, dir)
	a := aliceAccount()
	a.ServerKey = identity.KeyFromSeed([32]byte{9}).Public().String()
	check(t, s.SetAccount(a))
	check(t, s.Close())
	return dir
}

var errNoHome = errors.New("there is no home")

func noHome(context.Context, string) (transport.Conn, error) { return nil, errNoHome }

// part is a running Profile.
type part struct {
	*Profile
	stop func() // and wait for its end
}

func run(t testing.TB, dir string) *part {
	t.Helper()
	s, err := OpenStore(dir)
	check(t, err)
	p := &part{Profile: NewProfile(s, Options{Dial: noHome})}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	p.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
		s.Close()
	})
	t.Cleanup(p.stop)
	return p
}

// until waits for something, of which Changed tells.
func (p *part) until(t testing.TB, what string, look func() bool) {
	t.Helper()
	late := time.After(time.Minute)
	for {
		changed := p.Changed()
		if look() {
			return
		}
		select {
		case <-changed:
		case <-late:
			up, err := p.Connected()
			t.Fatalf("waited in vain for %s; connected: %v, %v", what, up, err)
		}
	}
}

func (p *part) owns() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.client != nil
}

func (p *part) visits() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.host != nil
}

// owner is a part that is the owner and has tried to connect.
func owner(t testing.TB, dir string) *part {
	t.Helper()
	p := run(t, dir)
	p.until(t, "the session", func() bool { _, err := p.Connected(); return p.owns() && err != nil })
	return p
}

func TestProfile(t *testing.T) {
	for name, dir := range map[string]string{"usual": "profile", "longer than an address": strings.Repeat("a long name/", 20)} {
		t.Run(name, func(t *testing.T) {
			dir := profileDir(t, filepath.Join(t.TempDir(), dir))
			first := owner(t, dir)
			if st, err := os.Stat(filepath.Join(dir, "socket")); err != nil || st.Mode() != os.ModeSocket|0o600 {
				t.Errorf("the socket: %v, %v", st, err)
			}
			second, third := run(t, dir), run(t, dir)
			for _, p := range []*part{second, third} {
				p.until(t, "an owner", p.visits)
				p.until(t, "why there is no session", func() bool {
					up, err := p.Connected()
					return !up && err != nil && strings.Contains(err.Error(), errNoHome.Error())
				})
			}
			if !first.Shared() || !second.Shared() {
				t.Error("they don't know of each other")
			}

			// What one puts in, another one hears of, unless he waits for something else.
			third.Watch(message.ID{1})
			deaf := third.Changed()
			heard := second.Changed()
			m := enqueue(t, first.store, Outgoing{To: to(bob), Body: []byte("hi")})
			first.Kick()
			select {
			case <-heard:
			case <-time.After(time.Minute):
				t.Error("a kick was not told")
			}
			first.tell(false, []message.ID{m.ID})
			first.tell(false, []message.ID{{2}, {1}})
			select {
			case <-deaf:
			case <-time.After(time.Minute):
				t.Error("a state that has risen was not told to who watches it")
			}

			// The owner ends; one of the others is the next one.
			first.stop()
			second.until(t, "an heir", func() bool { return second.owns() || third.owns() })
			next, other := second, third
			if third.owns() {
				next, other = third, second
			}
			other.until(t, "the next owner", other.visits)
			other.stop()
			next.until(t, "its going", func() bool { next.change(nil); return !next.Shared() })
			next.stop()
			if _, err := os.Lstat(filepath.Join(dir, "socket")); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the socket is left: %v", err)
			}
		})
	}
}

// Who waits for one message is not woken for others: a hundred who send would
// otherwise wake each other ten thousand times.
func TestWatch(t *testing.T) {
	g := &guest{wake: make(chan struct{}, 1), watched: message.ID{1}}
	woken := func() bool {
		select {
		case <-g.wake:
			return true
		default:
			return false
		}
	}
	for _, c := range []struct {
		session bool
		risen   []message.ID
		want    bool
	}{{false, nil, false}, {false, []message.ID{{2}}, false}, {false, []message.ID{{2}, {1}}, true}, {true, nil, true}} {
		g.tell(c.session, c.risen)
		if have := woken(); have != c.want {
			t.Errorf("session %v, risen %v: woken is %v", c.session, c.risen, have)
		}
	}
	g.watched = message.ID{}
	if g.tell(false, nil); !woken() {
		t.Error("who watches everything was not woken")
	}
}

// A socket that a killed owner left is replaced; what is no socket stays.
func TestStaleSocket(t *testing.T) {
	dir := profileDir(t, t.TempDir())
	name := filepath.Join(dir, "socket")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: name, Net: "unix"})
	check(t, err)
	l.SetUnlinkOnClose(false)
	check(t, l.Close())
	p := owner(t, dir)
	g := run(t, dir)
	g.until(t, "an owner", g.visits)
	g.stop()
	p.stop()

	check(t, os.WriteFile(name, []byte("mine"), 0o600))
	p = owner(t, dir)
	g = run(t, dir)
	g.until(t, "that it is not served", func() bool {
		_, err := g.Connected()
		return err != nil && strings.Contains(err.Error(), "does not share it")
	})
	p.stop()
	g.until(t, "its turn", g.owns)
	if b, err := os.ReadFile(name); string(b) != "mine" {
		t.Errorf("a file was replaced: %q, %v", b, err)
	}
}

// An owner that was stopped, or that speaks another version, keeps nobody from
// looking at the store, and the reason says which process it is.
func TestStrangeOwner(t *testing.T) {
	for name, c := range map[string]struct{ says, want string }{
		"stopped":     {"", fmt.Sprintf("process %d has the session of this profile, and does not answer", os.Getpid())},
		"later":       {`{"version":2,"session":{"connected":true}}` + "\n", "version 2"},
		"no session":  {`{"version":1}` + "\n", "version 1"},
		"nonsense":    {"SSH-2.0-OpenSSH\n", "invalid character"},
		"endless":     {strings.Repeat("x", maxLine+1), "token too long"},
		"gone at all": {"\n", "unexpected end"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := profileDir(t, t.TempDir())
			lock, err := durable.Lock(filepath.Join(dir, "lock"))
			check(t, err)
			l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, "socket"), Net: "unix"})
			check(t, err)
			var wg sync.WaitGroup
			wg.Go(func() {
				for {
					conn, err := l.Accept()
					if err != nil {
						return
					}
					wg.Go(func() {
						io.WriteString(conn, c.says)
						io.Copy(io.Discard, conn)
						conn.Close()
					})
				}
			})
			g := run(t, dir)
			for range 3 {
				g.change(nil)
				g.until(t, c.want, func() bool {
					_, err := g.Connected()
					if err == nil || !strings.Contains(err.Error(), c.want) {
						if name == "stopped" {
							time.AfterFunc(time.Millisecond, func() { g.change(nil) })
						}
						return false
					}
					return true
				})
			}
			g.Kick() // to nobody
			l.Close()
			lock.Close()
			if name == "stopped" {
				g.stop() // it would wait for ever
			} else {
				g.until(t, "its turn", g.owns)
				g.stop()
			}
			wg.Wait()
		})
	}
}

// Guests that come and go, also rude ones, leave nothing behind in the owner, which
// goes on.
func TestRudeGuests(t *testing.T) {
	ignored := goleak.IgnoreCurrent()
	dir := profileDir(t, t.TempDir())
	p := owner(t, dir)
	fds := func() int {
		all, err := os.ReadDir("/proc/self/fd")
		check(t, err)
		return len(all)
	}
	before := fds()
	ask, _ := json.Marshal(call{Do: doAsk, N: 1, Op: 1, Args: [][]byte{[]byte("old"), []byte("new")}})
	for round := range 20 {
		var wg sync.WaitGroup
		for _, says := range []string{
			"", "\n", "{}\n", "nonsense\n", `{"do":"kick"}` + "\n" + `{"do":"kick"`, `{"do":"watch","id":"abc"}` + "\n",
			strings.Repeat("x", maxLine+1), `[1,2]` + "\n", strings.Repeat(`{"do":"fly","n":3}`+"\n", 1000),
			strings.Repeat(string(ask)+"\n", 100), `{"do":"ask","op":255,"args":["` + strings.Repeat("A", 4000) + `"]}` + "\n",
			`{"do":"ask","args":[` + strings.Repeat(`"",`, 50) + `""]}` + "\n", "\x00\xff\x00\n",
		} {
			wg.Go(func() {
				conn, err := p.dial()
				if err != nil {
					t.Error(err)
					return
				}
				defer conn.Close()
				io.WriteString(conn, says)
				if round%2 == 0 { // the others are gone before they are greeted
					conn.CloseWrite()
					io.Copy(io.Discard, conn)
				}
			})
		}
		wg.Wait()
	}
	// What isn't known is answered, and an unanswerable question doesn't hold up the rest.
	conn, err := p.dial()
	check(t, err)
	in := bufio.NewScanner(conn)
	fmt.Fprintf(conn, "%s\n"+`{"do":"fly","n":7,"how":"high"}`+"\n"+`{"do":"ask","n":8,"op":200}`+"\n", ask)
	answers := map[uint64]string{}
	for len(answers) < 2 && in.Scan() {
		var n note
		check(t, json.Unmarshal(in.Bytes(), &n))
		if n.Answer != nil {
			answers[n.Answer.N] = n.Answer.Error
		}
	}
	if !strings.Contains(answers[7], `"fly" is nothing that this version can do`) || !strings.Contains(answers[8], "a request") {
		t.Errorf("the answers are %v", answers)
	}
	conn.Close()
	p.until(t, "the guests' going", func() bool { p.change(nil); return !p.Shared() })
	p.until(t, "no more files", func() bool { p.change(nil); return fds() <= before })
	g := run(t, dir)
	g.until(t, "an owner", g.visits)
	g.stop()
	p.stop()
	goleak.VerifyNone(t, ignored)
}

// One too many is not served, and what it has put in is sent nevertheless.
func TestManyGuests(t *testing.T) {
	dir := profileDir(t, t.TempDir())
	p := owner(t, dir)
	p.mu.Lock()
	for range maxGuests {
		p.guests[&guest{wake: make(chan struct{}, 1)}] = true
	}
	p.mu.Unlock()
	g := run(t, dir)
	g.until(t, "that it is not served", func() bool {
		_, err := g.Connected()
		return err != nil && strings.Contains(err.Error(), "EOF")
	})
	p.mu.Lock()
	clear(p.guests)
	p.mu.Unlock()
	g.until(t, "an owner", g.visits)
}

// Somebody who comes while the client waits after an attempt doesn't wait for long,
// however often he asks.
func TestKickWhileWaiting(t *testing.T) {
	dir := profileDir(t, t.TempDir())
	s := openStore(t, dir)
	synctest.Test(t, func(t *testing.T) {
		var attempts atomic.Int32
		c, err := New(s, Options{FirstWait: time.Hour, MaxWait: time.Hour, Dial: func(context.Context, string) (transport.Conn, error) {
			attempts.Add(1)
			return nil, errNoHome
		}})
		check(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- c.Run(ctx) }()
		synctest.Wait()
		each := attempts.Load() // all addresses
		time.Sleep(20 * time.Minute)
		if n := attempts.Load(); n != each {
			t.Errorf("%d attempts without a reason", n)
		}
		c.Kick()
		time.Sleep(kickedWait)
		synctest.Wait()
		if n := attempts.Load(); n != 2*each {
			t.Errorf("%d attempts after a kick", n)
		}
		for range 100 {
			c.Kick()
			time.Sleep(100 * time.Millisecond)
		}
		synctest.Wait()
		if n := attempts.Load(); n > 12*each || n < 11*each {
			t.Errorf("%d attempts after ten seconds of kicks", n)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// Whatever comes from the other end of the socket: no harm is done, and the owner
// goes on serving.
func FuzzShare(f *testing.F) {
	dir := profileDir(f, f.TempDir())
	p := owner(f, dir)
	f.Fuzz(func(t *testing.T, toOwner bool, says []byte) {
		if !toOwner {
			h := &host{calls: map[uint64]chan answer{1: make(chan answer, 1)}}
			for in := bufio.NewScanner(strings.NewReader(string(says))); ; {
				n, err := read(in)
				if err != nil {
					break
				}
				h.note(n)
			}
			h.end()
			return
		}
		conn, err := p.dial()
		check(t, err)
		defer conn.Close()
		conn.Write(says)
		conn.CloseWrite()
		conn.SetReadDeadline(time.Now().Add(time.Minute))
		for in := lines(conn); ; {
			if _, err := read(in); err == io.EOF {
				break
			} else if err != nil && !strings.Contains(err.Error(), "reset") {
				t.Fatalf("what the owner says: %v", err)
			} else if err != nil {
				break
			}
		}
		if !p.owns() {
			t.Fatal("the owner is gone")
		}
	})
}
