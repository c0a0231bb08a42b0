package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/noipchat/noipchat/daemon/config"
	"github.com/noipchat/noipchat/daemon/control"
	"github.com/noipchat/noipchat/daemon/identity"
	"github.com/noipchat/noipchat/daemon/message"
	"github.com/noipchat/noipchat/daemon/spool"
)

// live is the configuration that runs, and what came of the last attempt to
// change it.
type live struct {
	changing sync.Mutex // held by who changes it, over all that this takes

	mu     sync.Mutex // guards what follows; held for a moment only
	config *config.Config
	loaded time.Time
	err    error // of the last attempt
	errAt  time.Time
	// One that was refused because it can't return unless confirmed: it isn't taken by itself
	// either. Guarded by changing; nil: none.
	declined *config.Config
	before   *config.Config // the one that ran before; nil: none

	back   *config.Config // to return to this one
	backAt time.Time
	timer  *time.Timer // nil: nothing waits to be confirmed
}

// conf returns the configuration that runs. Nobody changes it.
func (d *Daemon) conf() *config.Config {
	d.live.mu.Lock()
	defer d.live.mu.Unlock()
	return d.live.config
}

// Reload implements control.Daemon: it loads and checks the files, and applies what
// they change; or nothing, and says why. With confirm it returns to the
// configuration before after that time, unless ConfirmReload is called. It is safe
// to call from many goroutines.
func (d *Daemon) Reload(_ context.Context, confirm time.Duration) (control.Reloaded, error) {
	return d.take(confirm, false)
}

// take is Reload; watched says that nobody has asked for it, but the files have changed.
func (d *Daemon) take(confirm time.Duration, watched bool) (control.Reloaded, error) {
	l := &d.live
	l.changing.Lock()
	defer l.changing.Unlock()
	if d.o.Reopen != nil {
		if err := d.o.Reopen(); err != nil {
			d.o.Log.Error("opening the log again", "error", err)
		}
	}
	r, err := d.reload(confirm, watched)
	l.mu.Lock()
	if l.err, l.errAt = err, time.Now(); err == nil {
		l.loaded = l.errAt
	}
	l.mu.Unlock()
	if err != nil {
		text := strings.TrimPrefix(err.Error(), control.ErrConfig.Error()+":\n")
		for line := range strings.Lines(text) {
			d.o.Log.Error("the configuration stays as it was", "error", strings.TrimSpace(line))
		}
	}
	d.report()
	return r, err
}

func (d *Daemon) reload(confirm time.Duration, watched bool) (r control.Reloaded, err error) {
	c, err := config.Load(d.o.Config)
	if err != nil {
		return r, fmt.Errorf("%w:\n%w", control.ErrConfig, err)
	}
	before := d.conf()
	changes := config.Diff(before, c)
	if by := handoffChanges(changes); len(by) > 0 && d.o.Image != nil {
		if confirm > 0 || watched && d.live.declined != nil && len(config.Diff(d.live.declined, c)) == 0 {
			d.live.declined = c
			return r, fmt.Errorf("%w:\n%s: %s needs a handoff, which can't return unless confirmed: noipctl reload takes it for good", control.ErrConfig, c.Origin(by[0].Key), by[0].Key)
		}
		return r, d.handOff("the configuration", c, changes)
	}
	d.live.declined = nil
	if err := refuseCold(c, changes, false); err != nil {
		return r, err
	}
	if err := d.apply(c); err != nil {
		return r, err
	}
	for _, change := range changes {
		r.Changes = append(r.Changes, change.String())
		d.o.Log.Info("the configuration changes", "change", change.String())
	}
	l := &d.live
	l.mu.Lock()
	defer l.mu.Unlock()
	l.config = c
	if len(changes) > 0 {
		l.before = before
	}
	if confirm == 0 {
		return r, nil
	}
	if l.timer != nil {
		l.timer.Stop() // what it returns to stays
	} else if l.back = l.before; l.back == nil {
		return r, message.Refuse(message.CodeInvalid, "there is nothing to return to: this configuration has been live since the start")
	}
	l.backAt = time.Now().Add(confirm)
	l.timer = time.AfterFunc(confirm, d.goBack)
	r.ReturnsAt = l.backAt
	return r, nil
}

// handoffChanges are those that the next image can take.
func handoffChanges(changes []config.Change) []config.Change {
	return slices.DeleteFunc(slices.Clone(changes), func(c config.Change) bool { return !c.Handoff })
}

// apply puts in force what is hot in a configuration, or changes nothing.
func (d *Daemon) apply(c *config.Config) error {
	if err := ownKey(c, d.key.Public()); err != nil {
		return fmt.Errorf("%w:\n%w", control.ErrConfig, err)
	}
	ctx := context.Background() // nothing here waits for the network
	scrape, err := d.scrape.prepare(c.Metrics.Listen)
	if err != nil {
		return fmt.Errorf("%w: %w", control.ErrConfig, err)
	}
	if err := d.interfaces.change(ctx, c.Interfaces); err != nil {
		if scrape != nil {
			scrape.Close()
		}
		return fmt.Errorf("%w: %w", control.ErrConfig, err)
	}
	// Nothing fails from here on.
	d.scrape.commit(c.Metrics.Listen, scrape)
	d.setLimits(c)
	d.host.SetPublic(d.interfaces.public())
	d.setPeers(c)
	return nil
}

// refuseCold says which changes can't be taken, by a handoff or without one.
func refuseCold(c *config.Config, changes []config.Change, handoff bool) error {
	var cold []string
	for _, change := range changes {
		if !change.Hot && !(change.Handoff && handoff) {
			cold = append(cold, c.Origin(change.Key)+": "+change.Key+" can't change while the server runs")
		}
	}
	if len(cold) > 0 {
		return fmt.Errorf("%w:\n%s\nnothing was changed; systemctl restart noipchat takes it all", control.ErrConfig, strings.Join(cold, "\n"))
	}
	return nil
}

// setLimits puts in force what needs nothing to be opened.
func (d *Daemon) setLimits(c *config.Config) {
	mode, _ := identity.ParseMode(c.Register.Mode) // Load has checked it
	d.users.SetMode(mode)
	d.users.SetLimits(identity.Limits{
		Failures: c.Limits.LoginFailures, AddressFails: c.Limits.LoginFailuresPerAddress,
		JoinsPerHour: c.Limits.RegistrationsPerAddress, Window: time.Duration(c.Limits.LoginWindow),
	})
	d.spool.SetLimits(spool.Limits{
		Quota: int64(c.Spool.Quota), Total: int64(c.Spool.Total), Hand: int64(c.Spool.Hand), MaxAge: time.Duration(c.Spool.MaxAge),
	})
	d.host.SetLimits(c.Limits.Pending, c.Limits.Sessions)
}

// ConfirmReload implements control.Daemon.
func (d *Daemon) ConfirmReload(context.Context) error {
	l := &d.live
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.timer == nil {
		return message.Refuse(message.CodeInvalid, "nothing waits to be confirmed")
	}
	l.timer.Stop()
	l.timer, l.back = nil, nil
	d.o.Log.Info("the configuration is confirmed")
	return nil
}

// goBack returns to the configuration before one that nobody has confirmed.
func (d *Daemon) goBack() {
	l := &d.live
	l.changing.Lock()
	defer l.changing.Unlock()
	l.mu.Lock()
	back, now := l.back, l.config
	due := l.timer != nil && !time.Now().Before(l.backAt)
	if due {
		l.timer, l.back = nil, nil
	}
	l.mu.Unlock()
	if !due {
		return // confirmed, or put off, at the last moment
	}
	err := d.apply(back)
	l.mu.Lock()
	l.errAt = time.Now()
	if err == nil {
		l.config, l.before = back, now
		l.err = errors.New("nobody confirmed the configuration in the files: the one before it is live again")
	} else {
		l.err = fmt.Errorf("nobody confirmed the configuration, and the one before it can't be applied: %w", err)
	}
	err = l.err
	l.mu.Unlock()
	d.o.Log.Warn("returning to the configuration before", "result", err)
	d.report()
}

// Configuration implements control.Daemon.
func (d *Daemon) Configuration(context.Context) (control.Configuration, error) {
	c := d.conf()
	v := control.Configuration{Path: d.o.Config, Text: string(c.Render())}
	for _, value := range c.Values() {
		v.Values = append(v.Values, control.ConfigValue{Key: value.Key, Value: value.Text, Origin: value.Origin, Hot: value.Hot, Handoff: value.Handoff})
	}
	return v, nil
}

// follow takes a new configuration when its files change.
func (d *Daemon) follow(ctx context.Context) {
	err := config.Watch(ctx, d.o.Config, func() {
		if ctx.Err() == nil {
			d.take(0, true) // it tells its error to everybody
		}
	})
	if err != nil {
		d.o.Log.Error("changes of the configuration are not seen; noipctl reload takes them", "error", err)
	}
}

// scraper is what answers Prometheus on [metrics] listen.
type scraper struct {
	handler http.Handler
	claim   func(kind, address string) *os.File // a socket that is there already, or nil
	serving sync.WaitGroup

	mu      sync.Mutex
	address string
	l       net.Listener // nil: it is off
	server  *http.Server
}

// prepare opens another address; nil if that is the one that is open, or none.
func (s *scraper) prepare(address string) (net.Listener, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if address == "" || address == s.address {
		return nil, nil
	}
	if f := s.claim("tcp", address); f != nil {
		defer f.Close()
		return net.FileListener(f)
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("[metrics] listen: %w", err)
	}
	return l, nil
}

// commit serves at the address that l, from prepare, listens on, and no longer at
// the one before.
func (s *scraper) commit(address string, l net.Listener) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if address == s.address {
		return
	}
	if s.server != nil {
		s.server.Close()
	}
	s.address, s.l, s.server = address, l, nil
	if l == nil {
		return
	}
	server := &http.Server{Handler: s.handler, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second, MaxHeaderBytes: 8 << 10}
	s.server = server
	s.serving.Go(func() { server.Serve(l) }) // until it is closed
}

// listener returns where it is served; nil: nowhere.
func (s *scraper) listener() (address string, l net.Listener) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.address, s.l
}

// close ends it.
func (s *scraper) close() {
	s.commit("", nil)
	s.serving.Wait()
}
