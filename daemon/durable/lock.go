package durable

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// ErrLocked says that somebody else holds the lock.
var ErrLocked = errors.New("locked by another process")

// Lock takes the exclusive lock on the file at path, which it makes if needed
// (mode 0600, empty), or fails at once with ErrLocked. The lock is an flock(2):
// it ends with Close or with the process, whichever comes first, and binds only
// those who ask for it, a second call in the same process included. Close
// leaves the file: removing it would let two hold the lock.
func Lock(path string) (io.Closer, error) { return lock(path, unix.LOCK_EX|unix.LOCK_NB) }

func lock(path string, how int) (io.Closer, error) {
	for {
		if err := inject(stepOpen, path); err != nil {
			return nil, fmt.Errorf("locking %s: %w", path, err)
		}
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, fmt.Errorf("locking: %w", err)
		}
		err = retry(func() error { return unix.Flock(int(f.Fd()), how) })
		if err == unix.EWOULDBLOCK {
			err = ErrLocked
		}
		if err == nil {
			var same bool
			if same, err = isAt(f, path); same {
				return f, nil
			}
		}
		f.Close()
		if err != nil {
			return nil, fmt.Errorf("locking %s: %w", path, err)
		}
		// Somebody removed the file after we opened it, so our lock keeps nobody
		// out: lock what is there now.
	}
}

// isAt reports whether the open file is still the one at path.
func isAt(f *os.File, path string) (bool, error) {
	open, err := f.Stat()
	if err != nil {
		return false, err
	}
	there, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	return err == nil && os.SameFile(open, there), err
}

// WaitLock is Lock, only that it waits until the lock is free or ctx ends; the
// error then wraps ErrLocked and the cause of the end.
//
// It polls, from every 10 ms falling to every 200 ms: a thread that waits in
// flock(2) could not be called back when ctx ends. Who waits is not served
// in order.
func WaitLock(ctx context.Context, path string) (io.Closer, error) {
	for pause := 10 * time.Millisecond; ; pause = min(2*pause, 200*time.Millisecond) {
		l, err := Lock(path)
		if !errors.Is(err, ErrLocked) {
			return l, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %w", err, context.Cause(ctx))
		case <-time.After(pause):
		}
	}
}

// LineUp is Lock, only that it waits its turn: the kernel serves in the order of
// coming. It is for locks that are held for moments. Who has waited for as long as
// patience gets an error that wraps ErrLocked, and leaves behind a thread that
// waits, until the lock is free, to give it back: nothing ends a wait in flock(2).
func LineUp(path string, patience time.Duration) (io.Closer, error) {
	l, err := Lock(path)
	if !errors.Is(err, ErrLocked) {
		return l, err
	}
	type turn struct {
		lock io.Closer
		err  error
	}
	come, gone := make(chan turn), make(chan struct{})
	go func() {
		l, err := lock(path, unix.LOCK_EX)
		select {
		case come <- turn{l, err}:
		case <-gone:
			if err == nil {
				l.Close()
			}
		}
	}()
	late := time.NewTimer(patience)
	defer late.Stop()
	select {
	case t := <-come:
		return t.lock, t.err
	case <-late.C:
		close(gone)
		return nil, err
	}
}
