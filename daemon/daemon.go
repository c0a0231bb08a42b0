// Package daemon is the composition root of a server: it opens the rooms, wires
// them, runs them, and stops them in the order in which nothing is lost. What a
// room does is in its own package; docs/architecture.md has the plan of the house.
//
// Open does all that can fail and starts nothing; Run has the goroutines and joins
// them; Close gives back what Open took if Run was never called.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/noipchat/noipchat/daemon/config"
	"github.com/noipchat/noipchat/daemon/control"
	"github.com/noipchat/noipchat/daemon/durable"
	"github.com/noipchat/noipchat/daemon/identity"
	"github.com/noipchat/noipchat/daemon/message"
	"github.com/noipchat/noipchat/daemon/relay"
	"github.com/noipchat/noipchat/daemon/session"
	"github.com/noipchat/noipchat/daemon/spool"
	"github.com/noipchat/noipchat/daemon/systemd"
	"github.com/noipchat/noipchat/daemon/transport"
)

// Options say where a server lives.
type Options struct {
	Config  string // path of the TOML
	State   string // folder for what must survive
	Runtime string // folder for the control socket
	Version string
	Log     *slog.Logger
}

// Daemon is a server.
type Daemon struct {
	// fixed after Open
	o       Options
	config  *config.Config
	started time.Time
	key     identity.Key
	lock    io.Closer

	users   *identity.Users
	spool   *spool.Spool
	relay   *relay.Relay
	host    *session.Host
	doors   []door
	control net.Listener
	scrape  net.Listener // nil: [metrics] listen is off
	metrics http.Handler
	gather  func() (map[string]float64, error)
	notices []string // of the start

	expiring atomic.Pointer[relay.Relay] // for the spool, which is older than the relay
}

// door is an interface, open or not.
type door struct {
	config.Interface
	l   transport.Listener
	err error
}

// Open reads the configuration and the state, and opens the sockets. An interface
// that can't be opened is no error as long as another one can: Status tells.
func Open(ctx context.Context, o Options) (_ *Daemon, err error) {
	d := &Daemon{o: o, started: time.Now()}
	if d.config, err = config.Load(o.Config); err != nil {
		return nil, err
	}
	if err := durable.MkdirAll(o.State, 0o700); err != nil {
		return nil, fmt.Errorf("opening the state: %w", err)
	}
	if d.lock, err = durable.Lock(filepath.Join(o.State, "lock")); err != nil {
		return nil, fmt.Errorf("opening the state: %w", err)
	}
	defer func() {
		if err != nil {
			d.Close()
		}
	}()
	if err := d.openState(); err != nil {
		return nil, err
	}
	d.openMetrics()
	return d, d.openSockets(ctx)
}

// openState opens what is on disk and builds the rooms on it.
func (d *Daemon) openState() (err error) {
	var created bool
	if d.key, created, err = identity.LoadOrCreateKey(filepath.Join(d.o.State, "key")); err != nil {
		return err
	}
	if created {
		d.o.Log.Info("this server has a key now", "fingerprint", d.key.Public().Fingerprint())
	}
	c := d.config
	mode, err := identity.ParseMode(c.Register.Mode)
	if err != nil {
		return err
	}
	var damaged []error
	d.users, damaged, err = identity.OpenUsers(d.o.State, c.Name, identity.Options{
		Mode: mode, Failures: c.Limits.LoginFailures, AddressFails: c.Limits.LoginFailuresPerAddress,
		Window: time.Duration(c.Limits.LoginWindow), JoinsPerHour: c.Limits.RegistrationsPerAddress, Log: d.o.Log,
	})
	if err != nil {
		return err
	}
	for _, e := range damaged {
		d.o.Log.Error("a user can't be read", "error", e)
		d.notices = append(d.notices, e.Error())
	}
	d.spool, err = spool.Open(filepath.Join(d.o.State, "spool"), spool.Options{
		Quota: int64(c.Spool.Quota), Total: int64(c.Spool.Total), Hand: int64(c.Spool.Hand),
		MaxAge: time.Duration(c.Spool.MaxAge), Log: d.o.Log, Expired: d.expired,
	})
	if err != nil {
		return err
	}
	d.relay = relay.New(c.Name, d.spool)
	d.expiring.Store(d.relay)
	d.host = session.New(c.Name, d.key, d.users, d.relay, d.spool, session.Options{
		Pending: c.Limits.Pending, Sessions: c.Limits.Sessions, Log: d.o.Log,
	})
	for _, u := range d.users.List() {
		d.host.Refresh(u.Name)
	}
	return nil
}

// expired is told by the spool; its sender learns it by a bounce.
func (d *Daemon) expired(t *spool.Turn, q *spool.Queue, e *spool.Entry) {
	r := d.expiring.Load()
	var l relay.Ledger
	r.Bounce(t, &l, q, e, message.Expired, message.Refuse(message.CodeExpired, "%s kept it until its lifetime was over", d.config.Name))
	r.Close(t, &l)
}

func (d *Daemon) openSockets(ctx context.Context) error {
	var errs []error
	open := 0
	for _, i := range d.config.Interfaces {
		l, err := transport.Listen(ctx, i.Kind, i.Bind)
		if err != nil {
			err = fmt.Errorf("interface %s: %w", i.Bind, err)
			errs = append(errs, err)
		} else {
			open++
		}
		d.doors = append(d.doors, door{i, l, err})
	}
	if open == 0 {
		return errors.Join(errs...)
	}
	for _, err := range errs {
		d.o.Log.Error("an interface is not open; the others are", "error", err)
	}
	d.host.SetPublic(d.public())
	if err := durable.MkdirAll(d.o.Runtime, 0o755); err != nil {
		return fmt.Errorf("opening the control socket: %w", err)
	}
	var err error
	if d.control, err = control.Listen(filepath.Join(d.o.Runtime, "control.sock"), 0o660); err != nil {
		return err
	}
	if a := d.config.Metrics.Listen; a != "" {
		if d.scrape, err = net.Listen("tcp", a); err != nil {
			return fmt.Errorf("[metrics] listen: %w", err)
		}
	}
	return nil
}

// public is the addresses that others are told.
func (d *Daemon) public() []string {
	var all []string
	for _, i := range d.doors {
		if i.err == nil {
			all = append(all, i.Public...)
		}
	}
	return all[:min(len(all), 32)]
}

// Run serves until ctx is done. Then it takes nobody in any more, tells the
// devices, and returns when all that it has accepted is on disk.
func (d *Daemon) Run(ctx context.Context) error {
	defer d.Close()
	spooling, endSpool := context.WithCancel(context.Background())
	defer endSpool()
	serving, end := context.WithCancel(ctx)
	defer end()

	var below errgroup.Group
	below.Go(func() error { return d.spool.Run(spooling) })

	g, serving := errgroup.WithContext(serving)
	for _, door := range d.doors {
		if door.l != nil {
			g.Go(func() error { return d.host.Serve(door.l) })
		}
	}
	g.Go(func() error { return d.host.Watch(serving) })
	g.Go(func() error { d.retry(serving); return nil })
	g.Go(func() error { return control.Serve(serving, d.control, control.NewHandler(d, d.o.Log), d.o.Log) })
	if d.scrape != nil {
		g.Go(func() error { return d.serveMetrics(serving) })
	}
	g.Go(func() error {
		<-serving.Done()
		systemd.Notify("STOPPING=1")
		for _, door := range d.doors {
			if door.l != nil {
				door.l.Close()
			}
		}
		return nil
	})
	d.o.Log.Info("running", "server", d.config.Name, "version", d.o.Version, "fingerprint", d.key.Public().Fingerprint(),
		"waiting", func() int64 { n, _ := d.spool.Waiting(); return n }())
	systemd.Notify("READY=1", "STATUS="+d.config.Name+" is running")
	err := g.Wait()
	d.host.Close(message.Defer(message.CodeStopping, time.Second, "the server is going down"))
	endSpool()
	return errors.Join(err, below.Wait())
}

// retry sends, a second later, the receipts that the spool did not take.
func (d *Daemon) retry(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-d.relay.Late():
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Second):
		}
		var turn spool.Turn
		d.relay.Retry(&turn)
		turn.Run()
	}
}

func (d *Daemon) serveMetrics(ctx context.Context) error {
	server := &http.Server{Handler: d.metrics, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second, MaxHeaderBytes: 8 << 10}
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	if err := server.Serve(d.scrape); err != nil && !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving metrics: %w", err)
	}
	return nil
}

// Close gives back sockets and the lock. It may be called more than once.
func (d *Daemon) Close() {
	for _, i := range d.doors {
		if i.l != nil {
			i.l.Close()
		}
	}
	for _, l := range []net.Listener{d.control, d.scrape} {
		if l != nil {
			l.Close()
		}
	}
	if d.lock != nil {
		d.lock.Close()
	}
}

// Check reads the configuration and looks at the state, and changes nothing. It
// returns everything that is wrong.
func Check(o Options) error {
	_, err := config.Load(o.Config)
	_, keyErr := identity.LoadKey(filepath.Join(o.State, "key"))
	if errors.Is(keyErr, fs.ErrNotExist) {
		keyErr = nil // the first start makes it
	}
	return errors.Join(append([]error{err, keyErr}, identity.CheckUsers(o.State)...)...)
}
