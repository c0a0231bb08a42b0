package main

import (
	"context"
	"errors"
	"path/filepath"
	"sync"
	"time"

	"github.com/noipchat/noipchat/daemon/client"
	"github.com/noipchat/noipchat/daemon/durable"
)

// glance is how often a process looks at what another one does with the same
// profile: the one that has the session at the outbox, the others at the history.
const glance = 100 * time.Millisecond

// worker has a profile's session, or waits for its turn while another process has
// it. Both see the same store, so a command does not care which it is.
type worker struct {
	store   *client.Store
	options client.Options
	lock    string

	mu     sync.Mutex
	client *client.Client // nil while another process has the session
}

// work opens the profile, has its session kept up, and calls do. An error that no
// trying helps ends it.
func (a *app) work(ctx context.Context, do func(ctx context.Context, w *worker) error) error {
	store, err := a.open()
	if err != nil {
		return err
	}
	defer store.Close()
	options, err := a.options()
	if err != nil {
		return err
	}
	if _, known, err := store.Account(); err != nil || !known {
		return errors.Join(err, noAccount(known))
	}
	dir, err := a.folder()
	if err != nil {
		return err
	}
	w := &worker{store: store, options: options, lock: filepath.Join(dir, "lock")}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := w.run(ctx); err != nil {
			cancel(err)
		}
	})
	err = do(ctx, w)
	if cause := context.Cause(ctx); cause != nil && client.Final(cause) {
		err = cause
	}
	cancel(nil)
	wg.Wait()
	return err
}

func noAccount(known bool) error {
	if known {
		return nil
	}
	return client.ErrNoAccount
}

// run has the session when it can be had.
func (w *worker) run(ctx context.Context) error {
	lock, err := durable.WaitLock(ctx, w.lock)
	if err != nil {
		return nil // ctx is done: another process had it all the time
	}
	defer lock.Close()
	c, err := client.New(w.store, w.options)
	if err != nil {
		return err
	}
	w.mu.Lock()
	w.client = c
	w.mu.Unlock()
	ended := make(chan struct{})
	defer close(ended)
	go func() { // what other processes put into the outbox
		tick := time.NewTicker(glance)
		defer tick.Stop()
		for {
			select {
			case <-ended:
				return
			case <-tick.C:
				c.Kick()
			}
		}
	}()
	return c.Run(ctx)
}

// wait returns when there may be something new, or ctx is done.
func (w *worker) wait(ctx context.Context, look func() (done bool, err error)) error {
	for {
		var changed <-chan struct{}
		w.mu.Lock()
		if w.client != nil {
			changed = w.client.Changed()
		}
		w.mu.Unlock()
		if done, err := look(); done || err != nil {
			return err
		}
		timer := time.NewTimer(glance)
		select {
		case <-ctx.Done():
			timer.Stop()
			if cause := context.Cause(ctx); cause != ctx.Err() {
				return cause
			}
			return ctx.Err()
		case <-changed:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// kick has the outbox looked at, if we have the session.
func (w *worker) kick() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.client != nil {
		w.client.Kick()
	}
}

// offline is why there is no session, nil if there is one or nobody knows.
func (w *worker) offline() error {
	w.mu.Lock()
	c := w.client
	w.mu.Unlock()
	if c == nil {
		return nil
	}
	connected, err := c.Connected()
	if connected {
		return nil
	}
	return err
}

// drain waits a moment until the outbox is empty, so that what was said last, a
// receipt mostly, is not left for the next command.
func (w *worker) drain(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	w.kick()
	w.wait(ctx, func() (bool, error) {
		for _, p := range priorities {
			left, err := w.store.Outbox(p, 0, 1)
			if err != nil || len(left) > 0 {
				return err != nil || w.offline() != nil, err
			}
		}
		return true, nil
	})
}
