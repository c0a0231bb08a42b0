package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/noipchat/noipchat/daemon/config"
	"github.com/noipchat/noipchat/daemon/control"
	"github.com/noipchat/noipchat/daemon/handoff"
	"github.com/noipchat/noipchat/daemon/identity"
	"github.com/noipchat/noipchat/daemon/peer"
	"github.com/noipchat/noipchat/daemon/session"
	"github.com/noipchat/noipchat/daemon/spool"
	"github.com/noipchat/noipchat/daemon/systemd"
)

// Image is how this program is replaced by another one in the same process.
type Image struct {
	Program string   // path of the one that is installed now
	Args    []string // without the program's name
	// Deafen has signals change nothing any more, until Hear, and tells whether that is
	// fine: nobody has asked for an end.
	Deafen func() bool
	Hear   func()
}

// Carried is what one image leaves to the next. Fields are added, never changed.
type Carried struct {
	Server   string
	Version  string // of the program that wrote it
	Started  time.Time
	Reason   string
	Changes  []string
	Paused   time.Duration // when sessions were, by handoff.Clock
	Epoch    time.Duration // what sessions count from, by handoff.Clock
	Lock     int
	Sockets  []carriedSocket
	Marks    []identity.Mark
	Sessions session.State
	Links    peer.Carried
	Rested   []spool.Rested
	Users    identity.Carried
	Tried    identity.Tried
	Past     []control.Handoff

	Made, Failed int // handoffs, before this one
}

// carriedSocket is one that listens.
type carriedSocket struct {
	Kind, Address string
	FD            int
}

// Receive returns what the image before has left, nil if there was none. It is called
// before anything else.
func Receive() (*Carried, error) {
	c := new(Carried)
	if ok, err := handoff.Receive(c); !ok || err != nil {
		return nil, err
	}
	return c, c.at("open")
}

// CheckCarried is called after Check, and does nothing but where an image that runs
// wants to know whether this program could take over: it reads what it would get.
func CheckCarried(o Options, stdin io.Reader, stdout io.Writer) (asked bool, err error) {
	c := new(Carried)
	if asked, err = handoff.Answer(stdin, stdout, c); !asked || err != nil {
		return asked, err
	}
	return true, c.check(o)
}

// at is handoff.At for the steps of the new image.
func (c *Carried) at(step string) error {
	if c == nil {
		return nil
	}
	return handoff.At(step)
}

func (c *Carried) check(o Options) error {
	now, err := config.Load(o.Config)
	if err == nil && now.Name != c.Server {
		err = fmt.Errorf("%s: the name can't change from %s to %s while the server runs", now.Origin("name"), c.Server, now.Name)
	}
	return err
}

// sockets returns those that listen, as if the service manager had kept them.
func (c *Carried) sockets() (all []systemd.Socket) {
	if c == nil {
		return nil
	}
	for _, s := range c.Sockets {
		all = append(all, systemd.Socket{Network: s.Kind, Address: s.Address, File: os.NewFile(uintptr(s.FD), s.Address)})
	}
	return all
}

func (c *Carried) users() identity.Carried {
	if c == nil {
		return nil
	}
	return c.Users
}

// epoch is what sessions count from.
func (c *Carried) epoch() time.Time {
	if c == nil {
		return time.Now()
	}
	return time.Now().Add(c.Epoch - handoff.Clock())
}

// The time that the steps of a handoff may take. Only in the last of them nobody is
// served.
const (
	checkTime = 20 * time.Second
	pauseTime = 5 * time.Second
)

// Handoff implements control.Daemon. If all goes well, it doesn't return, because this
// program is another one. It is safe to call from many goroutines.
func (d *Daemon) Handoff(_ context.Context, reason string) error {
	d.live.changing.Lock()
	defer d.live.changing.Unlock()
	c, err := config.Load(d.o.Config)
	if err != nil {
		return d.stay(reason, nil, fmt.Errorf("%w:\n%w", control.ErrConfig, err))
	}
	return d.handOff(reason, c, config.Diff(d.conf(), c))
}

// handOff is for who holds live.changing. What the files change is put in force first, and
// undone if there is no handoff: so the next image finds nothing that it can't open.
func (d *Daemon) handOff(reason string, c *config.Config, changes []config.Change) error {
	var texts []string
	for _, change := range changes {
		texts = append(texts, change.String())
	}
	err := refuseCold(c, changes, true)
	if err == nil {
		err = d.become(reason, c, texts)
	}
	return d.stay(reason, texts, err)
}

// stay notes why there is no handoff.
func (d *Daemon) stay(reason string, changes []string, err error) error {
	d.o.Log.Error("no handoff, all goes on as before", "reason", reason, "error", err)
	d.past.add(control.Handoff{At: time.Now(), From: d.o.Version, Reason: reason, Changes: changes, Error: err.Error()})
	d.report()
	if errors.Is(err, control.ErrConfig) {
		return err
	}
	const badConfig = 78 // EX_CONFIG of sysexits.h, with which the new program's --check ends
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.ExitCode() == badConfig {
		return fmt.Errorf("%w: %w", control.ErrHandoffConfig, err)
	}
	return fmt.Errorf("%w: %w", control.ErrHandoff, err)
}

// become takes the steps of a handoff. When it returns, it says why, and all of them
// are undone, the last one first.
func (d *Daemon) become(reason string, next *config.Config, changes []string) error {
	running, image := d.running, d.o.Image
	d.live.mu.Lock()
	trying := d.live.timer != nil
	d.live.mu.Unlock()
	switch {
	case image == nil:
		return errors.New("this server was not started as a program of its own")
	case running == nil:
		return errors.New("the server is going down")
	case trying:
		return errors.New("a configuration waits to be confirmed")
	}
	d.o.Log.Info("handing over", "program", image.Program, "reason", reason)
	parcel, err := handoff.New()
	if err != nil {
		return err
	}
	defer parcel.Close()
	checking, cancel := context.WithTimeout(running, checkTime)
	defer cancel()
	var check *handoff.Check
	var quick context.Context
	c := &Carried{Server: d.conf().Name, Version: d.o.Version, Started: d.started, Reason: reason, Changes: changes, Past: d.past.list()}
	c.Made, c.Failed, _ = d.past.counts()
	nothing := func() {}
	steps := []struct {
		name string
		take func() error
		undo func() // also if take has failed
	}{
		{"apply", func() error {
			if len(changes) == 0 {
				return nil
			}
			if err := next.CheckLog(); err != nil {
				return fmt.Errorf("%w:\n%w", control.ErrConfig, err)
			}
			return d.apply(next)
		}, func() {
			if len(changes) == 0 {
				return
			}
			if err := d.apply(d.conf()); err != nil {
				d.o.Log.Error("what was put in force before the handoff can't be undone", "error", err)
			}
		}},
		{"check", func() (err error) {
			if check, err = parcel.Check(checking, image.Program, image.Args); err == nil {
				err = d.federation.Reserve()
			}
			return err
		}, func() {
			if check != nil {
				check.End()
			}
		}},
		{"still", func() error {
			d.calls.Lock() // nobody is half answered
			d.interfaces.pause()
			d.federation.Still()
			quick, cancel = context.WithTimeout(running, pauseTime)
			d.host.AwaitPending(quick)
			return nil
		}, func() {
			d.federation.Reclaim()
			d.interfaces.resume()
			d.calls.Unlock()
			cancel()
		}},
		{"pause", func() error {
			c.Paused, c.Epoch = handoff.Clock(), handoff.Clock()-time.Since(d.epoch)
			d.federation.Pause()
			return d.host.Pause(quick)
		}, d.host.Reclaim},
		{"settle", func() error { return d.spool.Settle(quick) }, nothing},
		{"export", func() error {
			d.users.Freeze()
			return d.export(c, parcel)
		}, d.users.Thaw},
		{"write", func() error { return parcel.Write(c) }, nothing},
		{"show", func() error { return check.Show() }, nothing},
		{"deafen", func() error {
			if !image.Deafen() || running.Err() != nil {
				return errors.New("the server is going down")
			}
			return nil
		}, image.Hear},
		{"become", func() error { return parcel.Become(image.Program, image.Args) }, nothing},
	}
	for _, s := range steps {
		if err := handoff.At(s.name); err != nil {
			return err
		}
		defer s.undo()
		if err := s.take(); err != nil {
			return err
		}
	}
	return errors.New("the other program is not there") // Become has returned an error
}

// export fills in what has descriptors, and what is known beyond the disk.
func (d *Daemon) export(c *Carried, parcel *handoff.Parcel) (err error) {
	if c.Lock, err = parcel.Keep(d.lock.(syscall.Conn)); err != nil { // durable's are files
		return err
	}
	keep := func(kind, address string, l any) {
		s, ok := l.(syscall.Conn)
		if !ok || err != nil {
			return
		}
		fd, e := parcel.Keep(s)
		err = e
		c.Sockets = append(c.Sockets, carriedSocket{kind, address, fd})
	}
	for _, door := range d.interfaces.list() {
		if door.l != nil {
			keep(door.Kind, door.Bind, door.l)
		}
	}
	keep("unix", d.controlPath(), d.control)
	keep("unix", StdioSocket(d.o.Runtime), d.stdio)
	if address, l := d.scrape.listener(); l != nil {
		keep("tcp", address, l)
	}
	if err != nil {
		return err
	}
	if err := d.servers.Close(); err != nil {
		return err
	}
	c.Marks = d.counters.Export()
	c.Rested, c.Users, c.Tried = d.spool.Rested(), d.users.Export(), d.users.Tried()
	if c.Links, err = d.federation.Export(parcel.Keep); err != nil {
		return err
	}
	c.Sessions, err = d.host.Export(parcel.Keep)
	return err
}

// arrived notes that the handoff to this image is done.
func (d *Daemon) arrived(c *Carried) {
	handoff.At("serve") // to die there: nothing fails any more
	pause := handoff.Clock() - c.Paused
	h := control.Handoff{
		At: time.Now(), From: c.Version, To: d.o.Version, Sessions: len(c.Sessions.Sessions) - d.lost, Links: len(c.Links.Links) - d.lostLinks, Closed: d.lost + d.lostLinks,
		PauseSeconds: pause.Seconds(), Reason: c.Reason, Changes: c.Changes,
	}
	d.past.add(h)
	d.o.Log.Info("all was handed over", "from", h.From, "to", h.To, "sessions", h.Sessions, "links", h.Links, "closed", h.Closed,
		"pause", pause.Round(time.Microsecond).String(), "reason", strings.Join(append([]string{h.Reason}, h.Changes...), " "))
}

// gated keeps calls from running while sessions are handed over. A call that begins
// then waits, and is not made.
func (d *Daemon) gated(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/v1/handoff", "/v1/reload": // these make handoffs
		case "/v1/export": // this may take hours: it breaks off
		default:
			d.calls.RLock()
			defer d.calls.RUnlock()
		}
		h.ServeHTTP(w, r)
	})
}

// past is what has been of handoffs.
type past struct {
	mu           sync.Mutex // guards what follows
	last         []control.Handoff
	made, failed int // since the first image
}

// maxPast is how many are remembered.
const maxPast = 10

func (p *past) add(h control.Handoff) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.last) == maxPast {
		p.last = p.last[1:]
	}
	p.last = append(p.last, h)
	if h.Error == "" {
		p.made++
	} else {
		p.failed++
	}
}

func (p *past) list() []control.Handoff {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.last)
}

// counts also returns the last one that was made.
func (p *past) counts() (made, failed int, last control.Handoff) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, h := range p.last {
		if h.Error == "" {
			last = h
		}
	}
	return p.made, p.failed, last
}
