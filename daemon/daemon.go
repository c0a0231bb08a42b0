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
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/noipchat/noipchat/daemon/backup"
	"github.com/noipchat/noipchat/daemon/config"
	"github.com/noipchat/noipchat/daemon/control"
	"github.com/noipchat/noipchat/daemon/durable"
	"github.com/noipchat/noipchat/daemon/identity"
	"github.com/noipchat/noipchat/daemon/message"
	"github.com/noipchat/noipchat/daemon/peer"
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
	Runtime string // folder for the sockets for control and for --stdio
	Version string
	Log     *slog.Logger
	Notices []string     // what was wrong before Open, for Status
	Reopen  func() error // opens the log again, after a rotation; nil: there is no need
	Image   *Image       // nil: no handoffs
	Carried *Carried     // from the image before; nil: there was none
}

// Daemon is a server.
type Daemon struct {
	// fixed after Open
	o         Options
	started   time.Time
	epoch     time.Time // what sessions count from
	lost      int       // sessions that were not handed over
	lostLinks int       // and links
	key       identity.Key
	lock      io.Closer

	users      *identity.Users
	counters   *identity.Counters
	servers    *identity.Servers
	federation *peer.Peers
	spool      *spool.Spool
	relay      *relay.Relay
	host       *session.Host
	control    net.Listener
	metrics    http.Handler
	gather     func() (map[string]float64, error)
	notices    []string // of the start

	interfaces interfaces
	stdio      transport.Listener // for noipchatd --stdio, which connects other lines to this process
	scrape     scraper
	scraped    net.Listener // opened for scrape, which serves it from Run on; nil: it is off, or can't be opened
	live       live
	past       past
	exporting  sync.Mutex
	calls      sync.RWMutex    // held by the control socket's calls, but for those that make handoffs
	running    context.Context // of Run, nil before and after it; guarded by live.changing

	expiring atomic.Pointer[relay.Relay] // for the spool, which is older than the relay
}

// lockTime is how long a start waits for the state.
const lockTime = 2 * time.Second

// Open reads the configuration and the state, and opens the sockets. An interface
// that can't be opened is no error as long as another one can: Status tells.
func Open(ctx context.Context, o Options) (_ *Daemon, err error) {
	d := &Daemon{o: o, notices: o.Notices, started: time.Now(), epoch: o.Carried.epoch()}
	if c := o.Carried; c != nil {
		d.started, d.past.last, d.past.made, d.past.failed = c.Started, c.Past, c.Made, c.Failed
		d.lock = os.NewFile(uintptr(c.Lock), "lock")
	}
	if d.live.config, err = config.Load(o.Config); err != nil {
		return nil, err
	}
	d.live.loaded = time.Now()
	if err := durable.MkdirAll(o.State, 0o700); err != nil {
		return nil, fmt.Errorf("opening the state: %w", err)
	}
	if d.lock == nil {
		// Who was killed may have left a child that is still on its way to another program.
		patience, cancel := context.WithTimeoutCause(ctx, lockTime, fmt.Errorf("after %v too", lockTime))
		d.lock, err = durable.WaitLock(patience, filepath.Join(o.State, "lock"))
		if cancel(); err != nil {
			return nil, fmt.Errorf("opening the state: %w", err)
		}
	}
	defer func() {
		if err != nil {
			d.Close()
		}
	}()
	if err := backup.Whole(o.State); err != nil {
		return nil, err
	}
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
	c := d.conf()
	var damaged []error
	var both errgroup.Group // a handoff waits for them
	both.Go(func() (err error) {
		d.users, damaged, err = identity.OpenUsers(d.o.State, c.Name, identity.Options{Log: d.o.Log, Carried: d.o.Carried.users()})
		return err
	})
	both.Go(func() (err error) {
		d.spool, err = spool.Open(filepath.Join(d.o.State, "spool"), spool.Options{Log: d.o.Log, Expired: d.expired, Envelope: message.EnvelopeOf})
		return err
	})
	if carried := d.o.Carried; carried != nil {
		carried.Sessions.Open(d.o.Log)
	}
	if err := both.Wait(); err != nil {
		return err
	}
	for _, e := range damaged {
		d.o.Log.Error("a user can't be read", "error", e)
		d.notices = append(d.notices, e.Error())
	}
	d.relay = relay.New(c.Name, d.spool)
	d.expiring.Store(d.relay)
	if d.counters, err = identity.OpenCounters(d.o.State); err != nil {
		d.o.Log.Error("counters can't be read", "error", err)
		d.notices = append(d.notices, err.Error())
	}
	if d.servers, err = identity.OpenServers(d.o.State, c.Name, d.key.Public()); err != nil {
		d.o.Log.Error("keys of other servers can't be read", "error", err)
		d.notices = append(d.notices, err.Error())
	}
	if err := ownKey(c, d.key.Public()); err != nil {
		return err
	}
	var epoch uint32
	if d.o.Carried != nil {
		epoch = d.o.Carried.Links.Epoch
	}
	d.federation, err = peer.New(peer.Options{
		Home: c.Name, Key: d.key, State: d.o.State, Servers: d.servers, Relay: d.relay, Spool: d.spool,
		Agent: "noipchatd/" + d.o.Version, Log: d.o.Log, Start: d.epoch, Epoch: epoch,
	})
	if err != nil {
		return err
	}
	d.host = session.New(c.Name, d.key, d.users, d.counters, d.relay, d.spool, session.Options{Log: d.o.Log, Start: d.epoch, Links: d.federation.Accept})
	d.setLimits(c)
	if err := os.RemoveAll(filepath.Join(d.o.State, backup.Links)); err != nil { // an export that was cut off
		return err
	}
	known := map[message.DeviceID]bool{}
	for _, u := range d.users.List() {
		d.host.Refresh(u.Name)
		for _, device := range u.Devices {
			known[device.ID] = true
		}
	}
	d.counters.Keep(func(id message.DeviceID) bool { return known[id] })
	if err := d.arrive(slices.Collect(maps.Keys(known))); err != nil {
		return err
	}
	if carried := d.o.Carried; carried != nil {
		d.counters.Resume(carried.Marks)
		if err := carried.at("resume"); err != nil {
			return err
		}
		d.users.Resume(carried.Tried)
		d.spool.Resume(carried.Rested)
		d.lost = d.host.Resume(carried.Sessions)
		d.lostLinks = d.federation.Resume(carried.Links)
	}
	return nil
}

// expired is told by the spool; its sender learns it by a bounce.
func (d *Daemon) expired(t *spool.Turn, q *spool.Queue, e *spool.Entry) {
	r := d.expiring.Load()
	var l relay.Ledger
	r.Expired(t, &l, q, e, e.Life() >= time.Duration(d.conf().Spool.MaxAge))
	r.Close(t, &l)
}

func (d *Daemon) openSockets(ctx context.Context) (err error) {
	c := d.conf()
	d.interfaces.log = d.o.Log
	d.interfaces.serve = func(l transport.Listener) { d.host.Serve(l) } // it ends without an error when l is closed
	d.interfaces.receive(append(d.o.Carried.sockets(), systemd.Inherited()...))
	d.scrape.claim = d.interfaces.claim
	d.scrape.handler = d.metrics
	if d.scraped, err = d.scrape.prepare(c.Metrics.Listen); err != nil { // people can talk without them, and a reload tries again
		d.o.Log.Error("nobody can read the metrics", "error", err)
		d.notices = append(d.notices, err.Error())
	}
	if err := d.interfaces.open(ctx, c.Interfaces); err != nil {
		return err
	}
	d.host.SetPublic(d.interfaces.public())
	d.setPeers(c)
	path := d.controlPath()
	if f := d.interfaces.claim("unix", path); f != nil {
		ours := path // from the image before
		if systemd.Managed() {
			ours = ""
		}
		d.control, err = control.FromFile(f, ours)
	} else if err = durable.MkdirAll(d.o.Runtime, 0o755); err == nil {
		d.control, err = control.Listen(path, control.Mode)
	}
	if err != nil {
		return fmt.Errorf("opening the control socket: %w", err)
	}
	if d.stdio, err = d.interfaces.listenInner(ctx, config.Interface{Kind: "unix", Bind: StdioSocket(d.o.Runtime)}); err != nil {
		return err
	}
	d.interfaces.dropRest()
	return nil
}

func (d *Daemon) controlPath() string { return filepath.Join(d.o.Runtime, "control.sock") }

// StdioSocket is where a server takes connections from noipchatd --stdio.
func StdioSocket(runtime string) string { return filepath.Join(runtime, "stdio.sock") }

// Run serves until ctx is done. Then it takes nobody in any more, tells the
// devices, and returns when all that it has accepted is on disk.
func (d *Daemon) Run(ctx context.Context) error {
	defer d.Close()
	if err := d.o.Carried.at("start"); err != nil {
		return err
	}
	spooling, endSpool := context.WithCancel(context.Background())
	defer endSpool()
	serving, end := context.WithCancel(ctx)
	defer end()

	var below errgroup.Group
	below.Go(func() error { return d.spool.Run(spooling) })

	g, serving := errgroup.WithContext(serving)
	d.host.Start()
	d.federation.Start(serving)
	d.interfaces.start()
	if d.o.Carried != nil {
		d.arrived(d.o.Carried)
		d.o.Carried = nil // it has keys
	}
	d.live.changing.Lock()
	d.running = serving
	d.live.changing.Unlock()
	if d.scraped != nil {
		d.scrape.commit(d.conf().Metrics.Listen, d.scraped)
	}
	g.Go(func() error { return d.host.Watch(serving) })
	g.Go(func() error { return d.federation.Run(serving) })
	g.Go(func() error { d.retry(serving); return nil })
	g.Go(func() error {
		return control.Serve(serving, d.control, d.gated(control.NewHandler(d, d.o.Log)), d.o.Log)
	})
	g.Go(func() error { d.follow(serving); return nil })
	g.Go(func() error {
		<-serving.Done()
		d.live.changing.Lock() // a handoff under way is undone first
		d.running = nil
		d.live.changing.Unlock()
		systemd.Notify("STOPPING=1", "STATUS=stopping: what is in hand goes to disk")
		d.interfaces.close()
		d.interfaces.serving.Wait()
		return nil
	})
	d.o.Log.Info("running", "server", d.conf().Name, "version", d.o.Version, "fingerprint", d.key.Public().Fingerprint(),
		"waiting", func() int64 { n, _ := d.spool.Waiting(); return n }())
	systemd.Notify("READY=1", "STATUS="+d.statusLine())
	g.Go(func() error { systemd.Report(serving, d.statusLine); return nil })
	err := g.Wait()
	stopping := message.Defer(message.CodeStopping, time.Second, "the server is going down")
	d.federation.Close(stopping)
	d.host.Close(stopping)
	endSpool()
	return errors.Join(err, below.Wait(), d.counters.Close(), d.servers.Close())
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

// statusLine is what systemctl status shows.
func (d *Daemon) statusLine() string {
	sessions, _ := d.host.Count()
	waiting, _ := d.spool.Waiting()
	d.live.mu.Lock()
	defer d.live.mu.Unlock()
	line := fmt.Sprintf("%s: %d sessions, %d messages wait", d.live.config.Name, sessions, waiting)
	if d.spool.Full() {
		line += "; THE DISK IS FULL"
	}
	if d.live.err != nil {
		line += "; the last change of the configuration was REFUSED: " + strings.Join(strings.Fields(d.live.err.Error()), " ")
	}
	return line
}

// report shows the status line now.
func (d *Daemon) report() { systemd.Notify("STATUS=" + d.statusLine()) }

// Close gives back sockets and the lock. It may be called more than once.
func (d *Daemon) Close() {
	d.interfaces.close()
	d.scrape.close()
	for _, l := range []net.Listener{d.control, d.scraped} {
		if l != nil {
			l.Close()
		}
	}
	if d.lock != nil {
		d.lock.Close()
	}
	d.live.mu.Lock()
	defer d.live.mu.Unlock()
	if d.live.timer != nil {
		d.live.timer.Stop()
	}
}

// Check reads the configuration and looks at the state, and changes nothing. It
// returns everything that is wrong.
func Check(o Options) error {
	c, err := config.Load(o.Config)
	key, keyErr := identity.LoadKey(filepath.Join(o.State, "key"))
	if errors.Is(keyErr, fs.ErrNotExist) {
		keyErr = nil // the first start makes it
	} else if err == nil && keyErr == nil {
		err = ownKey(c, key.Public())
	}
	all := []error{err, backup.Whole(o.State), keyErr, identity.CheckServers(o.State), spool.Check(filepath.Join(o.State, "spool"))}
	return errors.Join(append(all, identity.CheckUsers(o.State)...)...)
}
