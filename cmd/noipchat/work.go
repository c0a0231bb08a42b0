package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/noipchat/noipchat/cmd/cli"
	"github.com/noipchat/noipchat/daemon/client"
)

// worker is a command's hold on its profile. Whether this process has the session
// or another one, a command does not care.
type worker struct {
	store   *client.Store
	profile *client.Profile
}

// work opens the profile, has its session kept up, here or by another process, until
// do returns, and not only until ctx is done: there may be something to drain. An
// error that no trying helps ends ctx.
func (a *app) work(ctx context.Context, do func(ctx context.Context, w *worker) error) error {
	w, err := a.worker()
	if err != nil {
		return err
	}
	defer w.store.Close()
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop() // before that
	wg.Go(func() {
		if err := w.profile.Run(running); err != nil {
			cancel(err)
		}
	})
	err = do(ctx, w)
	if cause := context.Cause(ctx); cause != nil && (client.Final(cause) || errors.Is(err, context.Canceled)) {
		err = cause
	}
	return err
}

// worker opens the profile, which must have an account.
func (a *app) worker() (*worker, error) {
	store, err := a.open()
	if err != nil {
		return nil, err
	}
	options, err := a.options()
	if err == nil {
		var known bool
		if _, known, err = store.Account(); err == nil && !known {
			err = client.ErrNoAccount
		}
	}
	if err != nil {
		store.Close()
		return nil, err
	}
	return &worker{store, client.NewProfile(store, options)}, nil
}

func noAccount(known bool) error {
	if known {
		return nil
	}
	return client.ErrNoAccount
}

// wait looks whenever there may be something new, until it is done, or ctx is.
func (w *worker) wait(ctx context.Context, look func() (done bool, err error)) error {
	for {
		changed := w.profile.Changed()
		if done, err := look(); done || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-changed:
		}
	}
}

// offline is why there is no session, nil if there is one or nobody knows.
func (w *worker) offline() error {
	connected, err := w.profile.Connected()
	if connected {
		return nil
	}
	return err
}

// ask asks the home for something that is no message.
func (w *worker) ask(ctx context.Context, ask func(ctx context.Context) error) error {
	err := ask(ctx)
	if offline := w.offline(); errors.Is(err, context.DeadlineExceeded) && offline != nil {
		return unreachable(offline, "")
	}
	return err
}

// unreachable says that there is no session, and why.
func unreachable(why error, hint string) error {
	if errors.Is(why, client.ErrNoSpace) {
		return noSpace(why)
	}
	if hint == "" {
		hint = "is the server up, and is that its address? noipchat server list"
	}
	return &cli.Error{Code: cli.ExitUnreachable, Err: fmt.Errorf("no connection: %w", why), Hint: hint}
}

// noSpace says what to do about a full disk, which keeps a file from coming.
func noSpace(why error) error {
	return &cli.Error{Code: cli.ExitIO, Err: why, Hint: "make space where the profile is: what waits at the server comes then by itself"}
}

// drain waits a moment until the outbox is empty, so that what was said last, a
// receipt mostly, is not left for the next command. If there is another process, it
// is left to that.
func (w *worker) drain(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	w.profile.Kick()
	w.wait(ctx, func() (bool, error) {
		if w.profile.Shared() || w.offline() != nil {
			return true, nil
		}
		for _, p := range priorities {
			if left, err := w.store.Outbox(p, 0, 1); err != nil || len(left) > 0 {
				return false, err
			}
		}
		return true, nil
	})
}
