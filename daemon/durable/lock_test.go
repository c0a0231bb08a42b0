package durable

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// childs is the child's lock: what nobody could use any more, the collector would close.
var childs io.Closer

// TestLockChild is the child of TestLockEndsWithProcess.
func TestLockChild(t *testing.T) {
	path := os.Getenv("DURABLE_TEST_LOCK")
	if path == "" {
		t.Skip("for another test")
	}
	var err error
	if childs, err = Lock(path); err != nil {
		os.Stdout.WriteString(err.Error())
	}
	os.Stdout.WriteString("\n")
	select {} // until killed
}

func TestLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	for range 2 { // also when the file exists
		l, err := Lock(path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Lock(path); !errors.Is(err, ErrLocked) {
			t.Errorf("second Lock: %v", err)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
	wantMode(t, path, 0o600)
	if _, err := Lock(filepath.Join(path, "x")); err == nil || errors.Is(err, ErrLocked) {
		t.Errorf("Lock below a file: %v", err)
	}
}

// A lock on a file that was removed keeps nobody out, but a later lock
// on the new file does.
func TestLockRemoved(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	stale, err := Lock(path)
	if err != nil {
		t.Fatal(err)
	}
	defer stale.Close()
	if same, err := isAt(stale.(*os.File), path); !same || err != nil {
		t.Errorf("isAt: %v, %v", same, err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if same, err := isAt(stale.(*os.File), path); same || err != nil {
		t.Errorf("isAt after Remove: %v, %v", same, err)
	}
	l, err := Lock(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if same, err := isAt(stale.(*os.File), path); same || err != nil {
		t.Errorf("isAt with another file there: %v, %v", same, err)
	}
	if _, err := Lock(path); !errors.Is(err, ErrLocked) {
		t.Errorf("second Lock: %v", err)
	}
}

func TestLockEndsWithProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	child := exec.Command(os.Args[0], "-test.run=^TestLockChild$")
	child.Env = append(os.Environ(), "DURABLE_TEST_LOCK="+path)
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "\n" || err != nil {
		t.Fatalf("child says %q, %v", line, err)
	}
	if _, err := Lock(path); !errors.Is(err, ErrLocked) {
		t.Errorf("Lock while the child has it: %v", err)
	}
	child.Process.Kill()
	child.Wait()
	l, err := Lock(path)
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
}

func TestWaitLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	synctest.Test(t, func(t *testing.T) {
		l, err := WaitLock(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}

		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		start := time.Now()
		if _, err := WaitLock(ctx, path); !errors.Is(err, ErrLocked) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("WaitLock: %v", err)
		}
		if d := time.Since(start); d != time.Minute {
			t.Errorf("gave up after %v", d)
		}

		const held = 10 * time.Second
		time.AfterFunc(held, func() { l.Close() })
		start = time.Now()
		next, err := WaitLock(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		defer next.Close()
		if d := time.Since(start); d < held || d > held+200*time.Millisecond {
			t.Errorf("got it after %v", d)
		}
	})
}

func TestLineUp(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	l, err := LineUp(path, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := LineUp(path, time.Millisecond); !errors.Is(err, ErrLocked) {
		t.Errorf("LineUp while somebody has it: %v", err)
	}
	// The one who gave up is still in the line, and does not keep what comes to him.
	const waiting = 8
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range waiting {
		wg.Go(func() {
			l, err := LineUp(path, time.Minute)
			if err != nil {
				t.Error(err)
				return
			}
			if !mu.TryLock() {
				t.Error("two hold the lock")
			} else {
				runtime.Gosched()
				mu.Unlock()
			}
			l.Close()
		})
	}
	l.Close()
	wg.Wait()
	if _, err := LineUp(filepath.Join(path, "x"), time.Minute); err == nil || errors.Is(err, ErrLocked) {
		t.Errorf("LineUp below a file: %v", err)
	}
}

func TestWaitLockExcludes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		inside := 0
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				l, err := WaitLock(t.Context(), path)
				if err != nil {
					t.Error(err)
					return
				}
				if !mu.TryLock() {
					t.Error("two hold the lock")
				} else {
					time.Sleep(time.Second)
					inside++
					mu.Unlock()
				}
				l.Close()
			})
		}
		wg.Wait()
		if inside != 8 {
			t.Errorf("%d of 8 had the lock", inside)
		}
	})
}
