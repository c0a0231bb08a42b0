// Package client is the other side of a session: for the terminal client, for
// bots, and for tests. A Client keeps one device's connection to its home up for
// as long as Run runs, sends what is in the outbox, and stores what comes before
// it acks it; the Store is what survives. Login makes the device.
//
// Run has, while connected, two goroutines: one reads, one sends; it joins both
// before it returns. What a Client has learned is in the Store; Changed tells
// that there is something new. On disk is the Store alone, see store.go.
package client

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/noipchat/noipchat/daemon/identity"
	"github.com/noipchat/noipchat/daemon/message"
	"github.com/noipchat/noipchat/daemon/transport"
	"github.com/noipchat/noipchat/daemon/wire"
)

// Options are a client's measures; a zero means the default.
type Options struct {
	Agent     string        // the program and its version, for the server's log
	Dial      Dialer        // default: what the address says
	Connect   time.Duration // how long connecting and logging in may take, at least (10 s)
	FirstWait time.Duration // before the first new attempt (15 ms); it doubles
	MaxWait   time.Duration // up to this (60 s), and each is shortened by up to a half, at random
	Window    wire.Window   // what we take before we ack (1,024 envelopes, 4 MiB)
	Log       *slog.Logger
}

// Dialer connects to an address.
type Dialer func(ctx context.Context, address string) (transport.Conn, error)

func (o *Options) setDefaults() {
	if o.Agent == "" {
		o.Agent = "noipchat"
	}
	if o.Connect == 0 {
		o.Connect = 10 * time.Second
	}
	if o.FirstWait == 0 {
		o.FirstWait = 15 * time.Millisecond
	}
	if o.MaxWait == 0 {
		o.MaxWait = time.Minute
	}
	if o.Window.Count == 0 {
		o.Window = wire.Window{Count: 1024, Bytes: 4 << 20}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if log := o.Log; o.Dial == nil {
		o.Dial = func(ctx context.Context, address string) (transport.Conn, error) {
			a, err := transport.ParseAddress(address)
			if err != nil {
				return nil, err
			}
			return a.Dial(ctx, log)
		}
	}
}

// ErrNoAccount says that the profile has no device yet.
var ErrNoAccount = errors.New("this profile has no account yet")

// ErrMisuse is what errors are by which the user has asked for what can't be.
var ErrMisuse = errors.New("misuse")

// misuse is an error that is ErrMisuse, and does not say that word.
type misuse struct{ error }

func (m misuse) Is(target error) bool { return target == ErrMisuse }
func (m misuse) Unwrap() error        { return m.error }

func misusef(format string, args ...any) error { return misuse{fmt.Errorf(format, args...)} }

// ErrEnded says that nobody knows whether the home has done what it was asked for.
var ErrEnded = errors.New("the session ended before the answer came")

// Client is one device at its home.
type Client struct {
	// fixed
	store   *Store
	o       Options
	account Account
	key     identity.Key
	server  identity.PublicKey

	kick chan struct{}                          // there is something in the outbox
	told func(session bool, risen []message.ID) // of changes; nil: nobody wants to know

	mu      sync.Mutex // guards what follows
	changed chan struct{}
	link    *link // nil while there is no session
	lastErr error // why there is none

	parts []wire.Part // of Run: what came in part over a slow line, for the next session
}

// New makes the client of the account in store.
func New(store *Store, o Options) (*Client, error) {
	o.setDefaults()
	account, ok, err := store.Account()
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, ErrNoAccount
	}
	server, err := account.HomeKey()
	if err != nil {
		return nil, err
	}
	return &Client{
		store: store, o: o, account: account, key: identity.KeyFromSeed(account.Seed), server: server,
		kick: make(chan struct{}, 1), changed: make(chan struct{}),
	}, nil
}

// Account returns whose device this is.
func (c *Client) Account() Account { return c.account }

// Store returns the store.
func (c *Client) Store() *Store { return c.store }

// Send stores a message and has it sent as soon as there is a session.
func (c *Client) Send(ctx context.Context, o Outgoing) (Message, error) {
	m, err := c.store.Enqueue(ctx, o)
	if err == nil {
		c.Kick()
	}
	return m, err
}

// SendFile is Send for a file that goes to no list. It reads the whole file first.
func (c *Client) SendFile(ctx context.Context, o OutgoingFile) (Message, error) {
	all, err := c.store.EnqueueFile(ctx, o)
	if err != nil {
		return Message{}, err
	}
	c.Kick()
	return all[0], nil
}

// Kick has the outbox looked at: somebody else has put something in.
func (c *Client) Kick() { nudge(c.kick) }

// Changed returns a channel that is closed when something changes: messages,
// states, or the connection. Ask for it before you look.
func (c *Client) Changed() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.changed
}

// change tells of a change: one of the session, which set makes, or one in the
// store, with the messages of ours whose states have risen.
func (c *Client) change(set func(), risen ...message.ID) {
	c.mu.Lock()
	if set != nil {
		set()
	}
	close(c.changed)
	c.changed = make(chan struct{})
	c.mu.Unlock()
	if c.told != nil {
		c.told(set != nil, risen)
	}
}

// Connected tells whether there is a session, and if not, why the last attempt
// failed; nil if there was none yet.
func (c *Client) Connected() (bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.link != nil, c.lastErr
}

// Final tells that an error of Run's is one that trying again doesn't help.
func Final(err error) bool {
	var no *message.Refusal
	var changed *identity.ChangedKeyError
	return errors.As(err, &changed) || errors.As(err, &no) && no.Permanent
}

// kickedWait is how long Run waits for a new attempt at most after a Kick.
const kickedWait = time.Second

// Run keeps the session up until ctx is done. It returns nil then, or an error
// that trying again doesn't help: the home refuses the device, or shows another key.
func (c *Client) Run(ctx context.Context) error {
	backoff := message.Backoff{First: c.o.FirstWait, Max: c.o.MaxWait}
	for {
		up, worked, err := c.connect(ctx)
		c.change(func() { c.link, c.lastErr = nil, err })
		if Final(err) {
			return err
		}
		if ctx.Err() != nil {
			return nil
		}
		backoff.Met(up, worked && !errors.Is(err, ErrNoSpace)) // what fits comes each time
		pause, asked := backoff.Pause(err)
		kick := c.kick
		if asked {
			kick = nil
		}
		c.o.Log.Info("no session", "error", err, "again in", pause.Round(time.Millisecond).String())
		over, soon := time.After(pause), make(<-chan time.Time)
		for waiting := true; waiting; {
			select {
			case <-ctx.Done():
				return nil
			case <-kick: // somebody has something to say, and won't wait for long
				kick, soon = nil, time.After(min(pause, kickedWait))
			case <-over:
				waiting = false
			case <-soon:
				waiting = false
			}
		}
	}
}

// connect tries the addresses in turn, and converses over the first that works
// until that ends; up is how long that was, and worked whether anything was acked.
func (c *Client) connect(ctx context.Context) (up time.Duration, worked bool, err error) {
	errs := []error{fmt.Errorf("no address of %s is known", c.account.Address.Server())}
	for i, address := range c.account.Servers {
		if i == 0 {
			errs = nil
		}
		met, err := open(ctx, address, c.o, c.key, c.meet, true)
		if err == nil {
			return c.converse(ctx, met)
		}
		errs = append(errs, err)
		if Final(err) || ctx.Err() != nil {
			break
		}
		c.o.Log.Info("no session by this address", "error", err)
	}
	return 0, false, errors.Join(errs...)
}

// meet checks who answers, and says who we are.
func (c *Client) meet(hello wire.ServerHello) (wire.ClientHello, error) {
	home := c.account.Address.Server()
	if hello.Key != c.server {
		return wire.ClientHello{}, &identity.ChangedKeyError{Name: home, Want: c.server, Got: hello.Key}
	}
	return wire.ClientHello{Agent: c.o.Agent, Window: c.o.Window, Method: wire.ByDevice, User: c.account.Address.User(), Parts: c.parts}, nil
}

// meeting is a login that went well, or is not answered yet.
type meeting struct {
	conn    *wire.Conn
	hello   wire.ServerHello
	welcome wire.Welcome
	address string
	early   [][]byte // frames that came with the welcome
	waits   bool     // for the welcome: on a slow line we begin before it
}

// open connects, shakes hands and logs in. With an error there is no connection
// left, and only hello may be of use. With soon it doesn't wait for the welcome on a
// slow line; there is a deadline for reading it then.
func open(ctx context.Context, address string, o Options, key identity.Key, meet func(wire.ServerHello) (wire.ClientHello, error), soon bool) (m meeting, err error) {
	m.address = address
	a, _ := transport.ParseAddress(address) // if it isn't one, Dial says so
	dialing, cancel := context.WithTimeout(ctx, a.Line.Patience(o.Connect, handshakeBytes))
	defer cancel()
	conn, err := o.Dial(dialing, address)
	if err != nil {
		return m, err
	}
	over := func() { conn.SetDeadline(time.Unix(1, 0)) }
	stop := context.AfterFunc(ctx, over)
	defer func() {
		if !stop() && err == nil {
			err = ctx.Err()
		}
		if err != nil {
			conn.Close()
			err = fmt.Errorf("%s: %w", address, err)
		}
	}()
	wait := func() {
		conn.SetDeadline(time.Now().Add(conn.Properties().Patience(o.Connect, handshakeBytes)))
		if ctx.Err() != nil {
			over()
		}
	}
	wait()
	m.conn, err = wire.Open(conn, key, func(h wire.ServerHello) (wire.ClientHello, error) {
		m.hello = h
		wait() // by what was measured
		return meet(h)
	})
	if m.waits = err == nil && soon && m.conn.Slow(); m.waits {
		conn.SetWriteDeadline(time.Time{})
		return m, nil
	}
	if err == nil {
		m.welcome, m.early, err = m.conn.ReceiveWelcome()
	}
	conn.SetDeadline(time.Time{})
	return m, err
}

// handshakeBytes are what a handshake and login have, about.
const handshakeBytes = 400
