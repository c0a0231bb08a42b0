package client

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/noipchat/noipchat/daemon/message"
	"github.com/noipchat/noipchat/daemon/wire"
)

// On the socket of a profile each side says what it has to say when it likes, in
// JSON, one object a line. A guest makes calls, the owner writes notes. To connect is
// a kick. Fields that a side doesn't know are skipped, a call that the owner doesn't
// know is answered with an error, and a guest that doesn't know the version in the
// first note does without the owner.
const shareVersion = 1

const (
	maxLine   = 256 << 10 // bytes, for what a home may answer at once; who sends more is shown the door
	maxGuests = 1024      // more have to look by the clock
	maxAsked  = 8         // by one guest, without having read the answers
)

// call is what a guest says.
type call struct {
	Do   string     `json:"do"`
	ID   message.ID `json:"id,omitzero"`    // watch: of which message alone to tell from now on
	N    uint64     `json:"n,omitempty"`    // the answer has it too
	Op   wire.Op    `json:"op,omitempty"`   // ask: what Client.Ask takes
	Args [][]byte   `json:"args,omitempty"` // bytes, because a password need not be text
}

// The values of Do. Only ask has an answer.
const (
	doKick  = "kick" // the outbox has something new
	doWatch = "watch"
	doAsk   = "ask"
)

// note is what the owner says.
type note struct {
	Version int      `json:"version,omitempty"` // in the first note
	Session *session `json:"session,omitempty"` // in the first note, and when it has changed
	Changed bool     `json:"changed,omitempty"` // look into the store
	Answer  *answer  `json:"answer,omitempty"`
}

// session is what Client.Connected says.
type session struct {
	Connected bool   `json:"connected"`
	Why       string `json:"why,omitempty"` // it is not
}

type answer struct {
	N       uint64           `json:"n"`
	Results [][]byte         `json:"results,omitempty"`
	Refusal *message.Refusal `json:"refusal,omitempty"` // an error that is one
	Error   string           `json:"error,omitempty"`   // any other
}

// atSocket calls use with a name of the socket that fits into an address, which has
// room for 107 bytes.
func (p *Profile) atSocket(use func(*net.UnixAddr) error) error {
	name := p.path("socket")
	if len(name) > 107 {
		dir, err := os.Open(filepath.Dir(name))
		if err != nil {
			return err
		}
		defer dir.Close()
		name = fmt.Sprintf("/proc/self/fd/%d/socket", dir.Fd())
	}
	return use(&net.UnixAddr{Name: name, Net: "unix"})
}

// listen makes the socket, in place of a dead owner's: who calls it has the lock.
func (p *Profile) listen() (l *net.UnixListener, err error) {
	name := p.path("socket")
	info, err := os.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, err
	case info.Mode().Type() != fs.ModeSocket:
		return nil, fmt.Errorf("%s is no socket", name)
	default:
		if err := os.Remove(name); err != nil {
			return nil, err
		}
	}
	err = p.atSocket(func(a *net.UnixAddr) (err error) {
		l, err = net.ListenUnix("unix", a)
		return err
	})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false) // its name may end with atSocket
	if err := os.Chmod(name, 0o600); err != nil {
		p.unlisten(l)
		return nil, err
	}
	return l, nil
}

// unlisten takes the socket away, while we have the lock: later it may be another's.
func (p *Profile) unlisten(l *net.UnixListener) {
	os.Remove(p.path("socket")) // if that fails, the next owner replaces it
	l.Close()
}

// sameUser says who is at the other end, and fails if that is another user: the
// folder's mode may be somebody's idea.
func sameUser(conn *net.UnixConn) (pid int, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var peer *unix.Ucred
	ctlErr := raw.Control(func(fd uintptr) {
		peer, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err := errors.Join(ctlErr, err); err != nil {
		return 0, err
	}
	if int(peer.Uid) != os.Geteuid() {
		return 0, fmt.Errorf("process %d is of another user, with the id %d", peer.Pid, peer.Uid)
	}
	return int(peer.Pid), nil
}

func lines(conn net.Conn) *bufio.Scanner {
	s := bufio.NewScanner(conn)
	s.Buffer(make([]byte, 0, 512), maxLine)
	return s
}

// accept serves who comes, until ctx is done and l is closed.
func (p *Profile) accept(ctx context.Context, l *net.UnixListener) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		conn, err := l.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // no file descriptors, mostly
			p.o.Log.Warn("another process can't be served", "error", err)
			select {
			case <-ctx.Done():
			case <-time.After(lastPause):
			}
			continue
		}
		if _, err := sameUser(conn); err != nil {
			p.o.Log.Warn("another process is not served", "error", err)
			conn.Close()
			continue
		}
		p.Kick()
		g := &guest{conn: conn, p: p, wake: make(chan struct{}, 1)}
		p.mu.Lock()
		full := len(p.guests) >= maxGuests
		if !full {
			p.guests[g] = true
		}
		p.mu.Unlock()
		if full {
			conn.Close()
			continue
		}
		wg.Go(func() { g.serve(ctx) })
	}
}

// guest is another process, seen from the owner.
type guest struct {
	// fixed
	conn *net.UnixConn
	p    *Profile
	wake chan struct{} // the writer has something to write

	mu      sync.Mutex // guards what follows
	watched message.ID
	session bool // has changed
	changed bool
	answers []answer
	asked   int // calls whose answers were not written
}

// serve does what the guest wants, until it goes or ctx is done.
func (g *guest) serve(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer context.AfterFunc(ctx, func() { g.conn.Close() })()
	var wg sync.WaitGroup
	wg.Go(func() {
		defer g.conn.Close() // ends the reader
		g.write(ctx)
	})
	for in := lines(g.conn); in.Scan(); {
		var c call
		if err := json.Unmarshal(in.Bytes(), &c); err != nil {
			g.p.o.Log.Warn("another process with this profile is not understood", "error", err)
			break
		}
		if !g.do(ctx, &wg, c) {
			break
		}
	}
	cancel()
	g.conn.Close()
	wg.Wait()
	g.p.mu.Lock()
	delete(g.p.guests, g)
	g.p.mu.Unlock()
}

// do does what a call wants; false: this guest is not to be served any more.
func (g *guest) do(ctx context.Context, wg *sync.WaitGroup, c call) bool {
	switch c.Do {
	case doKick:
		g.p.Kick()
		return true
	case doWatch:
		g.mu.Lock()
		g.watched, g.changed = c.ID, true // it may have changed before we knew
		g.mu.Unlock()
		nudge(g.wake)
		return true
	}
	g.mu.Lock()
	g.asked++
	many := g.asked > maxAsked
	g.mu.Unlock()
	if many {
		return false
	}
	if c.Do != doAsk {
		g.answer(answer{N: c.N, Error: fmt.Sprintf("%q is nothing that this version can do", c.Do)})
		return true
	}
	wg.Go(func() { g.answer(g.p.answer(ctx, c)) })
	return true
}

// answer asks the home.
func (p *Profile) answer(ctx context.Context, c call) answer {
	args := make([]string, len(c.Args))
	for i, a := range c.Args {
		args[i] = string(a)
	}
	// What the home would end the session for is found here.
	_, body, _, err := wire.Next(wire.AppendRequest(nil, wire.Request{Op: c.Op, Args: args}))
	if err == nil {
		_, err = wire.ParseRequest(body)
	}
	var results []string
	if err == nil {
		results, err = p.Ask(ctx, c.Op, args...)
	}
	a := answer{N: c.N}
	if err != nil && !errors.As(err, &a.Refusal) {
		a.Error = err.Error()
	}
	for _, r := range results {
		a.Results = append(a.Results, []byte(r))
	}
	return a
}

func (g *guest) answer(a answer) {
	g.mu.Lock()
	g.answers = append(g.answers, a)
	g.mu.Unlock()
	nudge(g.wake)
}

// tell has the guest told of a change, if it wants to know.
func (g *guest) tell(session bool, risen []message.ID) {
	g.mu.Lock()
	all := g.watched == message.ID{}
	changed := all && !session || slices.Contains(risen, g.watched)
	g.session = g.session || session
	g.changed = g.changed || changed
	g.mu.Unlock()
	if session || changed {
		nudge(g.wake)
	}
}

// write writes notes until ctx is done or the guest is gone. What has changed is
// kept as a bit: a guest that doesn't read costs nothing but its buffers.
func (g *guest) write(ctx context.Context) {
	first := note{Version: shareVersion, Session: g.p.session()}
	b := appendLine(nil, first)
	for {
		if _, err := g.conn.Write(b); err != nil {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-g.wake:
		}
		g.mu.Lock()
		n := note{Changed: g.changed}
		told, answers := g.session, g.answers
		g.session, g.changed, g.answers = false, false, nil
		g.asked -= len(answers)
		g.mu.Unlock()
		if told {
			n.Session = g.p.session()
		}
		b = b[:0]
		if n.Session != nil || n.Changed {
			b = appendLine(b, n)
		}
		for i := range answers {
			b = appendLine(b, note{Answer: &answers[i]})
		}
	}
}

func (p *Profile) session() *session {
	up, err := p.Connected()
	s := &session{Connected: up}
	if err != nil {
		s.Why = err.Error()
	}
	return s
}

// appendLine appends a call or a note, which have nothing that JSON would not take.
func appendLine(b []byte, v any) []byte {
	line, _ := json.Marshal(v)
	return append(append(b, line...), '\n')
}

// host is the owner, seen from a guest.
type host struct {
	conn *net.UnixConn

	mu      sync.Mutex // guards what follows, and writing
	session session
	calls   map[uint64]chan answer // nil: it is gone
	last    uint64
}

// visit is a guest until the owner has ended or ctx is done, and tells for how long;
// zero: there is no owner to visit.
func (p *Profile) visit(ctx context.Context) time.Duration {
	var pid int
	conn, err := p.dial()
	if err == nil {
		defer conn.Close()
		pid, err = sameUser(conn)
	}
	if err != nil {
		p.apart(fmt.Errorf("another process has the session of this profile, and does not share it: %w", err))
		return 0
	}
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	p.apart(fmt.Errorf("process %d has the session of this profile, and does not answer", pid)) // it may have been stopped

	h := &host{conn: conn, calls: map[uint64]chan answer{}}
	in := lines(conn)
	first, err := read(in)
	if err == nil && (first.Version != shareVersion || first.Session == nil) {
		err = fmt.Errorf("version %d", first.Version)
	}
	if err != nil {
		if ctx.Err() == nil {
			p.apart(fmt.Errorf("process %d has the session of this profile, and is not understood: %w", pid, err))
		}
		return 0
	}
	began := time.Now()
	h.session = *first.Session
	var watched message.ID
	p.change(func() { p.host, p.lastErr, watched = h, nil, p.watched })
	if watched != (message.ID{}) {
		h.say(call{Do: doWatch, ID: watched})
	}
	for {
		n, err := read(in)
		if err != nil {
			break
		}
		h.note(n)
		if n.Session != nil || n.Changed {
			p.change(nil)
		}
	}
	h.end()
	p.change(func() {
		p.host = nil
		_, p.lastErr = h.connected()
	})
	return time.Since(began)
}

func (p *Profile) apart(why error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lastErr = why
}

func read(in *bufio.Scanner) (n note, err error) {
	if !in.Scan() {
		return n, cmp.Or(in.Err(), io.EOF)
	}
	return n, json.Unmarshal(in.Bytes(), &n)
}

// dial connects to the owner, if there is one.
func (p *Profile) dial() (conn *net.UnixConn, err error) {
	err = p.atSocket(func(a *net.UnixAddr) (err error) {
		conn, err = net.DialUnix("unix", nil, a)
		return err
	})
	return conn, err
}

// nudge is a kick by somebody who is no guest.
func (p *Profile) nudge() {
	if conn, err := p.dial(); err == nil {
		conn.Close()
	}
}

// hostPatience is how long a call may take to be written. An owner that was stopped
// does not read.
const hostPatience = 5 * time.Second

// say tells the owner something. After an error it is none any more.
func (h *host) say(c call) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.conn.SetWriteDeadline(time.Now().Add(hostPatience))
	_, err := h.conn.Write(appendLine(nil, c))
	if err != nil {
		h.conn.Close() // ends the visit
	}
	return err
}

var errLeft = fmt.Errorf("%w: so did the process that had it for this profile", ErrEnded)

// ask has the owner ask the home.
func (h *host) ask(ctx context.Context, op wire.Op, args []string) ([]string, error) {
	c := call{Do: doAsk, Op: op}
	for _, a := range args {
		c.Args = append(c.Args, []byte(a))
	}
	come := make(chan answer, 1)
	h.mu.Lock()
	if h.calls == nil {
		h.mu.Unlock()
		return nil, errLeft
	}
	h.last++
	c.N = h.last
	h.calls[c.N] = come
	h.mu.Unlock()
	if err := h.say(c); err != nil {
		return nil, fmt.Errorf("%w: %w", errLeft, err)
	}
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case a, ok := <-come:
		switch {
		case !ok:
			return nil, errLeft
		case a.Refusal != nil:
			return nil, a.Refusal
		case a.Error == ErrEnded.Error():
			return nil, ErrEnded
		case a.Error != "":
			return nil, errors.New(a.Error)
		}
		results := make([]string, len(a.Results))
		for i, r := range a.Results {
			results[i] = string(r)
		}
		return results, nil
	}
}

// note takes what the owner says.
func (h *host) note(n note) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if n.Session != nil {
		h.session = *n.Session
	}
	if n.Answer != nil && h.calls[n.Answer.N] != nil {
		h.calls[n.Answer.N] <- *n.Answer // the first one to it: there is room
		delete(h.calls, n.Answer.N)
	}
}

// end is the end of the visit.
func (h *host) end() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, come := range h.calls {
		close(come)
	}
	h.calls = nil
}

func (h *host) connected() (bool, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.session.Why == "" {
		return h.session.Connected, nil
	}
	return h.session.Connected, errors.New(h.session.Why)
}
