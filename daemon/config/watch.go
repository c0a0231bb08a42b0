package config

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	settle   = 200 * time.Millisecond // of quiet after an event
	atLatest = 2 * time.Second        // after the first, however busy the folder is
)

// Watch calls changed once when it has begun to watch, and then whenever the files
// that Load(path) reads have other names or another content than before, once they
// are quiet; on the goroutine that called it. It watches folders, not files: editors
// rename, and links are swapped. It returns when ctx is done, or when the system
// doesn't let it watch.
func Watch(ctx context.Context, path string, changed func()) error {
	if err := watch(ctx, path, changed); err != nil {
		return fmt.Errorf("watching the configuration: %w", err)
	}
	return nil
}

func watch(ctx context.Context, path string, changed func()) error {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return err
	}
	defer w.Close()
	if err := follow(w, path); err != nil {
		return err
	}
	seen := fingerprint(path)
	changed()
	timer := time.NewTimer(time.Hour)
	timer.Stop()
	var first time.Time // of the events since the last look
	for {
		select {
		case <-ctx.Done():
			return nil
		case _, ok := <-w.Events:
			if !ok {
				return nil
			}
		case err, ok := <-w.Errors: // too many events at once, usually: look anyway
			if !ok {
				return nil
			}
			if !errors.Is(err, fsnotify.ErrEventOverflow) {
				return err
			}
		case <-timer.C:
			first = time.Time{}
			if err := follow(w, path); err != nil {
				return err
			}
			if now := fingerprint(path); now != seen {
				seen = now
				changed()
			}
			continue
		}
		if first.IsZero() {
			first = time.Now()
		}
		timer.Reset(max(min(settle, time.Until(first.Add(atLatest))), 0))
	}
}

// follow watches every folder in which a change can change what Load reads: that of
// the file, conf.d, their parent (they may be replaced), and those that links lead to.
func follow(w *fsnotify.Watcher, path string) error {
	dirs := []string{filepath.Dir(filepath.Dir(path)), confD(path)}
	files, _ := Files(path) // Load says what is wrong with conf.d
	for _, file := range files {
		for range 40 { // as many links as the kernel follows
			dirs = append(dirs, filepath.Dir(file))
			to, err := os.Readlink(file)
			if err != nil {
				break
			}
			if !filepath.IsAbs(to) {
				to = filepath.Join(filepath.Dir(file), to)
			}
			file = to
		}
	}
	slices.Sort(dirs)
	dirs = slices.Compact(dirs)
	for _, dir := range w.WatchList() {
		if !slices.Contains(dirs, dir) {
			w.Remove(dir) // its error: it is gone already
		}
	}
	for _, dir := range dirs {
		if err := w.Add(dir); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission) {
			return fmt.Errorf("%s: %w", dir, err)
		}
	}
	return nil
}

// fingerprint is a hash of the names and contents of all files.
func fingerprint(path string) (sum [sha256.Size]byte) {
	h := sha256.New()
	files, _ := Files(path) // Load says what is wrong with conf.d
	for _, file := range files {
		text, err := readFile(file)
		fmt.Fprintf(h, "%q %q %v\n", file, text, err)
	}
	h.Sum(sum[:0])
	return sum
}
