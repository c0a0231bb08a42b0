// Package durable writes files that survive a power cut whole or not at all.
//
// renameio writes the temporary file and renames it; this package adds what it
// leaves out: the sync of the directory, files that must not exist yet, many
// files that share their syncs (Batch), a file that is written in place and
// whose syncs need no metadata (File), and a lock. It does not know what the
// files say, keeps no state and starts no goroutine.
//
// On disk it leaves only what it was asked for, and after a crash temporary
// files beside it, which IsTemp knows and Sweep removes. A power cut is
// survived if the disk keeps what it has confirmed to a flush.
//
// A build with the tag "fault" can fail or die at any step; see fault_on.go.
package durable

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"
)

// The kinds of step at which the fault build can fail.
const (
	stepOpen     = "open"
	stepMkdir    = "mkdir"
	stepWrite    = "write"
	stepSync     = "sync"
	stepDatasync = "datasync"
	stepRename   = "rename"
	stepLink     = "link"
	stepUnlink   = "unlink"
	stepSyncDir  = "syncdir"
	stepSyncFS   = "syncfs"
)

// WriteFile makes or replaces the file at path. When it returns nil the new
// content is durable; until then a reader, or a power cut, finds the old content
// or the new one whole. perm is exact, whatever the umask; the file belongs to
// who writes it. A symbolic link at path is replaced, not followed.
//
// After an error path may hold either content, and is durable only if it is
// the old one.
func WriteFile(path string, data []byte, perm fs.FileMode) error {
	if err := writeFile(path, perm, bytesTo(data)); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}

// Create is WriteFile for a file that must not exist: if there is anything at
// path it fails with fs.ErrExist and leaves it alone. Of several that create
// the same path at once, in any process, one succeeds.
//
// Another error may leave the whole file at path.
func Create(path string, data []byte, perm fs.FileMode) error {
	if err := create(path, perm, bytesTo(data)); err != nil {
		return fmt.Errorf("creating %s: %w", path, err)
	}
	return nil
}

// WriteFunc is WriteFile for content that write writes, in pieces of any size.
func WriteFunc(path string, perm fs.FileMode, write func(io.Writer) error) error {
	if err := writeFile(path, perm, write); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}

// CreateFunc is Create for content that write writes. It finds out only after that
// whether there is something at path.
func CreateFunc(path string, perm fs.FileMode, write func(io.Writer) error) error {
	if err := create(path, perm, write); err != nil {
		return fmt.Errorf("creating %s: %w", path, err)
	}
	return nil
}

func bytesTo(data []byte) func(io.Writer) error {
	return func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	}
}

// fill makes a temporary file beside path and has write fill it.
func fill(path string, perm fs.FileMode, write func(io.Writer) error) (*renameio.PendingFile, error) {
	if err := inject(stepOpen, path); err != nil {
		return nil, err
	}
	// The temporary folder must be said: renameio's choice would be $TMPDIR
	// where that is on the same file system, open to others and never swept.
	t, err := renameio.NewPendingFile(path, renameio.WithTempDir(filepath.Dir(path)),
		renameio.WithPermissions(perm), renameio.IgnoreUmask())
	if err != nil {
		return nil, err
	}
	if err := write(tearer{path, t}); err != nil {
		discard(t)
		return nil, err
	}
	return t, nil
}

// tearer is a writer whose writes the fault build can tear.
type tearer struct {
	path string
	w    io.Writer
}

func (t tearer) Write(p []byte) (int, error) { return tear(t.path, p, t.w.Write) }

// discard closes and removes a temporary file. Its errors say nothing that the
// caller can use: what stays is swept at the next start.
func discard(t *renameio.PendingFile) {
	if inject(stepUnlink, t.Name()) != nil {
		t.Close()
		return
	}
	t.Cleanup()
}

func writeFile(path string, perm fs.FileMode, write func(io.Writer) error) error {
	t, err := fill(path, perm, write)
	if err != nil {
		return err
	}
	// renameio syncs and renames in one call, so both faults come before it:
	// what is left behind is the same.
	err = inject(stepSync, path)
	if err == nil {
		err = inject(stepRename, path)
	}
	if err == nil {
		err = t.CloseAtomicallyReplace()
	}
	if err != nil {
		discard(t)
		return err
	}
	return SyncDir(filepath.Dir(path))
}

// create links the temporary file to path, because a link, unlike a rename,
// fails if there is something.
func create(path string, perm fs.FileMode, write func(io.Writer) error) error {
	t, err := fill(path, perm, write)
	if err != nil {
		return err
	}
	err = inject(stepSync, path)
	if err == nil {
		err = t.Sync()
	}
	if err == nil {
		err = inject(stepLink, path)
	}
	if err == nil {
		err = os.Link(t.Name(), path)
	}
	discard(t) // before the sync, so that the second name is gone for good
	if err != nil {
		return err
	}
	return SyncDir(filepath.Dir(path))
}
