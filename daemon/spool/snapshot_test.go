package spool

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"
)

// keep makes a spool of a snapshot; the journal is read when more has happened.
func keep(t *testing.T, sp *Spool, more func()) string {
	t.Helper()
	dir := t.TempDir()
	pieces, err := sp.Snapshot(t.Context(), func() error {
		all, err := filepath.Glob(filepath.Join(sp.dir, "queues", "*", "*", "*"))
		time.Sleep(5 * time.Millisecond) // a filer that did not wait would merge some of them now
		for _, path := range all {
			rel, _ := filepath.Rel(sp.dir, path)
			err = errors.Join(err, os.MkdirAll(filepath.Join(dir, filepath.Dir(rel)), 0o700))
			if e := os.Link(path, filepath.Join(dir, rel)); !errors.Is(e, fs.ErrNotExist) {
				err = errors.Join(err, e)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "journal"), 0o700); err != nil {
		t.Fatal(err)
	}
	more()
	for _, p := range pieces {
		b, err := io.ReadAll(io.NewSectionReader(p.File, 0, p.Size))
		if err := errors.Join(err, p.File.Close(), os.WriteFile(filepath.Join(dir, p.Name), b, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// TestSnapshot takes snapshots of a spool that commits, files, merges and recycles all the
// time: each has all that was held before it and not done after it.
func TestSnapshot(t *testing.T) {
	r := open(t, t.TempDir(), Options{Quiet: time.Millisecond, JournalFiles: 3})
	a, c := r.sp.Queue(aliceQueue), r.sp.Queue(carolQueue)
	var held, done atomic.Uint64 // up to which all is
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for n := uint64(1); ; n++ {
			select {
			case <-stop:
				return
			default:
			}
			r.put(a, n, 2000)
			r.put(c, 1<<32|n, 2000)
			if n%20 == 0 {
				r.await(n)
				r.await(1<<32 | n)
				held.Store(n)
			}
			if n%100 == 0 {
				done.Store(n) // will be, before the next snapshot can know
				r.drain(c, true)
			}
		}
	}()
	for range 20 {
		before := held.Load()
		waitFor(t, func() bool { return held.Load() > before })
		heldBefore := held.Load()
		var doneAfter uint64
		dir := keep(t, r.sp, func() {
			doneAfter = done.Load()
			waitFor(t, func() bool { return held.Load() > heldBefore+200 })
		})
		copied := open(t, dir, Options{})
		if notices := copied.sp.Notices(); len(notices) > 0 {
			t.Errorf("the copy says: %v", notices)
		}
		for _, q := range []struct {
			name        string
			first, last uint64
		}{{aliceQueue, 1, heldBefore}, {carolQueue, 1<<32 | (doneAfter + 1), 1<<32 | heldBefore}} {
			got := copied.drain(copied.sp.Queue(q.name), true)
			slices.Sort(got)
			if n := len(got); n != len(slices.Compact(got)) {
				t.Errorf("%s has some twice", q.name)
			}
			for n := q.first; n <= q.last; n++ {
				if _, found := slices.BinarySearch(got, n); !found {
					t.Fatalf("%s lacks %d of %d to %d", q.name, n, q.first, q.last)
				}
			}
		}
		copied.end()
	}
	close(stop)
	<-ended
	t.Logf("%d in each queue, %d files of the journal in turn, %d queue files", held.Load(), r.sp.journal.gen, r.sp.stats.Segments.Load())
}

// TestSnapshotInVain: nobody waits for a filer that has ended, or for links that fail.
func TestSnapshotInVain(t *testing.T) {
	r := open(t, t.TempDir(), Options{})
	want := errors.New("no links here")
	if _, err := r.sp.Snapshot(t.Context(), func() error { return want }); !errors.Is(err, want) {
		t.Errorf("%v, not %v", err, want)
	}
	r.end()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := r.sp.Snapshot(ctx, func() error { return nil }); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("after the end: %v", err)
	}
}
