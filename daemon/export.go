package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/noipchat/noipchat/daemon/backup"
	"github.com/noipchat/noipchat/daemon/config"
	"github.com/noipchat/noipchat/daemon/control"
	"github.com/noipchat/noipchat/daemon/durable"
	"github.com/noipchat/noipchat/daemon/message"
)

// ErrHalf says that the state has a part of a server only: an import was killed.
var ErrHalf = backup.ErrHalf

// Export implements control.Daemon. What is sent is what was on disk at one moment, a
// little after the call: the journal first, then the queue files, then users and the
// rest, in the order in which a crash may leave them. What was acked before is there.
func (d *Daemon) Export(ctx context.Context, w io.Writer) (err error) {
	if !d.exporting.TryLock() {
		return message.Defer(message.CodeLater, time.Minute, "another export is under way")
	}
	defer d.exporting.Unlock()
	c, err := config.Load(d.o.Config)
	if err != nil {
		return fmt.Errorf("%w:\n%w", control.ErrConfig, err)
	}
	files, err := config.Files(d.o.Config)
	if err != nil {
		return err
	}
	public := d.key.Public()
	s := backup.Source{Config: files, Manifest: backup.NewManifest(c.Name, public.String(), public.Fingerprint(), d.o.Version)}
	defer func() { err = errors.Join(err, os.RemoveAll(filepath.Join(d.o.State, backup.Links))) }()
	s.Journal, err = d.spool.Snapshot(ctx, func() (err error) {
		s.State, err = backup.Link(d.o.State)
		return err
	})
	if err != nil {
		return fmt.Errorf("taking a snapshot: %w", err)
	}
	defer func() {
		for _, p := range s.Journal {
			p.File.Close()
		}
	}()
	return backup.Write(w, s)
}

// arrive is for the first start after an import.
func (d *Daemon) arrive(devices []message.DeviceID) error {
	path := filepath.Join(d.o.State, backup.Imported)
	_, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = d.counters.Outrun(devices)
	}
	if err == nil {
		err = durable.Remove(path)
	}
	if err != nil {
		return fmt.Errorf("starting after an import: %w", err)
	}
	d.o.Log.Info("this server was imported")
	return nil
}
