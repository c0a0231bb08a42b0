package client

import (
	"context"
	"errors"
	"io"
	"path/filepath"
	"sync"
	"time"

	"github.com/noipchat/noipchat/daemon/durable"
	"github.com/noipchat/noipchat/daemon/message"
	"github.com/noipchat/noipchat/daemon/wire"
)

// Profile is one process's part in a profile that several have open at once. All
// see the same Store. One of them is the owner: it has the session, and serves the
// others, its guests, through a socket in the profile's folder.
//
//	       the lock is free                    ctx is done, or Final
//	Run ─────────────────────▶ owner: Client.Run ───────────────────▶ end
//	 ▲ │ somebody has it
//	 │ └─────────────────────▶ guest
//	 └── the owner has ended ────┘
//
// So when the owner ends, or is killed, one of its guests is the next one, and
// begins with what is in the outbox; nothing else was in the owner's hands. Who
// finds an owner that doesn't serve looks at the store by the clock.
//
// The owner has two goroutines for each guest, and one that lets them in; Run joins
// all before it returns. On disk, beside the Store, are lock, which the owner holds,
// and socket, which is the owner's; see share.go.
type Profile struct {
	// fixed
	store *Store
	o     Options

	mu      sync.Mutex // guards what follows
	changed chan struct{}
	client  *Client         // the owner's
	guests  map[*guest]bool // the owner's
	host    *host           // a guest's: its owner
	lastErr error           // why there is neither
	watched message.ID      // zero: all
}

// NewProfile makes a process's part in the profile of store.
func NewProfile(store *Store, o Options) *Profile {
	o.setDefaults()
	return &Profile{store: store, o: o, changed: make(chan struct{}), guests: map[*guest]bool{}}
}

// The pauses of who is neither owner nor guest.
const firstPause, lastPause = 10 * time.Millisecond, 200 * time.Millisecond

// Run is the owner, or a guest, until ctx is done. It returns nil then, or an error
// that trying again doesn't help.
func (p *Profile) Run(ctx context.Context) error {
	for pause := firstPause; ; {
		lock, err := durable.Lock(p.path("lock"))
		switch {
		case err == nil:
			return p.own(ctx, lock)
		case !errors.Is(err, durable.ErrLocked):
			return err
		}
		if p.visit(ctx) > lastPause {
			pause = firstPause
			continue // the owner has ended: who is fast has its place
		}
		p.change(nil) // perhaps: nobody tells us
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
		pause = min(2*pause, lastPause)
	}
}

func (p *Profile) path(name string) string { return filepath.Join(filepath.Dir(p.store.path), name) }

// own has the session until ctx is done. Others are served before the outbox is
// read for the first time, so that what they put in is either found there or told.
// At the end the lock is free before they hear of it.
func (p *Profile) own(ctx context.Context, lock io.Closer) error {
	defer lock.Close()
	c, err := New(p.store, p.o)
	if err != nil {
		return err
	}
	c.told = func(session bool, risen []message.ID) {
		p.change(nil)
		p.tell(session, risen)
	}
	p.change(func() { p.client, p.lastErr = c, nil })
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop() // before that
	end := func() {}
	if l, err := p.listen(); err == nil {
		end = func() { p.unlisten(l) }
		wg.Go(func() { p.accept(serving, l) })
	} else {
		p.o.Log.Warn("other processes with this profile can't be served", "error", err)
		wg.Go(func() { p.poll(serving) })
	}
	err = c.Run(ctx)
	p.change(func() {
		p.client = nil
		_, p.lastErr = c.Connected()
	})
	end()
	lock.Close()
	return err
}

// poll looks by the clock at what others put into the outbox.
func (p *Profile) poll(ctx context.Context) {
	tick := time.NewTicker(lastPause)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			p.Kick()
			p.change(nil)
		}
	}
}

func (p *Profile) change(set func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if set != nil {
		set()
	}
	close(p.changed)
	p.changed = make(chan struct{})
}

// tell has guests told of a change: all of one of the session, of the others those
// that watch everything or one of the messages whose states have risen.
func (p *Profile) tell(session bool, risen []message.ID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for g := range p.guests {
		g.tell(session, risen)
	}
}

// Changed returns a channel that is closed when something has changed, or may have:
// messages, states, or the session. Ask for it before you look.
func (p *Profile) Changed() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.changed
}

// Watch says that of all messages only this one matters to us: a guest is not
// woken for others any more.
func (p *Profile) Watch(id message.ID) {
	p.mu.Lock()
	same, h := p.watched == id, p.host
	p.watched = id
	p.mu.Unlock()
	if h != nil && !same {
		h.say(call{Do: doWatch, ID: id}) // if that fails, the next host is told
	}
}

// Kick has the outbox looked at: we have put something in. If there is no owner
// now, the next one looks anyway. Run need not run.
func (p *Profile) Kick() {
	p.mu.Lock()
	c, h := p.client, p.host
	p.mu.Unlock()
	switch {
	case c != nil:
		c.Kick()
		p.tell(false, nil)
	case h != nil && h.say(call{Do: doKick}) == nil:
	default:
		p.nudge()
	}
}

// Connected tells whether the profile has a session, and if not, why, as far as
// that is known.
func (p *Profile) Connected() (bool, error) {
	p.mu.Lock()
	c, h, err := p.client, p.host, p.lastErr
	p.mu.Unlock()
	switch {
	case c != nil:
		return c.Connected()
	case h != nil:
		return h.connected()
	}
	return false, err
}

// Shared tells that there is another process that has the session, or will have it
// if we end.
func (p *Profile) Shared() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.host != nil || len(p.guests) > 0
}

// Ask is Client.Ask, by whoever has the session.
func (p *Profile) Ask(ctx context.Context, op wire.Op, args ...string) ([]string, error) {
	for {
		changed := p.Changed()
		p.mu.Lock()
		c, h := p.client, p.host
		p.mu.Unlock()
		switch {
		case c != nil:
			return c.Ask(ctx, op, args...)
		case h != nil:
			return h.ask(ctx, op, args)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-changed:
		}
	}
}
